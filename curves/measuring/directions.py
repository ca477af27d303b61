"""Directions in weight space around one network: random ones, filter by filter, and those of largest curvature."""

import re
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_fge.core.derivatives import LossDerivatives
from keras_fge.core.keras_internals import all_layers
from keras_fge.core.networks import to_array

TOLERANCE, MOST_STEPS = 1e-3, 60  # Of an eigenvalue, relative to the largest; of Lanczos' method.
FIXED = ("bias", "gamma", "beta", "scale")  # Names of weights that are no kernels, whatever their shape.


def filter_directions(network: keras.Model, seed: int) -> list[list[np.ndarray]]:
    """Two random directions, each filter of which is as long as that filter of the network (Li et al. 2018).

        d_f <- d_f / ||d_f|| ||w_f||,   d ~ N(0, I)

    A filter is all of a kernel that makes one output (of an embedding: a row). Biases and the weights of normalization
    do not move: their direction is 0.
    """
    rng = np.random.default_rng(seed)
    inside = {id(variable): axes for layer in all_layers(network) for variable, axes in _filters_of(layer)}
    directions = []
    for _ in range(2):
        direction = []
        for variable in network.trainable_variables:
            values = to_array(variable).astype("float64")
            axes = inside.get(id(variable), tuple(range(values.ndim - 1)))
            if values.ndim < 2 or variable.name in FIXED or not axes:
                direction.append(np.zeros_like(values))
                continue
            drawn = rng.standard_normal(values.shape)
            length, drawn_length = (np.sqrt(np.sum(w**2, axis=axes, keepdims=True)) for w in (values, drawn))
            direction.append(drawn / drawn_length * length)
        directions.append(direction)
    return directions


def _filters_of(layer):
    """(variable, axes inside a filter; () if it is no kernel) where these are not all axes but the last."""
    if isinstance(layer, keras.layers.Embedding):
        yield layer.embeddings, (1,)
    elif isinstance(layer, keras.layers.PReLU):
        yield layer.alpha, ()
    elif isinstance(layer, keras.layers.EinsumDense):
        _, kernel, outputs = re.split(",|->", layer.equation)
        yield layer.kernel, tuple(axis for axis, letter in enumerate(kernel) if letter not in outputs)
    elif type(layer).__name__.startswith("DepthwiseConv"):
        yield layer.kernel, tuple(range(len(layer.kernel.shape) - 2))
    elif type(layer).__name__.startswith("SeparableConv"):
        yield layer.depthwise_kernel, tuple(range(len(layer.depthwise_kernel.shape) - 2))
    elif "Transpose" in type(layer).__name__ and hasattr(layer, "kernel"):
        last = len(layer.kernel.shape) - 1
        yield layer.kernel, (*range(last - 1), last)


def hessian_directions(
    derivatives: LossDerivatives, seed: int, count: int = 2
) -> tuple[list[list[np.ndarray]], list[float]]:
    """The eigenvectors of the Hessian with the largest eigenvalues, and these.

    Each is so long that the quadratic model of the loss rises (or falls) by 1 at its tip, sqrt(2 / |eigenvalue|), but
    not longer than the weights.
    """
    shapes = [tuple(variable.shape) for variable in derivatives.network.trainable_variables]
    weights = _flat([to_array(variable) for variable in derivatives.network.trainable_variables])
    values, vectors = largest_eigenpairs(product_of(derivatives), weights.size, count, seed)
    longest = np.linalg.norm(weights) or 1.0
    lengths = [min(np.sqrt(2 / abs(value)) if value else np.inf, longest) for value in values]
    return [_shaped(length * vector, shapes) for length, vector in zip(lengths, vectors)], [float(v) for v in values]


def product_of(derivatives: LossDerivatives) -> Callable[[np.ndarray], np.ndarray]:
    """The product of the Hessian with one vector of all trained weights."""
    shapes = [tuple(variable.shape) for variable in derivatives.network.trainable_variables]
    return lambda vector: _flat(derivatives.hessian_times(_shaped(vector, shapes)))


def largest_eigenpairs(
    times: Callable[[np.ndarray], np.ndarray], size: int, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric matrix, and their unit eigenvectors, by Lanczos' method.

    One after the other, each in what is orthogonal to those before: from one vector, Lanczos' method finds an
    eigenvalue only once, however often it is one.

    Args:
        times: The product with the matrix.
        size: Its size.
        count: Eigenvalues wanted, at most `size`.
        seed: Of the first vectors.

    Returns:
        (eigenvalues, the largest first, shape `(count,)`; eigenvectors, shape `(count, size)`)
    """
    rng = np.random.default_rng(seed)
    values: list[float] = []
    vectors: list[np.ndarray] = []
    for _ in range(count):
        value, vector = _largest_eigenpair(times, size, vectors, rng)
        values.append(value)
        vectors.append(vector)
    order = np.argsort(values)[::-1]
    return np.array(values)[order], np.array(vectors)[order]


def _largest_eigenpair(times, size, found, rng):
    """One pair in the space that is orthogonal to `found`.

    The basis is made orthogonal again in each step. It ends when the residual of the pair, |beta_m s_m|, is below 0.001
    of the largest absolute eigenvalue, or after 60 steps, with a warning.
    """
    first = _orthogonal(rng.standard_normal(size), found)
    basis = [first / np.linalg.norm(first)]
    alphas: list[float] = []
    betas: list[float] = []
    most = min(MOST_STEPS, size - len(found))
    while True:
        product = times(basis[-1])
        alphas.append(float(basis[-1] @ product))
        product = _orthogonal(product, [*found, *basis])
        beta = float(np.linalg.norm(product))
        values, parts = np.linalg.eigh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
        scale = np.max(np.abs(values)) or 1.0
        residual = beta * abs(parts[-1, -1])
        is_found = beta <= 1e-9 * scale or (len(basis) > 1 and residual < TOLERANCE * scale)
        if is_found or len(basis) == most:
            if not is_found and most == MOST_STEPS:
                warnings.warn(
                    f"An eigenvalue of the Hessian, {values[-1]:.3g}, was not found to 0.1 % in {MOST_STEPS} steps: "
                    f"its residual is {residual:.2g}.",
                    stacklevel=2,
                )
            vector = sum(share * each for share, each in zip(parts[:, -1], basis))
            return values[-1], vector / np.linalg.norm(vector)
        betas.append(beta)
        basis.append(product / beta)


def _orthogonal(vector, basis):
    """The part of a vector that is orthogonal to others, which are orthonormal; once would leave rounding errors."""
    for _ in range(2):
        for each in basis:
            vector = vector - (each @ vector) * each
    return vector


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """All values of the arrays, one after the other."""
    return np.concatenate([np.asarray(array, "float64").ravel() for array in arrays])


def _shaped(vector: np.ndarray, shapes: Sequence[tuple]) -> list[np.ndarray]:
    """The arrays of these shapes that `flat` has made one vector of."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes)]
