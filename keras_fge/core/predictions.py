"""Predictions of several networks: their running mean, and the labels that they belong to."""

import operator
from typing import Any

import keras
import numpy as np

from keras_fge.core.data import batches_of
from keras_fge.core.metrics import of_both_classes
from keras_fge.core.processes import check_alone
from keras_fge.core.reliability import entropies


class RunningMean:
    """The weighted mean of outputs that come one after the other: m_k = sum_i v_i p_i / sum_i v_i over the first k.

    Args:
        total: Sum of those before, to go on from there. Default: none.
        count: How many there were, or the sum of their weights. Default: 0.
    """

    def __init__(self, total: Any = None, count: float = 0):
        self.total = total
        self.count = count

    def add(self, outputs: Any, weight: float = 1) -> None:
        """Adds the outputs of one more network, a structure of arrays, in their own precision, or of `Mixture`s."""
        if weight != 1:
            outputs = keras.tree.map_structure(lambda array: array * np.asarray(weight, array.dtype), outputs)
        self.total = keras.tree.map_structure(operator.add, self.total, outputs) if self.count else outputs
        self.count += weight

    def mean(self) -> Any:
        """The mean so far, of the structure of the outputs."""
        return keras.tree.map_structure(lambda total: total / np.float32(self.count), self.total)


class RunningVariance(RunningMean):
    """Variance over the outputs, sum_i v_i (p_i - m)^2 / sum_i v_i, beside their mean, by Welford's update in float64.

    (In float32 the differences of values around 1e7 would be off by 1.)
    """

    def __init__(self):
        super().__init__()
        self.squares = None

    def add(self, outputs: Any, weight: float = 1) -> None:
        outputs = keras.tree.map_structure(lambda array: np.asarray(array, "float64"), outputs)
        before = self.mean() if self.count else outputs
        super().add(outputs, weight)
        if self.squares is None:
            self.squares = keras.tree.map_structure(np.zeros_like, outputs)
        self.squares = keras.tree.map_structure(  # No difference of large sums.
            lambda squares, new, old, mean: squares + weight * (new - old) * (new - mean),
            self.squares,
            outputs,
            before,
            self.mean(),
        )

    def variance(self) -> Any:
        """The variance so far, of the structure of the outputs, in float64."""
        return keras.tree.map_structure(lambda squares: squares / self.count, self.squares)


class RunningEntropy(RunningMean):
    """The mean of the entropies of probabilities, sum_i v_i H[p_i] / sum_i v_i, beside their mean."""

    def __init__(self):
        super().__init__()
        self.entropies = RunningMean()

    def add(self, outputs: Any, weight: float = 1) -> None:
        super().add(outputs, weight)
        self.entropies.add(keras.tree.map_structure(lambda array: entropies(of_both_classes(array)), outputs), weight)

    def mutual_information(self) -> Any:
        """H[m] - sum_i v_i H[p_i] / sum_i v_i of the mean m so far."""
        total = keras.tree.map_structure(lambda array: entropies(of_both_classes(array)), self.mean())
        return keras.tree.map_structure(np.subtract, total, self.entropies.mean())


class Votes:
    """How often networks, one after the other, predict each class at each position: how much they disagree."""

    def __init__(self):
        self.count = 0
        self._agreeing = 0  # Pairs of networks that agree, over all positions.
        self._votes: Any = None

    def add(self, classes: np.ndarray, weights: Any = None) -> None:
        """Adds the classes, or labels of 0 and 1, that one more network predicts.

        Args:
            classes: Shape `(N, ...)`.
            weights: Of samples or positions, as for metrics; positions of weight 0 do not count. Default: all do.
        """
        flat = np.asarray(classes).astype("int64")
        if weights is not None:
            shares = np.asarray(weights)
            shares = shares.reshape(shares.shape[: flat.ndim] + (1,) * (flat.ndim - shares.ndim))
            flat = flat[np.broadcast_to(shares > 0, flat.shape)]
        flat = flat.ravel()
        most = int(flat.max(initial=0)) + 1
        if self._votes is None:
            self._votes = np.zeros((flat.size, most), "uint16")
        elif most > self._votes.shape[1]:
            self._votes = np.pad(self._votes, ((0, 0), (0, most - self._votes.shape[1])))
        positions = np.arange(flat.size)
        self._agreeing += int(self._votes[positions, flat].sum(dtype="int64"))
        self._votes[positions, flat] += 1
        self.count += 1

    def disagreement(self) -> float | None:
        """The fraction of positions at which two networks predict different classes, mean over all pairs of networks.

        None, if there are fewer than two networks, or no positions.
        """
        pairs = self.count * (self.count - 1) / 2 * (0 if self._votes is None else len(self._votes))
        return 1 - self._agreeing / pairs if pairs else None


def predicted(network: keras.Model, x: Any, batch_size: int | None) -> Any:
    """What `network` predicts, as numpy arrays; of no samples, empty ones, which Keras does not do on each backend."""
    check_alone(network)
    shape = getattr(keras.tree.flatten(x)[0], "shape", None)
    if shape and shape[0] == 0:
        return keras.tree.map_structure(keras.ops.convert_to_numpy, network(x, training=False))
    return network.predict(x, batch_size=batch_size, verbose=0)


def predict_with_labels(
    network: keras.Model, x: Any, y: Any = None, weights: Any = None, batch_size: int | None = None
) -> tuple[Any, Any, Any]:
    """Predicts, and returns (outputs, labels, sample weights); of a data set, from one pass, so that they fit.

    Args:
        network: The network.
        x, y, weights: Arrays, or a data set of (x, y) or (x, y, sample weights) alone.
        batch_size: Samples per batch, for arrays.

    Raises:
        ValueError: if there are no labels, or no batches.
    """
    if y is not None:
        return predicted(network, x, batch_size), y, weights
    check_alone(network)
    parts = []
    for batch in batches_of(x):
        if not (isinstance(batch, (tuple, list)) and len(batch) >= 2):
            raise ValueError("`y` is missing: give evaluate(x, y), or a data set of (x, y) batches.")
        batch = tuple(part for part in batch if part is not None)
        inputs, *others = keras.tree.map_structure(np.asarray, batch)  # JAX takes no tensors of other backends.
        parts.append((keras.tree.map_structure(np.asarray, network.predict_on_batch(inputs)), *others))
    if not parts:
        raise ValueError("`x` holds no batches. A generator can be read only once: give a data set.")
    outputs, labels, *shares = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    return outputs, labels, shares[0] if shares else None


def only_part(structure: Any) -> Any:
    """What a dictionary, list or tuple of one holds; anything else as it is."""
    if isinstance(structure, dict | list | tuple) and len(structure) == 1:
        return next(iter(structure.values() if isinstance(structure, dict) else structure))
    return structure


def check_order(labels: Any, new_labels: Any, name: str) -> None:
    """Raises a ValueError if the labels of two passes differ; the first ones may be None."""
    pairs = [] if labels is None else zip(keras.tree.flatten(labels), keras.tree.flatten(new_labels))
    # A target without weight may be NaN.
    if not all(np.array_equal(old, new, equal_nan=np.asarray(old).dtype.kind == "f") for old, new in pairs):
        raise ValueError(f"{name} changes its order from pass to pass: turn the shuffling of the data set off.")
