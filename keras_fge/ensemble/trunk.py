"""`Trunk`: what all members of an ensemble have in common, before the first layer in which they differ."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.data import batches_of
from keras_fge.core.keras_internals import graph_of, has_graph, nodes_kept, predicts_as_keras
from keras_fge.core.networks import recurrent_states, reset_states
from keras_fge.core.predictions import predicted
from keras_fge.run import Snapshot, sharing

# Bytes between the two parts: of all samples of arrays, and of a sample of a data set, whose number nobody knows.
OF_ALL, OF_A_SAMPLE = 2**30, 2**13


class Trunk:
    """A network in two parts: `before` runs once, and `after` once for each member.

    Both have the layers of the network itself, so the weights of a member must stand in it.

    Attributes:
        before, after: Keras models; the outputs of the first are the inputs of the second.
        layers: The names of the layers that have weights and run once; empty, once that was found not to be the same.
        sample_bytes: What one sample takes between the two.
    """

    def __init__(self, network: keras.Model, tensors: Sequence[keras.KerasTensor], layers: Sequence[str]):
        self.layers = tuple(layers)
        self.sample_bytes = sum(4 * int(np.prod(tensor.shape[1:])) for tensor in tensors)
        is_sequential = isinstance(network, keras.Sequential)
        inputs, outputs = (network.inputs[0], network.outputs[0]) if is_sequential else (network.input, network.output)
        with nodes_kept(network):
            self.before = keras.Model(inputs, list(tensors))
            self.after = keras.Model(list(tensors), outputs)
        for part in (self.before, self.after):
            part.run_eagerly = network.run_eagerly
            part.jit_compile = network.jit_compile
        self._network = network
        self._is_exact: bool | None = None

    def serves(self, x: Any) -> bool:
        """Whether it predicts for these data what the network does, and its results may be held for all of them.

        What a graph does not tell - masks that a layer makes inside, random numbers, a call that looks at its
        neighbours - shows in predictions: the first rows are compared, once.
        """
        sizes = [len(part) for part in keras.tree.flatten(x) if hasattr(part, "shape")]
        if self.sample_bytes * sizes[0] > OF_ALL if sizes else self.sample_bytes > OF_A_SAMPLE:
            return False
        if self._is_exact is None:
            self._is_exact = self._check(x)
            self.layers = self.layers if self._is_exact else ()
        return self._is_exact

    def _check(self, x):
        if (rows := first_rows(x)) is None:
            return False
        reset_states(self._network)
        whole = predicted(self._network, rows, None)
        return are_alike(whole, predicted(self.after, predicted(self.before, rows, None), None))


def first_rows(x: Any) -> Any:
    """Some rows of arrays, or the inputs of the first batch of a data set; None if there are none."""
    if keras.tree.flatten(x) and all(hasattr(part, "shape") for part in keras.tree.flatten(x)):
        rows = keras.tree.map_structure(lambda part: part[:32], x)
    else:
        batch = next(iter(batches_of(x)), None)
        rows = keras.tree.map_structure(np.asarray, batch[0] if isinstance(batch, tuple | list) else batch)
    return rows if rows is not None and len(keras.tree.flatten(rows)[0]) else None


def are_alike(first: Any, second: Any) -> bool:
    """Whether two predictions are the same, but for rounding."""
    pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True)
    arrays = [[np.asarray(array, "float64") for array in pair] for pair in pairs]
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(a)), equal_nan=True) for a, b in arrays)


def shared_layers(network: keras.Model, snapshots: Sequence[Snapshot]) -> list[keras.layers.Layer]:
    """The layers of a network with weights, all of which all snapshots share."""
    frozen = [layer for layer in network.layers if layer.weights and not layer.trainable_weights]
    if not frozen:  # Before files of weights are read.
        return []
    first, *others = snapshots
    shared = [sharing(snapshot, first, network).shared for snapshot in others]
    indices = frozenset.intersection(*shared, *([first.shared] if first.base else [])) if shared else frozenset()
    fixed = {id(network.weights[index]) for index in indices}
    return [layer for layer in frozen if all(id(v) in fixed for v in layer.weights)]


def trunk_of(network: keras.Model, snapshots: Sequence[Snapshot]) -> Trunk | None:
    """The trunk of a functional or Sequential network; None if members share no layer before those that differ.

    Also None where a network in two parts would not be the same: with states, a length that varies between the two, or
    a class of one's own with another `call` or `predict`.
    """
    if not has_graph(network) or not predicts_as_keras(network) or recurrent_states(network):
        return None
    shared = {id(layer) for layer in shared_layers(network, snapshots)}
    once = {id(tensor) for tensor in network.inputs}
    names: list[str] = []
    between: dict[int, Any] = {}
    for operation, args, kwargs, outputs in graph_of(network) if shared else ():
        tensors = [part for part in keras.tree.flatten((args, kwargs)) if isinstance(part, keras.KerasTensor)]
        has_weights = isinstance(operation, keras.layers.Layer) and bool(operation.weights)
        if (id(operation) in shared or not has_weights) and all(id(tensor) in once for tensor in tensors):
            once.update(map(id, outputs))
            names += [operation.name] if has_weights else []
        else:
            between |= {id(tensor): tensor for tensor in tensors if id(tensor) in once}
    ends = any(id(tensor) in once for tensor in network.outputs)  # Keras cuts no graph there.
    if not names or ends or any(None in tensor.shape[1:] for tensor in between.values()):
        return None
    return Trunk(network, list(between.values()), names)
