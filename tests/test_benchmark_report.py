"""All of the benchmark in one small run: what it records, and the report that is made of it."""

import pathlib
import re
import shutil

import numpy as np
import pytest

import keras_fge
from browsing import check_log, opened, wait
from conftest import slow_but_on_torch
from inputs.data import load
from report import figures, reference, tables
from report.tables import Grid
from study import flags, presets
from study.records import Records
from test_benchmark_flags import benchmark

ROOT = pathlib.Path(__file__).parent.parent


# --- The whole --------------------------------------------------------------------------------------------------------

KINDS = {"paired": 1, "ind": 3, "sse": 3, "fge": 3, "fge_bn": 3, "swa": 3, "curve": 2, "path": 3, "plane": 3}


def metrics_of(folder):
    """The metrics of all units, without the times."""
    units = {unit: dict(record["metrics"]) for unit, record in Records(folder).units.items()}
    for metrics in units.values():
        metrics.pop("seconds_per_epoch", None)
    return units


@slow_but_on_torch
def test_smoke_runs_every_experiment_and_records_it(smoke):
    folder, output = smoke
    records = Records(folder)
    for experiment, count in KINDS.items():
        assert len(records.of(experiment)) == count
    for method, members in (("ind", 1), ("sse", 2), ("fge", 2), ("fge_bn", 2)):
        groups = records.of(f"{method} ensemble")
        assert [record["key"] for record in groups] == [[1, 0], [1, 1], [1, 2], [2, 0, 1], [3, 0, 1, 2]]
        assert [record["metrics"]["members"] for record in groups] == [members * k for k in (1, 1, 1, 2, 3)]
        for seed in range(3):
            single, pooled = records.metrics(f"{method} {seed}"), records.metrics(f"{method} ensemble 1 {seed}")
            assert single["members"] == members == len(single["epochs"]) == len(single["member_error"])
            assert {name: single["test"][name] for name in pooled["test"]} == pytest.approx(pooled["test"], rel=1e-4)
            assert single["ensemble_error"][-1] == pytest.approx(single["test"]["error"])
            epochs = {"ind": [4.0], "sse": [2.0, 4.0], "fge": [2.5, 3.5], "fge_bn": [2.5, 3.5]}[method]
            assert single["epochs"] == epochs and single.get("seconds_per_epoch", 1) != 0
            assert single["test"]["member_error"] == pytest.approx(np.mean(single["member_error"]))
            assert (single["test"]["disagreement"] > 0) == (members > 1)
    for method in ("sse", "fge"):  # The members of the second run join those of the first.
        first, pair = records.metrics(f"{method} 0"), records.metrics(f"{method} ensemble 2 0 1")
        assert pair["ensemble_error"][:2] == first["ensemble_error"] and len(pair["ensemble_error"]) == 4
        assert pair["ensemble_error"][-1] == pytest.approx(pair["test"]["error"])
    assert records.metrics("plane bezier")["largest_distance_of_the_path"] < 1e-4
    assert records.metrics("path line")["length_ratio"] == pytest.approx(1)
    trace = records.metrics("fge 0")["trace"]
    assert trace["iteration"][0] == 0 and trace["iteration"][-1] == 20 and trace["distance"][0] == 0
    assert len(trace["test_error"]) == len(trace["iteration"]) == 11 and trace["snapshots"] == [5, 15]
    for record in records.units.values():
        assert record["flags"]["width"] == 4 and "--preset=smoke" in record["command"]
        data = dict(record["configuration"]["data"])
        assert len(data.pop("sha256")) == 16
        assert data == {
            "name": "digits",
            "shape": [8, 8, 1],
            "num_classes": 10,
            "train": 500,
            "validation": 500,
            "test": 797,
        }
    for text in ("straight line", "barrier", "Ind, 1 a run", "SWA, 1 network", "share s"):
        assert text in output


@slow_but_on_torch
def test_predictions_of_a_run_are_those_of_its_members(smoke):
    folder, _ = smoke
    data = load("digits")
    ensemble = keras_fge.Ensemble.load(folder / "checkpoints" / "fge_1")
    metrics = metrics_of(folder)["fge 1"]
    expected = ensemble.evaluate(*data.test)
    assert {name: metrics["test"][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    stored = np.load(folder / "checkpoints" / "predictions_fge_1.npz")["validation"]
    assert np.allclose(stored, ensemble.predict(data.validation[0]), atol=1e-5)


@slow_but_on_torch
def test_report_is_made_of_the_records_alone(smoke, tmp_path):
    folder, output = smoke
    for path in [*folder.glob("*.json*"), *folder.glob("*.npz")]:
        shutil.copy(path, tmp_path)
    result = benchmark("--experiment=report", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout[: result.stdout.index("Records, arrays")] in output
    names = {name for name, _, _ in figures.FIGURES}
    assert len(names) == 8 and {path.name for path in tmp_path.glob("*.png")} == names
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 8 and page.count("<table>") == 8
    assert set(re.findall(r'(?:src|href)="(?!#)(.*?)"', page)) == {"data:,", "explorer.html"}
    assert "Between two trained networks, the train error rises" in page
    explorer = (tmp_path / "explorer.html").read_text()
    assert "plane of three independent networks" in explorer and '"Bezier curve"' in explorer
    for text in ("Bezier curve", "epochs=4", "python benchmarks/cifar.py --preset=smoke", "SWA, 1 network"):
        assert text in page


@pytest.mark.slow
def test_what_is_recorded_is_not_done_again(smoke):
    folder, _ = smoke
    before = (folder / "records.jsonl").read_bytes()
    result = benchmark("--preset=smoke", f"--output_dir={folder}")
    assert result.returncode == 0, result.stderr
    assert (folder / "records.jsonl").read_bytes() == before
    assert "units of work are recorded already" in result.stdout and "network 0:" not in result.stdout
    result = benchmark("--output_dir", str(folder), "--experiment=ind")
    assert result.returncode != 0 and "is of another configuration: " in result.stderr
    assert "--epochs=4 there, 40 here" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.once
def test_reference_numbers_belong_to_known_networks():
    text = (ROOT / "docs" / "benchmark.md").read_text()
    for methods in reference.ENSEMBLES.values():
        cells = [" / ".join(tables.theirs_text(row, budget) for budget in (1, 2, 3)) for row in methods.values()]
        single, fge = methods["ind"], methods["fge"]
        cells.append(f"{(single[0] - fge[0]) / (single[0] - single[1]):.2f}")
        assert f"| {' | '.join(cells)} |" in text
    assert {name for name, _ in [*reference.CURVES, *reference.ENSEMBLES]} <= set(flags.NETWORKS)
    for paths in reference.CURVES.values():
        assert all(least <= most for row in paths.values() for least, most in (row[:2],))


@pytest.mark.once
def test_numbers_of_the_authors_stand_beside_ours(tmp_path):
    preset = presets.PRESETS["vgg16_cifar100"]
    records = Records(tmp_path, {**preset, "data": {"name": "cifar100", "num_classes": 100}})
    summary = dict.fromkeys(
        ["train_loss_min", "train_loss_max", "train_loss_mean", "train_loss_length_mean", "train_loss_barrier"], 0.5
    )
    summary |= {"test_error_min": 0.2, "test_error_max": 0.3, "length_ratio": 1.0}
    summary |= {
        "train_nll_barrier": 0.1,
        "train_error_barrier": 0.02,
        "test_nll_barrier": 0.2,
        "test_error_barrier": 0.05,
    }
    summary |= {"train_loss_ends": [0.4, 0.3], "test_error_ends": [0.25, 0.2]}
    records.append("path", ["line"], summary, 1.0, {})
    records.append("path", ["bezier"], summary, 1.0, {})
    for seed in range(2):
        test = {"error": 0.25 + 0.02 * seed, **dict.fromkeys(["nll", "calibrated_nll", "brier", "ece"], 1.0)}
        records.append("ind ensemble", [1, seed], {"members": 1, "test": test}, 1.0, {})
    table, rises = tables.curve_tables(records)
    assert [len(row) for row in table.rows] == [len(table.columns)] * 3
    assert table.rows[0][1] == "0.300 to 0.400" and table.rows[0][-2:] == ["0.89 to 0.89", "27.50 to 27.50"]
    assert table.rows[1][-2:] == ["", ""] and table.rows[2][-1] == "27.40 to 30.10"
    # The worse end has 0.4, the mean of both 0.35: the largest loss, 0.5, is 0.15 above it.
    assert table.rows[1][3:5] == ["0.500", "0.150"]
    assert rises.rows[0] == ["straight line", "+0.100", "+2.0", "+0.200", "+5.0"]
    table = tables.ensemble_tables(records)[0]
    assert table.columns == ["", "1B", "paper, CIFAR-100, 1B"]
    assert table.rows == [["Ind, 1 a run", "26.00 ± 1.41 (2)", "27.40 ± 0.10"]]
    records.configuration["epochs"] = 10  # Another training is not compared.
    assert tables.ensemble_tables(records)[0].columns == ["", "1B"]


def test_markdown_shows_what_it_is_given():
    markdown = (
        Grid("A | *title*", ["setting", "`x`"], [["a|b\nc", "<b>[1](x)</b> [2, 3]"]], "A note.")
        .to_markdown()
        .splitlines()
    )
    assert markdown[0] == r"**A \| \*title\***" and markdown[2:5] == [
        r"| setting | \`x\` |",
        "| --- | --- |",
        r"| a\|b c | \<b\>[1\](x)\</b\> [2, 3] |",
    ]


@pytest.mark.once
@pytest.mark.parametrize("folder", ["fashion_subset", "cifar10_jpeg"])
def test_what_is_drawn(folder):
    """Each line of a figure is there: a traced run of FGE has no time, and stays out of the median."""
    place = ROOT / "benchmarks" / "results" / folder
    records = Records(place)
    for draw in (figures.draw_time, figures.draw_members, figures.draw_fge, figures.draw_budgets, figures.draw_worth):
        figure = draw(records, place)
        for axes in figure.axes:
            assert axes.lines
            for line in axes.lines:
                assert len(line.get_xdata()) and np.all(np.isfinite(np.asarray(line.get_xydata(), float))), line
    labels = [line.get_label() for line in figures.draw_time(records, place).axes[0].lines]
    assert labels == ["Ind", "SSE", "FGE", "FGE, after each member of a run"]
    errors = figures.draw_fge(records, place).axes[1].lines
    run = next(r["metrics"] for r in records.of("fge") if "trace" in r["metrics"])
    drawn = next(line for line in errors if "snapshots so far" in line.get_label())
    assert np.allclose(drawn.get_ydata(), 100 * np.array(run["ensemble_error"]))
    assert list(drawn.get_xdata()) == run["trace"]["snapshots"]


@slow_but_on_torch
@pytest.mark.parametrize("width", [1280, 375])
def test_the_report_in_a_browser(smoke, browser, width):
    from selenium.webdriver.common.by import By

    folder, _ = smoke
    opened(browser, (folder / "report.html").as_uri(), width)
    column = "return [...document.querySelectorAll('table')[0].rows].slice(1).map(row => row.cells[4].textContent)"
    head = browser.find_elements(By.CSS_SELECTOR, "table th button")[4]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", head)
    for way in (1, -1):  # By the barrier, up, then down; the ends have none.
        browser.execute_script("arguments[0].click()", head)
        numbers = [float(text) for text in browser.execute_script(column) if text]
        assert numbers == sorted(numbers)[::way] and len(numbers) == 3
    check_log(browser)
    browser.get(browser.find_element(By.CSS_SELECTOR, "a[href='explorer.html']").get_attribute("href"))
    wait(lambda: browser.execute_script("return document.body.dataset.ready === 'yes'"))
    check_log(browser)
