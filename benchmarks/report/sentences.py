"""The two findings of a study in words: the wall and the way around it, and what FGE brings beside one network."""

import numpy as np

from report.comparisons import by_images, difference, equivalent, values
from report.tables import PATHS, by_name, passes_of


def sentences(records):
    """What can be said of these records: up to two sentences, with their numbers."""
    paths = {name: record["metrics"] for name, record in by_name(records, "path").items()}
    said = [_of_paths(paths)] if "line" in paths and len(paths) > 1 else []
    return [*said, _of_fge(records)] if difference(records, "fge", 1, "error") else said


def _of_paths(paths):
    """How far train error and NLL, which have no weight decay in them, rise between two networks."""
    parts = [
        f"{100 * path['train_error_barrier']:.1f} points above the worse end on the {PATHS[name]} "
        f"(NLL: {path['train_nll_barrier']:.2f} nat; test error up to {100 * path['test_error_max']:.1f} %)"
        for name, path in paths.items()
    ]
    return f"Between two trained networks, the train error rises {parts[0]}, but {' and '.join(parts[1:])}."


def _of_both(records, metric):
    """The means of one network and of FGE over the seeds of which there are both."""
    one, fge = (values(records, method, 1, metric) for method in ("ind", "fge"))
    return [np.mean([of[seed] for seed in one.keys() & fge.keys()]) for of in (one, fge)]


def _of_fge(records):
    """What FGE brings beside one network, both with a temperature, and what a prediction costs: runs that both have."""
    error, nll, calibrated = (_of_both(records, metric) for metric in ("error", "nll", "calibrated_nll"))
    changes = [difference(records, "fge", 1, metric) for metric in ("error", "calibrated_nll")]
    over, paired = "95 % intervals by Student's t", by_images(records, "fge")
    if changes[0].low is None and paired:
        changes = [paired["error"], paired["calibrated_nll"]]
        over = "95 % intervals over the test images, for these networks alone"
    elif changes[0].low is None:
        over = "too few for an interval"
    points, nats = (change.text(*form) for change, form in zip(changes, ((100, 2), (1, 3))))
    worth, is_bound = equivalent(records, "fge", 1) or (None, True)
    return (
        f"For the training of one network, and {passes_of(records, 'fge')} passes for each prediction, FGE makes "
        f"{100 * error[1]:.2f} % test error instead of {100 * error[0]:.2f} %: {points} points. A temperature alone "
        f"takes the NLL of one network from {nll[0]:.3f} to {calibrated[0]:.3f} nat; FGE with one has "
        f"{calibrated[1]:.3f}: {nats} (mean of {changes[0].count} runs; {over})."
        + ("" if is_bound else f" It is worth {worth:.1f} independent networks.")
    )
