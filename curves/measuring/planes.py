"""A plane in weight space: through three networks, or three bends of a curve, or around one network."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from curves.eligibility import check_same_constants
from curves.geometry import coefficients_at, gram_of_differences
from curves.measuring.directions import filter_directions, hessian_directions
from curves.measuring.meter import Meter
from curves.model import CurveModel
from keras_fge.core.architecture import check_same_architecture
from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.derivatives import LossDerivatives
from keras_fge.core.networks import read, regularization, restored

POSITIONS = 61  # At which paths are projected on a plane.


class Plane:
    """The plane w_0 + a (w_1 - w_0) + b (w_2 - w_0), and the model that is measured on it.

    Args:
        model: The model.
        curve: What its weights lie on; None: a plain network.
        slots: (variables, (w_0, w_1, w_2)) of each weight; on a curve, all bends are the same point.
        gram: Gram matrix of w_1 - w_0 and w_2 - w_0.
        extent: How far the grid goes on both sides of w_0. Default: it goes around the three points.

    Raises:
        ValueError: if the three points do not span a plane.
    """

    def __init__(self, model, curve, slots, gram, extent=None):
        first, second = np.sqrt(np.diag(gram))
        if not np.linalg.det(gram) > 1e-8 * (first * second) ** 2:
            raise ValueError(
                "The three points of `networks` lie on one line, or two of them are equal: there is no plane."
            )
        self.model, self.slots, self.extent = model, slots, extent
        self._curve, self._gram = curve, gram
        self.vertices = self._coordinates(np.eye(3)[:, 1:])

    def _coordinates(self, shares):
        """(x, y) of the points with the rows (a, b) of `shares`."""
        (square_1, product), (_, square_2) = self._gram
        x_1 = product / np.sqrt(square_2)
        y_1 = np.sqrt(square_1 - x_1**2)
        return shares @ np.array([[x_1, y_1], [np.sqrt(square_2), 0.0]])

    def settings(self) -> dict[str, Any]:
        """What tells this plane from others, as JSON can hold it."""
        return {"vertices": [round(float(value), 4) for value in self.vertices.ravel()]}

    def plane(self, meter: Meter) -> tuple["Plane", dict[str, Any]]:
        """As `Around.plane`: this plane is known already."""
        return self, {}

    def grid(self, numbers: Sequence[int], margin: float) -> list[np.ndarray]:
        """Coordinates of so many points in x and in y: from beyond the three points to beyond them, or around w_0."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        if self.extent is not None:
            low, high, margin = -self.extent * high, self.extent * high, 0.0
        return [np.linspace(a - margin * (b - a), b + margin * (b - a), n) for a, b, n in zip(low, high, numbers)]

    def move_to(self, point):
        """Gives the model the weights at (x, y)."""
        first, second = np.linalg.solve(self._coordinates(np.eye(2)).T, point)
        for variables, (w_0, w_1, w_2) in self.slots:
            value = w_0 + first * (w_1 - w_0) + second * (w_2 - w_0)
            for variable in variables:
                variable.assign(value)
        if self._curve:  # Where one bend stands alone, if fixed, it would use its own statistics.
            self.model.t = self._curve.between

    def penalty(self):
        """The part of the loss that depends on the present weights alone."""
        return self.model.penalty(self._curve.between) if self._curve else regularization(self.model)

    def projected(self, curve):
        """(x, y, distance from the plane) of positions along a curve: shape `(61, 3)`; none on a simplex."""
        positions = curve.curve.positions(POSITIONS)
        products, squares = np.zeros((len(positions), 2)), np.zeros(len(positions))
        points = (three for _, three in self.slots)
        for layer in curve.curve_layers():
            coefficients = coefficients_at(layer, positions)
            for slot, three in zip(zip(*layer.bends), points):
                w_0, *sides = (w.astype("float64").ravel() for w in three)
                differences = np.stack([read(bend).astype("float64").ravel() - w_0 for bend in slot])
                products += coefficients @ differences @ np.stack([w - w_0 for w in sides]).T
                squares += np.einsum("ji,ik,jk->j", coefficients, differences @ differences.T, coefficients)
        along = self._coordinates(np.linalg.solve(self._gram, products.T).T)
        distances = np.sqrt(np.maximum(squares - np.sum(along**2, axis=1), 0.0))
        return np.concatenate([along, distances[:, None]], axis=1)


def plane_of_networks(networks: Any, bends: Any) -> Plane:
    """The plane through three networks, after checks of the arguments of `evaluate_plane`."""
    if bends is not None:
        raise ValueError(f"`bends` are for a CurveModel; three networks have none. Received: bends={bends}")
    if not isinstance(networks, (list, tuple)) or len(networks) != 3:
        raise ValueError(
            "`networks` must be a CurveModel or three networks; around one network, `directions` say which plane. "
            f"Received: networks={networks!r}"
        )
    for index, network in enumerate(networks):
        if not isinstance(network, keras.Model):
            raise ValueError(f"`networks[{index}]` must be a keras.Model. Received: {network!r}")
        names = "`networks[0]`", f"`networks[{index}]`"
        check_same_architecture(networks[0], network, *names)
        check_same_constants(networks[0], network, *names)
    weights = [network.trainable_variables for network in networks]
    slots = [((three[0],), tuple(map(read, three))) for three in zip(*weights)]
    return Plane(networks[0], None, slots, gram_of_differences(weights)[1:, 1:])


def plane_of_bends(model: CurveModel, bends: Sequence[int] | None) -> Plane:
    """The plane through three bends of a curve."""
    bends = three_bends(model, bends)
    slots = []
    gram = np.zeros((2, 2))
    for layer in model.curve_layers():
        chosen = [layer.bends[index] for index in bends]
        gram += gram_of_differences(chosen)[1:, 1:]
        slots += [(slot, tuple(map(read, three))) for slot, three in zip(zip(*layer.bends), zip(*chosen))]
    return Plane(model, model.curve, slots, gram)


def three_bends(model: CurveModel, bends: Sequence[int] | None) -> list[int]:
    """The indices of three bends; by default all of three."""
    numbers = {layer.curve.num_bends for layer in model.curve_layers()}
    if bends is None and numbers == {3}:
        return [0, 1, 2]
    if bends is None or len(set(bends)) != 3 or not all(0 <= index < min(numbers) for index in bends):
        raise ValueError(
            f"`bends` must be three of the bends 0 to {min(numbers) - 1} of the curve. Received: bends={bends}"
        )
    return list(map(int, bends))


class Around:
    """The plane around one network, of which the arguments are checked at once, and the directions computed later.

    Args:
        network, bends, directions, extent, seed: As given to `evaluate_plane`.
    """

    def __init__(self, network: Any, bends: Any, directions: str, extent: float, seed: int):
        if directions not in ("filter", "hessian"):
            raise ValueError(f'`directions` must be "filter" or "hessian". Received: directions={directions!r}')
        if not isinstance(network, keras.Model) or isinstance(network, CurveModel) or bends is not None:
            raise ValueError(f"`directions` go from one keras.Model, without `bends`. Received: networks={network!r}")
        if sum(int(np.prod(variable.shape)) for variable in network.trainable_variables) < 2:
            raise ValueError(f"'{network.name}' has less than two weights to train, and so no plane around it.")
        self.model, self.directions = network, directions
        self.extent, self.seed = as_number("extent", extent, least=1e-6), as_integer("seed", seed, least=0)

    def settings(self) -> dict[str, Any]:
        """What the user asks for: directions that are computed again may differ in their last digits."""
        return {"directions": self.directions, "extent": self.extent, "seed": self.seed}

    def penalty(self) -> float:
        """The part of the loss that depends on the present weights alone."""
        return regularization(self.model)

    def plane(self, meter: Meter) -> tuple[Plane, dict[str, Any]]:
        """The plane, and what is to be known of it: {"curvatures": the two largest eigenvalues}, or {}."""
        network, about = self.model, {}
        if self.directions == "filter":
            first, second = filter_directions(network, self.seed)
        else:
            with restored(network):  # With the statistics that the middle of the grid has.
                meter.estimate()
                derivatives = LossDerivatives(network, meter.train, meter.batch_size)
                (first, second), values = hessian_directions(derivatives, self.seed)
            about = {"curvatures": [float(f"{value:.6g}") for value in values]}
        if not any(np.any(part) for part in first):
            raise ValueError(f"'{network.name}' has no kernel to train, whose filters could move.")
        square, product = (sum(np.sum(a * b) for a, b in zip(first, other)) for other in (first, second))
        second = [b - product / square * a for a, b in zip(first, second)]
        squares = [sum(np.sum(part**2) for part in direction) for direction in (second, first)]
        slots = []
        for variable, *sides in zip(network.trainable_variables, second, first):
            weight = read(variable)
            slots.append(((variable,), (weight, *(weight + side.astype("float32") for side in sides))))
        return Plane(network, None, slots, np.diag(squares), self.extent), about
