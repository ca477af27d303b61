"""What a method is worth beside independent networks (Ind), from the records alone.

Values are on test data. Runs are compared with the runs of the same seeds; groups of runs, of 2B and 3B, with groups of
the same seeds. Intervals are 95 % intervals of a mean difference over these runs or groups, by Student's t.
"""

import dataclasses

import numpy as np

LEAST = 6  # With fewer runs or groups, an interval would say more than is known.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value, the ends of its interval (None if there are too few values for one), and the number of values."""

    value: float
    low: float | None
    high: float | None
    count: int

    def text(self, scale=1, digits=3, sign="+"):
        form = f"{sign}.{digits}f"
        interval = "" if self.low is None else f" [{scale * self.low:{form}}, {scale * self.high:{form}}]"
        return f"{scale * self.value:{form}}{interval}"


def values(records, method, budget, metric):
    """`{seeds: value}` of the runs (1B) or groups of runs of one method."""
    if budget == 1:
        return {tuple(r["key"]): r["metrics"]["test"][metric] for r in records.of(method)}
    groups = [r for r in records.of(f"{method} ensemble") if r["key"][0] == budget]
    return {tuple(r["key"][1:]): r["metrics"]["test"][metric] for r in groups}


def difference(records, method, budget, metric):
    """`method` minus Ind at the same budget, as an `Estimate`; None if they share no runs."""
    theirs, ours = values(records, "ind", budget, metric), values(records, method, budget, metric)
    return estimate([ours[seeds] - theirs[seeds] for seeds in ours if seeds in theirs])


def by_images(records, method):
    """`method` minus Ind on the same test images, by metric, as estimates over images; None if it was not measured."""
    for record in records.of("paired"):
        if record["key"][0] == method:
            return {
                name: Estimate(
                    v["mean"], v["mean"] - 1.96 * v["se"], v["mean"] + 1.96 * v["se"], len(record["key"]) - 1
                )
                for name, v in record["metrics"].items()
            }
    return None


def share(records, method, metric):
    """The share of the gain of a second network that a method brings for the price of one, as an `Estimate`.

        s = (Ind 1B - method 1B) / (Ind 1B - Ind 2B)

    with means over the groups of 2B, and the runs that they consist of. It is a ratio of few pairs, so it has no
    interval. None if there are no such groups.
    """
    single, ours = values(records, "ind", 1, metric), values(records, method, 1, metric)
    gains = []
    for seeds, pair in values(records, "ind", 2, metric).items():
        runs = [(seed,) for seed in seeds]
        if all(run in ours for run in runs):
            alone = np.mean([single[run] for run in runs])
            gains.append([alone - np.mean([ours[run] for run in runs]), alone - pair])
    if not gains:
        return None
    brought, whole = np.sum(gains, axis=0)
    return Estimate(float(brought / whole), None, None, len(gains))


def equivalent(records, method, budget):
    """The deep ensemble equivalent: how many independent networks have the calibrated NLL of this method.

    Linear between the means of ensembles of 1, 2, ... networks. Returns (number, whether it is only known to be at
    least, or at most, so large), or None.

    References:
        Ashukha et al., Pitfalls of In-Domain Uncertainty Estimation and Ensembling in Deep Learning, ICLR 2020,
        https://arxiv.org/abs/2002.06470
    """
    ours = list(values(records, method, budget, "calibrated_nll").values())
    sizes = sorted({r["key"][0] for r in records.of("ind ensemble")})
    if not ours or not sizes:
        return None
    means = [np.mean(list(values(records, "ind", k, "calibrated_nll").values())) for k in sizes]
    value = np.mean(ours)
    return float(np.interp(-value, -np.array(means), sizes)), not means[-1] <= value <= means[0]


def estimate(sample):
    """The mean, with its interval by Student's t if there are at least `LEAST` values; None for an empty sample.

    mean +- t(0.975, n - 1) s / sqrt(n)
    """
    from scipy.stats import t

    if not len(sample):
        return None
    mean, low, high = float(np.mean(sample)), None, None
    if len(sample) >= LEAST:
        half = t.ppf(0.975, len(sample) - 1) * standard_error(sample)
        low, high = float(mean - half), float(mean + half)
    return Estimate(mean, low, high, len(sample))


def standard_error(values):
    """The standard error of the mean; None for a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
