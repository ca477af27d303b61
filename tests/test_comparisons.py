"""What the report says of methods beside independent networks, against numbers worked out by hand."""

import json
import pathlib

import numpy as np
import pytest

from report import alignment, comparisons, connecting, tables
from report.comparisons import difference, equivalent, share
from report.sentences import sentences
from study.records import Records

pytestmark = pytest.mark.once
ROOT = pathlib.Path(__file__).parents[1]


def new_records(tmp_path, runs=8):
    """Errors of 40 + seed % for Ind, 3 points less for FGE; pairs of Ind are 4 points better than their networks."""
    records = Records(tmp_path, {"epochs": 10, "network": "small_cnn", "data": {"num_classes": 10}})

    def append(experiment, key, error, nll):
        metrics = {"error": error, "nll": nll + 0.05, "brier": nll, "ece": error}
        metrics |= {"calibrated_nll": nll, "calibrated_brier": nll, "calibrated_ece": error}
        members = 1 if experiment == "ind" else 2
        records.append(experiment, key, {"members": members, "test": metrics}, 1.0, {})

    for seed in range(runs):
        append("ind", [seed], 0.40 + 0.01 * seed, 1.0)
        append("ind ensemble", [1, seed], 0.40 + 0.01 * seed, 1.0)
        append("fge", [seed], 0.37 + 0.01 * seed + 0.001 * (-1) ** seed, 0.85)
    for first in range(0, runs, 2):
        append("ind ensemble", [2, first, first + 1], 0.405 + 0.01 * first - 0.04, 0.9)
        append("fge ensemble", [2, first, first + 1], 0.405 + 0.01 * first - 0.05, 0.8)
    append("ind ensemble", [3, 0, 1, 2], 0.3, 0.8)
    return records


@pytest.fixture
def records(tmp_path):
    return new_records(tmp_path)


def test_differences_are_paired_by_seed(records):
    single = difference(records, "fge", 1, "error")
    assert (single.value, single.count) == (pytest.approx(-0.03), 8)
    # Eight values of +-0.001 around the mean, and the quantile of Student's t with 7 degrees of freedom, of a table.
    half = 2.3646 * (8 * 0.001**2 / 7) ** 0.5 / 8**0.5
    assert (single.low, single.high) == pytest.approx((-0.03 - half, -0.03 + half), rel=1e-4)
    pairs = difference(records, "fge", 2, "error")
    assert (pairs.value, pairs.count) == (pytest.approx(-0.01), 4) and pairs.low is None
    assert single.text(100, 2).startswith("-3.00 [-3.0") and single.text(100, 2).endswith("]")
    assert difference(records, "sse", 1, "error") is None


def test_the_sentence_counts_the_runs_that_both_methods_have(records):
    [said] = sentences(records)
    assert "FGE makes 40.50 % test error instead of 43.50 %: -3.00" in said and "2 passes" in said
    metrics = {"error": 0.9, "nll": 9.0, "calibrated_nll": 9.0}
    records.append("ind", [99], {"members": 1, "test": metrics}, 1.0, {})
    assert sentences(records) == [said]


def test_few_runs_have_no_interval(tmp_path):
    value = difference(new_records(tmp_path, runs=2), "fge", 1, "error")
    assert value.low is value.high is None and value.text(100, 2) == "-3.00"


def test_share_of_the_gain_of_a_second_network(records):
    error = share(records, "fge", "error")
    assert (error.value, error.count) == (pytest.approx(0.03 / 0.04), 4)
    assert share(records, "fge", "nll").value == pytest.approx(0.15 / 0.1)
    assert share(records, "sse", "error") is None


def test_equivalent_number_of_networks(records):
    number, is_bound = equivalent(records, "fge", 1)  # 0.85 lies between 0.9 (2 networks) and 0.8 (3 networks).
    assert number == pytest.approx(2.5) and not is_bound
    assert equivalent(records, "fge", 2) == (pytest.approx(3), False)
    assert equivalent(records, "sse", 1) is None
    for seed in range(8):
        metrics = {"error": 0.4, "nll": 1.1, "calibrated_nll": 1.1, "brier": 1.1, "ece": 0.4}
        records.append("sse", [seed], {"members": 1, "test": metrics}, 1.0, {})
    assert equivalent(records, "sse", 1) == (1.0, True)


def test_table_of_comparisons(records):
    table, worths = tables.comparison_tables(records)
    assert [row[:3] for row in table.rows] == [["FGE, 1B", "2 for 1", "8"], ["FGE, 2B", "4 for 2", "4"]]
    assert table.rows[0][4:] == ["-0.150 [-0.150, -0.150]"] * 2
    assert table.rows[1][3:] == ["-1.00", "-0.100", "-0.100"]
    assert worths.rows == [["FGE, 1B", "2 for 1", "2.5", "0.75", "1.50"], ["FGE, 2B", "4 for 2", "3.0", "", ""]]
    assert comparisons.LEAST == 6


def test_one_network_stands_beside_it_with_a_temperature(records):
    table = tables.price_tables(records)[0]
    names = ["Ind", "Ind + temperature", "FGE", "FGE + temperature"]
    assert [row[:3] for row in table.rows] == [[name, str(passes), "8"] for name, passes in zip(names, (1, 1, 2, 2))]
    assert table.rows[0][4] == "1.050 ± 0.000" and table.rows[1][4] == "1.000 ± 0.000"
    assert table.rows[0][3] == table.rows[1][3] == "43.50 ± 2.45"


def test_intervals_hold_the_mean_as_often_as_they_say(records):
    record = json.loads((ROOT / "benchmarks/results/intervals.json").read_text())["coverage"]
    assert all(abs(sizes[str(n)]["Student's t"] - 0.95) < 0.01 for sizes in [record["normal"]] for n in (4, 6, 8, 10))
    rng = np.random.default_rng(0)
    inside = [abs(e.value) <= e.high - e.value for e in (comparisons.estimate(rng.normal(size=6)) for _ in range(2000))]
    assert 0.935 < np.mean(inside) < 0.965  # Three standard errors.


def test_rise_of_curves_between_pairs(tmp_path):
    """Above the worse end, mean and largest over the pairs; 0 where nothing lies higher."""
    curve = {name: [1.0, 3.0, 2.0] for name in ("train_nll", "train_error", "test_nll", "test_error")}
    lower = {**{name: [0.2, 0.1, 0.3] for name in curve}, "length_ratio": 1.5}
    curves = {
        f"width 16, pair {k}, bezier, 5 bends, 3x": v for k, v in enumerate(({**curve, "length_ratio": 1.3}, lower))
    }
    record = {"task": {"name": "data"}, "curves": curves}
    (tmp_path / "connecting_any.json").write_text(json.dumps(record))
    row = connecting.table(tmp_path, "any").splitlines()[2]
    cells = ["0.500 (at most 1.000)", "50.0 (at most 100.0)"] * 2
    assert row == "| " + " | ".join(["Bezier curve, 5 bends, 3 x the epochs", "16", "2", *cells, "1.40"]) + " |"


def test_two_objectives_of_the_same_pairs_stand_side_by_side(tmp_path):
    """Means over the pairs, and of each curve the rise above its worse end."""
    curve = {"t_mean": 0.2, "length_mean": 0.3, "train_nll": [0.1, 0.6, 0.2], "length_ratio": 1.2}
    longer = {"t_mean": 0.4, "length_mean": 0.1, "train_nll": [0.1, 0.3, 0.2], "length_ratio": 1.4}
    kinds = {"bezier": (curve, longer, curve), "bezier_by_length": (longer, longer)}  # The third pair is not finished.
    found = {
        f"width 16, pair {k}, {kind}, 3 bends, 3x": v for kind, values in kinds.items() for k, v in enumerate(values)
    }
    (tmp_path / "connecting_fashion.json").write_text(json.dumps({"curves": found}))
    lines = connecting.objectives(tmp_path).splitlines()
    assert lines[2:] == [
        "| t, uniform in [0, 1] | 2 | 0.3000 | 0.2000 | 0.2500 | 1.300 |",
        "| arc length | 2 | 0.4000 | 0.1000 | 0.1000 | 1.400 |",
    ]


def test_means_of_aligned_networks_stand_by_their_number(tmp_path):
    def group(shift):
        of_two = {"2": {"error": 0.5 + shift}, "3": {"error": 0.6 + shift}}
        return {"one network": {"1": {"error": 0.1 + shift}}, "aligned together": of_two, "ensemble": of_two}

    (tmp_path / "means.json").write_text(
        json.dumps({"groups": {"8 0": group(0.0), "8 1": group(0.02), "16 0": group(0)}})
    )
    lines = alignment.means(tmp_path).splitlines()
    assert lines[0] == "| test error %, width 8, 2 groups | 2 networks | 3 networks |"
    assert lines[2:4] == ["| one network: 11.0 ± 1.4 |  |  |", "| aligned together | 51.0 ± 1.4 | 61.0 ± 1.4 |"]
    assert lines[6:9] == [
        "| test error %, width 16, 1 groups | 2 networks | 3 networks |",
        "|---|---|---|",
        "| one network: 10.0 |  |  |",
    ]
