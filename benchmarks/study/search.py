"""Methods that are tuned alike: settings tried on validation data, then fresh seeds at the best one, resumably.

    record = {"tuning": {setting: {seed: metrics}}, "best": {name: setting}, "runs": {setting: {seed: metrics}}, ...}

A setting stands there as the text of its arguments. One run may be of several names, as FGE and the mean of its
members' weights, each with its own metrics and its own best setting. Several processes may share a record.
"""

import contextlib
import hashlib
import itertools
import json
import pathlib

import numpy as np

from study.records import locked, write_json

FIRST_TO_TUNE = 1000  # Seeds of the search; fresh ones begin at 0.


def search(record, tried, once):
    """Tries all settings, then runs the fresh seeds at the best of each name, unless the record has that.

    Args:
        record: With `record["flags"]`: `output`, its file, `tuned_on` and `runs`, the numbers of seeds.
        tried: A list of arguments, as dictionaries.
        once: A function `(part, arguments, seed)` that trains and measures, on validation data if `part` is "tuning",
            and returns `{name: metrics}`. The best setting has the least mean "calibrated_nll".
    """
    seeds = range(FIRST_TO_TUNE, FIRST_TO_TUNE + record["flags"]["tuned_on"])
    _do(record, "tuning", once, itertools.product(tried, seeds))
    of_one_run = next(iter(record["tuning"][str(tried[0])].values()))
    record["best"] = {name: best_setting(record["tuning"], tried, name) for name in of_one_run}
    best = [arguments for arguments in tried if str(arguments) in record["best"].values()]
    _do(record, "runs", once, itertools.product(best, range(record["flags"]["runs"])))
    with _writing(record) as output:
        write_json(record, output)


def _do(record, part, once, wanted):
    """Trains and measures for each (arguments, seed) that the record lacks, and writes it after each.

    What another process does at that moment is left to it, and waited for in the end.
    """
    wanted = list(wanted)
    for waits in (False, True):
        for arguments, seed in wanted:
            _do_one(record, part, once, arguments, seed, waits)


def _do_one(record, part, once, arguments, seed, waits):
    name = hashlib.sha256(f"{part} {arguments} {seed}".encode()).hexdigest()[:12]
    done = record.setdefault(part, {}).setdefault(str(arguments), {})
    with locked(_lock(record, name), waits) as is_free:
        if not is_free:
            return
        with _writing(record):
            is_done = str(seed) in done
        if not is_done:
            result = once(part, arguments, seed)
            with _writing(record) as output:
                done[str(seed)] = result
                write_json(record, output)


@contextlib.contextmanager
def _writing(record):
    """Inside, no other process writes the file of `record`, which is yielded; `record` has what others have done."""
    output = pathlib.Path(record["flags"]["output"])
    with locked(_lock(record, "record")):
        theirs = json.loads(output.read_text()) if output.exists() else {}
        for part in ("tuning", "runs"):
            for setting, runs in theirs.get(part, {}).items():
                record.setdefault(part, {}).setdefault(setting, {}).update(runs)
        record["best"] = record.get("best") or theirs.get("best", {})
        yield output


def _lock(record, name):
    """A file for a lock, not among the records that are committed."""
    output = pathlib.Path(record["flags"]["output"])
    folder = output.parent / "checkpoints" / output.stem
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.lock"


def best_setting(tuning, tried, name):
    """The setting, as the record has it, with the least mean calibrated NLL of `name` on validation data."""
    return min(map(str, tried), key=lambda s: np.mean([run[name]["calibrated_nll"] for run in tuning[s].values()]))


def finished(record):
    """`{name: (best setting, {seed: metrics})}` of the names whose fresh runs are all there."""
    found = {}
    for name, setting in record["best"].items():
        runs = {seed: run[name] for seed, run in record["runs"].get(setting, {}).items()}
        if len(runs) == record["flags"]["runs"]:
            found[name] = setting, runs
    return found


def summary(record):
    """A line for each name: its best setting, and what the fresh seeds have on average."""
    for name, (setting, runs) in finished(record).items():
        error, nll = (np.mean([run[metric] for run in runs.values()]) for metric in ("error", "calibrated_nll"))
        yield f"{name}, {setting}: error {100 * error:.2f} %, calibrated NLL {nll:.4f}"


def grid(draw=None, **lists):
    """All combinations, as dictionaries, or so many of them, drawn with seed 0."""
    combined = [dict(zip(lists, values)) for values in itertools.product(*lists.values())]
    if draw is None:
        return combined
    chosen = np.random.default_rng(0).choice(len(combined), draw, replace=False)
    return [combined[index] for index in sorted(chosen)]


def alike(draws, common, **own):
    """Each of the settings `common` with so many combinations of a method's own, drawn with seed 0.

    So methods with the same `common`, such as learning rates and weight decays, are searched alike.
    """
    combined, generator = grid(**own), np.random.default_rng(0)
    chosen = [sorted(generator.choice(len(combined), draws, replace=False)) for _ in common]
    return [{**setting, **combined[index]} for setting, indices in zip(common, chosen) for index in indices]
