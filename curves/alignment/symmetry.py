"""`Symmetry`: the units of a network, read off its Keras graph by a rule for each kind of layer.

A layer without a rule keeps its inputs and outputs where they are, so that the result is right for any network.
"""

import dataclasses
import numbers

import keras

from curves.alignment.graph import arguments_of, walk
from curves.alignment.rules import Channels, rule_of
from curves.alignment.units import Axis, Units
from keras_fge.core.batch_norm import batch_norm_statistics


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight, seen as an array of `shape`, with the units along some of its axes (None: no units)."""

    variable: keras.Variable
    shape: tuple[int, ...]
    axes: tuple[Axis | None, ...]


class Symmetry:
    """All units of a functional or Sequential network.

    Attributes:
        units: The units.
        weights: Weights with units, each once.
        pinned: Names of the layers without a rule.
        calls: `Channels` of the outputs of each call of an operation, in the order of `walk`.
    """

    def __init__(self, network: keras.Model):
        self.units = Units()
        self.weights: list[Weight] = []
        self.pinned: list[str] = []
        self.calls: list[Channels] = []
        self._known: dict[int, tuple[Axis | None, ...]] = {}
        self._refused: set[int] = set()
        outputs = walk(network, [self._fixed(tensor) for tensor in network.inputs], self._visit)
        for channels in outputs:
            self.units.pin(channels.axis)
        statistics = {id(variable) for variable in batch_norm_statistics(network)}
        for weight in self.weights:
            if not weight.variable.trainable and id(weight.variable) not in statistics:
                self._pin_weight(weight.variable)  # What is frozen stays as it is: networks may share it.
        self.weights = [
            dataclasses.replace(w, axes=tuple(None if a is None else self.units.roots(a) for a in w.axes))
            for w in self.weights
        ]
        self.calls = [dataclasses.replace(call, axis=self.units.roots(call.axis)) for call in self.calls]

    def _fixed(self, tensor):
        """The channels of a tensor whose units stay where they are."""
        size = tensor.shape[-1] if len(tensor.shape) > 1 else 1
        channels = Channels(len(tensor.shape) - 1, self.units.new(size or 1), is_fixed=True)
        self.units.pin(channels.axis)
        return channels

    def _pin_weight(self, variable):
        for axis in self._known.get(id(variable), ()):
            if axis is not None:
                self.units.pin(axis)

    def _visit(self, operation, inputs, args, kwargs, tensors):
        """The channels of the outputs of one call."""
        leaves = arguments_of(operation, args, kwargs)
        channels = [value for value in leaves if isinstance(value, Channels)]
        shapes = [tuple(tensor.shape) for tensor in inputs]
        weights = list(operation.weights) if isinstance(operation, keras.layers.Layer) else []
        rule, outputs = None if id(operation) in self._refused else rule_of(operation), None
        if rule and channels and all(isinstance(leaf, (Channels, numbers.Number, str, type(None))) for leaf in leaves):
            outputs = rule(self, operation, channels, shapes, [tuple(tensor.shape) for tensor in tensors])
            if outputs is not None and len(outputs) != len(tensors):
                outputs = None
            if any(id(variable) not in self._known for variable in weights):
                outputs = None  # A part of the layer that the rule does not know.
        if outputs is None:
            everything = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Channels)]
            for each in everything:
                self.units.pin(each.axis)
            for variable in weights:  # Also of an earlier call, for which there was a rule.
                self._pin_weight(variable)
            outputs = [self._fixed(tensor) for tensor in tensors]
            self._refused.add(id(operation))
            if weights:
                self.pinned.append(operation.name)
        self.calls.extend(outputs)
        return outputs

    def add(self, variable: keras.Variable | None, *axes: Axis | None, shape: tuple[int, ...] | None = None) -> None:
        """Says which units stand along the axes of a weight. Those of a shared layer are tied."""
        if variable is None:
            return
        if id(variable) in self._known:
            for old, new in zip(self._known[id(variable)], axes):
                if old is not None and new is not None:
                    self.units.tie(old, new)
        else:
            self._known[id(variable)] = axes
            self.weights.append(Weight(variable, shape or tuple(variable.shape), axes))

    def outputs_of(self, variable: keras.Variable, position: int, size: int) -> Axis:
        """The units that a weight makes: new ones, or, of a shared layer, those that are known."""
        known = self._known.get(id(variable), {position: None})[position]
        return self.units.new(size) if known is None else known
