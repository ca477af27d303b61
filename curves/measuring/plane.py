"""`evaluate_plane`: loss and metrics on a grid in the plane through three networks or bends, or around one network."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from curves.measuring.meter import Meter, check_compiled
from curves.measuring.path import settings_of_curve
from curves.measuring.planes import Around, Plane, plane_of_bends, plane_of_networks, three_bends
from curves.measuring.points import Points
from curves.model import CurveModel
from curves.parametrization import Path
from curves.results import PlaneResult
from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.networks import locked, restored


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
    Of "filter", d_1 and d_2 are random, and each filter is as long as that filter of the network (Li et al. 2018);
    biases and the weights of normalization stay as they are. Of "hessian", they are the eigenvectors of the two largest
    eigenvalues of the Hessian of the train loss, in inference mode and with regularizers, found by Lanczos' method;
    each is so long that a parabola of this curvature rises (or falls) by 1 at its tip, but at most as long as the
    weights. `settings["curvatures"]` has the eigenvalues, and `print(result)` says what they mean. d_2 is made
    orthogonal to d_1. `margin` is not used.

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
        curve = networks if isinstance(networks, CurveModel) and directions is None else None
        target: Plane | Around
        if directions is not None:
            target = Around(networks, bends, directions, extent, seed)
        else:
            target = plane_of_bends(curve, bends) if curve else plane_of_networks(networks, bends)
        model = target.model
        check_compiled(model)
        numbers, margin = _numbers(num_points), as_number("margin", margin, least=0)
        meter = Meter(
            model,
            train,
            test,
            batch_size=batch_size,
            train_samples=train_samples,
            bn_samples=bn_samples,
            penalty=target.penalty,
        )
        settings = {"num_points": numbers, "margin": margin, **meter.settings(), "penalty": f"{target.penalty():.5g}"}
        if curve:
            settings |= {**settings_of_curve(curve), "bends": three_bends(curve, bends)}
        settings |= target.settings()
        points = Points(file, PlaneResult.__name__, settings, numbers[0] * numbers[1])
        if file is not None and points.is_finished and not others:
            return PlaneResult.load(file)
        plane, about = target.plane(meter)
        projections = {
            name: plane.projected(_checked_path(name, other, plane)) for name, other in (others or {}).items()
        }
        if file is not None and points.is_finished:
            result = PlaneResult.load(file)
            result = dataclasses.replace(result, others={**result.others, **projections})
        else:
            x, y = plane.grid(numbers, margin)
            places = [(a, b) for b in y for a in x]

            def measure(point):
                plane.move_to(point)
                return meter.measure(), {}

            if directions is not None:
                _check_same_plane(points, model, places, measure)
            points.measure(model, places, measure, verbose)
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
                settings={**settings, **about, **meter.samples},
                others=projections,
            )
    if file is not None:
        result.save(file)
    return result


def _numbers(num_points):
    """Points of the grid in x and in y."""
    pair = (num_points, num_points) if np.ndim(num_points) == 0 else tuple(num_points)
    if len(pair) != 2:
        raise ValueError(f"`num_points` must be a number, or a pair for x and y. Received: num_points={num_points}")
    return [as_integer("num_points", number, least=2) for number in pair]


def _check_same_plane(points, model, places, measure):
    """Raises a ValueError if the rows of a file are of other directions than those that were computed again."""
    if points.rows:
        with restored(model):
            now, then = (row["train_loss"] for row in (measure(places[0])[0], points.rows[0]))
        if not np.isclose(now, then, rtol=0.02, equal_nan=True):
            raise ValueError(
                f"`file`: '{points.file}' was begun with other directions: its first train loss is {then:.4g}, here it "
                f"is {now:.4g}. Remove the file."
            )


def _checked_path(name, model, plane):
    """Returns `model`; raises a ValueError unless it is a curve that can be projected on the plane."""
    if not isinstance(model, CurveModel) or not isinstance(model.curve, Path):
        raise ValueError(f"`others` must hold a curves.CurveModel on a curve for each name. Received: {name}={model!r}")
    shapes = [tuple(slot[0].shape) for layer in model.curve_layers() for slot in zip(*layer.bends)]
    if shapes != [three[0].shape for _, three in plane.slots]:
        raise ValueError(f"`others`: '{name}' must have the architecture of `networks`.")
    return model
