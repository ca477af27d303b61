"""`Trunk`: what all members of an ensemble have in common, before the first layer in which they differ."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.keras_internals import graph_of, has_graph, nodes_kept, predicts_as_keras
from keras_fge.core.networks import inputs_and_outputs, recurrent_states, set_weights
from keras_fge.core.predictions import predicted
from keras_fge.ensemble.once import OF_ALL, Once, are_alike, runs_as
from keras_fge.run import Snapshot, sharing

OF_A_SAMPLE = 2**13  # Bytes between the two parts, of a sample of a data set, whose number nobody knows.


class Trunk(Once):
    """A network in two parts: `before` runs once, and `after` once for each member.

    Both have the layers of the network itself, so the weights of a member must stand in it.

    Attributes:
        before, after: Keras models; the outputs of the first are the inputs of the second.
        layers: The names of the layers that have weights and run once; empty, once that was found not to be the same.
        sample_bytes: What one sample takes between the two.
    """

    def __init__(
        self,
        network: keras.Model,
        snapshots: Sequence[Snapshot],
        tensors: Sequence[keras.KerasTensor],
        layers: Sequence[str],
    ):
        self.layers = tuple(layers)
        self.sample_bytes = sum(4 * int(np.prod(tensor.shape[1:])) for tensor in tensors)
        inputs, outputs = inputs_and_outputs(network)
        with nodes_kept(network):
            self.before = keras.Model(inputs, list(tensors))
            self.after = keras.Model(list(tensors), outputs)
        for part in (self.before, self.after):
            runs_as(part, network)
        self._network, self._snapshots = network, snapshots

    def outputs_of(self, index: int, results: Any, batch_size: int | None) -> Any:
        set_weights(self._network, self._snapshots[index].weights)
        size = batch_size or 32
        starts = range(0, len(keras.tree.flatten(results)[0]), size)
        parts = [keras.tree.map_structure(lambda array, k=k: array[k : k + size], results) for k in starts]
        # `predict` would make a data set for each member, which takes longer than a head does.
        outputs = map(self.after.predict_on_batch, parts)
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *outputs)

    def fits(self, samples: int | None) -> bool:
        return self.sample_bytes <= OF_A_SAMPLE if samples is None else samples * self.sample_bytes <= OF_ALL

    def is_right_for(self, rows: Any) -> bool:
        """What a graph does not tell - masks that a layer makes inside, random numbers - shows in predictions."""
        whole = predicted(self._network, rows, None)
        is_right = are_alike(whole, predicted(self.after, predicted(self.before, rows, None), None))
        self.layers = self.layers if is_right else ()
        return is_right


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
    return Trunk(network, snapshots, list(between.values()), names)
