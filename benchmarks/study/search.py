"""Methods that are tuned alike: settings tried on validation data, then fresh seeds at the best one, resumably.

    record = {"tuning": {setting: {seed: metrics}}, "best": {name: setting}, "runs": {setting: {seed: metrics}}, ...}

A setting stands there as the text of its arguments. One run may be of several names, as FGE and the mean of its
members' weights, each with its own metrics and its own best setting.
"""

import itertools

import numpy as np

from study.records import write_json

FIRST_TO_TUNE = 1000  # Seeds of the search; fresh ones begin at 0.


def search(record, tried, once):
    """Tries all settings, then runs the fresh seeds at the best of each name, unless the record has that.

    Args:
        record: With `record["flags"]`: `output`, its file, `tuned_on` and `runs`, the numbers of seeds.
        tried: A list of arguments, as dictionaries.
        once: A function `(part, arguments, seed)` that trains and measures, on validation data if `part` is "tuning",
            and returns `{name: metrics}`. The best setting has the least mean "calibrated_nll".
    """
    for arguments in tried:
        for seed in range(FIRST_TO_TUNE, FIRST_TO_TUNE + record["flags"]["tuned_on"]):
            do(record, "tuning", once, arguments, seed)
    of_one_run = next(iter(record["tuning"][str(tried[0])].values()))
    record["best"] = {name: best_setting(record["tuning"], tried, name) for name in of_one_run}
    for arguments in tried:
        for seed in range(record["flags"]["runs"]) if str(arguments) in record["best"].values() else ():
            do(record, "runs", once, arguments, seed)
    write_json(record, record["flags"]["output"])


def do(record, part, once, arguments, seed):
    """Trains and measures once, unless the record has it, and writes the record."""
    done = record.setdefault(part, {}).setdefault(str(arguments), {})
    if str(seed) not in done:
        done[str(seed)] = once(part, arguments, seed)
        write_json(record, record["flags"]["output"])


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
