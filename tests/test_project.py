"""The shape of the project: layering, light imports, examples that run, and the command line."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import report
from records import Records

ROOT = pathlib.Path(__file__).parent.parent
LAYERS = {  # Each file may import only from what stands before it. `curves` knows nothing of `keras_fge`.
    "curves": [
        "files",
        "parametrization",
        "networks",
        "layers",
        "model",
        "connect",
        "batch_norm",
        "measure",
        "results",
        "evaluate",
        "validation",
        "plots",
    ],
    "keras_fge": ["schedule", "metrics", "snapshots", "folder", "ensemble", "plots", "callback"],
}


def imports(path, only_module_level):
    tree = ast.parse(path.read_text())
    nodes = tree.body if only_module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("package", LAYERS)
def test_layering(package):
    order = LAYERS[package]
    assert {path.stem for path in (ROOT / package).glob("*.py")} == {"__init__", *order}
    for position, name in enumerate(order):
        path = ROOT / package / f"{name}.py"
        allowed = {f"{package}.{earlier}" for earlier in order[:position]}
        if package == "keras_fge":
            allowed |= {f"curves.{name}" for name in LAYERS["curves"]}
        own = {module for module in imports(path, True) if module.split(".")[0] in LAYERS}
        assert own <= allowed, path
        outside = {module.split(".")[0] for module in imports(path, False)} - set(sys.stdlib_module_names) - {*LAYERS}
        optional = {"plots": {"matplotlib"}, "folder": {"jax", "torch"}}.get(name, set())
        assert outside <= {"keras", "numpy"} | optional, path
        assert "keras.src" not in path.read_text(), path


def run(*command, **environment):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


def test_import_needs_only_keras_numpy_and_one_backend():
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    code = "import sys, keras; before = set(sys.modules); import curves, keras_fge; print(*(set(sys.modules) - before))"
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    loaded = {module.split(".")[0] for module in result.stdout.split()}
    assert not loaded & {*others, "matplotlib", "tensorflow_datasets", "absl", "sklearn", "rich"}
    assert {"curves", "keras_fge"} <= loaded


EXAMPLES = [
    example
    for file in ("README.md", "docs/curves.md", "docs/fge.md")
    for example in re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)
]


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_examples_of_the_documents_run(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[index], f"example {index}", "exec"), {})


def test_readme_has_an_example_of_each_half():
    assert any("curves.connect" in example for example in EXAMPLES)
    assert any("keras_fge.FGE" in example for example in EXAMPLES)


def tables_of(folder):
    """The tables of the report on records that are part of the project, as rows of Markdown."""
    records = Records(ROOT / "benchmarks/results" / folder)
    tables = [*report.curve_tables(records), *report.ensemble_tables(records)]
    return records, [[f"| {' | '.join(row)} |" for row in table.rows] for table in tables]


@pytest.mark.parametrize(("folder", "data"), [("digits", "digits"), ("cifar10_jpeg", "cifar")])
def test_numbers_of_the_readme_stand_in_the_records(folder, data):
    readme = (ROOT / "README.md").read_text()
    records, tables = tables_of(folder)
    assert len(tables) == 4
    for row in (row for rows in tables for row in rows):
        assert row in readme
    assert " ".join(report.paired_text(records).split()) in " ".join(readme.split())
    assert records.configuration["data"]["name"] == data
    assert records.metrics("path line")["train_loss_barrier"] > 1
    assert max(records.metrics(f"path {name}")["train_loss_barrier"] for name in ("bezier", "chain")) < 0.2
    for figure, _, _ in report.FIGURES:
        assert (ROOT / "benchmarks/results" / folder / figure).exists()


def test_numbers_of_the_example_stand_in_the_record():
    readme = (ROOT / "README.md").read_text()
    record = json.loads((ROOT / "benchmarks/results/readme_example.json").read_text())
    for name, label in (
        ("member", "mean member"),
        ("ensemble", "**ensemble**"),
        ("averaged weights", "averaged weights"),
        ("ordinary network", "ordinary network of the same cost"),
    ):
        s = record["summary"][name]
        error = f"{100 * s['error']['mean']:.2f} ± {100 * s['error']['se']:.2f}"
        nll = f"{s['nll']['mean']:.3f} ± {s['nll']['se']:.3f}"
        assert f"| {label} | {error} | {nll} |" in readme
    assert f"mean ± standard error over {s['error']['n']} seeds" in readme


def test_costs_stand_in_the_record():
    readme = (ROOT / "README.md").read_text()
    speed = json.loads((ROOT / "benchmarks/results/speed.json").read_text())
    ratio = f"{speed['ratio_to_plain']['curve, 3 bends']:.2f}"
    assert f"each step costing {ratio} of an ordinary one, with either objective" in readme
    assert ratio == f"{speed['ratio_to_plain']['curve, arc length']:.2f}"
    assert f"a step costs {speed['ratio_to_plain']['FGE']:.2f} of an ordinary" in readme


def test_numbers_on_stratified_positions_stand_in_the_record():
    text = " ".join((ROOT / "docs/curves.md").read_text().split())
    record = json.loads((ROOT / "benchmarks/results/gradient_variance.json").read_text())
    ratios = {
        place: {k: f"{variances[k] / variances['1']:.2f}" for k in "24"}
        for place, variances in record["relative_variance"].items()
    }
    begin, end, time = ratios["straight line"], ratios["trained curve"], record["relative_time"]
    assert f"to {begin['2']} (K = 2) and {begin['4']} (K = 4) of that of one t" in text
    assert f"only to {end['2']} and {end['4']} at its end" in text
    assert f"a step takes {time['2']:.2f} and {time['4']:.2f} of the time" in text
    losses = {k: np.array(values) for k, values in record["mean_loss"].items()}
    assert all(len(values) == 5 for values in losses.values())
    for k, values in losses.items():
        assert f"{values.mean():.4f} ± {values.std(ddof=1) / np.sqrt(5):.4f} (K = {k})" in text
    for k in "24":
        change = losses[k] - losses["1"]
        assert f"{change.mean():.4f} ± {change.std(ddof=1) / np.sqrt(5):.4f}" in text
