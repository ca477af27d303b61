"""Methods tuned alike: which settings and seeds are run, what is best, and that the same call goes on."""

import concurrent.futures
import json
import time

import pytest
from absl import app

from study.records import refuse_another
from study.search import alike, grid, search

pytestmark = pytest.mark.once


def test_a_search_tries_all_settings_then_fresh_seeds_of_the_best_and_goes_on(tmp_path):
    record = {"flags": {"output": str(tmp_path / "record.json"), "tuned_on": 2, "runs": 3}}
    tried, calls = grid(rate=(1, 2, 3)), []

    def once(part, arguments, seed):
        calls.append((part, arguments["rate"], seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return {"a": {"calibrated_nll": abs(arguments["rate"] - 2)}, "b": {"calibrated_nll": -arguments["rate"]}}

    with pytest.raises(KeyboardInterrupt):
        search(record, tried, once)
    search(record, tried, once)
    assert record["best"] == {"a": "{'rate': 2}", "b": "{'rate': 3}"}
    del calls[3]  # The one that was interrupted.
    tuning = [("tuning", rate, seed) for rate in (1, 2, 3) for seed in (1000, 1001)]
    assert calls == [*tuning, *(("runs", rate, seed) for rate in (2, 3) for seed in range(3))]
    search(record, tried, once)
    assert len(calls) == 12


def test_two_that_share_a_record_do_each_run_once(tmp_path):
    calls, tried = [], grid(rate=(1, 2, 3))

    def once(part, arguments, seed):
        calls.append((part, arguments["rate"], seed))
        time.sleep(0.02)
        return {"a": {"calibrated_nll": abs(arguments["rate"] - 2)}}

    records = [{"flags": {"output": str(tmp_path / "record.json"), "tuned_on": 2, "runs": 3}} for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda record: search(record, tried, once), records))
    assert records[0] == records[1] == json.loads((tmp_path / "record.json").read_text())
    assert len(calls) == len(set(calls)) == 3 * 2 + 3


def test_drawn_settings_are_different_ones_of_the_grid_and_the_same_each_time():
    whole, drawn = grid(a=(1, 2, 3), b=(4, 5)), grid(4, a=(1, 2, 3), b=(4, 5))
    assert len(whole) == 6 and len(drawn) == 4 and drawn == grid(4, a=(1, 2, 3), b=(4, 5))
    assert all(setting in whole for setting in drawn) and len({str(setting) for setting in drawn}) == 4


def test_methods_with_the_same_common_settings_are_searched_alike():
    common = grid(rate=(1, 2), decay=(3, 4))
    ours, theirs = alike(2, common, start=(5, 6, 7), cycle=(8, 9)), alike(2, common, cycles=(2, 3))
    for tried in (ours, theirs):
        shared = [{name: setting[name] for name in ("rate", "decay")} for setting in tried]
        assert shared == [setting for setting in common for _ in range(2)]
        assert len({str(setting) for setting in tried}) == 8
    assert ours == alike(2, common, start=(5, 6, 7), cycle=(8, 9))


def test_a_record_of_something_else_is_refused():
    record = {"data": "digits", "flags": {"seed": 0}}
    refuse_another("a.json", record, data="digits", flags={"seed": 0})
    with pytest.raises(app.UsageError, match=r"'a.json' has other flags: {'seed': 0}, not {'seed': 1}"):
        refuse_another("a.json", record, data="digits", flags={"seed": 1})
