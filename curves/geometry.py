"""Lengths in weight space, from the Gram matrix of the bends: it does not depend on t, so it is computed once.

Coefficients sum to 1, so w(t) - w(s) = sum_i (c_i(t) - c_i(s)) (w_i - w_0), and velocities sum to 0, so
dw/dt = sum_i v_i(t) (w_i - w_0): the squares of both are quadratic forms in G[i, k] = <w_i - w_0, w_k - w_0>.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from curves.curve import Curve
from curves.parametrization import as_path
from keras_fge.core.networks import read


def gram_of_differences(bends: Sequence[Sequence[keras.Variable]]) -> np.ndarray:
    """G[i, k] = <w_i - w_0, w_k - w_0> in float64, for `bends[i]` a list of variables."""
    gram = np.zeros((len(bends), len(bends)))
    for slot in zip(*bends):
        values = np.stack([read(bend).astype("float64").ravel() for bend in slot])
        differences = values - values[0]
        gram += differences @ differences.T
    return gram


def coefficients_at(layer: Curve, positions: Sequence[Any] | np.ndarray) -> np.ndarray:
    """The coefficients at each of `positions`, in float64: array of shape `(len(positions), num_bends)`."""
    rows = [ops.convert_to_numpy(layer.curve.coefficients(t)).astype("float64") for t in positions]
    return np.array(rows).reshape(len(rows), layer.curve.num_bends)


def segment_lengths(layers: Sequence[Curve], positions: Sequence[float] | np.ndarray) -> np.ndarray:
    """||w(t_{j+1}) - w(t_j)|| over all `layers`, for consecutive `positions`: shape `(len(positions) - 1,)`."""
    total = np.zeros(len(positions) - 1)
    for layer in layers:
        gram = gram_of_differences(layer.bends)
        steps = np.diff(coefficients_at(layer, positions), axis=0)
        total += np.einsum("ji,ik,jk->j", steps, gram, steps)
    return np.sqrt(np.maximum(total, 0))


def squared_speeds(layer: Curve, positions: Sequence[Any]) -> Any:
    """||dw/dt||^2 at each of `positions`: float32 tensor of shape `(len(positions),)`, differentiable in the bends."""
    curve = as_path(layer.curve, "a speed")
    velocities = [curve.velocity(t) for t in positions]
    differences = [[w - w_0 for w, w_0 in zip(bend, layer.bends[0])] for bend in layer.bends]
    squares = [0.0] * len(positions)
    for i, k in itertools.combinations_with_replacement(range(1, layer.curve.num_bends), 2):
        gram = sum(ops.sum(a * b) for a, b in zip(differences[i], differences[k]))
        for j, v in enumerate(velocities):
            squares[j] += (1 if i == k else 2) * v[i] * v[k] * gram
    return ops.stack(squares)


def relative_speed(layers: Sequence[Curve], t: Any) -> Any:
    """r(t) = ||phi'(t)|| / integral_0^1 ||phi'(s)|| ds over all `layers`, differentiable in the bends.

    The integral is a Gauss-Legendre sum on each segment, exact for a chain.
    """
    segments = math.lcm(*(layer.curve.num_bends - 1 for layer in layers))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    positions = [(k + (node + 1) / 2) / segments for k in range(segments) for node in nodes]
    squares = sum(squared_speeds(layer, [t, *positions]) for layer in layers)
    speeds = ops.sqrt(ops.maximum(squares, 1e-12))  # The gradient of the root is infinite at 0.
    weights = ops.convert_to_tensor(np.tile(weights / (2 * segments), segments), "float32")
    return speeds[0] / ops.sum(speeds[1:] * weights)
