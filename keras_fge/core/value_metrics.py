"""Metrics of values, and of distributions of values."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_fge.core.mixture import Mixture, gaussian_scores
from keras_fge.core.weighting import broadcast, mean_and_standard_error, owners_of


def regression_metrics(
    predictions: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None = None
) -> dict[str, float]:
    """Mean squared and mean absolute error over all elements: `{"mse", "mae"}`, floats.

    Args:
        predictions, targets: Arrays of one shape, `(N, ...)`; the predictions may have one more axis, of size 1.
        sample_weight: Weights of the samples, or elements, of the means: shape `(N,)` or `(N, ...)`. Default: 1.

    Example:
        keras_fge.regression_metrics([1.0, 2.0], [1.0, 4.0])  # {"mse": 2.0, "mae": 1.0}
    """
    predictions, targets = np.asarray(predictions, "float64"), np.asarray(targets, "float64")
    if predictions.shape != targets.shape and predictions.shape != (*targets.shape, 1):
        raise ValueError(
            f"`y` must have the shape of the predictions, {predictions.shape}. Received: {targets.shape}. If the "
            'outputs are classes, set task="classification"; metrics="compiled" measures by the compiled loss and '
            "metrics."
        )
    difference = predictions.reshape(targets.shape) - targets
    weights = broadcast(sample_weight, targets.shape)
    squares, sizes = np.where(weights, difference**2, 0.0), np.where(weights, np.abs(difference), 0.0)
    return {"mse": float(np.average(squares, weights=weights)), "mae": float(np.average(sizes, weights=weights))}


def regression_differences(
    first: ArrayLike, second: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None = None
) -> dict[str, tuple[float, float]]:
    """`{"mse"}` of the values `first` minus that of `second`: (difference, standard error) over the samples."""
    targets = np.asarray(targets, "float64")
    weights = broadcast(sample_weight, targets.shape)
    squares = [(np.asarray(p, "float64").reshape(targets.shape) - targets) ** 2 for p in (first, second)]
    owners = owners_of(targets.shape)
    counts = weights > 0
    return {"mse": mean_and_standard_error(np.subtract(*squares)[counts], weights[counts], owners[counts])}


def gaussian_metrics(mixture: Mixture, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> dict[str, float]:
    """Means of `gaussian_scores` over all elements, floats.

    Args:
        mixture: The prediction, at positions `(N, ...)`.
        targets, sample_weight: As for `regression_metrics`.
    """
    flat, values, weights, _ = checked_values(mixture, targets, sample_weight)
    return {name: float(np.average(v, weights=weights)) for name, v in gaussian_scores(flat, values).items()}


def gaussian_differences(
    first: Mixture, second: Mixture, targets: ArrayLike, sample_weight: ArrayLike | None = None
) -> dict[str, tuple[float, float]]:
    """`{"nll", "crps", "mse"}` of `first` minus those of `second`: (difference, standard error) over the samples."""
    (ours, values, weights, rows), (theirs, *_) = (checked_values(p, targets, sample_weight) for p in (first, second))
    samples = owners_of(first.shape[:-1]).ravel()[rows]
    pair = gaussian_scores(ours, values), gaussian_scores(theirs, values)
    names = ("nll", "crps", "mse")
    return {name: mean_and_standard_error(pair[0][name] - pair[1][name], weights, samples) for name in names}


def checked_values(
    prediction: Any, targets: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Of M positions that count: (prediction, targets, weights), `(M,)` each, and which they are of all positions.

    Args:
        prediction: Values, or a `Mixture`, at positions `(N, ...)`.
        targets, sample_weight: As for `regression_metrics`.

    Raises:
        ValueError: if shapes do not fit, or the prediction is not finite.
    """
    targets = np.asarray(targets, "float64")
    positions = prediction.shape[:-1] if isinstance(prediction, Mixture) else np.shape(prediction)
    if targets.shape not in (positions, (*positions, 1)) and (*targets.shape, 1) != positions:
        raise ValueError(
            f"`y` must have the shape {positions}, a value for each that is predicted. Received: {targets.shape}"
        )
    weights = broadcast(sample_weight, positions).ravel()
    rows = weights > 0
    if not np.all(np.isfinite(targets.ravel()[rows])):
        raise ValueError("`y` must be finite, where its sample weight is not 0. Received: NaN or infinity")
    flat = np.ravel(prediction)[rows] if not isinstance(prediction, Mixture) else prediction.flat(rows)
    if not np.all(np.isfinite(np.asarray(flat))):
        raise ValueError("The outputs of the network are not finite: the training has diverged, or an input is NaN.")
    return flat, targets.ravel()[rows], weights[rows], rows
