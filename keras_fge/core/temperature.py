"""Temperature scaling: p_T = softmax(log(p) / T), of arrays and as layers, and the T that fits labels best."""

from typing import Any

import keras
import numpy as np

SMALLEST, LARGEST = 1 / 64, 64  # Where T is looked for.
LEAST = 1e-7  # Probabilities are taken to be at least this.


def logits_of(probabilities: np.ndarray, are_independent: bool) -> np.ndarray:
    """Logits: log p, for a softmax; or log p - log(1 - p), for a sigmoid, if elements, or one column, stand alone.

    Args:
        probabilities, are_independent: As for `with_temperature`.
    """
    logits = np.log(np.maximum(probabilities, LEAST))
    if are_independent or probabilities.shape[-1] == 1:
        logits -= np.log(np.maximum(1 - probabilities, LEAST))
    return logits


def with_temperature(probabilities: np.ndarray, temperature: float, are_independent: bool) -> np.ndarray:
    """p_T of probabilities, in their own type.

    Args:
        probabilities: Shape `(..., classes)`; one column alone is the probability of class 1 of two.
        temperature: T. Above 1, all classes become more alike; below, less.
        are_independent: Whether each element is a probability of its own, as for labels that do not exclude each other.
    """
    logits = logits_of(np.asarray(probabilities, "float64"), are_independent) / temperature
    is_sigmoid = are_independent or logits.shape[-1] == 1
    scaled = np.exp(-np.logaddexp(0, -logits)) if is_sigmoid else softmax(logits)
    return scaled.astype(np.asarray(probabilities).dtype)


def temperature_layers(tensor: Any, temperature: float, are_independent: bool) -> Any:
    """`with_temperature` of a symbolic tensor, by operations of Keras alone."""
    ops = keras.ops
    logits = ops.log(ops.maximum(tensor, LEAST))
    if are_independent or tensor.shape[-1] == 1:
        return ops.sigmoid((logits - ops.log(ops.maximum(1 - tensor, LEAST))) / temperature)
    return ops.softmax(logits / temperature, axis=-1)


def best_temperature(logits: np.ndarray, of_labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The T with the least mean NLL of softmax(logits / T), and its relative standard error.

    The NLL is convex in b = 1/T. Its slope, the mean of s_n = sum_c p_n[c] l_n[c] - l_n[y_n], is brought to 0 by
    bisection. With the curvature H = mean of the variance of l_n under p_n, b has the standard error
    sqrt(sum (w_n s_n)^2) / (H sum w_n).

    Args:
        logits: l, shape `(N, classes)`.
        of_labels: l_n[y_n], shape `(N,)`; of soft labels the mean over them.
        weights: w, shape `(N,)`.
    """

    def slopes(b):
        probabilities = softmax(logits * b)
        means = np.sum(probabilities * logits, axis=1)
        return means - of_labels, np.sum(probabilities * logits**2, axis=1) - means**2

    low, high = np.log2(1 / LARGEST), np.log2(1 / SMALLEST)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if np.average(slopes(2**middle)[0], weights=weights) > 0 else (middle, high)
    b = 2 ** ((low + high) / 2)
    scores, variances = slopes(b)
    curvature = np.sum(weights * variances)
    error = np.sqrt(np.sum((weights * scores) ** 2)) / curvature if curvature > 0 else np.inf
    return float(1 / b), float(error / b)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exponentials = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)
