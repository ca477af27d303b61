"""The examples run, those of the documents too; the others are short, and the members of their ensembles differ."""

import importlib
import pathlib
import re

import keras
import numpy as np
import pytest

from conftest import slow_but_on_torch

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "examples"
EXAMPLES = [
    example
    for file in ("README.md", "docs/curves.md", "docs/fge.md", "docs/decisions.md")
    for example in re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)
]
SIZES = {
    "tabular": {"epochs": 4},
    "scikit_learn": {"epochs": 4},
    "regression": {"epochs": 4},
    "fine_tuning": {"epochs": 4},
    "learned_line": {"count": 200, "epochs": 2},
    "lora_text": {"epochs": 4},
}
METHODS = {"learned_line": {"one network", "midpoint", "five points"}}
METHODS["fine_tuning"] = {"one network", "FGE", "three heads"}


@pytest.fixture
def example(request, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    if request.param == "lora_text":
        pytest.importorskip("keras_hub")
    return request.param, importlib.import_module(request.param)


LONG = ("learned_line", "lora_text")


@slow_but_on_torch
@pytest.mark.parametrize(
    "example",
    [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SIZES],
    indirect=True,
)
def test_examples_run(example):
    name, module = example
    results = module.run(0, **SIZES[name])
    assert set(results) - {"a member"} == METHODS.get(name, {"one network", "FGE"})
    for values in results.values():
        assert all(np.isfinite(value) for value in values.values())
    nll = [values["nll"] for key, values in results.items() if key != "a member"]
    assert len({round(float(value), 6) for value in nll}) == len(nll)  # No method is another one.
    if name == "lora_text":
        assert results["a member"]["share of the weights"] < 0.1


@pytest.mark.once
def test_examples_are_short():
    files = sorted(FOLDER.glob("*.py"))
    assert [file.stem for file in files] == sorted(SIZES)
    for file in files:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
        assert len(lines) < 60, file


@slow_but_on_torch
def test_a_second_fit_from_the_same_start_with_the_same_batches_is_told():
    import keras_fge

    x, y = np.random.default_rng(0).normal(size=(32, 3)).astype("float32"), np.arange(32) % 2
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    start = network.get_weights()
    sse = keras_fge.SnapshotEnsemble(0.1, cycle_epochs=1)

    def fit(seed):
        network.set_weights(start)
        network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        network.fit(keras_fge.Batches(x, y, 8, seed), shuffle=False, verbose=0, callbacks=[sse])

    fit(0)
    fit(1)
    assert (sse.ensemble().distances()[np.triu_indices(2, 1)] > 0).all()
    with pytest.warns(UserWarning, match="Snapshot 3 has the same weights as the one before"):
        fit(1)


@slow_but_on_torch
@pytest.mark.parametrize(
    "index",
    [pytest.param(i, marks=pytest.mark.slow if "evaluate_plane" in text else ()) for i, text in enumerate(EXAMPLES)],
)
def test_examples_of_the_documents_run(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Ordinary training is short here; `make test-install` runs the README's as they are.
    example = re.sub(r"epochs=\d+, verbose=0\)", "epochs=3, verbose=0)", EXAMPLES[index])
    exec(compile(example, f"example {index}", "exec"), {})


@pytest.mark.once
def test_readme_has_an_example_of_each_half():
    assert any("curves.connect" in example for example in EXAMPLES)
    assert any("keras_fge.FGE" in example for example in EXAMPLES)
