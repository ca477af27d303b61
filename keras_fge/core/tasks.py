"""What the outputs of a network are, as a user says it, and what follows for all of them together."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.keras_internals import is_functional
from keras_fge.core.output import Output

FromLogits = bool | None | list[bool | None]
Task = str | None | list[str | None]
Temperature = float | dict[str, float] | None
TASKS = ("classification", "multilabel", "regression", "gaussian")
LOSSES = ("nll", "mse")  # What outputs are compared by: the first of these that is measured.


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the outputs of a network are, as a user says it.

    Attributes:
        from_logits: True, False or None (no probabilities), for all outputs, or a list with one for each.
        task: One of `TASKS`, or None, for all outputs, or a list. None: "regression" if `from_logits` is None, else
            "classification".

    Raises:
        ValueError: on other values, or if they contradict each other.
    """

    from_logits: FromLogits = False
    task: Task = None

    def __post_init__(self):
        for logits in _listed(self.from_logits, 1):
            if logits not in (True, False, None):
                raise ValueError(f"`from_logits` must hold True, False or None. Received: {self.from_logits!r}")
        for task in _listed(self.task, 1):
            if task not in (*TASKS, None):
                raise ValueError(f"`task` must be one of {TASKS}. Received: task={self.task!r}")
        self.each(max(len(_listed(self.from_logits, 1)), len(_listed(self.task, 1))))

    def each(self, count: int) -> list[Output]:
        """One `Output` for each of `count` outputs."""
        outputs = []
        for name, values in (("from_logits", self.from_logits), ("task", self.task)):
            if len(_listed(values, count)) != count:
                raise ValueError(f"`{name}` must have one value for each of {count} outputs. Received: {values}")
        for logits, task in zip(_listed(self.from_logits, count), _listed(self.task, count)):
            task = task or ("regression" if logits is None else "classification")
            has_values = task in ("regression", "gaussian")
            if (has_values and logits) or (not has_values and logits is None):
                raise ValueError(f"`task` and `from_logits` contradict. Received: task={task!r}, from_logits={logits}")
            outputs.append(Output(task, bool(logits)))
        return outputs

    def probabilities(self, predictions: Any) -> Any:
        """Predictions as probabilities, or values, in float32, in the same structure."""
        return self._by_output(Output.probabilities, predictions)

    def of_network(self, probabilities: Any) -> Any:
        """See `Output.of_network`."""
        return self._by_output(Output.of_network, probabilities)

    def mean_layers(self, structures: Sequence[Any], shares: Sequence[float]) -> Any:
        """See `Output.mean_layer`.

        Args:
            structures: The outputs of each member.
            shares: Those of the members, with the sum 1.
        """
        columns = list(zip(*map(keras.tree.flatten, structures)))
        means = [output.mean_layer(column, shares) for output, column in zip(self.each(len(columns)), columns)]
        return keras.tree.pack_sequence_as(structures[0], means)

    def _by_output(self, function, structure):
        flat = keras.tree.flatten(structure)
        results = [function(output, part) for output, part in zip(self.each(len(flat)), flat)]
        return keras.tree.pack_sequence_as(structure, results)

    def loss(self, network: keras.Model, predictions: Any, labels: Any) -> float:
        """The NLL, or mean squared error, of probabilities, or values, summed over the outputs; infinite if not finite.

        It is rounded, so that of choices that are as good the first one can be taken.
        """
        if not all(np.isfinite(array).all() for array in keras.tree.flatten(predictions)):
            return np.inf
        values = self.metrics(network, predictions, labels)
        return round(sum(values[name] for name in loss_names(values)), 6)

    def metrics(
        self, network: keras.Model, predictions: Any, labels: Any, weights: Any = None, calibrate: bool = False
    ) -> dict[str, float]:
        """Measures mean probabilities, or values, of `network`: the metrics of `Ensemble.evaluate`, which see."""
        return self._by_name(
            network,
            [predictions],
            labels,
            weights,
            lambda output, arrays, target, share: output.metrics(*arrays, target, share, calibrate),
        )

    def differences(
        self, network: keras.Model, first: Any, second: Any, labels: Any, weights: Any = None
    ) -> dict[str, tuple[float, float]]:
        """Of two networks on the same samples, by the names of `metrics`: see `Output.differences`."""
        return self._by_name(
            network,
            [first, second],
            labels,
            weights,
            lambda output, arrays, target, share: output.differences(*arrays, target, share),
        )

    def fit_temperature(self, network: keras.Model, predictions: Any, labels: Any, weights: Any = None) -> dict:
        """(T, its relative standard error) of each output that has probabilities, by name; "" if there is but one."""
        found = self._by_name(
            network,
            [predictions],
            labels,
            weights,
            lambda output, arrays, target, share: output.fit_temperature(*arrays, target, share),
        )
        return {"" if name == "temperature" else name.removesuffix("_temperature"): v for name, v in found.items()}

    def with_temperature(self, network: keras.Model, predictions: Any, temperature: Temperature) -> Any:
        """Probabilities with a temperature, or one for each output by name."""
        return self._with(Output.with_temperature, network, predictions, temperature)

    def temperature_layers(self, network: keras.Model, tensors: Any, temperature: Temperature) -> Any:
        """The same of symbolic tensors."""
        return self._with(Output.temperature_layers, network, tensors, temperature)

    def _with(self, function, network, structure, temperature):
        if temperature is None:
            return structure
        flat = keras.tree.flatten(structure)
        names = _names(network, structure, len(flat))
        given = [temperature.get(name) if isinstance(temperature, dict) else temperature for name in names]
        results = [function(*row) for row in zip(self.each(len(flat)), flat, given)]
        return keras.tree.pack_sequence_as(structure, results)

    def _by_name(self, network, predictions, labels, weights, function):
        """What `function` returns of each output, of one or several networks, with the name of the output before."""
        names = _names(network, predictions[0], len(keras.tree.flatten(predictions[0])))
        if isinstance(labels, dict) and not isinstance(predictions[0], dict):
            labels = [labels.get(name) for name in names]
        arrays = list(zip(*map(keras.tree.flatten, predictions)))  # Dictionaries by their keys.
        targets = keras.tree.flatten(labels)
        if len(arrays) != len(targets):
            raise ValueError(f"`y` must hold labels for {len(arrays)} outputs. Received: {len(targets)} arrays")
        shares = keras.tree.flatten(weights) if weights is not None else [None]
        if len(shares) not in (1, len(arrays)):
            raise ValueError(f"`sample_weight` must hold 1 or {len(arrays)} arrays. Received: {len(shares)}")
        shares = shares * len(arrays) if len(shares) == 1 else shares
        metrics = {}
        for name, output, array, target, share in zip(names, self.each(len(arrays)), arrays, targets, shares):
            values = function(output, array, target, share)
            metrics.update({f"{name}_{key}" if len(arrays) > 1 else key: value for key, value in values.items()})
        return metrics


def loss_names(metrics: Iterable[str]) -> list[str]:
    """Of the names of metrics, those of the losses: "nll" or "mse", one for each output, with its name before."""
    found: dict[str, str] = {}
    for loss in LOSSES:
        for name in metrics:
            output, _, kind = name.rpartition("_")
            if kind == loss:
                found.setdefault(output, name)
    return [name for name in dict.fromkeys(metrics) if name in found.values()]


def output_names(model: keras.Model) -> list[str]:
    """The names of the outputs; none, if a class of one's own does not tell."""
    # A class of one's own may have them too, as a CurveModel does.
    return model.output_names if is_functional(model) else vars(model).get("output_names", [])


def _names(network, predictions, count):
    """The names of `count` outputs, in the order of flattened predictions."""
    names = sorted(predictions) if isinstance(predictions, dict) else output_names(network)
    return names or [f"output_{index + 1}" for index in range(count)]


def _listed(value, count):
    return list(value) if isinstance(value, (list, tuple)) else [value] * count
