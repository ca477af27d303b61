"""Sample weights, and means with them: over positions that belong to samples, with a standard error."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def broadcast(weights: Any, shape: Sequence[int]) -> np.ndarray:
    """Weights of samples, or positions, as an array of `shape`, 1 if there are none."""
    if weights is None:
        return np.ones(shape)
    weights = np.asarray(weights, dtype="float64")
    weights = weights[..., 0] if weights.shape == (*shape, 1) else weights
    if weights.shape != tuple(shape[: weights.ndim]):
        raise ValueError(f"`sample_weight` must have shape {tuple(shape)} or {(shape[0],)}. Received: {weights.shape}")
    if not (np.all(np.isfinite(weights)) and np.all(weights >= 0) and np.any(weights > 0)):
        raise ValueError("`sample_weight` must be finite, not negative, and not 0 everywhere.")
    return np.broadcast_to(weights.reshape(*weights.shape, *[1] * (len(shape) - weights.ndim)), shape)


def owners_of(shape: Sequence[int]) -> np.ndarray:
    """The sample that each position of an array of `shape` belongs to."""
    return np.broadcast_to(np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape)


def mean_and_standard_error(values: np.ndarray, weights: np.ndarray, owners: np.ndarray) -> tuple[float, float]:
    """Of a weighted mean, with the standard error over the samples that own the values."""
    mean, total = np.average(values, weights=weights), np.sum(weights)
    parts = np.bincount(owners, weights=weights * (values - mean))
    count = len(np.unique(owners))
    spread = np.sqrt(count / (count - 1) * np.sum(parts**2)) / total if count > 1 else np.nan
    return float(mean), float(spread)


def wilson(share: Any, count: Any) -> tuple[Any, Any]:
    """Wilson's 95 % interval of a share that was counted on so many samples: (low, high), of arrays too."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.minimum(middle - half, share), np.maximum(middle + half, share)  # Of 0 and 1, equal but for rounding.
