"""What the report says of methods beside independent networks, against numbers worked out by hand."""

import pytest

from report import comparisons, tables
from report.comparisons import difference, equivalent, share
from study.records import Records

pytestmark = pytest.mark.once


def new_records(tmp_path, runs=8):
    """Errors of 40 + seed % for Ind, 3 points less for FGE; pairs of Ind are 4 points better than their networks."""
    records = Records(tmp_path, {"epochs": 10, "network": "small_cnn", "data": {"num_classes": 10}})

    def append(experiment, key, error, nll):
        metrics = {"error": error, "nll": nll, "calibrated_nll": nll, "brier": nll, "ece": error}
        records.append(experiment, key, {"members": 2, "test": metrics}, 1.0, {})

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
    # The bootstrap distribution of the mean of eight values of +-0.001 has this standard deviation.
    assert 1.5 * 0.001 / 8**0.5 < single.high - single.value < 2.5 * 0.001 / 8**0.5
    assert 1.5 * 0.001 / 8**0.5 < single.value - single.low < 2.5 * 0.001 / 8**0.5
    pairs = difference(records, "fge", 2, "error")
    assert (pairs.value, pairs.count) == (pytest.approx(-0.01), 4) and pairs.low == pytest.approx(-0.01)
    assert single.text(100, 2).startswith("-3.00 [-3.0") and single.text(100, 2).endswith("] (8)")
    assert difference(records, "sse", 1, "error") is None


def test_few_runs_have_no_interval(tmp_path):
    value = difference(new_records(tmp_path, runs=2), "fge", 1, "error")
    assert value.low is value.high is None and value.text(100, 2) == "-3.00 (2)"


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
    table = tables.comparison_tables(records)[0]
    assert [row[0] for row in table.rows] == ["FGE, 1B", "FGE, 2B"]
    assert table.rows[0][2:4] == ["-0.150 [-0.150, -0.150] (8)"] * 2
    assert table.rows[0][4].startswith("0.75 [") and table.rows[0][6] == "2.5"
    assert table.rows[1][4:] == ["", "", "3.0"]
    assert comparisons.LEAST == 4
