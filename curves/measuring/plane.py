"""`evaluate_plane`: loss and metrics on a grid in the plane through three networks or bends, or around one network."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from curves.eligibility import check_same_constants
from curves.geometry import coefficients_at, gram_of_differences
from curves.measuring.directions import filter_directions, hessian_directions
from curves.measuring.meter import Meter, check_compiled
from curves.measuring.path import settings_of_curve
from curves.measuring.points import Points
from curves.model import CurveModel
from curves.parametrization import Path
from curves.results import PlaneResult
from keras_fge.core.architecture import check_same_architecture
from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.batch_norm import update_batch_norm
from keras_fge.core.data import check_data, subset, without_none
from keras_fge.core.derivatives import LossDerivatives
from keras_fge.core.networks import locked, read, regularization, restored

POSITIONS = 61  # At which paths are projected on a plane.


def evaluate_plane(
    networks: CurveModel | Sequence[keras.Model] | keras.Model,
    train: Any,
    test: Any,
    bends: Sequence[int] | None = None,
    *,
    directions: str | None = None,
    extent: float = 1.0,
    seed: int = 0,
    num_points: int | tuple[int, int] = 21,
    margin: float = 0.2,
    batch_size: int = 128,
    train_samples: int | None = None,
    bn_samples: int | None = None,
    file: str | os.PathLike | None = None,
    verbose: bool = True,
    others: Mapping[str, CurveModel] | None = None,
) -> PlaneResult:
    """Evaluates the plane through three networks, or three bends of a curve, or around one network, on a grid.

    A point of the plane is w_0 + x e_x + y e_y with the orthonormal vectors (paper, appendix A.1)

        e_x = (w_2 - w_0) / ||w_2 - w_0||,   e_y = v / ||v||,   v = (w_1 - w_0) - <w_1 - w_0, e_x> e_x.

    At each point of the grid it re-estimates the BatchNormalization statistics and measures as `evaluate_path` does.
    The curve, if there is one, is projected on the plane; a curve of three bends lies in it. Afterwards, also after an
    error, the networks have their previous weights again.

    Around one network w_0, `directions` says which plane: w_0 + a d_1 + b d_2 for a and b from -`extent` to `extent`.
    Of "filter", d_1 and d_2 are random, and each filter is as long as that filter of the network (Li et al. 2018); all
    weights with one axis, such as biases, stay as they are. Of "hessian", they are the eigenvectors of the two largest
    eigenvalues of the Hessian of the train loss, in inference mode and with regularizers, found by Lanczos' method;
    each is so long that a parabola of this curvature rises by 1 at its tip. `settings["curvatures"]` has the
    eigenvalues, and `print(result)` says what they mean. d_2 is made orthogonal to d_1.

    Args:
        networks: A compiled `CurveModel`; or three `keras.Model` of one architecture, w_0, w_1 and w_2, the first of
            which must be compiled; or, with `directions`, one compiled `keras.Model`.
        train, test, batch_size, train_samples, bn_samples, file, verbose: As in `evaluate_path`.
        bends: Indices of the three bends of a `CurveModel`, w_0, w_1 and w_2, that span the plane. Default:
            `(0, 1, 2)`, if the curve has three bends.
        directions: "filter" or "hessian", around one network. Default: none.
        extent: How far the grid reaches on both sides, in lengths of d_1 and d_2. Default: 1.
        seed: Seed of the random directions, or of the first vector of Lanczos' method. Default: 0.
        num_points: Points of the grid in each direction: a number, or a pair for x and y. Default: 21. (An odd number
            has the network itself in the middle.)
        margin: How far the grid reaches beyond the three points, as a fraction of their range in x and in y.
            Default: 0.2.
        others: Further curves to draw on the plane, by name, such as a line to an aligned network: `CurveModel`s of
            this architecture. They are projected, and nothing is measured on them. Default: none.

    Returns:
        A `PlaneResult`.

    Raises:
        ValueError: if there are not three networks of one architecture, if the three points lie on one line, if
            `directions` come without one network, and for data, settings or a `file` that `evaluate_path` refuses.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=1, verbose=0)
        plane = curves.evaluate_plane(curve, (x, y), (x_test, y_test), num_points=3)
        plane.train["loss"].shape  # (3, 3)

    References:
        Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, https://arxiv.org/abs/1712.09913
    """
    given = networks if isinstance(networks, (list, tuple)) else [networks]
    with locked(*(network for network in given if isinstance(network, keras.Model))):
        curve = networks if isinstance(networks, CurveModel) else None
        if directions is not None:
            data = subset(without_none(train), train_samples, "train_samples")
            plane = _plane_around(networks, bends, directions, data, as_integer("seed", seed, least=0), batch_size)
            curve = None
        else:
            plane = _plane_of_bends(curve, bends) if curve else _plane_of_networks(networks, bends)
        check_compiled(plane.model)
        projections = {
            name: plane.projected(_checked_path(name, other, plane)) for name, other in (others or {}).items()
        }
        x, y = plane.grid(num_points, margin, extent)
        meter = Meter(
            plane.model,
            train,
            test,
            batch_size=batch_size,
            train_samples=train_samples,
            bn_samples=bn_samples,
            penalty=plane.penalty,
        )
        settings = {"num_points": [len(x), len(y)], "margin": float(margin), **meter.settings()}
        if curve:
            settings |= {**settings_of_curve(curve), "bends": _three_bends(curve, bends)}
        if directions is not None:
            settings |= {"directions": directions, "extent": float(extent), "seed": seed, **plane.about}
        settings["penalty"] = f"{plane.penalty():.5g}"
        settings["vertices"] = [round(float(value), 4) for value in plane.vertices.ravel()]
        points = Points(file, PlaneResult.__name__, settings, len(x) * len(y))
        if file is not None and points.is_finished:
            result = PlaneResult.load(file)
            if not projections:
                return result
            result = dataclasses.replace(result, others={**result.others, **projections})
        else:

            def measure(point):
                plane.move_to(point)
                return meter.measure(), {}

            points.measure(plane.model, [(a, b) for b in y for a in x], measure, verbose)
            along = plane.projected(curve) if curve else np.zeros((0, 3))
            splits = {
                split: {name: values.reshape(len(y), len(x)) for name, values in points.columns(split).items()}
                for split in ("train", "test")
            }
            result = PlaneResult(
                x=x,
                y=y,
                vertices=plane.vertices,
                path=along[:, :2],
                path_distance=along[:, 2],
                **splits,
                settings={**settings, **meter.samples},
                others=projections,
            )
    if file is not None:
        result.save(file)
    return result


class _Plane:
    """The plane w_0 + a (w_1 - w_0) + b (w_2 - w_0), and the model that is measured on it.

    Args:
        model: The model.
        curve: What its weights lie on; None: a plain network.
        slots: (variables, (w_0, w_1, w_2)) of each weight; on a curve, all bends are the same point.
        gram: Gram matrix of w_1 - w_0 and w_2 - w_0.
        about: Of a plane around w_0 alone: what the directions are. Default: a plane through three points.

    Raises:
        ValueError: if the three points do not span a plane.
    """

    def __init__(self, model, curve, slots, gram, about=None):
        first, second = np.sqrt(np.diag(gram))
        if not np.linalg.det(gram) > 1e-8 * (first * second) ** 2:
            raise ValueError(
                "The three points of `networks` lie on one line, or two of them are equal: there is no plane."
            )
        self.model, self.slots, self.about = model, slots, about
        self._curve, self._gram = curve, gram
        self.vertices = self._coordinates(np.eye(3)[:, 1:])

    def _coordinates(self, shares):
        """(x, y) of the points with the rows (a, b) of `shares`."""
        (square_1, product), (_, square_2) = self._gram
        x_1 = product / np.sqrt(square_2)
        y_1 = np.sqrt(square_1 - x_1**2)
        return shares @ np.array([[x_1, y_1], [np.sqrt(square_2), 0.0]])

    def grid(self, num_points, margin, extent):
        """Coordinates of the grid, in x and in y."""
        pair = (num_points, num_points) if np.ndim(num_points) == 0 else tuple(num_points)
        if len(pair) != 2:
            raise ValueError(f"`num_points` must be a number, or a pair for x and y. Received: num_points={num_points}")
        margin = as_number("margin", margin, least=0)
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        if self.about is not None:
            high = as_number("extent", extent, least=1e-6) * high
            low, margin = -high, 0.0
        numbers = [as_integer("num_points", number, least=2) for number in pair]
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


def _plane_of_networks(networks, bends):
    if bends is not None:
        raise ValueError(f"`bends` are for a CurveModel; three networks have none. Received: bends={bends}")
    if not isinstance(networks, (list, tuple)) or len(networks) != 3:
        raise ValueError(f"`networks` must be a CurveModel or three networks. Received: networks={networks!r}")
    for index, network in enumerate(networks):
        if not isinstance(network, keras.Model):
            raise ValueError(f"`networks[{index}]` must be a keras.Model. Received: {network!r}")
        names = "`networks[0]`", f"`networks[{index}]`"
        check_same_architecture(networks[0], network, *names)
        check_same_constants(networks[0], network, *names)
    weights = [network.trainable_variables for network in networks]
    slots = [((three[0],), tuple(map(read, three))) for three in zip(*weights)]
    return _Plane(networks[0], None, slots, gram_of_differences(weights)[1:, 1:])


def _plane_around(network, bends, directions, train, seed, batch_size):
    if directions not in ("filter", "hessian"):
        raise ValueError(f'`directions` must be "filter" or "hessian". Received: directions={directions!r}')
    if not isinstance(network, keras.Model) or isinstance(network, CurveModel) or bends is not None:
        raise ValueError(f"`directions` go from one keras.Model, without `bends`. Received: networks={network!r}")
    check_compiled(network)
    if directions == "filter":
        (first, second), about = filter_directions(network, seed), {}
    else:
        check_data("train", train)
        with restored(network):  # At the middle of the grid the statistics are those of `train`, too.
            update_batch_norm(network, train, batch_size)
            (first, second), values = hessian_directions(LossDerivatives(network, train, batch_size), seed)
        about = {"curvatures": [float(f"{value:.6g}") for value in values]}
    if not any(np.any(part) for part in first):
        raise ValueError(f"'{network.name}' has no trainable weight with two axes or more, whose filters could move.")
    square, product = (sum(np.sum(a * b) for a, b in zip(first, other)) for other in (first, second))
    second = [b - product / square * a for a, b in zip(first, second)]
    squares = [sum(np.sum(part**2) for part in direction) for direction in (second, first)]
    slots = []
    for variable, *sides in zip(network.trainable_variables, second, first):
        weight = read(variable)
        slots.append(((variable,), (weight, *(weight + side.astype("float32") for side in sides))))
    return _Plane(network, None, slots, np.diag(squares), about)


def _plane_of_bends(model, bends):
    bends = _three_bends(model, bends)
    slots = []
    gram = np.zeros((2, 2))
    for layer in model.curve_layers():
        chosen = [layer.bends[index] for index in bends]
        gram += gram_of_differences(chosen)[1:, 1:]
        slots += [(slot, tuple(map(read, three))) for slot, three in zip(zip(*layer.bends), zip(*chosen))]
    return _Plane(model, model.curve, slots, gram)


def _three_bends(model, bends):
    numbers = {layer.curve.num_bends for layer in model.curve_layers()}
    if bends is None and numbers == {3}:
        return [0, 1, 2]
    if bends is None or len(set(bends)) != 3 or not all(0 <= index < min(numbers) for index in bends):
        raise ValueError(
            f"`bends` must be three of the bends 0 to {min(numbers) - 1} of the curve. Received: bends={bends}"
        )
    return list(map(int, bends))


def _checked_path(name, model, plane):
    """Returns `model`; raises a ValueError unless it is a curve that can be projected on the plane."""
    if not isinstance(model, CurveModel) or not isinstance(model.curve, Path):
        raise ValueError(f"`others` must hold a curves.CurveModel on a curve for each name. Received: {name}={model!r}")
    shapes = [tuple(slot[0].shape) for layer in model.curve_layers() for slot in zip(*layer.bends)]
    if shapes != [three[0].shape for _, three in plane.slots]:
        raise ValueError(f"`others`: '{name}' must have the architecture of `networks`.")
    return model
