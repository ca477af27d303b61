"""How sure predictions are, against how often they are right; and what it brings to refuse the least sure ones."""

from typing import Any

import numpy as np

from keras_fge.core.metrics import ECE_BINS, bins_of, correct_ones
from keras_fge.core.weighting import mean_and_standard_error, wilson


def reliability_bins(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, owners: np.ndarray
) -> dict[str, Any]:
    """Accuracy against confidence, the largest probability, in the bins of the expected calibration error.

    Args:
        probabilities, labels, weights, owners: As `checked_positions` returns them.

    Returns:
        `count`, `confidence` (mean), `accuracy`, and `low` and `high`, Wilson's 95 % interval of it, as of so many
        samples as have a position in the bin: arrays of shape `(15,)`, NaN where no prediction is. Of all together, the
        mean `confidence_of_all`, `accuracy_of_all`, and `gap`, confidence minus accuracy, with its standard error over
        the samples, `gap_error`.
    """
    confidence, correct = np.max(probabilities, axis=1), correct_ones(probabilities, labels)
    bins = bins_of(confidence)
    totals = np.bincount(bins, weights=weights, minlength=ECE_BINS)
    counts = np.bincount(bins, minlength=ECE_BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=weights * v, minlength=ECE_BINS) / totals for v in (confidence, correct)]
    samples = np.bincount(np.unique(np.stack([bins, owners]), axis=1)[0], minlength=ECE_BINS)
    low, high = wilson(means[1], np.maximum(samples, 1))
    gap, error = mean_and_standard_error(confidence - correct, weights, owners)
    of_all = [float(np.average(values, weights=weights)) for values in (confidence, correct)]
    found = {"count": counts, "confidence": means[0], "accuracy": means[1], "low": low, "high": high}
    return {**found, "confidence_of_all": of_all[0], "accuracy_of_all": of_all[1], "gap": gap, "gap_error": error}


def risk_coverage(unsure: np.ndarray, losses: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """The mean loss of the predictions that are kept, if the least sure ones are refused.

    With the predictions ordered from the surest on, weights w and losses l (of equally sure ones, their mean):

        coverage_n = sum_{i <= n} w_i / sum w,   risk_n = sum_{i <= n} w_i l_i / sum_{i <= n} w_i
        aurc = sum_n w_n risk_n / sum w

    Args:
        unsure: How unsure each is.
        losses: Its loss.
        weights: Its weight.

    Returns:
        `coverage`, `risk`: arrays; `aurc`, the area under the curve; `excess_aurc`, less that of the best order, by the
        losses themselves; `refused_for_half`, the smallest share to refuse with which at most half the risk is left,
        None if there is none.
    """
    _, group = np.unique(unsure, return_inverse=True)
    means = np.bincount(group, weights=weights * losses) / np.bincount(group, weights=weights)
    order = np.argsort(group, kind="stable")
    coverage, risk, area = _curve(means[group][order], weights[order])
    best = np.argsort(losses, kind="stable")
    enough = coverage[risk <= risk[-1] / 2] if risk[-1] > 0 else coverage[:0]
    return {
        "coverage": coverage,
        "risk": risk,
        "aurc": area,
        "excess_aurc": area - _curve(losses[best], weights[best])[2],
        "refused_for_half": float(1 - enough[-1]) if len(enough) else None,
    }


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """H[p] = -sum_c p[c] log p[c], in nats, along the last axis."""
    return -np.sum(probabilities * np.log(np.maximum(probabilities, 1e-300)), axis=-1)


def _curve(losses, weights):
    totals = np.cumsum(weights)
    risk = np.cumsum(weights * losses) / totals
    return totals / totals[-1], risk, float(np.average(risk, weights=weights))
