"""Loss and metrics on a grid in the plane through three networks, or three bends of a curve."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from curves.connect import check_same_constants
from curves.measure import Meter
from curves.model import CurveModel, gram_of_differences
from curves.parametrization import Simplex
from curves.points import Points, measure_points
from curves.results import PlaneResult
from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.networks import check_same_architecture, locked, read, regularization


def evaluate_plane(
    networks: CurveModel | Sequence[keras.Model],
    train: Any,
    test: Any,
    bends: Sequence[int] | None = None,
    num_points: int | tuple[int, int] = 21,
    margin: float = 0.2,
    batch_size: int = 128,
    train_samples: int | None = None,
    bn_samples: int | None = None,
    path: str | os.PathLike | None = None,
    verbose: bool = True,
    paths: Mapping[str, CurveModel] | None = None,
) -> PlaneResult:
    """Evaluates the plane through three networks, or three bends of a curve, on a grid.

    A point of the plane is w_0 + x e_x + y e_y with the orthonormal vectors (paper, appendix A.1)

        e_x = (w_2 - w_0) / ||w_2 - w_0||,   e_y = v / ||v||,   v = (w_1 - w_0) - <w_1 - w_0, e_x> e_x.

    At each point of the grid it re-estimates the BatchNormalization statistics and measures as `evaluate_path` does.
    The curve, if there is one, is projected on the plane; a curve of three bends lies in it. Afterwards, also after an
    error, the networks have their previous weights again.

    Args:
        networks: A compiled `CurveModel`; or three `keras.Model` of one architecture, w_0, w_1 and w_2, the first of
            which must be compiled.
        train, test, batch_size, train_samples, bn_samples, path, verbose: As in `evaluate_path`.
        bends: Indices of the three bends of a `CurveModel`, w_0, w_1 and w_2, that span the plane. Default:
            `(0, 1, 2)`, if the curve has three bends.
        num_points: Points of the grid in each direction: a number, or a pair for x and y. Default: 21.
        margin: How far the grid reaches beyond the three points, as a fraction of their range in x and in y.
            Default: 0.2.
        paths: Further paths to draw on the plane, by name, such as a line to an aligned network: `CurveModel`s of this
            architecture. They are projected, and nothing is measured on them. Default: none.

    Returns:
        A `PlaneResult`.

    Raises:
        ValueError: if there are not three networks of one architecture, if the three points lie on one line, and for
            data, settings or a `path` that `evaluate_path` refuses.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=1, verbose=0)
        plane = curves.evaluate_plane(curve, (x, y), (x_test, y_test), num_points=3)
        plane.train["loss"].shape  # (3, 3)
    """
    given = networks if isinstance(networks, (list, tuple)) else [networks]
    with locked(*(network for network in given if isinstance(network, keras.Model))):
        arguments = num_points, margin, batch_size, train_samples, bn_samples, path, verbose
        return _measured(networks, train, test, bends, paths or {}, *arguments)


def _measured(
    networks, train, test, bends, paths, num_points, margin, batch_size, train_samples, bn_samples, path, verbose
):
    curve = networks if isinstance(networks, CurveModel) else None
    model, slots, gram = _plane_of_bends(networks, bends) if curve else _plane_of_networks(networks, bends)
    for name, other in paths.items():
        _check_path(name, other, slots)
    projections = {name: _projected(other, slots, gram) for name, other in paths.items()}
    pair = (num_points, num_points) if np.ndim(num_points) == 0 else tuple(num_points)
    if len(pair) != 2:
        raise ValueError(f"`num_points` must be a number, or a pair for x and y. Received: num_points={num_points}")
    numbers = [as_integer("num_points", number, least=2) for number in pair]
    margin = as_number("margin", margin, least=0)
    vertices = _coordinates(np.eye(3)[:, 1:], gram)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    x, y = (np.linspace(a - margin * (b - a), b + margin * (b - a), n) for a, b, n in zip(low, high, numbers))

    def penalty():
        return model.penalty(curve.parametrization.between) if curve else regularization(model)

    meter = Meter(model, train, test, batch_size, train_samples, bn_samples, penalty)
    settings = {"num_points": numbers, "margin": margin, **meter.settings}
    settings["penalty"] = f"{penalty():.5g}"
    if curve:
        settings.update(curve.description(), bends=_three_bends(curve, bends))
    settings["vertices"] = [round(float(value), 4) for value in vertices.ravel()]
    points = Points(path, PlaneResult, settings, len(x) * len(y))
    if points.result:
        result = dataclasses.replace(points.result, paths={**points.result.paths, **projections})
        if projections and path is not None:
            result.save(path)
        return result

    def measure(point):
        first, second = _shares(point, gram)
        for variables, (w_0, w_1, w_2) in slots:
            value = w_0 + first * (w_1 - w_0) + second * (w_2 - w_0)
            for variable in variables:
                variable.assign(value)
        if curve:
            # All bends are the same point now; where one stands alone, if fixed, it would use its own statistics.
            curve.t = curve.parametrization.between
        return meter.measure(), {}

    measure_points(model, points, [(a, b) for b in y for a in x], measure, verbose)
    shape = (len(y), len(x))
    has_path = curve and not isinstance(curve.parametrization, Simplex)
    projected = _projected(curve, slots, gram) if has_path else np.zeros((0, 3))
    result = PlaneResult(
        x=x,
        y=y,
        vertices=vertices,
        path=projected[:, :2],
        path_distance=projected[:, 2],
        train={name: values.reshape(shape) for name, values in points.columns("train").items()},
        test={name: values.reshape(shape) for name, values in points.columns("test").items()},
        settings={**settings, **meter.samples()},
        paths=projections,
    )
    if path is not None:
        result.save(path)
    return result


def _plane_of_networks(networks, bends):
    """Returns (model to measure with, [((variable,), (w_0, w_1, w_2)) of each weight], Gram matrix of w_1 and w_2)."""
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
    return networks[0], slots, _checked(gram_of_differences(weights)[1:, 1:])


def _plane_of_bends(model, bends):
    bends = _three_bends(model, bends)
    slots = []
    gram = np.zeros((2, 2))
    for layer in model.curve_layers():
        chosen = [layer.bends[index] for index in bends]
        gram += gram_of_differences(chosen)[1:, 1:]
        slots += [(slot, tuple(map(read, three))) for slot, three in zip(zip(*layer.bends), zip(*chosen))]
    return model, slots, _checked(gram)


def _three_bends(model, bends):
    numbers = {layer.curve.num_bends for layer in model.curve_layers()}
    if bends is None and numbers == {3}:
        return [0, 1, 2]
    if bends is None or len(set(bends)) != 3 or not all(0 <= index < min(numbers) for index in bends):
        raise ValueError(
            f"`bends` must be three of the bends 0 to {min(numbers) - 1} of the curve. Received: bends={bends}"
        )
    return list(map(int, bends))


def _checked(gram):
    """Returns `gram` if the three points span a plane; otherwise raises a ValueError."""
    first, second = np.sqrt(np.diag(gram))
    if not np.linalg.det(gram) > 1e-8 * (first * second) ** 2:
        raise ValueError("The three points of `networks` lie on one line, or two of them are equal: there is no plane.")
    return gram


def _coordinates(shares, gram):
    """(x, y) of the points w_0 + a (w_1 - w_0) + b (w_2 - w_0), for the rows (a, b) of `shares`."""
    (square_1, product), (_, square_2) = gram
    x_1 = product / np.sqrt(square_2)
    y_1 = np.sqrt(square_1 - x_1**2)
    return shares @ np.array([[x_1, y_1], [np.sqrt(square_2), 0.0]])


def _shares(point, gram):
    """(a, b) of the point (x, y): the inverse of `_coordinates`."""
    return np.linalg.solve(_coordinates(np.eye(2), gram).T, point)


def _check_path(name, model, slots):
    """Raises a ValueError unless `model` is a path that can be projected."""
    if not isinstance(model, CurveModel) or isinstance(model.parametrization, Simplex):
        raise ValueError(f"`paths` must hold a curves.CurveModel on a curve for each name. Received: {name}={model!r}")
    shapes = [tuple(slot[0].shape) for layer in model.curve_layers() for slot in zip(*layer.bends)]
    if shapes != [three[0].shape for _, three in slots]:
        raise ValueError(f"`paths`: '{name}' must have the architecture of `networks`.")


def _projected(model, slots, gram):
    """(x, y, distance from the plane) of 61 positions on a curve, shape `(61, 3)`."""
    products, squares, points = np.zeros((61, 2)), np.zeros(61), (three for _, three in slots)
    for layer in model.curve_layers():
        coefficients = np.stack(
            [ops.convert_to_numpy(layer.curve.coefficients(t)).astype("float64") for t in np.linspace(0, 1, 61)]
        )
        for slot, three in zip(zip(*layer.bends), points):
            w_0, *sides = (w.astype("float64").ravel() for w in three)
            differences = np.stack([read(bend).astype("float64").ravel() - w_0 for bend in slot])
            products += coefficients @ differences @ np.stack([w - w_0 for w in sides]).T
            squares += np.einsum("ji,ik,jk->j", coefficients, differences @ differences.T, coefficients)
    path = _coordinates(np.linalg.solve(gram, products.T).T, gram)
    distances = np.sqrt(np.maximum(squares - np.sum(path**2, axis=1), 0.0))
    return np.concatenate([path, distances[:, None]], axis=1)
