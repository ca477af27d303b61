"""Directions in weight space around one network: random ones, filter by filter, and those of largest curvature."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_fge.core.derivatives import LossDerivatives
from keras_fge.core.keras_internals import all_layers
from keras_fge.core.networks import to_array

TOLERANCE, MOST_STEPS = 1e-3, 60  # Of an eigenvalue, relative to the largest; of Lanczos' method.


def filter_directions(network: keras.Model, seed: int) -> list[list[np.ndarray]]:
    """Two random directions, each filter of which is as long as that filter of the network (Li et al. 2018).

        d_f <- d_f / ||d_f|| ||w_f||,   d ~ N(0, I)

    A filter is what makes one output of a kernel: a slice along its last axis (of a depthwise kernel, its last two; of
    an embedding, a row). Biases, and gamma and beta of BatchNormalization, do not move: their direction is 0.
    """
    rng = np.random.default_rng(seed)
    axes = {id(v): axes for layer in all_layers(network) for v, axes in _axes_of_filters(layer)}
    directions = []
    for _ in range(2):
        direction = []
        for variable in network.trainable_variables:
            values = to_array(variable).astype("float64")
            if values.ndim < 2:
                direction.append(np.zeros_like(values))
                continue
            drawn = rng.standard_normal(values.shape)
            inside = axes.get(id(variable), tuple(range(values.ndim - 1)))
            length, drawn_length = (np.sqrt(np.sum(w**2, axis=inside, keepdims=True)) for w in (values, drawn))
            direction.append(drawn / drawn_length * length)
        directions.append(direction)
    return directions


def _axes_of_filters(layer):
    """(variable, axes inside a filter) where that is not all axes but the last."""
    if isinstance(layer, keras.layers.Embedding):
        yield layer.embeddings, (1,)
    if isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)):
        yield layer.kernel, tuple(range(len(layer.kernel.shape) - 2))


def hessian_directions(
    derivatives: LossDerivatives, seed: int, count: int = 2
) -> tuple[list[list[np.ndarray]], list[float]]:
    """The eigenvectors of the Hessian with the largest eigenvalues, and these.

    Each is so long that the quadratic model of the loss rises (or falls) by 1 at its tip, sqrt(2 / |eigenvalue|), but
    not longer than the weights.
    """
    shapes = [tuple(variable.shape) for variable in derivatives.network.trainable_variables]
    weights = flat([to_array(variable) for variable in derivatives.network.trainable_variables])

    def times(vector):
        return flat(derivatives.hessian_times(shaped(vector, shapes)))

    values, vectors = largest_eigenpairs(times, weights.size, count, seed)
    longest = np.linalg.norm(weights)
    lengths = [min(np.sqrt(2 / abs(value)) if value else np.inf, longest) for value in values]
    return [shaped(length * vector, shapes) for length, vector in zip(lengths, vectors)], [float(v) for v in values]


def largest_eigenpairs(
    times: Callable[[np.ndarray], np.ndarray], size: int, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric matrix, and their unit eigenvectors, by Lanczos' method.

    The basis is made orthogonal again in each step. It ends when the residuals of the wanted pairs, |beta_m s_m|, are
    below 0.001 of the largest absolute eigenvalue, or after 60 steps.

    Args:
        times: The product with the matrix.
        size: Its size.
        count: Eigenvalues wanted, at most `size`.
        seed: Of the first vector.

    Returns:
        (eigenvalues, the largest first, shape `(count,)`; eigenvectors, shape `(count, size)`)
    """
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(size)
    basis = [vector / np.linalg.norm(vector)]
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        product = times(basis[-1])
        alphas.append(basis[-1] @ product)
        product = _orthogonal(product, basis)
        beta = np.linalg.norm(product)
        values, parts = np.linalg.eigh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
        scale = np.max(np.abs(values)) or 1.0
        is_found = len(basis) > count and np.all(beta * np.abs(parts[-1, -count:]) < TOLERANCE * scale)
        if is_found or len(basis) == min(MOST_STEPS, size):
            return values[-count:][::-1], (np.stack(basis).T @ parts[:, -count:]).T[::-1]
        is_exhausted = beta <= 1e-9 * scale  # The matrix does not lead out of the space of this first vector.
        if is_exhausted:
            product = _orthogonal(rng.standard_normal(size), basis)
        betas.append(0.0 if is_exhausted else float(beta))
        basis.append(product / np.linalg.norm(product))


def _orthogonal(vector, basis):
    """The part of a vector that is orthogonal to the basis; once would leave rounding errors."""
    for _ in range(2):
        vector = vector - np.stack(basis).T @ (np.stack(basis) @ vector)
    return vector


def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """All values of the arrays, one after the other."""
    return np.concatenate([np.asarray(array, "float64").ravel() for array in arrays])


def shaped(vector: np.ndarray, shapes: Sequence[tuple]) -> list[np.ndarray]:
    """The arrays of these shapes that `flat` has made one vector of."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes)]
