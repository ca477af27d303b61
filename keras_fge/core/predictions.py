"""Predictions of several networks: probabilities from outputs, their running mean, and the labels they belong to."""

import itertools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.metrics import are_distributions, calibrated_metrics, classification_metrics, regression_metrics

FromLogits = bool | None | list[bool | None]


class RunningMean:
    """The mean of outputs that come one after the other: m_k = (1 / k) sum of the first k, in their own precision.

    Args:
        total: Sum of those before, to go on from there. Default: none.
        count: How many there were. Default: 0.
    """

    def __init__(self, total: Any = None, count: int = 0):
        self.total = total
        self.count = count

    def add(self, outputs: Any) -> None:
        """Adds the outputs of one more network: an array, or a structure of arrays."""
        self.count += 1
        self.total = outputs if self.count == 1 else keras.tree.map_structure(np.add, self.total, outputs)

    def mean(self) -> Any:
        """The mean so far, of the structure of the outputs."""
        return keras.tree.map_structure(lambda total: total / np.float32(self.count), self.total)


class RunningVariance(RunningMean):
    """Variance over the outputs, 1/K sum_k (p_k - p)^2, beside their mean, by Welford's update."""

    def __init__(self):
        super().__init__()
        self.squares = None

    def add(self, outputs: Any) -> None:
        before = self.mean() if self.count else outputs
        super().add(outputs)
        if self.squares is None:
            self.squares = keras.tree.map_structure(np.zeros_like, outputs)
        self.squares = keras.tree.map_structure(  # No difference of large sums.
            lambda squares, new, old, mean: squares + (new - old) * (new - mean),
            self.squares,
            outputs,
            before,
            self.mean(),
        )

    def variance(self) -> Any:
        """The variance so far, of the structure of the outputs."""
        return keras.tree.map_structure(lambda squares: squares / np.float32(self.count), self.squares)


def to_probabilities(outputs: Any, from_logits: FromLogits) -> Any:
    """Turns predictions into float32 arrays, and logits into probabilities: softmax, or a sigmoid of one column."""

    def convert(array, logits):
        array = np.asarray(array, dtype="float32")
        if not logits:
            return array
        if _are_probabilities(array):
            warnings.warn(
                "`from_logits` is True, but the outputs of the network are probabilities already: each row is "
                "non-negative and sums to 1. A softmax of them is something else; give from_logits=False.",
                stacklevel=2,
            )
        return ops.convert_to_numpy((ops.sigmoid if array.shape[-1] == 1 else ops.softmax)(array))

    return by_output(convert, outputs, from_logits)


def _are_probabilities(array):
    """Whether these are probabilities of several classes."""
    return array.ndim > 1 and array.shape[-1] > 1 and are_distributions(array)


def by_output(function: Callable, outputs: Any, from_logits: FromLogits) -> Any:
    """`function(output, from_logits)` of each output, in the structure of the outputs."""
    flat = keras.tree.flatten(outputs)
    kinds = _kinds(from_logits, len(flat))
    return keras.tree.pack_sequence_as(outputs, [function(output, kind) for output, kind in zip(flat, kinds)])


def _kinds(from_logits, count):
    kinds = from_logits if isinstance(from_logits, (list, tuple)) else [from_logits] * count
    if len(kinds) != count:
        raise ValueError(f"`from_logits` must have one value for each of {count} outputs. Received: {from_logits}")
    return kinds


def batches_of(data: Any) -> Iterable[Any]:
    """The batches of a data set, in one pass."""
    return (data[index] for index in range(len(data))) if isinstance(data, keras.utils.PyDataset) else data


def predict_with_labels(network: keras.Model, x: Any, y: Any, batch_size: int | None) -> tuple[Any, Any]:
    """Predicts, and returns (outputs, labels); of a data set without `y`, from one pass, so that they belong together.

    Raises:
        ValueError: if there are no labels, or no batches.
    """
    if y is not None:
        return network.predict(x, batch_size=batch_size, verbose=0), y
    pairs = []
    for batch in batches_of(x):
        if not (isinstance(batch, (tuple, list)) and len(batch) >= 2):
            raise ValueError("`y` is missing: give evaluate(x, y), or a data set of (x, y) batches.")
        labels = keras.tree.map_structure(np.asarray, batch[1])
        inputs = keras.tree.map_structure(np.asarray, batch[0])  # JAX takes no tensors of other backends.
        pairs.append((keras.tree.map_structure(np.asarray, network.predict_on_batch(inputs)), labels))
    if not pairs:
        raise ValueError("`x` holds no batches. A generator can be read only once: give a data set.")
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *pairs)


def check_order(labels: Any, new_labels: Any, name: str) -> None:
    """Raises a ValueError if the labels of two passes differ; the first ones may be None."""
    pairs = [] if labels is None else zip(keras.tree.flatten(labels), keras.tree.flatten(new_labels))
    if not all(np.array_equal(old, new) for old, new in pairs):
        raise ValueError(f"{name} changes its order from pass to pass: turn the shuffling of the data set off.")


def metrics_of_outputs(
    network: keras.Model, outputs: Any, labels: Any, from_logits: FromLogits, calibrate: bool = False
) -> dict[str, float]:
    """Measures mean probabilities, or values: the metrics of `Ensemble.evaluate`, which see."""
    names = sorted(outputs) if isinstance(outputs, dict) else _output_names(network)
    if isinstance(labels, dict) and not isinstance(outputs, dict):
        labels = [labels.get(name) for name in names]
    outputs, labels = keras.tree.flatten(outputs), keras.tree.flatten(labels)  # Dictionaries in the order of keys.
    if len(outputs) != len(labels):
        raise ValueError(f"`y` must hold labels for {len(outputs)} outputs. Received: {len(labels)} arrays")
    names = names or [f"output_{index + 1}" for index in range(len(outputs))]
    metrics = {}
    for name, array, target, logits in zip(names, outputs, labels, _kinds(from_logits, len(outputs))):
        if logits is None:
            values = regression_metrics(array, target)
        else:
            values = classification_metrics(array, target)
            if calibrate:
                values.update(calibrated_metrics(array, target))
        metrics.update({f"{name}_{key}" if len(outputs) > 1 else key: value for key, value in values.items()})
    return metrics


# --- Logits or probabilities? -----------------------------------------------------------------------------------------


def compiled_from_logits(model: keras.Model, predictions: Any = None) -> FromLogits:
    """What `model` outputs, as its compiled losses say: True (logits), False (probabilities) or None (neither).

    One value, or a list with one for each output if there are several losses.

    Args:
        model: A compiled model.
        predictions: Its predictions on some data. Where a loss does not tell, probabilities are known by their sums.

    Raises:
        ValueError: if a loss does not tell, nor the predictions.
    """
    losses = model.loss
    if isinstance(losses, dict) and not isinstance(getattr(model, "output", None), dict):
        losses = [losses.get(name) for name in _output_names(model)]
    losses = keras.tree.flatten(losses)
    # One loss may stand for all outputs; the outputs of a class of one's own are not known before it is called.
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [None])
    widths = [None if output is None else output.shape[-1] for output in outputs]
    arrays = [None] * len(losses) if predictions is None else keras.tree.flatten(predictions)
    triples = zip(losses, itertools.cycle(widths), itertools.cycle(arrays))
    answers = [_takes_logits(loss, width, array) for loss, width, array in triples]
    return answers[0] if len(answers) == 1 else answers


def predicts_one_label(model: keras.Model) -> bool:
    """Whether the compiled loss is a cross-entropy over classes, so that each sample has one label, and counts."""
    losses = keras.tree.flatten(model.loss)
    if len(losses) != 1:
        return False
    if isinstance(losses[0], str):
        return losses[0] in ("sparse_categorical_crossentropy", "categorical_crossentropy")
    classes = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)
    return isinstance(losses[0], classes) and getattr(losses[0], "ignore_class", None) is None


def _output_names(model):
    return getattr(model, "output_names", None) or []


def _takes_logits(loss, width, predictions):
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    name = getattr(loss, "__name__", "")
    if name and getattr(keras.losses, name, None) is loss:  # A function of Keras' own; by itself it takes no logits.
        return False if _is_of_probabilities(name) else None
    is_known = type(loss).__module__.split(".")[0] == "keras" or hasattr(loss, "from_logits")
    if loss is not None and not (isinstance(loss, keras.losses.Loss) and is_known):
        if predictions is not None and _are_probabilities(np.asarray(predictions)):
            return False
        raise ValueError(
            f"Say `from_logits=True`, `False` or `None` (for values), to the callback, to `ensemble()` or to "
            f"`Ensemble`: the loss {loss!r} does not tell what the network outputs."
        )
    from_logits = getattr(loss, "from_logits", False if _is_of_probabilities(type(loss).__name__) else None)
    if from_logits and type(loss).__name__.startswith("Binary") and width not in (None, 1):
        raise ValueError(
            "Logits of several independent binary outputs are not supported: end the network with a sigmoid. "
            f"Received: loss={loss!r}, an output of width {width}"
        )
    return from_logits


def _is_of_probabilities(name):
    return "crossentropy" in name.lower() or "divergence" in name.lower()
