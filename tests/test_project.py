"""The shape of the project: layering, light imports, examples that run, and the command line."""

import ast
import json
import os
import pathlib
import re
import subprocess

import numpy as np
import pytest
import yaml

import curves
import keras_fge
from evidence import choosing
from report import baselines, comparisons, connecting, documents, figures, finetuning
from study import flags
from study.records import Records

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent


def run(*command, **environment):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.parametrize("file", documents.PARTS)
def test_numbers_of_the_documents_are_those_of_the_records(file):
    assert documents.filled(file) == (ROOT / file).read_text()


@pytest.mark.parametrize(
    ("folder", "data", "rest"), [("fashion_subset", "Fashion-MNIST (subset)", 0.02), ("cifar10_jpeg", "cifar", 0.15)]
)
def test_committed_records_show_the_wall_and_the_gain(folder, data, rest):
    records = Records(ROOT / "benchmarks/results" / folder)
    assert records.configuration["data"]["name"] == data
    wall = records.metrics("path line")["train_loss_barrier"]
    assert wall > 1
    for name in ("bezier", "chain"):
        assert records.metrics(f"path {name}")["train_loss_barrier"] < rest * wall
    assert comparisons.difference(records, "fge", 1, "nll").high < 0
    for figure, _, _ in figures.FIGURES[:8]:
        assert (ROOT / "benchmarks/results" / folder / figure).exists()


def test_numbers_of_the_advice_stand_in_the_record():
    text = " ".join((ROOT / "docs/choosing.md").read_text().split())
    record = json.loads((ROOT / "benchmarks/results/choosing.json").read_text())
    for name, setting in (("SGD", "(28, 0.05, 1)"), ("AdamW", "(28, 0.003, 1)")):
        error, nll, calibrated = (choosing.means(record, name, m) for m in ("error", "nll", "calibrated_nll"))
        assert (
            f"error {100 * error[setting]:.1f} % against {100 * error['ordinary']:.1f}" in text
            and f"NLL {nll[setting]:.3f} against {nll['ordinary']:.3f}" in text
            and f"calibrated {calibrated[setting]:.3f} against {calibrated['ordinary']:.3f}" in text
        ), name
        starts = [f"({start}, {0.05 if name == 'SGD' else 0.001}, 2)" for start in choosing.STARTS]
        assert f"calibrated NLL {', '.join(f'{calibrated[start]:.3f}' for start in starts)}" in text


def test_what_tuning_leaves_of_the_gain_stands_in_the_record():
    found = baselines.records(ROOT / "benchmarks/results/baselines")
    (_, network, *_), (_, fge, *_) = found["one network"], found["FGE"]
    gain = baselines.mean(network, "calibrated_nll") - baselines.mean(fge, "calibrated_nll")
    assert f"within {gain:.3f} nat of it" in " ".join((ROOT / "README.md").read_text().split())
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    assert f"{gain:.3f} nat, and no error, for ten passes" in text and len(network) == len(fge) == 8
    rates = [100 * baselines.mean(fge, name) for name in ("member_error", "disagreement")]
    assert f"err in {rates[0]:.1f} % of the test images" in text and f"differ in {rates[1]:.1f} % only" in text
    assert f"the network in {100 * baselines.mean(network, 'error'):.1f} %" in text
    narrow, adamw = (found[name][1] for name in ("four networks of half the width", "AdamW"))
    better = baselines.mean(network, "calibrated_nll") - baselines.mean(narrow, "calibrated_nll")
    assert f"are {better:.3f} nat better than it" in text
    rates = [100 * baselines.mean(narrow, name) for name in ("member_error", "disagreement")]
    assert f"err in {rates[0]:.1f} %, and two of them differ in {rates[1]:.1f} %" in text
    points = 100 * (baselines.mean(network, "error") - baselines.mean(adamw, "error"))
    assert f"SGD, makes {points:.1f} points less error" in text
    (_, on_top, *_) = found["FGE with AdamW"]
    least = min(baselines.mean(runs, "calibrated_nll") for _, runs, *_ in found.values())
    assert least == baselines.mean(on_top, "calibrated_nll")
    assert f"{baselines.mean(adamw, 'calibrated_nll') - least:.3f} nat less than AdamW alone" in text
    points = 100 * (baselines.mean(fge, "error") - baselines.mean(adamw, "error"))
    assert f"of FGE, and makes {points:.1f} points less error if AdamW trains it" in text


def test_what_tuning_leaves_of_the_gain_on_cifar10_stands_in_the_record():
    found = baselines.records(ROOT / "benchmarks/results/baselines_cifar10")
    runs = {name: of_name for name, (_, of_name, *_) in found.items()}
    assert set(runs) == {"one network", "FGE", "SSE", "SWA"} and all(len(each) == 8 for each in runs.values())
    settings = {name: ast.literal_eval(setting) for name, (setting, *_) in found.items()}
    rates = {name: baselines.common(str(setting)) for name, setting in settings.items()}
    assert rates["FGE"] == rates["one network"] != rates["SSE"]  # As the text says.
    error, nll = (
        {name: baselines.mean(each, metric) for name, each in runs.items()} for metric in ("error", "calibrated_nll")
    )
    gain = {name: nll["one network"] - nll[name] for name in runs}
    points = 100 * (error["one network"] - error["FGE"])
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    for said in (
        "that gain stands on CIFAR-10 (JPEG), {:.1f} points and {:.2f} nat",
        "stands**: {:.1f} points and {:.2f} nat",
    ):
        assert said.format(points, gain["FGE"]) in text
    assert f"stands: {points:.1f} points and {gain['FGE']:.2f} nat" in " ".join(
        (ROOT / "CHANGELOG.md").read_text().split()
    )
    members, differ = (baselines.mean(runs["FGE"], name) for name in ("member_error", "disagreement"))
    assert f"A member of FGE errs in {100 * members:.1f} % of the test images, the network in" in text
    assert f"the network in {100 * error['one network']:.1f} %, but two members differ in {100 * differ:.0f} %" in text
    assert abs(error["SSE"] - error["FGE"]) < 0.001 and f"passes, and {nll['SSE'] - nll['FGE']:.2f} nat more" in text
    assert f"(SWA) keeps {gain['SWA']:.2f} nat of it in one pass" in text


def test_what_is_said_of_the_papers_figures_stands_in_the_record():
    folder, text = ROOT / "benchmarks/results/fashion_subset", " ".join((ROOT / "docs/paper.md").read_text().split())
    bezier, chain = (curves.PathResult.load(folder / f"path_{name}.npz") for name in ("bezier", "chain"))
    rises = [100 * connecting.rise(path.train["error"]) for path in (bezier, chain)]
    assert (
        "rises by {:.1f} points above the worse end on the Bezier curve and by {:.1f} on the chain".format(*rises)
        in text
    )
    assert all(connecting.rise(path.test["error"]) == 0 for path in (bezier, chain))
    along = [100 * bezier.ensemble["with_start_error"][k] for k in (0, 9, 30, 60)]
    assert len(bezier.t) == 61
    first, small, middle, last = (f"{value:.1f} %" for value in along)
    assert f"from {first} at t = 0 to {small} at t = 0.15 and {middle} at t = 0.5 on the Bezier curve" in text
    dip = f"{100 * min(bezier.ensemble['with_start_error']):.1f} %"
    assert f"of the two independent networks, {last}, only beyond t = 0.55, where it dips to {dip}" in text
    assert (np.array(bezier.ensemble["with_start_error"][:34]) > along[-1] / 100).all()
    assert f"with {100 * chain.ensemble['with_start_error'][9]:.1f} % at t = 0.15" in text
    records = Records(folder)
    ahead = [
        np.mean(list(comparisons.values(records, "sse", k, "error").values()))
        - np.mean(list(comparisons.values(records, "fge", k, "error").values()))
        for k in (1, 2)
    ]
    assert f"by {100 * ahead[0]:.1f} on Fashion-MNIST, in the paper" in text
    assert f"At 2B it is ahead by {100 * ahead[1]:.1f} points on Fashion-MNIST" in text


def test_the_two_objectives_are_as_near_as_is_said():
    text = (ROOT / "docs/paper.md").read_text()
    _, groups = connecting.read(ROOT / "benchmarks/results", "fashion")
    over_t, over_length = (groups[16, kind, 3, 3] for kind in ("bezier", "bezier_by_length"))
    for mean in ("t_mean", "length_mean"):
        ours, theirs = (np.mean([c[mean] for c in each[: len(over_length)]]) for each in (over_t, over_length))
        assert abs(ours - theirs) < 0.001
    assert "differ by less than 0.001 nat" in text


def test_curves_on_cifar10_rise_as_is_said():
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    _, groups = connecting.read(ROOT / "benchmarks/results", "cifar10")
    beziers, chains = groups[16, "bezier", 5, 3], groups[16, "chain", 5, 3]
    largest = {
        name: max(connecting.rise(curve[name]) for curve in beziers)
        for name in ("train_nll", "train_error", "test_nll", "test_error")
    }
    assert len(beziers) == 4 and max(min(curve["train_error"]) for curve in beziers) < 0.0035
    assert all(connecting.rise(curve["train_error"]) > 0.01 for curve in chains)
    points, nats = 100 * largest["train_error"], largest["train_nll"]
    assert f"rises by at most {points:.2f} points and {nats:.3f} nat" in text
    points, nats = 100 * largest["test_error"], largest["test_nll"]
    assert f"up to {nats:.2f} nat above the worse end, with a test error up to {points:.1f} points above it" in text


def test_curves_on_fashion_and_shorter_ones_rise_as_is_said():
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    (_, fashion), (_, cifar) = (connecting.read(ROOT / "benchmarks/results", task) for task in ("fashion", "cifar10"))

    def points(curve):
        return 100 * connecting.rise(curve["train_error"])

    def reaches(curve):
        return points(curve) < 1 and connecting.rise(curve["train_nll"]) < 0.05

    three, five, chains = (fashion[16, kind, bends, 3] for kind, bends in (("bezier", 3), ("bezier", 5), ("chain", 5)))
    assert [list(map(reaches, curves)) for curves in (three, five)] == 2 * [[True, True, True, False]]
    assert sum(map(reaches, chains)) == 2
    assert f"a hill of {points(three[3]):.1f} points in the middle of the curve of 3 bends" in text
    assert f"and of {points(five[3]):.1f} on that of 5" in text
    assert all(20 < np.argmax(curves[3]["train_error"]) < 40 for curves in (three, five))  # Of 61 points.
    first = [points(fashion[16, "bezier", 3, times][0]) for times in (1, 2, 3)]
    said = "rises by {:.1f} points after as many epochs as a network had, by {:.1f} after twice as many, and by {:.1f}"
    assert said.format(*first) in text
    assert all(points(fashion[16, "bezier", 5, times][0]) > of for times, of in zip((1, 2), first))
    assert all(reaches(fashion[width, "bezier", bends, 3][0]) for width in (8, 32) for bends in (3, 5))
    rises = [points(cifar[16, "bezier", 5, times][0]) for times in (1, 2)]
    assert "rises by {:.1f} points after as many epochs as a network had, and by {:.1f} after".format(*rises) in text


def test_what_fine_tuning_brings_stands_in_the_record():
    found = finetuning.records(ROOT / "benchmarks/results")
    text = " ".join((ROOT / "docs/fine_tuning.md").read_text().split())
    heads = [m for (_, way), m in found.items() if way == "head" and set(finetuning.SHOWN) <= set(m)]
    assert len(heads) == 4 and "On four tasks" in text

    def surely(method):
        changes = [finetuning.changes(methods, method) for methods in heads]
        return sorted(-change.value for change in changes if change.high < 0), [c for c in changes if c.low > 0]

    for method, said in (
        ("EMA", "on three of them, by {:.3f} to {:.3f}"),
        ("uniform soup of 3", "on three, by {:.3f} to {:.3f}"),
    ):
        lower, higher = surely(method)
        assert len(lower) == 3 and not higher and said.format(lower[0], lower[-1]) in text
    assert all(list(map(len, surely(method))) == [1, 1] for method in ("FGE", "SWA", "SWAG"))
    for methods in heads:
        soup, ensemble = (finetuning.changes(methods, name) for name in ("uniform soup of 3", "deep ensemble of 3"))
        assert soup.value < ensemble.value + 0.001  # "Does no better".
    for path in (ROOT / "benchmarks/results/finetuning").glob("*_head_*.json"):
        record = json.loads(path.read_text())
        tried = [ast.literal_eval(setting) for setting in record["tuning"]]
        assert not record["best"] or (
            len(tried) == 12 and len({(setting["rate"], setting["decay"]) for setting in tried}) == 6
        )


def test_sizes_of_members_stand_in_the_record():
    record = json.loads((ROOT / "benchmarks/results/small_members.json").read_text())
    after, before = (record[name]["in memory"]["bytes per member"] for name in ("after", "before"))
    text = (ROOT / "docs/fine_tuning.md").read_text()
    assert f"{after / 1000:.0f} kB instead of {before / 1e6:.1f} MB" in text


def test_costs_stand_in_the_record():
    text = (ROOT / "docs/performance.md").read_text()
    curve = json.loads((ROOT / "benchmarks/results/speed/curve_tensorflow.json").read_text())
    ratio = curve["networks"]["vgg16"]["ratios"]["curve of 3"]["median"]
    assert f"each step costing {ratio:.2f} of an ordinary one" in text
    fge = json.loads((ROOT / "benchmarks/results/speed/fge_tensorflow.json").read_text())
    single = fge["networks"]["small_cnn"]["single"]
    alone, written = (1000 * single[k]["median"] for k in ("snapshot in memory", "snapshot and state in a folder"))
    assert f"a snapshot took {alone:.0f} ms, and {written:.0f} ms where it and the state were written" in text


def test_the_demo_takes_three_minutes():
    record = json.loads((ROOT / "benchmarks/results/demo/times.json").read_text())
    seconds = [run["all"] for run in record["seconds"]]
    assert len(seconds) >= 3 and max(seconds) <= 180 and record["cpus"] == 2
    assert f"{', '.join(f'{s:.0f}' for s in seconds)} seconds" in (ROOT / "docs/benchmark.md").read_text()


@pytest.mark.parametrize("folder", documents.FOLDERS)
def test_committed_folders_can_be_gone_on_with(folder):
    """Each has the names of a configuration of now, so that more runs can be added."""
    configuration = json.loads((ROOT / "benchmarks/results" / folder / "configuration.json").read_text())
    names = {flag.name for flag in flags.own_flags()} - flags.FREE
    assert set(configuration) == names | {"backend", "data", "step", "arc_length"}


def test_readme_is_read_to_its_end():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_commands_of_the_documents_are_there():
    for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        text = file.read_text()
        for module in re.findall(r"-m ((?:evidence|report)\.\w+)", text):
            assert (ROOT / "benchmarks" / f"{module.replace('.', '/')}.py").exists(), (file.name, module)
        made = re.findall(r"^([\w./%-]+(?: [\w./%-]+)*):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        targets = {name for names in made for name in names.split()}
        for target in re.findall(r"`make ([a-z][\w-]*)", text):
            assert target in targets or target.startswith("test-nightly-"), (file.name, target)


def test_the_version_stands_in_all_places():
    version = keras_fge.__version__
    assert f"\n## {version} - 20" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_a_release_has_no_relative_link(tmp_path):
    """On PyPI they would lead nowhere."""
    steps = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text())["jobs"]["package"]["steps"]
    (step,) = (step for step in steps if "README.md" in step.get("run", ""))
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())
    environment = {"HERE": "https://github.com/us/keras-fge", "GITHUB_REF_NAME": "v1"}
    subprocess.run(["bash", "-ec", step["run"]], cwd=tmp_path, env={**os.environ, **environment}, check=True)
    text = (tmp_path / "README.md").read_text()
    found = re.findall(r'(?:\]\(|src="|srcset=")([^)"]*)', re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ours = [link.removeprefix(environment["HERE"]) for link in found if link.startswith(environment["HERE"])]
    assert len(ours) > 20 and all(link.startswith("http") for link in found)
    for link in ours:
        _, kind, tag, place = link.split("/", 3)
        place = place.partition("#")[0]
        assert place and tag == "v1" and (ROOT / place).exists() and (kind == "raw") is place.endswith(".png")
