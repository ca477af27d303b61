"""`Trunk`: what all members of an ensemble have in common, before the first layer in which they differ."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.keras_internals import graph_of, has_graph, has_mask, predicts_as_keras
from keras_fge.core.networks import clone, recompute_constants, recurrent_states
from keras_fge.run import Snapshot, sharing

# Bytes for a sample, and for all samples of arrays, that what comes out of a trunk may take.
OF_A_SAMPLE, OF_ALL = 2**16, 2**30


class Trunk:
    """A network in two parts: `before` runs once, and `after` once for each member.

    `before` has the layers of the network itself: the weights of a member must stand in it. `after` has layers of its
    own, which `put` gives the weights of a member.

    Attributes:
        before, after: Keras models; the outputs of the first are the inputs of the second.
        layers: The names of the layers that have weights and run once.
        sample_bytes: What one sample takes between the two.
    """

    def __init__(self, network: keras.Model, tensors: Sequence[Any], calls: Sequence[tuple], layers: Sequence[str]):
        self.layers = tuple(layers)
        self.sample_bytes = sum(4 * int(np.prod([size or 1 for size in tensor.shape[1:]])) for tensor in tensors)
        inputs, results = (
            (network.inputs[0], network.outputs[0])
            if isinstance(network, keras.Sequential)
            else (network.input, network.output)
        )
        self.before = keras.Model(inputs, list(tensors))
        after = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in tensors]
        known = {id(tensor): new for tensor, new in zip(tensors, after)}
        copies: dict[int, Any] = {}
        pairs: list[tuple[Any, Any]] = []
        for operation, args, kwargs, outputs in calls:
            is_layer = isinstance(operation, keras.layers.Layer)
            if id(operation) not in copies:
                copies[id(operation)] = clone(operation) if is_layer else operation
            copy = copies[id(operation)]
            new_args, new_kwargs = keras.tree.map_structure(lambda part: known.get(id(part), part), (args, kwargs))
            called = keras.tree.flatten(copy(*new_args, **new_kwargs))
            known.update((id(old), new) for old, new in zip(outputs, called, strict=True))
            if is_layer and operation.weights and not any(operation is other for other, _ in pairs):
                pairs.append((operation, copy))
        new = [known[id(tensor)] for tensor in network.outputs]
        self.after = keras.Model(after, keras.tree.pack_sequence_as(results, new))
        places = {id(variable): index for index, variable in enumerate(network.weights)}
        self._variables = [
            (copied, places[id(variable)])
            for layer, copy in pairs
            for variable, copied in zip(layer.weights, copy.weights, strict=True)
        ]

    def put(self, weights: Sequence[np.ndarray]) -> None:
        """Gives `after` the weights of a member."""
        for variable, index in self._variables:
            variable.assign(weights[index])
        recompute_constants(self.after)

    def pays(self, x: Any) -> bool:
        """Whether what comes out of it may be held for all samples of x."""
        sizes = [len(part) for part in keras.tree.flatten(x) if hasattr(part, "shape")]
        return self.sample_bytes <= OF_A_SAMPLE or bool(sizes and sizes[0] * self.sample_bytes <= OF_ALL)


def shared_layers(network: keras.Model, snapshots: Sequence[Snapshot]) -> list[keras.layers.Layer]:
    """The layers of a network with weights, all of which all snapshots share."""
    first, *others = snapshots
    shared = [sharing(snapshot, first, network).shared for snapshot in others]
    indices = frozenset.intersection(*shared, *([first.shared] if first.base else [])) if shared else frozenset()
    fixed = {id(network.weights[index]) for index in indices}
    return [layer for layer in network.layers if layer.weights and all(id(v) in fixed for v in layer.weights)]


def trunk_of(network: keras.Model, snapshots: Sequence[Snapshot]) -> Trunk | None:
    """The trunk of a functional or Sequential network; None if members share no layer before those that differ.

    Also None where a network in two parts would not be the same: with masks between them, states, or a `call` or
    `predict_step` of a class of one's own.
    """
    if not has_graph(network) or not predicts_as_keras(network) or recurrent_states(network):
        return None
    shared = {id(layer) for layer in shared_layers(network, snapshots)}
    if not shared:
        return None
    once = {id(tensor) for tensor in network.inputs}
    names: list[str] = []
    later: list[tuple] = []
    between: dict[int, Any] = {}
    for operation, args, kwargs, outputs in graph_of(network):
        tensors = [part for part in keras.tree.flatten((args, kwargs)) if isinstance(part, keras.KerasTensor)]
        has_weights = isinstance(operation, keras.layers.Layer) and bool(operation.weights)
        is_alike = id(operation) in shared or not has_weights
        if is_alike and not kwargs.get("training") and all(id(tensor) in once for tensor in tensors):
            once.update(map(id, outputs))
            names += [operation.name] if has_weights else []
        else:
            later.append((operation, args, kwargs, outputs))
            between |= {id(tensor): tensor for tensor in tensors if id(tensor) in once}
    between |= {id(tensor): tensor for tensor in network.outputs if id(tensor) in once}
    if not names or not later or any(map(has_mask, between.values())):
        return None
    return Trunk(network, list(between.values()), later, names)
