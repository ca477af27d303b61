"""Methods tuned alike: which settings and seeds are run, what is best, and that the same call goes on."""

import pytest
from absl import app

from study.records import refuse_another
from study.search import grid, search

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


def test_drawn_settings_are_different_ones_of_the_grid_and_the_same_each_time():
    whole, drawn = grid(a=(1, 2, 3), b=(4, 5)), grid(4, a=(1, 2, 3), b=(4, 5))
    assert len(whole) == 6 and len(drawn) == 4 and drawn == grid(4, a=(1, 2, 3), b=(4, 5))
    assert all(setting in whole for setting in drawn) and len({str(setting) for setting in drawn}) == 4


def test_a_record_of_something_else_is_refused():
    record = {"data": "digits", "flags": {"seed": 0}}
    refuse_another("a.json", record, data="digits", flags={"seed": 0})
    with pytest.raises(app.UsageError, match=r"'a.json' has other flags: {'seed': 0}, not {'seed': 1}"):
        refuse_another("a.json", record, data="digits", flags={"seed": 1})
