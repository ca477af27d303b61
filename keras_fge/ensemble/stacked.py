"""`Stacked`: all members of a small network of dense layers in one program, whose weights have one axis more."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.keras_internals import has_graph, predicts_as_keras
from keras_fge.core.networks import set_weights
from keras_fge.core.predictions import predicted
from keras_fge.ensemble.once import OF_ALL, Once, are_alike, runs_as
from keras_fge.run import Snapshot

WEIGHTS = 2**26  # Bytes of all members' weights, which are held at once.
# Layers that work on one sample alone, row by row: what an axis more does not change.
LAYERS = {
    *("InputLayer", "Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax", "Dropout", "GaussianNoise"),
    *("Flatten", "Reshape", "Rescaling", "BatchNormalization", "LayerNormalization", "Concatenate", "Add", "Average"),
}


class Stacked(Once):
    """All members side by side: f(x; W), with W of shape `(K, ...)`, vectorized over the first axis.

    Attributes:
        before: A Keras model that outputs the predictions of all members, shape `(N, K, ...)`.
    """

    def __init__(self, network: keras.Model, snapshots: Sequence[Snapshot]):
        self._network, self._snapshots = network, snapshots
        self.before = Program(network, [np.stack(column) for column in zip(*(s.weights for s in snapshots))])
        runs_as(self.before, network)

    def outputs_of(self, index: int, results: Any, batch_size: int | None) -> Any:
        return keras.tree.map_structure(lambda array: array[:, index], results)

    def fits(self, samples: int | None) -> bool:
        elements = sum(int(np.prod(tensor.shape[1:])) for tensor in self._network.outputs) * len(self._snapshots)
        return samples is not None and 4 * samples * elements <= OF_ALL

    def is_right_for(self, rows: Any) -> bool:
        """The first and the last member are compared."""
        together = predicted(self.before, rows, None)
        for index in (0, len(self._snapshots) - 1):
            set_weights(self._network, self._snapshots[index].weights)
            if not are_alike(predicted(self._network, rows, None), self.outputs_of(index, together, None)):
                return False
        return True


class Program(keras.Model):
    """Calls a network, which is no part of it, with each of several sets of weights."""

    def __init__(self, network, stacks):
        super().__init__()
        # In a function, as Keras would take an attribute for a part of this model.
        self._called_with = lambda x, weights: _called(network, x, weights)
        self._stacks = []
        for index, array in enumerate(stacks):
            name = f"weights_{index}"
            variable = self.add_weight(shape=array.shape, dtype=array.dtype.name, name=name, trainable=False)
            variable.assign(array)
            self._stacks.append(variable)
        self.built = True

    def call(self, x):
        weights = [keras.ops.convert_to_tensor(variable) for variable in self._stacks]
        outputs = keras.ops.vectorized_map(lambda each: self._called_with(x, each), weights)
        return keras.tree.map_structure(lambda tensor: keras.ops.moveaxis(tensor, 0, 1), outputs)


def _called(network, x, weights):
    with keras.StatelessScope(list(zip(network.weights, weights))):
        return network(x, training=False)


def stacked_of(network: keras.Model, snapshots: Sequence[Snapshot]) -> Stacked | None:
    """The program of a functional or Sequential network; None of a large one, or of other layers than `LAYERS`."""
    if len(snapshots) < 2 or not has_graph(network) or not predicts_as_keras(network):
        return None
    kinds = {type(layer) for layer in network.layers}
    if not all(kind.__name__ in LAYERS and kind is vars(keras.layers)[kind.__name__] for kind in kinds):
        return None
    size = sum(4 * int(np.prod(variable.shape)) for variable in network.weights) * len(snapshots)
    is_plain = all(variable.dtype == "float32" for variable in network.weights)
    return Stacked(network, snapshots) if is_plain and size <= WEIGHTS else None
