"""Mixtures of normal distributions: what networks that output a mean and a variance predict together."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.temperature import LARGEST, SMALLEST

INTERVALS = (50, 90)  # Central intervals whose coverage is measured, in percent.


@keras.saving.register_keras_serializable("keras_fge")
def gaussian_nll(y_true: Any, y_pred: Any) -> Any:
    """The negative log likelihood of a normal distribution whose mean and variance a network outputs: a loss for Keras.

        -log N(y; m, exp(s)) = 1/2 (s + (y - m)^2 exp(-s) + log 2 pi),   (m, s) = y_pred[..., 0], y_pred[..., 1]

    A network with this loss says with each value how sure it is of it. An ensemble of such networks, with
    `task="gaussian"`, predicts the mixture of their distributions: `ensemble.predict` returns its mean and variance.

    Args:
        y_true: Targets y, shape `(N, ...)`, in any unit u; one more axis of size 1 is allowed.
        y_pred: Mean m, in u, and logarithm s of the variance, in u^2: shape `(N, ..., 2)`, as of `Dense(2)`.

    Returns:
        Shape `(N, ...)`, in nats.

    Example:
        hidden = keras.layers.Dense(32, "tanh")
        network = keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(2)])
        network.compile("adam", keras_fge.gaussian_nll)
        fge = keras_fge.FGE(0.01, 0.0005, cycle_steps=4)  # It knows the task by this loss.
        network.fit(x[:, :1], x[:, 1], epochs=2, callbacks=[fge], verbose=0)
        mean, variance = fge.ensemble().predict(x[:, :1]).T

    References:
        Nix and Weigend, Estimating the mean and variance of the target probability distribution, ICNN 1994;
        Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, NeurIPS
        2017, https://arxiv.org/abs/1612.01474
    """
    y_pred = ops.convert_to_tensor(y_pred)
    mean, log_variance = y_pred[..., 0], y_pred[..., 1]
    y_true = ops.cast(y_true, mean.dtype)
    if len(y_true.shape) == len(mean.shape) + 1 and y_true.shape[-1] == 1:
        y_true = ops.squeeze(y_true, -1)
    elif len(y_true.shape) == len(mean.shape) - 1 and mean.shape[-1] == 1:
        y_true = ops.expand_dims(y_true, -1)
    sizes = zip(y_true.shape, mean.shape)
    if len(y_true.shape) != len(mean.shape) or any(None not in pair and pair[0] != pair[1] for pair in sizes):
        raise ValueError(f"`y_true` must have shape {tuple(mean.shape)}. Received: {tuple(y_true.shape)}")
    return 0.5 * (log_variance + ops.square(y_true - mean) * ops.exp(-log_variance) + float(np.log(2 * np.pi)))


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k v_k N(m_k, s_k^2), at each of many positions.

    Where predictions of members are added up, weighted and divided, these are the v_k, so that the mean of
    distributions is their mixture. As an array it is (mean, variance), in float32.

    Attributes:
        means, variances: m_k and s_k^2, shape `(K, N, ...)`, float64.
        shares: v_k, shape `(K,)`.
    """

    means: np.ndarray
    variances: np.ndarray
    shares: np.ndarray

    @classmethod
    def of_network(cls, array: np.ndarray) -> "Mixture":
        """The one distribution of an output (mean, logarithm of the variance), shape `(N, ..., 2)`.

        Raises:
            ValueError: if the last axis does not have these two.
        """
        if array.ndim < 2 or array.shape[-1] != 2:
            raise ValueError(
                'The outputs of a network with task="gaussian" must be (mean, logarithm of the variance) on the last '
                f"axis. Received: shape {array.shape}"
            )
        array = np.asarray(array, "float64")
        with np.errstate(over="ignore"):  # What is infinite is found where it is measured.
            return cls(array[None, ..., 0], np.exp(array[None, ..., 1]), np.ones(1))

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.means.shape[1:], 2)

    @property
    def ndim(self) -> int:
        return self.means.ndim

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("float32")

    def __len__(self) -> int:
        return self.means.shape[1]

    def __add__(self, other: "Mixture") -> "Mixture":
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self))
        return Mixture(*map(np.concatenate, pairs))

    def __mul__(self, factor: float) -> "Mixture":
        return dataclasses.replace(self, shares=self.shares * float(factor))

    def __truediv__(self, divisor: float) -> "Mixture":
        return self * (1 / float(divisor))

    def __getitem__(self, rows: Any) -> "Mixture":
        return dataclasses.replace(self, means=self.means[:, rows], variances=self.variances[:, rows])

    def flat(self, positions: np.ndarray) -> "Mixture":
        """At those positions, counted in one row, where `positions` is True."""
        means, variances = (part.reshape(len(part), -1)[:, positions] for part in (self.means, self.variances))
        return Mixture(means, variances, self.shares)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        moments = np.stack([self.mean, self.noise + self.disagreement], axis=-1)
        return moments.astype(dtype or self.dtype)

    @property
    def mean(self) -> np.ndarray:
        """m = sum_k v_k m_k, shape `(N, ...)`."""
        return self._average(self.means)

    @property
    def noise(self) -> np.ndarray:
        """sum_k v_k s_k^2: the part of the variance that the members see in the data."""
        return self._average(self.variances)

    @property
    def disagreement(self) -> np.ndarray:
        """sum_k v_k (m_k - m)^2: the part of the variance in which the members differ."""
        return self._average((self.means - self.mean) ** 2)

    def _average(self, values):
        return np.average(values, axis=0, weights=self.shares)

    def stretched(self, factor: float) -> "Mixture":
        """The distribution of m + sqrt(T) (Y - m): the same mean, and T times the variance."""
        means = self.mean + np.sqrt(factor) * (self.means - self.mean)
        return Mixture(means, factor * self.variances, self.shares)

    def nll(self, targets: np.ndarray) -> np.ndarray:
        """-log of the density at y, shape `(N, ...)`, in nats."""
        logs = -0.5 * (np.log(2 * np.pi * self.variances) + (targets - self.means) ** 2 / self.variances)
        largest = np.max(logs, axis=0)
        return -largest - np.log(self._average(np.exp(logs - largest)))

    def cdf(self, targets: np.ndarray) -> np.ndarray:
        """The probability of at most y."""
        return self._average(_normal_cdf((targets - self.means) / np.sqrt(self.variances)))

    def crps(self, targets: np.ndarray) -> np.ndarray:
        """The continuous ranked probability score E|Y - y| - 1/2 E|Y - Y'|, in the unit of y (Grimit et al. 2006)."""
        spread = 0.0
        for share, mean, variance in zip(self.shares, self.means, self.variances):  # One row of all pairs at a time.
            spread += share * self._average(_mean_distance(mean - self.means, variance + self.variances))
        distances = self._average(_mean_distance(targets - self.means, self.variances))
        return distances - 0.5 * spread / np.sum(self.shares)


def _normal_cdf(values):
    return 0.5 * (1 + ops.convert_to_numpy(ops.erf(ops.convert_to_tensor(values / np.sqrt(2)))).astype("float64"))


def _mean_distance(mean, variance):
    """E|X| of a normal distribution."""
    deviation = np.sqrt(variance)
    z = mean / deviation
    return mean * (2 * _normal_cdf(z) - 1) + deviation * np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2)


def gaussian_scores(mixture: Mixture, targets: np.ndarray) -> dict[str, np.ndarray]:
    """What is averaged over positions: see `Ensemble.evaluate`."""
    below = mixture.cdf(targets)
    covered = {f"coverage_{p}": np.abs(below - 0.5) <= p / 200 for p in INTERVALS}
    difference = mixture.mean - targets
    scores = {"nll": mixture.nll(targets), "crps": mixture.crps(targets), "mse": difference**2}
    return {**scores, "mae": np.abs(difference), **covered}


def best_stretch(mixture: Mixture, targets: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The T with the least mean NLL of `mixture.stretched(T)`, and its relative standard error.

    Over log T the NLL is brought to its minimum by golden sections, from the best point of a grid. With the slopes s_n
    and the curvature H of its mean there, by differences, the standard error of log T is
    sqrt(sum (w_n s_n)^2) / (H sum w_n).
    """

    def losses(log_factor):
        return mixture.stretched(float(np.exp(log_factor))).nll(targets)

    def loss(log_factor):
        return np.average(losses(log_factor), weights=weights)

    grid = np.linspace(np.log(SMALLEST), np.log(LARGEST), 25)
    step = grid[1] - grid[0]
    start = grid[np.argmin([loss(point) for point in grid])]
    best = _golden_sections(loss, max(start - step, grid[0]), min(start + step, grid[-1]))
    below, here, above = (losses(best + shift) for shift in (-0.01, 0.0, 0.01))
    curvature = np.sum(weights * (above - 2 * here + below)) / 0.01**2
    error = np.sqrt(np.sum((weights * (above - below) / 0.02) ** 2)) / curvature if curvature > 0 else np.inf
    return float(np.exp(best)), float(error)


def _golden_sections(function: Callable[[float], float], low: float, high: float) -> float:
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if function(left) < function(right) else (left, high)
    return (low + high) / 2


def mixture_layer(tensors: Sequence[Any], shares: Sequence[float]) -> Any:
    """(mean, variance) of the mixture of outputs (mean, logarithm of the variance), by operations of Keras alone.

    Args:
        tensors: Symbolic tensors of K members, shape `(N, ..., 2)`.
        shares: v_k, with the sum 1.
    """
    stacked = ops.stack(tensors)
    weights = np.reshape(np.asarray(shares, "float32"), (-1, *[1] * (len(tensors[0].shape) - 1))).tolist()

    def average(values):
        return ops.sum(values * ops.convert_to_tensor(weights, values.dtype), axis=0)

    mean = average(stacked[..., 0])
    variance = average(ops.exp(stacked[..., 1])) + average(ops.square(stacked[..., 0] - mean))
    return ops.stack([mean, variance], axis=-1)
