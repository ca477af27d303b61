"""Paths and simplexes as weighted means of bends: phi(t) = sum_i c_i(t) w_i.

A parametrization knows only the coefficients c_i(t); the bends w_i (the weights) live in `curves.Curve`.
"""

import abc
import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.arguments import as_integer


class Parametrization(abc.ABC):
    """Weighted means of bends, phi(t) = sum_{i=0}^{n-1} c_i(t) w_i: what paths and simplexes have in common.

    n = `num_bends`, c_i(t) >= 0 and sum_i c_i(t) = 1.

    Attributes:
        num_bends: n.
        middle: The position at which a model stands at first.
        num_uniforms: How many numbers `position_from` takes.
    """

    middle: Any
    num_uniforms = 1

    def __init__(self, num_bends: int):
        self.num_bends = num_bends

    @abc.abstractmethod
    def check_position(self, t: Any) -> Any:
        """Returns `t`; raises a ValueError if it is a number, or an array, that is no position.

        Tensors pass unchecked: their value may not be known while a step is being traced.
        """

    @abc.abstractmethod
    def coefficients(self, t: Any) -> Any:
        """The coefficients c_i(t) of the bends.

        Args:
            t: Position, a number or tensor.

        Returns:
            float32 tensor of shape `(num_bends,)`, non-negative, summing to 1.

        Raises:
            ValueError: if `t` is a number that is no position.
        """

    @property
    @abc.abstractmethod
    def between(self) -> Any:
        """A position at which no bend stands alone."""

    @abc.abstractmethod
    def position_from(self, uniforms: list[Any]) -> Any:
        """The position for `num_uniforms` independent numbers from U[0, 1), so that it is uniform itself."""

    @abc.abstractmethod
    def positions(self, count: int) -> np.ndarray:
        """`count` evenly spaced positions from end to end; none, if there are no ends."""

    def get_config(self) -> dict[str, Any]:
        return {"num_bends": self.num_bends}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Parametrization":
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.num_bends == other.num_bends

    def __hash__(self):
        return hash((type(self), self.num_bends))

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.get_config().items())})"


class Path(Parametrization):
    """A curve phi: [0, 1] -> weight space, given by `num_bends` control points ("bends").

    Bend 0 is phi(0) and bend n-1 is phi(1), so at the ends the coefficients are exactly 0 and 1.

    Args:
        num_bends: Number of bends, BOTH endpoints included, at least 2 (the straight line). The default of 3 has one
            free bend: the setting of the paper, whose text counts only that one.

    Raises:
        ValueError: if `num_bends` is not an integer of at least 2.
    """

    middle = 0.5

    def __init__(self, num_bends: int = 3):
        super().__init__(as_integer("num_bends", num_bends, least=2, note=": it counts both endpoints"))

    @abc.abstractmethod
    def velocity(self, t: Any) -> Any:
        """d coefficients / dt at `t`: float32 tensor of shape `(num_bends,)`, summing to 0."""

    def check_position(self, t: Any) -> Any:
        is_known = isinstance(t, (numbers.Real, np.ndarray, np.generic))
        if is_known and not (np.all(np.asarray(t) >= 0) and np.all(np.asarray(t) <= 1)):
            raise ValueError(f"`t` must lie in [0, 1], the domain of the curve. Received: t={t}")
        return t

    @property
    def between(self) -> Any:
        return 0.5 / (self.num_bends - 1)

    def position_from(self, uniforms: list[Any]) -> Any:
        return uniforms[0]

    def positions(self, count: int) -> np.ndarray:
        return np.linspace(0, 1, count)


def as_path(curve: Parametrization, what: str) -> Path:
    """Returns `curve` if it is a path from end to end; else raises a ValueError that says `what` needs one."""
    if not isinstance(curve, Path):
        raise ValueError(
            f"{what} needs a Bezier curve or a polygonal chain: a simplex has no ends, and no length along it. "
            f"Received: {curve!r}"
        )
    return curve


@keras.saving.register_keras_serializable(package="curves")
class Bezier(Path):
    """Bezier curve: c_i(t) = C(n-1, i) t^i (1-t)^(n-1-i), the Bernstein polynomials of degree n-1 (n = `num_bends`).

    With three bends, as in the paper:
    phi(t) = (1-t)^2 w_0 + 2 t (1-t) theta + t^2 w_2.

    Args:
        num_bends: Number of bends, both endpoints included, at most 132 (see `Path`).

    Example:
        curves.Bezier(3).coefficients(0.5)  # [0.25, 0.5, 0.25]

    References:
        Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018, section 3.2,
        https://arxiv.org/abs/1802.10026
    """

    def __init__(self, num_bends: int = 3):
        super().__init__(num_bends)
        degree = self.num_bends - 1
        if math.comb(degree, degree // 2) > np.finfo("float32").max:
            raise ValueError(
                "`num_bends` of a Bezier curve must be at most 132: the binomial coefficients are float32. "
                f"Received: num_bends={num_bends}"
            )

    def coefficients(self, t: Any) -> Any:
        return ops.stack(_bernstein(self.check_position(t), self.num_bends - 1))

    def velocity(self, t: Any) -> Any:
        degree = self.num_bends - 1
        lower = _bernstein(self.check_position(t), degree - 1)
        zero = ops.zeros_like(lower[0])
        return degree * ops.stack([a - b for a, b in zip([zero, *lower], [*lower, zero])])


@keras.saving.register_keras_serializable(package="curves")
class PolygonalChain(Path):
    """Polygonal chain: c_i(t) = max(0, 1 - |t (n-1) - i|), straight segments from bend to bend (n = `num_bends`).

    With three bends, as in the paper: phi(t) = 2 (t theta + (0.5 - t) w_0) for t <= 0.5, and
    2 ((t - 0.5) w_2 + (1 - t) theta) for t >= 0.5. At an inner bend, `velocity` is that of the segment to its right.

    Args:
        num_bends: Number of bends, both endpoints included (see `Path`).

    Example:
        curves.PolygonalChain(3).coefficients(0.25)  # [0.5, 0.5, 0.0]

    References:
        Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018, section 3.2,
        https://arxiv.org/abs/1802.10026
    """

    def coefficients(self, t: Any) -> Any:
        position = _to_float32(self.check_position(t)) * (self.num_bends - 1)
        bend = ops.round(position)  # At k / (n - 1), rounding is not to leave bend k.
        position = ops.where(ops.abs(position - bend) < 1e-6 * (self.num_bends - 1), bend, position)
        return ops.maximum(0.0, 1.0 - ops.abs(position - ops.arange(self.num_bends, dtype="float32")))

    def velocity(self, t: Any) -> Any:
        segments = self.num_bends - 1
        segment = ops.minimum(ops.floor(_to_float32(self.check_position(t)) * segments), segments - 1)
        bend = ops.arange(self.num_bends, dtype="float32")
        return segments * (ops.cast(bend == segment + 1, "float32") - ops.cast(bend == segment, "float32"))


@keras.saving.register_keras_serializable(package="curves")
class Simplex(Parametrization):
    """Simplex: all weighted means of its vertices, phi(t) = sum_i t_i w_i. A position t is these coefficients.

    A segment for 2 vertices, a triangle for 3. Training draws t uniformly, from Dirichlet(1, ..., 1).

    Args:
        num_vertices: Number of vertices, at least 2. They are the bends of `curves.Curve`.

    Example:
        curves.Simplex(3).coefficients([0.5, 0.25, 0.25])  # [0.5, 0.25, 0.25]

    References:
        Benton et al., Loss Surface Simplexes for Mode Connecting Volumes and Fast Ensembling, ICML 2021,
        https://arxiv.org/abs/2102.13042; Wortsman et al., Learning Neural Network Subspaces, ICML 2021,
        https://arxiv.org/abs/2102.10472
    """

    def __init__(self, num_vertices: int):
        super().__init__(as_integer("num_vertices", num_vertices, least=2))
        self.num_vertices = self.num_uniforms = self.num_bends
        self.middle = np.full(self.num_vertices, 1 / self.num_vertices, "float32")

    @property
    def between(self) -> Any:
        return self.middle

    def check_position(self, t: Any) -> Any:
        if isinstance(t, (numbers.Real, np.ndarray, np.generic, list, tuple)):
            t = np.asarray(t, "float32")
            if t.shape != (self.num_vertices,) or not (np.all(t >= 0) and abs(np.sum(t) - 1) < 1e-4):
                expected = f"{self.num_vertices} numbers of at least 0 with the sum 1, on a simplex"
                raise ValueError(f"`t` must be {expected}. Received: t={t}")
        return t

    def coefficients(self, t: Any) -> Any:
        return _to_float32(self.check_position(t))

    def position_from(self, uniforms: list[Any]) -> Any:
        # Exponential variables, divided by their sum, are Dirichlet(1, ..., 1).
        exponentials = -ops.log(1.0 - ops.minimum(ops.stack(uniforms), 1 - 1e-7))
        return exponentials / ops.maximum(ops.sum(exponentials), 1e-30)

    def positions(self, count: int) -> np.ndarray:
        return np.zeros((0, self.num_vertices))

    def get_config(self) -> dict[str, Any]:
        return {"num_vertices": self.num_vertices}


def _to_float32(t):
    return ops.cast(ops.convert_to_tensor(t), "float32")


def _bernstein(t, degree):
    """The `degree + 1` Bernstein polynomials at `t`.

    Products, not powers: the gradient of `t ** 0` at t = 0 is NaN on some backends.
    """
    t = _to_float32(t)
    powers, complements = [ops.ones_like(t)], [ops.ones_like(t)]
    for _ in range(degree):
        powers.append(powers[-1] * t)
        complements.append(complements[-1] * (1.0 - t))
    return [float(math.comb(degree, i)) * powers[i] * complements[degree - i] for i in range(degree + 1)]
