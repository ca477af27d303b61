"""What each kind of layer does to the units of a network.

A rule is called as rule(symmetry, layer, channels and shapes of inputs, shapes of outputs), and returns the channels of
the outputs; None, if it does not fit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from curves.alignment.units import Axis
from keras_fge.core.keras_internals import all_layers, has_lora


@dataclasses.dataclass(frozen=True)
class Channels:
    """The axis of a tensor along which units stand, and the unit at each position."""

    dimension: int
    axis: Axis
    is_fixed: bool = False  # No unit of the tensor moves, whichever of its axes one takes.


def _is_last(channels, shape):
    return channels.dimension == len(shape) - 1 and len(channels.axis) == shape[-1]


def _dense(symmetry, layer, channels, shapes, outputs):
    if layer.lora_enabled or layer.quantization_mode or not _is_last(channels[0], shapes[0]):
        return None
    out = symmetry.outputs_of(layer.kernel, 1, outputs[0][-1])
    symmetry.add(layer.kernel, channels[0].axis, out)
    symmetry.add(layer.bias, out)
    return [Channels(len(outputs[0]) - 1, out)]


def _channel_dimension(layer, shape):
    return 1 if layer.data_format == "channels_first" else len(shape) - 1


def _source(symmetry, layer, channels, shape):
    """The dimension of a convolution's channels, and the units of its input there; None if they stand elsewhere."""
    dimension = _channel_dimension(layer, shape)
    if channels.dimension == dimension and len(channels.axis) == shape[dimension]:
        return dimension, channels.axis
    if not channels.is_fixed or shape[dimension] is None:
        return dimension, None
    axis = symmetry.units.new(shape[dimension])
    symmetry.units.pin(axis)
    return dimension, axis


def _conv(symmetry, layer, channels, shapes, outputs):
    is_transposed = "Transpose" in type(layer).__name__
    if (not is_transposed and layer.groups != 1) or has_lora(layer):
        return None
    dimension, source = _source(symmetry, layer, channels[0], shapes[0])
    if layer.quantization_mode or source is None:
        return None
    spatial = [None] * (len(layer.kernel.shape) - 2)
    out = symmetry.outputs_of(layer.kernel, len(spatial) + (not is_transposed), layer.filters)
    pair = (out, source) if is_transposed else (source, out)
    symmetry.add(layer.kernel, *spatial, *pair)
    symmetry.add(layer.bias, out)
    return [Channels(dimension, out)]


def _depthwise(symmetry, layer, channels, shapes, outputs):
    dimension, source = _source(symmetry, layer, channels[0], shapes[0])
    if source is None:
        return None
    out = np.repeat(source, layer.depth_multiplier)
    symmetry.add(layer.kernel, *[None] * (len(layer.kernel.shape) - 2), source, None)
    symmetry.add(layer.bias, out)
    return [Channels(dimension, out)]


def _separable(symmetry, layer, channels, shapes, outputs):
    dimension, source = _source(symmetry, layer, channels[0], shapes[0])
    if source is None:
        return None
    spatial = [None] * (len(layer.depthwise_kernel.shape) - 2)
    out = symmetry.outputs_of(layer.pointwise_kernel, len(spatial) + 1, layer.filters)
    symmetry.add(layer.depthwise_kernel, *spatial, source, None)
    symmetry.add(layer.pointwise_kernel, *spatial, np.repeat(source, layer.depth_multiplier), out)
    symmetry.add(layer.bias, out)
    return [Channels(dimension, out)]


def _normalization(symmetry, layer, channels, shapes, outputs):
    """BatchNormalization, LayerNormalization, RMSNormalization, GroupNormalization over the axis of the channels."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if [axis % len(shapes[0]) for axis in axes] != [channels[0].dimension]:
        return None
    axis = channels[0].axis
    if isinstance(layer, layers.GroupNormalization) and 1 < layer.groups < len(axis):
        symmetry.units.divide(layer.groups, axis)
    for variable in layer.weights:
        if tuple(variable.shape) == (len(axis),):
            symmetry.add(variable, axis)
    return [channels[0]]


def _prelu(symmetry, layer, channels, shapes, outputs):
    axes = [None] * len(layer.alpha.shape)
    position = channels[0].dimension - 1
    if layer.alpha.shape[position] != 1:
        axes[position] = channels[0].axis
    symmetry.add(layer.alpha, *axes)
    return [channels[0]]


def _embedding(symmetry, layer, channels, shapes, outputs):
    if layer.lora_enabled or layer.quantization_mode:
        return None
    out = symmetry.outputs_of(layer.embeddings, 1, outputs[0][-1])
    symmetry.add(layer.embeddings, None, out)
    return [Channels(len(outputs[0]) - 1, out)]


def may_turn(variable: keras.Variable) -> bool:
    """Whether a linear map keeps what training asks of a weight: no constraint, and L2 at most."""
    is_even = variable.regularizer is None or isinstance(variable.regularizer, keras.regularizers.L2)
    return is_even and variable.constraint is None


def _attention(symmetry, layer, channels, shapes, outputs):
    """MultiHeadAttention: heads change places, and inside a head the parts of queries and keys, and those of values.

    Inside a head, an orthogonal map of either does nothing: (Q R) (K R)^T = Q K^T, and (V R) (R^T W) = V W.
    """
    if not all(_is_last(each, shape) for each, shape in zip(channels, shapes)) or len(channels) not in (2, 3):
        return None
    parts = [layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense]
    if any(part.lora_enabled or part.quantization_mode for part in parts) or len(layer.output_dense.kernel.shape) != 3:
        return None
    query, value, key = (*channels, channels[1])[:3]  # Called as (query, value, key); the key is the value by default.
    (heads, size), width = layer.query_dense.kernel.shape[1:], layer.output_dense.kernel.shape[2]
    value_size = layer.value_dense.kernel.shape[2]
    inner = symmetry.outputs_of(layer.query_dense.kernel, 1, heads * size)
    values = symmetry.outputs_of(layer.value_dense.kernel, 1, heads * value_size)
    out = symmetry.outputs_of(layer.output_dense.kernel, 1, width)
    # Nothing but products of queries with keys, and of values with the output kernel, sees the parts of a head.
    symmetry.units.divide(heads, inner, values, can_turn=all(map(may_turn, layer.weights)))
    for dense, source, made in zip(parts, (query, key, value), (inner, inner, values)):
        symmetry.add(dense.kernel, source.axis, made, shape=(len(source.axis), len(made)))
        symmetry.add(dense.bias, made, shape=(len(made),))
    symmetry.add(layer.output_dense.kernel, values, out, shape=(len(values), width))
    symmetry.add(layer.output_dense.bias, out)
    return [Channels(len(outputs[0]) - 1, out)]


def _grouped_attention(symmetry, layer, channels, shapes, outputs):
    """GroupedQueryAttention: heads of keys and values change places, each with the heads of queries that share it.

    Inside, as MultiHeadAttention; a gate multiplies the parts of values one by one, so that they cannot turn.
    """
    if not all(_is_last(each, shape) for each, shape in zip(channels, shapes)) or len(channels) not in (2, 3):
        return None
    parts = {part.name: part for part in all_layers(layer, include_self=False)}
    query, value, key = (*channels, channels[1])[:3]
    out = parts["attention_output"]
    if any(part.lora_enabled or part.quantization_mode for part in parts.values() if hasattr(part, "kernel")):
        return None
    heads, size = parts["key"].kernel.shape[1:]
    count, width = out.kernel.shape[0], out.kernel.shape[2]
    inner = symmetry.outputs_of(parts["key"].kernel, 1, heads * size)
    values = symmetry.outputs_of(parts["value"].kernel, 1, heads * size)
    made = symmetry.outputs_of(out.kernel, 1, width)
    shared = [np.repeat(axis.reshape(heads, size), count // heads, axis=0).ravel() for axis in (inner, values)]
    can_turn = "gate" not in parts and all(map(may_turn, layer.weights))
    symmetry.units.divide(heads, inner, values, can_turn=can_turn)
    sources = {"query": (query, shared[0]), "key": (key, inner), "value": (value, values), "gate": (query, shared[1])}
    for name, (source, axis) in sources.items():
        if name in parts:
            symmetry.add(parts[name].kernel, source.axis, axis, shape=(len(source.axis), len(axis)))
            symmetry.add(parts[name].bias, axis, shape=(len(axis),))
    symmetry.add(out.kernel, shared[1], made, shape=(len(shared[1]), width))
    symmetry.add(out.bias, made)
    return [Channels(len(outputs[0]) - 1, made)]


def _same(symmetry, layer, channels, shapes, outputs):
    """What treats all channels alike, one by one, and leaves them where they are."""
    if hasattr(layer, "data_format") and channels[0].dimension != _channel_dimension(layer, shapes[0]):
        return None
    if len(outputs[0]) < len(shapes[0]):  # Pooling over all positions without keeping them.
        return [Channels(len(outputs[0]) - 1, channels[0].axis)] if outputs[0][-1] == len(channels[0].axis) else None
    return [channels[0]] if outputs[0][channels[0].dimension] == len(channels[0].axis) else None


def _merge(symmetry, layer, channels, shapes, outputs):
    """Sums, products and the like, element by element. A number in place of a tensor changes nothing."""
    if len({(c.dimension - len(s), len(c.axis)) for c, s in zip(channels, shapes)}) > 1:
        return None  # Broadcasting along the channels.
    symmetry.units.tie(*(each.axis for each in channels))
    return [Channels(len(outputs[0]) - 1 - (len(shapes[0]) - 1 - channels[0].dimension), channels[0].axis)]


def _concatenate(symmetry, layer, channels, shapes, outputs):
    if len({c.dimension for c in channels}) > 1:
        return None
    if layer.axis % len(shapes[0]) == channels[0].dimension:
        return [Channels(channels[0].dimension, np.concatenate([each.axis for each in channels]))]
    symmetry.units.tie(*(each.axis for each in channels))
    return [channels[0]]


def _flatten(symmetry, layer, channels, shapes, outputs):
    order = list(range(1, len(shapes[0])))
    if layer.data_format == "channels_first":  # It brings the channels to the end first.
        order = [*order[1:], order[0]]
    sizes = [shapes[0][dimension] for dimension in order]
    if None in sizes or shapes[0][channels[0].dimension] != len(channels[0].axis):
        return None
    places = [len(channels[0].axis) if dimension == channels[0].dimension else 1 for dimension in order]
    return [Channels(1, np.broadcast_to(channels[0].axis.reshape(places), sizes).ravel(), channels[0].is_fixed)]


def _reshape(symmetry, layer, channels, shapes, outputs):
    """Where the last axis stays what it is, as between a grid of patches and a sequence of them."""
    if _is_last(channels[0], shapes[0]) and outputs[0][-1] == shapes[0][-1]:
        return [Channels(len(outputs[0]) - 1, channels[0].axis, channels[0].is_fixed)]
    return None


_POOLING = [
    f"{kind}{n}D" for kind in ("MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling") for n in "123"
]
_POOLING += [f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in "123"]
_NOISE = ["Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise"]
_ACTIVATIONS = ["Activation", "ReLU", "LeakyReLU", "ELU", "ActivityRegularization", "Identity", "AlphaDropout"]
RULES = {
    **dict.fromkeys([f"Conv{n}D{kind}" for n in "123" for kind in ("", "Transpose")], _conv),
    **dict.fromkeys(["DepthwiseConv1D", "DepthwiseConv2D"], _depthwise),
    **dict.fromkeys(["SeparableConv1D", "SeparableConv2D"], _separable),
    **dict.fromkeys(
        ["BatchNormalization", "LayerNormalization", "RMSNormalization", "GroupNormalization"], _normalization
    ),
    **dict.fromkeys(["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"], _merge),
    **dict.fromkeys([*_POOLING, *_NOISE, *_ACTIVATIONS], _same),
    **{"Dense": _dense, "PReLU": _prelu, "Embedding": _embedding, "MultiHeadAttention": _attention},
    **{
        "GroupedQueryAttention": _grouped_attention,
        "Concatenate": _concatenate,
        "Flatten": _flatten,
        "Reshape": _reshape,
    },
}
# Functions of `keras.ops` that act on each element.
OPERATIONS = {
    **dict.fromkeys(["Add", "Subtract", "Multiply", "Maximum", "Minimum"], _merge),
    **dict.fromkeys(
        ["Relu", "Relu6", "Gelu", "Silu", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "LeakyRelu"], _same
    ),
}


def rule_of(operation: Any) -> Callable | None:
    """The rule of a layer of Keras' own, by its class; none of a subclass, whose `call` may be another one.

    One that computes the same has that class as `_keras_fge_computes_as`.
    """
    kind: Any = getattr(operation, "_keras_fge_computes_as", type(operation))
    if isinstance(operation, keras.layers.Layer):
        is_own = kind in vars(layers).values()
        return RULES.get(kind.__name__) if is_own else None
    return OPERATIONS.get(kind.__name__) if kind.__module__.startswith("keras.") else None
