"""Correlations of the units of two networks on data: what method="activations" of `align` matches by."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from curves.alignment.graph import walk
from curves.alignment.symmetry import Symmetry
from curves.alignment.units import Axis, Places

BATCH = 128


def correlations_of(
    network: keras.Model,
    reference: keras.Model,
    data: Any,
    symmetry: Symmetry,
    families: Sequence[np.ndarray],
    places_of: Callable[[Axis], Places],
) -> dict[bytes, np.ndarray]:
    """{family: sum over the layers with weights that show it of the correlations of its units in both networks}."""
    arrays = inputs_of(data, network)
    samples = len(arrays[0])
    sums: dict[tuple[int, bytes], list[np.ndarray]] = {}
    counts: dict[tuple[int, bytes], int] = {}
    for begin in range(0, samples, BATCH):
        batch = [
            keras.ops.convert_to_tensor(array[begin : begin + BATCH], dtype=tensor.dtype)
            for array, tensor in zip(arrays, network.inputs)
        ]
        shown = [_outputs_of_calls(each, batch) for each in (network, reference)]
        for index, (channels, *outputs) in enumerate(zip(symmetry.calls, *shown)):
            if outputs[0] is None:
                continue
            for units in families:
                if not np.isin(units, channels.axis).all():
                    continue
                positions = places_of(channels.axis).of(units)
                x, y = (np.moveaxis(o, channels.dimension, 0)[positions].reshape(len(units), -1) for o in outputs)
                parts = [x.sum(1), y.sum(1), (x**2).sum(1), (y**2).sum(1), y @ x.T]
                key = (index, units.tobytes())
                counts[key] = counts.get(key, 0) + x.shape[1]
                sums[key] = [a + b for a, b in zip(sums[key], parts)] if key in sums else parts
    totals: dict[bytes, np.ndarray] = {}
    for (index, family), (x, y, xx, yy, products) in sums.items():
        count = counts[index, family]
        if count < len(x):
            raise ValueError(
                f"`data` must show each layer at least as often as it has units, {len(x)}. Received: {count}"
            )
        deviations = [np.sqrt(np.maximum(square / count - (s / count) ** 2, 0)) for s, square in ((x, xx), (y, yy))]
        scale = np.outer(deviations[1], deviations[0])
        matrix = np.divide(
            products / count - np.outer(y, x) / count**2, scale, out=np.zeros_like(scale), where=scale > 1e-12
        )
        totals[family] = totals.get(family, 0) + matrix
    return totals


def _outputs_of_calls(network, inputs):
    """The output of each call in the graph, in the order of `Symmetry.calls`; None for an operation without weights."""
    shown = []

    def call(operation, tensors, args, kwargs, outputs):
        results = keras.tree.flatten(operation(*args, **kwargs))
        has_weights = isinstance(operation, keras.layers.Layer) and bool(operation.weights)
        shown.extend(keras.ops.convert_to_numpy(r).astype("float64") if has_weights else None for r in results)
        return results

    walk(network, inputs, call)
    return shown


def inputs_of(data: Any, network: keras.Model) -> list[np.ndarray]:
    """The arrays of `data`, one for each input of `network`."""
    arrays = [np.asarray(array) for array in keras.tree.flatten(data)]
    expected = [tuple(tensor.shape[1:]) for tensor in network.inputs]
    received = [array.shape[1:] for array in arrays]
    fits = len(arrays) == len(expected) and all(
        len(a) == len(b) and all(n in (None, m) for n, m in zip(a, b)) for a, b in zip(expected, received)
    )
    if not fits or not len(arrays[0]):
        raise ValueError(f"`data` must hold inputs of shapes {expected} per sample. Received: {received}")
    return arrays
