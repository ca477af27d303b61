"""Conformal prediction, of arrays and as operations of Keras: scores, their quantiles, and the sets that follow."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

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
        "aps":  the sum of p over the classes of rank <= r_c; randomized, less u p_c, with u uniform in [0, 1)
        "raps": the same, plus lam max(r_c - k_reg, 0)

    Attributes:
        method: One of these.
        lam, k_reg: Of "raps".
        is_by_class: Whether each class has a threshold of its own.
        seed: Of the draws u; None: none are taken.
    """

    method: str
    lam: float
    k_reg: int
    is_by_class: bool
    seed: int | None

    def scores(self, probabilities: Any, draws: np.ndarray | None = None) -> Any:
        """The scores of all classes, shape `(N, classes)`, of arrays or symbolic tensors."""
        if self.method == "lac":
            return 1 - probabilities
        order = ops.argsort(-probabilities, axis=-1)
        ranked = ops.take_along_axis(probabilities, order, axis=-1)
        sums = ops.cumsum(ranked, axis=-1)
        if draws is not None:
            sums = sums - ops.convert_to_tensor(draws[:, None], ranked.dtype) * ranked
        if self.method == "raps":
            ranks = np.arange(1, probabilities.shape[-1] + 1)
            penalties = self.lam * np.maximum(ranks - self.k_reg, 0)
            sums = sums + ops.convert_to_tensor(penalties[None], ranked.dtype)
        return ops.take_along_axis(sums, ops.argsort(order, axis=-1), axis=-1)

    def draws(self, samples: int, stream: int) -> np.ndarray | None:
        """u of each sample: stream 0 is for calibration, 1 for predictions; None if none are taken."""
        return None if self.seed is None else np.random.default_rng([self.seed, stream]).random(samples)

    def fitted(self, probabilities: np.ndarray, labels: np.ndarray, alpha: float) -> np.ndarray:
        """The threshold; of each class, shape `(classes,)`, if they are by class."""
        scores = self._of_arrays(probabilities, 0)[np.arange(len(labels)), labels]
        if not self.is_by_class:
            return threshold(scores, alpha)
        classes = range(probabilities.shape[-1])
        return np.array([threshold(scores[labels == c], alpha, f"samples of class {c}") for c in classes])

    def predict(self, probabilities: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Which classes are in the sets: bool, shape `(N, classes)`."""
        return self._of_arrays(probabilities, 1) <= limit

    def _of_arrays(self, probabilities, stream):
        scores = self.scores(ops.convert_to_tensor(probabilities), self.draws(len(probabilities), stream))
        return ops.convert_to_numpy(scores)

    def layers(self, tensor: Any, limit: np.ndarray) -> Any:
        """`predict` of a symbolic tensor, without draws."""
        return ops.less_equal(self.scores(tensor), ops.convert_to_tensor(np.asarray(limit), tensor.dtype))


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

    def predict(self, prediction: tuple[Any, Any, Any], limit: np.ndarray) -> tuple[Any, Any]:
        """(lower, upper), of arrays or symbolic tensors. With a negative q they are smaller, but at least a point."""
        low, high, scale = prediction
        width = scale * limit  # In this order: an array of JAX on the left takes no symbolic tensor.
        lower, upper = low - width, high + width
        middle = (low + high) / 2
        return ops.minimum(lower, middle), ops.maximum(upper, middle)
