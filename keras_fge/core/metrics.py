"""Metrics of probabilities: error, likelihood and calibration, also after temperature scaling."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_fge.core.arguments import as_integer
from keras_fge.core.temperature import LEAST, best_temperature, softmax
from keras_fge.core.weighting import broadcast, mean_and_standard_error, owners_of

ECE_BINS = 15
FOLDS = 5
OTHERWISE = 'If they are values, set task="regression"; metrics="compiled" measures by the compiled loss and metrics.'


def classification_metrics(
    probabilities: ArrayLike, labels: ArrayLike, sample_weight: ArrayLike | None = None
) -> dict[str, float]:
    """Error, NLL, Brier score and expected calibration error of predicted probabilities; see `Ensemble.evaluate`.

    Args:
        probabilities: Shape `(N, classes)`, or `(N, 1)` for the probability of class 1 of two; for sequences and
            images, `(N, ..., classes)`, where each position counts as a sample.
        labels: Integers of shape `(N, ...)` or `(N, ..., 1)`, or one-hot of shape `(N, ..., classes)`; also soft labels
            of that shape, rows y that sum to 1. Of these, the error is 1 - y[argmax p], the chance that a label drawn
            from y is another, the NLL - sum_c y_c log p_c, and the Brier score sum_c (p_c - y_c)^2.
        sample_weight: Weights of the samples, shape `(N,)`, or of the positions, such as a mask, shape `(N, ...)`. All
            metrics are means with these weights, sum w m / sum w. Labels of weight 0 may be anything. Default: 1.

    Returns:
        `{"error", "nll", "brier", "ece"}`, floats.

    Example:
        keras_fge.classification_metrics([[0.9, 0.1], [0.4, 0.6]], [0, 0])["error"]  # 0.5
    """
    probabilities, labels, weights, _ = checked_positions(probabilities, labels, sample_weight)
    return _metrics(probabilities, labels, weights)


def standard_error_of_error(error: float, samples: int) -> float:
    """sqrt(p (1 - p) / N): of an error rate p that was counted on N samples."""
    return float(np.sqrt(max(error * (1 - error), 0.0) / samples))


def negative_log_likelihoods(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p_n[y_n] of each sample, in nats, with p clipped at 1e-7; `labels` as `checked_labels` returns them."""
    if labels.ndim == 1:
        return -np.log(np.maximum(_at(probabilities, labels), LEAST))
    return -_at(np.log(np.maximum(probabilities, LEAST)), labels)


def _at(values, labels):
    """v_n[y_n] of each sample; of soft labels the mean, sum_c y_nc v_nc."""
    return values[np.arange(len(labels)), labels] if labels.ndim == 1 else np.sum(labels * values, axis=1)


def checked_labels(labels: ArrayLike, samples: int, classes: int) -> np.ndarray:
    """Labels as integers of shape `(samples,)`, also of one-hot ones; soft labels as rows `(samples, classes)`.

    Raises:
        ValueError: if there is not one label for each sample, or one is no class.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"`y` must hold numbers, the classes 0 to {classes - 1}. Received: type {labels.dtype}")
    if labels.shape == (samples, classes) and classes > 1:
        if not are_distributions(labels):
            sums = labels.sum(axis=1)
            raise ValueError(
                f"`y` of shape {labels.shape} must be one-hot, or soft labels: no row is negative, and each sums to 1. "
                f"Received: sums from {sums.min():g} to {sums.max():g}. If they are labels that do not exclude each "
                f'other, set task="multilabel". {OTHERWISE}'
            )
        return np.argmax(labels, axis=1) if np.all(np.isin(labels, (0, 1))) else labels.astype("float64")
    if labels.shape not in ((samples,), (samples, 1)):
        raise ValueError(
            f"`y` must have shape ({samples},), ({samples}, 1) or ({samples}, {classes}), one label for each "
            f"prediction. Received: shape {labels.shape}. {OTHERWISE}"
        )
    if not np.all(labels == np.floor(labels)):  # Also where there is a NaN.
        received = labels[labels != np.floor(labels)].flat[0]
        raise ValueError(f"`y` must hold classes, integers. Received: {received}. {OTHERWISE}")
    labels = labels.reshape(samples).astype("int64")
    if samples and not (labels.min() >= 0 and labels.max() < classes):
        received = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"`y` must hold classes 0 to {classes - 1}. Received: {received}. {OTHERWISE}")
    return labels


def are_distributions(rows: np.ndarray) -> bool:
    """Whether no element is negative, and each row, along the last axis, sums to 1; False if one is NaN."""
    return bool(np.all(rows >= 0) and np.all(np.abs(rows.sum(axis=-1) - 1) <= 1e-3))


def calibrated_metrics(
    probabilities: ArrayLike,
    labels: ArrayLike,
    folds: int = FOLDS,
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
) -> dict[str, float]:
    """NLL, Brier score and calibration error after temperature scaling, cross-validated.

    The samples are split at random into folds. Each is scaled by the temperature T that fits the *others* best:

        p_T = softmax(log(p) / T),   T = argmin of the NLL,   1/64 <= T <= 64

    The error does not change. The temperature never sees the sample that it scales, so that ensembles can be compared
    on test data, as Ashukha et al. do.

    Args:
        probabilities, labels, sample_weight: As for `classification_metrics`.
        folds: Number of folds, at least 2. Default: 5.
        seed: Seed of the random split. Default: 0.

    Returns:
        `{"calibrated_nll", "calibrated_brier", "calibrated_ece", "temperature"}`: floats, the last the mean over the
        folds.

    Example:
        keras_fge.calibrated_metrics(model.predict(x_test, verbose=0), y_test)["calibrated_nll"]

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599
        Ashukha et al., Pitfalls of In-Domain Uncertainty Estimation and Ensembling in Deep Learning, ICLR 2020,
        https://arxiv.org/abs/2002.06470
    """
    checked, classes, weights, owners = checked_positions(probabilities, labels, sample_weight)
    samples = np.unique(owners)
    if as_integer("folds", folds, least=2) > len(samples):
        raise ValueError(f"`folds` must be from 2 to the number of samples, {len(samples)}. Received: folds={folds}")
    logits = np.log(np.maximum(checked, LEAST))
    scaled, temperatures = np.empty_like(logits), []
    for fold in np.array_split(np.random.default_rng(seed).permutation(samples), folds):
        inside = np.isin(owners, fold)
        others = logits[~inside]
        temperatures.append(best_temperature(others, _at(others, classes[~inside]), weights[~inside])[0])
        scaled[inside] = softmax(logits[inside] / temperatures[-1])
    metrics = _metrics(scaled, classes, weights)
    calibrated = {f"calibrated_{name}": metrics[name] for name in ("nll", "brier", "ece")}
    return {**calibrated, "temperature": float(np.mean(temperatures))}


def fit_temperature(
    probabilities: ArrayLike, labels: ArrayLike, sample_weight: ArrayLike | None = None
) -> tuple[float, float]:
    """The temperature with the least NLL on these samples, and its relative standard error; see `best_temperature`."""
    checked, classes, weights, _ = checked_positions(probabilities, labels, sample_weight)
    logits = np.log(np.maximum(checked, LEAST))
    return best_temperature(logits, _at(logits, classes), weights)


def classification_differences(
    first: ArrayLike, second: ArrayLike, labels: ArrayLike, sample_weight: ArrayLike | None = None
) -> dict[str, tuple[float, float]]:
    """`{"error", "nll"}` of the probabilities `first` minus those of `second`: (difference, standard error).

    Both are measured on the same samples, so what is hard for both cancels: with the difference d_n of sample n,
    weights w_n, and d = sum w_n d_n / sum w_n, the standard error is sqrt(N / (N - 1) sum (w_n (d_n - d))^2) / sum w_n.
    Positions of a sequence or an image are added up first, as those of one sample depend on each other.

    Args:
        first, second, labels, sample_weight: As for `classification_metrics`.
    """
    (ours, labels_of_ours, weights, owners), (theirs, *_) = (
        checked_positions(p, labels, sample_weight) for p in (first, second)
    )
    errors = [correct_ones(p, labels_of_ours) for p in (theirs, ours)]
    losses = [negative_log_likelihoods(p, labels_of_ours) for p in (ours, theirs)]
    return {
        name: mean_and_standard_error(np.subtract(*pair), weights, owners)
        for name, pair in (("error", errors), ("nll", losses))
    }


def correct_ones(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the largest probability is that of the label; of soft labels, how likely."""
    best = np.argmax(probabilities, axis=1)
    return (best == labels).astype("float64") if labels.ndim == 1 else _at(labels, best)


def of_both_classes(probabilities: ArrayLike) -> np.ndarray:
    """In float64, with the probability of class 0 beside that of class 1, if there is one column."""
    array = np.asarray(probabilities, "float64")
    return np.concatenate([1 - array, array], axis=-1) if array.shape[-1] == 1 else array


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Which of the bins 0, 1, ... each is in: (b/15, (b+1)/15]."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)


def _metrics(probabilities, labels, weights):
    correct = correct_ones(probabilities, labels)
    confidence = np.max(probabilities, axis=1)
    bins = bins_of(confidence)
    gaps = np.bincount(bins, weights=weights * (correct - confidence), minlength=ECE_BINS)
    squared_labels = 1 if labels.ndim == 1 else np.sum(labels**2, axis=1)
    squares = np.sum(probabilities**2, axis=1) - 2 * _at(probabilities, labels) + squared_labels
    return {
        "error": float(1 - np.average(correct, weights=weights)),
        "nll": float(np.average(negative_log_likelihoods(probabilities, labels), weights=weights)),
        "brier": float(np.average(squares, weights=weights)),
        "ece": float(np.sum(np.abs(gaps)) / np.sum(weights)),
    }


def checked_positions(
    probabilities: ArrayLike, labels: Any, weights: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of M positions that count: probabilities `(M, classes)` in float64, labels, weights and samples, `(M,)` each."""
    if np.ndim(probabilities) < 2:
        raise ValueError(f"`probabilities` must have shape (samples, classes). Received: {np.shape(probabilities)}")
    probabilities = of_both_classes(probabilities)
    if not probabilities.size:
        raise ValueError("There are no predictions: the data have no samples.")
    *positions, classes = probabilities.shape
    shares = broadcast(weights, positions).ravel()
    counts = shares > 0
    owners = owners_of(positions).ravel()
    if len(positions) > 1 or not counts.all():
        labels = _flat_labels(labels, tuple(positions), classes)[counts]
    probabilities = probabilities.reshape(-1, classes)[counts]
    if not np.all(np.isfinite(probabilities)):
        raise ValueError("The outputs of the network are not finite: the training has diverged, or an input is NaN.")
    if not are_distributions(probabilities):
        sums = np.sum(probabilities, axis=1)
        raise ValueError(
            "The outputs of the network are no probabilities: they must be non-negative and sum to 1. If they are "
            'logits, set from_logits=True; if they are independent labels, task="multilabel"; if the network is no '
            f'classifier, from_logits=None; metrics="compiled" measures by the compiled loss and metrics. Received: '
            f"sums from {np.min(sums):.3g} to {np.max(sums):.3g}"
        )
    return probabilities, checked_labels(labels, *probabilities.shape), shares[counts], owners[counts]


def _flat_labels(labels, positions, classes):
    """Labels of samples with several positions as a row for each position."""
    labels = np.asarray(labels)
    if labels.shape == (*positions, classes) and classes > 1:
        return labels.reshape(-1, classes)
    if labels.shape not in (positions, (*positions, 1)):
        raise ValueError(
            f"`y` must have shape {positions}, {(*positions, 1)} or {(*positions, classes)}, one label for each "
            f"position. Received: shape {labels.shape}. {OTHERWISE}"
        )
    return labels.reshape(-1)
