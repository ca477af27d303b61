"""LoRA: the factors A and B of an update are known but for an invertible map, as (A R) (R^-1 B) = A B."""

from collections.abc import Iterator

import keras
import numpy as np

from curves.alignment.rules import may_turn
from keras_fge.core.keras_internals import all_layers, has_lora, lora_factors
from keras_fge.core.networks import to_array


def aligned_factors(network: keras.Model, reference: keras.Model) -> dict[int, np.ndarray]:
    """The factors of `network`, brought near to those of `reference` by invertible maps, by the ids of their variables.

    With the balanced factors A' = U s^1/2 and B' = s^1/2 V^T of A B = U s V^T of both networks, and the map G that
    leads from those of the reference to its own, A = A' G and B = G^-1 B', the network gets A' Q G and G^-1 Q^T B',
    where the orthogonal Q brings its balanced factors nearest to those of the reference (Procrustes). If an update has
    not the full rank of its factors, there is no such G: then an orthogonal map of A and B themselves is taken; also
    where that comes nearer.
    """
    found = {}
    for ours, theirs in zip(_pairs(network), _pairs(reference)):
        a, b = (to_array(variable).astype("float64") for variable in ours)
        factors = a.reshape(-1, a.shape[-1]), b
        a_ref, b_ref = (to_array(variable).astype("float64") for variable in theirs)
        goal = a_ref.reshape(-1, a_ref.shape[-1]), b_ref
        candidates = [factors, _turned(factors, goal)]
        balanced, balanced_goal = _balanced(factors), _balanced(goal)
        if balanced is not None and balanced_goal is not None:
            gauge = np.linalg.pinv(balanced_goal[0]) @ goal[0]
            turned = _turned(balanced, balanced_goal)
            candidates.append((turned[0] @ gauge, np.linalg.solve(gauge, turned[1])))
        best = min(candidates, key=lambda pair: sum(np.sum((x - y) ** 2) for x, y in zip(pair, goal)))
        if best is not factors:
            found[id(ours[0])], found[id(ours[1])] = best[0].reshape(a.shape), best[1]
    return found


def _pairs(network) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    """The trained factors (A, B) of all layers with LoRA: A B is added to the weight."""
    for layer in all_layers(network):
        factors = lora_factors(layer) if has_lora(layer) else None
        if factors is not None and all(factor.trainable and may_turn(factor) for factor in factors):
            yield factors


def _turned(factors, goal):
    """(A Q, Q^T B) with the orthogonal Q that brings it nearest to `goal`."""
    u, _, v = np.linalg.svd(factors[0].T @ goal[0] + factors[1] @ goal[1].T)
    return factors[0] @ (u @ v), (u @ v).T @ factors[1]


def _balanced(factors):
    """(U s^1/2, s^1/2 V^T) of A B = U s V^T; None if its rank is less than that of the factors."""
    (left, upper), (right, lower) = np.linalg.qr(factors[0]), np.linalg.qr(factors[1].T)
    rank = factors[0].shape[1]
    if len(upper) < rank or len(lower) < rank:
        return None
    u, s, v = np.linalg.svd(upper @ lower.T)
    if s[-1] <= 1e-5 * s[0]:
        return None
    return left @ u * np.sqrt(s), (np.sqrt(s)[:, None] * v) @ right.T
