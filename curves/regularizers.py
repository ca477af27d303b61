"""Losses of the bends themselves, which keep them apart: the volume of a simplex, and the cosines between weights."""

import abc
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_fge.core.arguments import as_number


class BendRegularizer(abc.ABC):
    """A loss term of all bends of a `Curve`, in training alone.

    Args:
        strength: Its factor, at least 0.
    """

    def __init__(self, strength: float):
        self.strength = as_number("strength", strength, least=0)

    @abc.abstractmethod
    def __call__(self, bends: Sequence[Sequence[Any]]) -> Any:
        """The term, a scalar tensor. `bends[i]` are the weights of bend i."""

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BendRegularizer":
        return cls(**config)


@keras.saving.register_keras_serializable(package="curves")
class VolumeRegularizer(BendRegularizer):
    """-strength log V, with the volume of the simplex of the n bends: V = sqrt(det G) / (n - 1)!.

    G[i, k] = <w_i - w_0, w_k - w_0>, i, k = 1, ..., n - 1. It lets a simplex grow as far as the loss allows. The bends
    must not lie in one plane of lower dimension at the start, where V is 0: add some noise to a new vertex.

    Args:
        strength: Its factor, such as 1e-2.

    Example:
        curves.Curve(keras.layers.Dense(3), curves.Simplex(3), regularizer=curves.VolumeRegularizer(1e-2))

    References:
        Benton et al., Loss Surface Simplexes, ICML 2021, equation 6, https://arxiv.org/abs/2102.13042
    """

    def __call__(self, bends):
        edges = [[w - w_0 for w, w_0 in zip(bend, bends[0])] for bend in bends[1:]]
        root = ops.diagonal(ops.cholesky(_gram(edges)))  # XLA has no determinant.
        return -self.strength * (ops.sum(ops.log(root)) - math.lgamma(len(bends)))


@keras.saving.register_keras_serializable(package="curves")
class CosineRegularizer(BendRegularizer):
    """strength times the mean over all pairs of bends of cos^2(w_i, w_k) = <w_i, w_k>^2 / (||w_i||^2 ||w_k||^2).

    It keeps the ends of a learned line, or the vertices of a simplex, from becoming the same network. (The paper draws
    one pair for each step; this is its mean.)

    Args:
        strength: beta of the paper, which takes 1.

    Example:
        curves.Curve(keras.layers.Dense(3), curves.Bezier(2), fix_start=False, fix_end=False,
                     regularizer=curves.CosineRegularizer(1.0))

    References:
        Wortsman et al., Learning Neural Network Subspaces, ICML 2021, section 3, https://arxiv.org/abs/2102.10472
    """

    def __call__(self, bends):
        gram = _gram(bends)
        squares = ops.diagonal(gram)
        cosines = ops.square(gram) / (squares[:, None] * squares[None, :] + 1e-12)
        count = len(bends)
        return self.strength * (ops.sum(cosines) - ops.sum(ops.diagonal(cosines))) / (count * (count - 1))


def _gram(vectors):
    """<v_i, v_k> of lists of tensors."""
    return ops.stack(
        [ops.stack([sum(ops.sum(a * b) for a, b in zip(first, second)) for second in vectors]) for first in vectors]
    )
