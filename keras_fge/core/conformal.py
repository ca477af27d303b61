"""Conformal prediction, of arrays and as operations of Keras: scores, their quantiles, and the sets that follow."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_fge.core.temperature import LEAST

ROUNDING = 1e-6  # That of float32, about: what is less than it apart counts as equal.
SETS = ("lac", "aps", "raps")
INTERVALS = ("scaled", "residual", "quantile")


def threshold(scores: np.ndarray, alpha: float, what: str = "calibration samples") -> np.ndarray:
    """The ceil((n + 1)(1 - alpha))-th smallest of n scores, along the first axis.

    The score of a new sample of the same kind is at most that with probability >= 1 - alpha, and < 1 - alpha +
    1 / (n + 1) if no two are equal.

    Raises:
        ValueError: if n is too small for such a rank.
    """
    samples = len(scores)
    rank = int(np.ceil((samples + 1) * (1 - alpha) - 1e-9))
    if rank > samples:
        needed = int(np.ceil(1 / alpha - 1 - 1e-9))
        raise ValueError(f"`alpha`={alpha} needs at least {needed} {what}. Received: {samples}")
    return np.sort(scores, axis=0)[rank - 1]


@dataclasses.dataclass(frozen=True)
class Sets:
    """How sets of classes follow from probabilities p, whose classes have the ranks r = 1, 2, ... from the largest on.

    A set holds the classes c whose score is at most the threshold:

        "lac":  1 - p_c
        "aps":  the sum of p over the classes of rank <= r_c; randomized, less u p_c
        "raps": the same, plus lam max(r_c - k_reg, 0)

    u in [0, 1) is a function of the sample, so that equal samples have equal sets, and the coverage is that of any
    other score: the fraction after the point of 1000 mean_c(a_c log p_c), with a_c drawn from [1, 2) by the seed.

    Attributes:
        method: One of these.
        lam, k_reg: Of "raps".
        is_by_class: Whether each class has a threshold of its own.
        seed: Of u; None: u is 0.
    """

    method: str
    lam: float
    k_reg: int
    is_by_class: bool
    seed: int | None

    def scores(self, probabilities: Any) -> Any:
        """The scores of all classes, shape `(N, classes)`, of arrays or symbolic tensors."""
        if self.method == "lac":
            return 1 - probabilities
        order = ops.argsort(-probabilities, axis=-1)
        ranked = ops.take_along_axis(probabilities, order, axis=-1)
        sums = ops.minimum(ops.cumsum(ranked, axis=-1), 1.0)  # Not above 1 by rounding.
        classes = probabilities.shape[-1]
        if self.seed is not None:
            factors = 1 + np.random.default_rng(self.seed).random((1, classes))
            logs = ops.log(ops.maximum(probabilities, LEAST))
            place = 1000 * ops.mean(logs * ops.convert_to_tensor(factors, logs.dtype), axis=-1, keepdims=True)
            sums = sums - (place - ops.floor(place)) * ranked
        if self.method == "raps":
            penalties = self.lam * np.maximum(np.arange(1, classes + 1) - self.k_reg, 0)
            sums = sums + ops.convert_to_tensor(penalties[None], ranked.dtype)
        return ops.take_along_axis(sums, ops.argsort(order, axis=-1), axis=-1)

    def fitted(self, probabilities: np.ndarray, labels: np.ndarray, alpha: float) -> np.ndarray:
        """The threshold; of each class, shape `(classes,)`, if they are by class."""
        scores = self._of_arrays(probabilities)[np.arange(len(labels)), labels]
        if not self.is_by_class:
            return threshold(scores, alpha)
        classes = range(probabilities.shape[-1])
        return np.array([threshold(scores[labels == c], alpha, f"samples of class {c}") for c in classes])

    def predict(self, probabilities: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Which classes are in the sets: bool, shape `(N, classes)`."""
        return self._of_arrays(probabilities) <= limit + ROUNDING

    def _of_arrays(self, probabilities):
        return ops.convert_to_numpy(self.scores(ops.convert_to_tensor(probabilities)))

    def layers(self, tensor: Any, limit: np.ndarray) -> Any:
        """`predict` of a symbolic tensor."""
        return ops.less_equal(self.scores(tensor), ops.convert_to_tensor(np.asarray(limit + ROUNDING), tensor.dtype))


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How intervals follow from a prediction (low, high, scale): [low - q scale, high + q scale].

    q is the threshold of the scores max(low - y, y - high) / scale:

        "residual": low = high = the mean, scale = 1
        "scaled":   low = high = the mean, scale = the deviation of the ensemble
        "quantile": low and high are what the network outputs, scale = 1

    Attributes:
        method: One of these.
    """

    method: str

    def fitted(self, prediction: tuple[Any, Any, Any], targets: np.ndarray, alpha: float) -> np.ndarray:
        """The threshold, of each element of a target."""
        low, high, scale = prediction
        return threshold(np.maximum(low - targets, targets - high) / scale, alpha)

    def predict(self, prediction: tuple[Any, Any, Any], limit: Any) -> tuple[Any, Any]:
        """(lower, upper), of arrays or symbolic tensors. With a negative q they are smaller, but at least a point.

        They are wider by what rounding may take, so that a value with the score q is in its interval.
        """
        low, high, scale = prediction
        minimum, maximum = (np.minimum, np.maximum) if isinstance(low, np.ndarray) else (ops.minimum, ops.maximum)
        width = scale * limit  # In these orders: an array of JAX on the left takes no symbolic tensor.
        width = ROUNDING * (abs(low) + abs(width)) + width
        middle = (low + high) / 2
        return minimum(low - width, middle), maximum(high + width, middle)
