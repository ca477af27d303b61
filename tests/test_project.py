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

import curves

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


def loss_range(summary):
    return f"{summary['train_loss_min']:.3f} to {summary['train_loss_max']:.3f}"


def end_of_row(summary):
    error = f"{100 * summary['test_error_min']:.2f} to {100 * summary['test_error_max']:.2f}"
    return f"{error} | {summary['train_loss_barrier']:.3f} | {summary['length_ratio']:.3f} |"


def test_numbers_on_photographs_stand_in_the_record():
    readme = (ROOT / "README.md").read_text()
    record = json.loads((ROOT / "benchmarks/results/cifar10_jpeg/record.json").read_text())
    assert len(record["curves"]) == 5 and record["flags"]["dataset"] == "folder"
    for name, s in record["curves"].items():
        means = f"{s['train_loss_mean']:.3f}, {s['train_loss_length_mean']:.3f}"
        assert f"| {name} | {loss_range(s)} | {means} | {end_of_row(s)}" in readme
    line = curves.PathResult.load(ROOT / "benchmarks/results/cifar10_jpeg/straight_line.npz").test["error"]
    assert f"test error {100 * line[0]:.1f} and {100 * line[-1]:.1f} %" in readme
    assert f"{record['wall_seconds']['curves'] / 60:.0f} minutes" in readme


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


def test_numbers_of_the_readme_stand_in_the_records():
    readme = (ROOT / "README.md").read_text()
    record = json.loads((ROOT / "benchmarks/results/digits/record.json").read_text())
    speed = json.loads((ROOT / "benchmarks/results/speed.json").read_text())
    for name, s in record["curves"].items():
        label = name if name == "straight line" else f"{name}, 3 bends"
        assert f"| {label} | {loss_range(s)} | {end_of_row(s)}" in readme
    assert record["curves"]["straight line"]["train_loss_barrier"] > 1
    assert record["curves"]["polygonal chain"]["train_loss_barrier"] < 0.02
    for method, label in (("Ind", "(Ind)"), ("SSE", "(SSE)"), ("FGE", "**FGE**")):
        for cell in record["ensembles"]["summary"][method].values():
            number = f"{100 * cell['error']:.2f} ± {100 * cell['error_se']:.2f}"
            assert any(label in line and number in line for line in readme.splitlines())
        for cell in record["ensembles"]["summary"][method].values():
            number = f"{cell['nll']:.3f} / {cell['calibrated_nll']:.3f} ± {cell['calibrated_nll_se']:.3f}"
            assert any(label.strip("()") in line and number in line for line in readme.splitlines())
    summary = record["ensembles"]["summary"]
    assert all(summary["FGE"][k]["calibrated_nll"] < summary["Ind"][k]["calibrated_nll"] for k in "123")
    assert all(summary["FGE"][k]["nll"] > summary["Ind"][k]["nll"] for k in "23")
    difference = record["ensembles"]["fge_minus_ind"]["error"]
    assert f"by {100 * difference['mean']:.2f} ± {100 * difference['se']:.2f} points" in readme
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


# --- The benchmark ----------------------------------------------------------------------------------------------------


def benchmark(*flags):
    return run(sys.executable, "benchmarks/cifar.py", *flags)


def test_benchmark_runs_end_to_end_and_writes_its_record(tmp_path):
    flags = ["--epochs=4", "--curve_epochs=2", "--num_points=3", "--plane_points=2", "--arc_length"]
    flags += ["--runs=3", "--fge_start=0.5", "--fge_cycle_epochs=2"]
    result = benchmark(*flags, "--seed=3", "--sse_cycles=2", f"--output_dir={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    files = {path.name for path in (tmp_path / "out").iterdir()}
    names = {"straight_line", "Bezier_curve", "polygonal_chain", "Bezier_by_length", "chain_by_length"}
    planes = {"plane_three_independent_networks", "plane_Bezier_curve", "plane_polygonal_chain"}
    figures = {"curves", "planes_train_loss", "planes_test_error", "fge", "budgets"}
    assert files == {"record.json", *(f"{n}.npz" for n in names | planes), *(f"{n}.png" for n in figures)}
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["seed"] == 3 and record["flags"]["epochs"] == 4 and "--seed=3" in record["command"]
    assert record["backend"] == keras.backend.backend() and record["packages"]["keras"] == keras.__version__
    assert {name.replace(" ", "_") for name in record["curves"]} == names
    assert len(record["planes"]) == 3 and record["planes"]["Bezier curve"]["largest_distance_of_the_path"] < 1e-4
    assert record["curves"]["straight line"]["length_ratio"] == pytest.approx(1)
    groups = record["ensembles"]["groups"]
    counts = {(g["method"], g["budget"]): g["members"] for g in groups}
    assert counts["Ind", 3] == 3 and counts["SSE", 2] == 4 and counts["FGE", 1] == 1
    assert len(groups) == 3 * (3 + 1 + 1)
    singles = [g["test"]["error"] for g in groups if (g["method"], g["budget"]) == ("Ind", 1)]
    cell = record["ensembles"]["summary"]["Ind"]["1"]
    assert cell["error"] == pytest.approx(np.mean(singles)) and cell["n"] == 3
    assert cell["error_se"] == pytest.approx(np.std(singles, ddof=1) / np.sqrt(3))
    for text in ("endpoints", "straight line", "barrier", "Ind, 1 per run", "FGE minus the single network"):
        assert text in result.stdout


def test_folder_of_images(tmp_path):
    from PIL import Image

    from data import load_folder

    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((8, 8, 3), 100 * label + index) + rng.integers(0, 2, (8, 8, 1))
                Image.fromarray(pixels.astype("uint8")).save(tmp_path / "images" / split / name / f"{index:04}.png")
    folder = str(tmp_path / "images")
    data = load_folder(folder, train_size=30, validation_size=8)
    assert [len(part[0]) for part in (data.train, data.validation, data.test)] == [30, 8, 8]
    assert data.train[0].shape == (30, 8, 8, 3) and data.num_classes == 2 and data.name == "images"
    for x, y in (data.train, data.validation, data.test):
        level = 255 * x.mean(axis=(1, 2, 3))
        assert np.array_equal(level > 60, y == 1) and x.dtype == np.float32
    seen = np.concatenate([data.train[0], data.validation[0]]).mean(axis=(1, 2, 3))
    assert len(np.unique(seen.round(6))) > 30  # No image twice.
    assert load_folder(folder, 4, validation_size=8).test[0].shape == (8, 4, 4, 3)

    common = ["--epochs=2", "--curve_epochs=1", "--num_points=2", "--plane_points=0", "--experiment=curves"]
    result = benchmark(
        "--dataset=folder",
        f"--data_dir={folder}",
        "--validation_size=8",
        "--batch_size=8",
        *common,
        "--network=small_cnn_bn",
        "--bn_samples=16",
        "--train_samples=20",
        f"--output_dir={tmp_path}/out",
    )
    assert result.returncode == 0, result.stderr
    assert "images: 32 training, 8 validation, 8 test images" in result.stdout

    for flags, message in (
        ([], "--dataset=folder needs --data_dir"),
        ([f"--data_dir={tmp_path}"], "must hold images as train/<class>"),
        ([f"--data_dir={folder}", "--validation_size=40"], "has 40 training images, too few for 40 to validate on"),
    ):
        result = benchmark("--dataset=folder", *flags)
        assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr
    Image.new("RGB", (5, 5)).save(tmp_path / "images" / "test" / "cat" / "small.png")
    with pytest.raises(ValueError, match=r"must have one size, use --image_size. Received: \[\(5, 5, 3\), \(8, 8, 3\)"):
        load_folder(folder, validation_size=8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=imagenet"], "--dataset=imagenet"),
        (["--experiment=everything"], "--experiment=everything"),
        (["--num_bends=1"], "--num_bends=1"),
        (["--epochs=many"], "--epochs=many"),
        (["--learning_rat=0.1"], "learning_rat"),
        (["seed=3"], "Flags start with two dashes"),
        (["--fge_max_learning_rate=0.0001"], "--fge_min_learning_rate=0.0005 must be below"),
        (["--fge_cycle_epochs=1", "--batch_size=20"], "make an odd cycle of 25"),
        (["--fge_cycle_epochs=3", "--batch_size=20"], "make an odd cycle of 75"),
        (["--fge_start=1.0"], "there would be no snapshot"),
        (["--sse_cycles=1000"], "--sse_cycles=1000 must not exceed"),
        (["--output_dir=/dev/null/results"], "--output_dir=/dev/null/results cannot be written"),
    ],
)
def test_bad_flags_end_with_a_message_before_any_training(flags, message):
    result = benchmark(*flags)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
    assert "endpoint" not in result.stdout and "Traceback" not in result.stderr


def test_help_is_quick_and_says_what_to_do():
    result = benchmark("--help")
    assert "python benchmarks/cifar.py --experiment=curves" in result.stdout
    assert "--fge_max_learning_rate: alpha_1 of FGE." in result.stdout
