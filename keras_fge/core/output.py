"""What one output of a network is - classes, labels, values or distributions - and what follows for each of them."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.metrics import (
    are_distributions,
    calibrated_metrics,
    checked_positions,
    classification_differences,
    classification_metrics,
    correct_ones,
    fit_temperature,
)
from keras_fge.core.mixture import Mixture, best_stretch, mixture_layer
from keras_fge.core.reliability import entropies, reliability_bins, risk_coverage
from keras_fge.core.temperature import logits_of, temperature_layers, with_temperature
from keras_fge.core.value_metrics import (
    checked_values,
    gaussian_differences,
    gaussian_metrics,
    regression_differences,
    regression_metrics,
)
from keras_fge.core.weighting import broadcast


def at_least_float32(dtype: str) -> str:
    """The type in which outputs of this type are averaged."""
    return "float64" if dtype == "float64" else "float32"


@dataclasses.dataclass(frozen=True)
class Output:
    """What one output is.

    Attributes:
        task: "classification": the last axis holds the classes, of which one is right at each position; one column
            alone is the probability of class 1 of two. "multilabel": each element is the probability of a label of its
            own. "regression": values. "gaussian": (mean, logarithm of the variance) of a value, on the last axis.
        from_logits: Whether a softmax, or a sigmoid, is still to be taken.
    """

    task: str
    from_logits: bool

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are probabilities of classes, or labels."""
        return self.task in ("classification", "multilabel")

    def _activation(self, width):
        return "sigmoid" if self.task == "multilabel" or width == 1 else "softmax"

    def probabilities(self, array: Any) -> Any:
        """Probabilities, or values, in float32, or float64 if that is what the network outputs; or a `Mixture`."""
        array = np.asarray(array)
        array, is_half = array.astype(at_least_float32(array.dtype.name), copy=False), array.dtype.itemsize == 2
        if self.task == "gaussian":
            return Mixture.of_network(array)
        if not self.from_logits:
            # Rounded to bfloat16 or float16, probabilities sum to 1 only about.
            sums = np.sum(array, axis=-1, keepdims=True)
            are_rounded = self.task == "classification" and is_half and array.shape[-1] > 1
            return array / sums if are_rounded and np.all(np.abs(sums - 1) < 0.02) else array
        if self.task == "classification" and are_probabilities(array):
            warnings.warn(
                "`from_logits` is True, but the outputs of the network are probabilities already: each row is "
                "non-negative and sums to 1. A softmax of them is something else; give from_logits=False.",
                stacklevel=2,
            )
        return ops.convert_to_numpy(getattr(ops, self._activation(array.shape[-1]))(array))

    def of_network(self, probabilities: np.ndarray) -> np.ndarray:
        """What a network with these probabilities would output: the inverse of `probabilities`, up to a constant."""
        if self.task == "gaussian":
            mean, variance = np.moveaxis(np.asarray(probabilities), -1, 0)
            return np.stack([mean, np.log(variance)], axis=-1)
        return logits_of(probabilities, self.task == "multilabel") if self.from_logits else probabilities

    def mean_layer(self, tensors: Sequence[Any], shares: Sequence[float]) -> Any:
        """The mean of `probabilities` of the outputs of members, by layers and operations of Keras.

        Args:
            tensors: Symbolic outputs of the members.
            shares: Those of the members, with the sum 1.
        """
        dtype = at_least_float32(tensors[0].dtype)
        if self.task == "gaussian":
            return mixture_layer([ops.cast(tensor, dtype) for tensor in tensors], shares)
        if self.from_logits:
            activation = self._activation(tensors[0].shape[-1])
            tensors = [keras.layers.Activation(activation, dtype=dtype)(tensor) for tensor in tensors]
        if len(tensors) == 1:
            return tensors[0]
        if len(set(shares)) > 1:
            factors = [share * len(shares) for share in shares]
            tensors = [keras.layers.Rescaling(f, dtype=dtype)(tensor) for f, tensor in zip(factors, tensors)]
        return keras.layers.Average(dtype=dtype)(tensors)

    def classes(self, array: np.ndarray) -> np.ndarray:
        """The predicted classes, or labels, of probabilities."""
        if self.task == "classification" and array.shape[-1] > 1:
            return np.argmax(array, axis=-1)
        return array > 0.5

    def metrics(self, array: Any, labels: Any, weights: Any = None, calibrate: bool = False) -> dict[str, float]:
        """The metrics of `Ensemble.evaluate` that fit the task."""
        if self.task == "regression":
            return regression_metrics(array, labels, weights)
        if self.task == "gaussian":
            return gaussian_metrics(array, labels, weights)
        array = self._as_choices(array)
        values = classification_metrics(array, labels, weights)
        return {**values, **calibrated_metrics(array, labels, sample_weight=weights)} if calibrate else values

    def fit_temperature(self, array: Any, labels: Any, weights: Any = None) -> dict[str, tuple[float, float]]:
        """{"temperature": (T, its relative standard error)}; of values, nothing."""
        if self.task == "regression":
            return {}
        if self.task == "gaussian":
            return {"temperature": best_stretch(*checked_values(array, labels, weights)[:3])}
        return {"temperature": fit_temperature(self._as_choices(array), labels, weights)}

    def with_temperature(self, array: Any, temperature: float | None) -> Any:
        """Probabilities with a temperature, or a `Mixture` with so many times the variance; None: as they are."""
        if temperature is None:
            return array
        if self.task == "gaussian":
            return array.stretched(temperature)
        return with_temperature(array, temperature, self.task == "multilabel")

    def temperature_layers(self, tensor: Any, temperature: float | None) -> Any:
        """The same of a symbolic tensor."""
        if temperature is None:
            return tensor
        if self.task == "gaussian":
            return tensor * ops.convert_to_tensor([1.0, temperature], tensor.dtype)
        return temperature_layers(tensor, temperature, self.task == "multilabel")

    @property
    def scores(self) -> tuple[str, ...]:
        """What says how unsure a prediction is; the first one by default."""
        if self.task == "classification":
            return "confidence", "entropy", "mutual_information"
        return ("confidence", "entropy") if self.task == "multilabel" else ("deviation",)

    def reliability(self, array: np.ndarray, labels: Any, weights: Any = None) -> dict[str, Any]:
        """See `reliability_bins`."""
        return reliability_bins(*checked_positions(self._as_choices(array), labels, weights))

    def selective(self, array: Any, labels: Any, weights: Any, score: str, unsure: Any = None) -> dict[str, Any]:
        """See `risk_coverage`; of positions that count.

        Args:
            array, labels, weights: As for `metrics`.
            score: One of `scores`.
            unsure: How unsure each prediction is. Default: as the probabilities, or the variance of a mixture, say.
        """
        if not self.has_classes:
            prediction, targets, shares, rows = checked_values(array, labels, weights)
            if unsure is None:
                unsure = np.asarray(array)[..., 1]
            mean = prediction.mean if isinstance(prediction, Mixture) else prediction
            return risk_coverage(np.ravel(unsure)[rows], (mean - targets) ** 2, shares)
        probabilities, classes, shares, _ = checked_positions(self._as_choices(array), labels, weights)
        if unsure is None and score == "confidence":
            unsure = -np.max(probabilities, axis=1)
        elif unsure is None:
            unsure = entropies(probabilities)
        else:
            unsure = np.ravel(unsure)[broadcast(weights, np.shape(array)[:-1]).ravel() > 0]
        return risk_coverage(unsure, 1 - correct_ones(probabilities, classes), shares)

    def _as_choices(self, array):
        """Each label that does not exclude others as a choice between two classes; other probabilities as they are."""
        return np.asarray(array)[..., None] if self.task == "multilabel" else array

    def differences(self, first: Any, second: Any, labels: Any, weights: Any = None) -> dict[str, tuple]:
        """Of the metrics that are means over samples: (first minus second, its standard error)."""
        if self.task == "regression":
            return regression_differences(first, second, labels, weights)
        if self.task == "gaussian":
            return gaussian_differences(first, second, labels, weights)
        return classification_differences(self._as_choices(first), self._as_choices(second), labels, weights)


def are_probabilities(array: np.ndarray) -> bool:
    """Whether these are probabilities of several classes."""
    return array.ndim > 1 and array.shape[-1] > 1 and are_distributions(array)
