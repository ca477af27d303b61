"""What the network is worth along a curve, and on the plane through three networks."""

import keras
import numpy as np
from keras import ops

from curves.connect import check_same_constants
from curves.measure import Meter, PathEnsemble
from curves.model import CurveModel, gram_of_differences
from curves.networks import check_same_architecture, read, regularization, restored
from curves.results import PathResult, PlaneResult, Points


def evaluate_path(
    model,
    train,
    test,
    num_points=61,
    batch_size=128,
    train_samples=None,
    bn_samples=None,
    path=None,
    verbose=True,
):
    """Evaluates a curve at `num_points` evenly spaced positions.

    At each t the BatchNormalization statistics are re-estimated on `train` (see `update_batch_norm`), then the compiled
    loss and metrics are taken over all of `train` and `test`, as `model.evaluate` defines them, without augmentation.
    At a fixed endpoint they are those of the endpoint network with its own statistics. Nothing is compiled twice.
    Afterwards, also after an error, the model stands where it stood, with the statistics it had.

    Args:
        model: A compiled `CurveModel`. `curves.connect(a, b, curve=curves.Bezier(2))` is the straight line.
        train, test: What `keras.Model.evaluate` takes: arrays `(x, y)`, a `tf.data.Dataset`, a `PyDataset`, ...
        num_points: Number of positions, endpoints included, at least 2. Default: 61, as in the paper's code.
        batch_size: Samples per batch, for arrays. Default: 128.
        train_samples: How many samples of `train`, drawn at random with a fixed seed, the train loss is measured on.
            Only for arrays. Default: all.
        bn_samples: How many are used to estimate BatchNormalization statistics, likewise. Default: all.
        path: A .npz file. Every finished point is stored there at once; if it exists, the measurement goes on where it
            stopped. At the end it holds the result. Default: none.
        verbose: Whether to show a progress bar.

    Returns:
        A `PathResult`.

    Raises:
        ValueError: if the model is no `CurveModel` or not compiled, `num_points` is below 2, data are a generator, or
            `path` holds a measurement of another model, other data or other settings (of data that are no arrays, only
            the class is compared).

    References:
        Garipov et al., NeurIPS 2018, section 4, https://arxiv.org/abs/1802.10026
    """
    if not isinstance(model, CurveModel):
        raise ValueError(f"`model` must be a curves.CurveModel. Received: model={model!r}")
    if num_points < 2:
        raise ValueError(f"`num_points` must be at least 2. Received: num_points={num_points}")
    meter = Meter(model, train, test, batch_size, train_samples, bn_samples, lambda: model.penalty(read(model.t)))
    settings = {"num_points": int(num_points), **meter.settings, **_description(model)}
    points = Points(path, PathResult, settings, num_points)
    if points.result:
        return points.result
    ensemble = PathEnsemble(model, test, batch_size, points.carry)
    positions = np.linspace(0, 1, num_points)

    def measure(t):
        model.t = t
        row = meter.measure()
        ensemble_row, carry = ensemble.add()
        return {**row, **ensemble_row}, carry

    _measure_all(model, points, positions, measure, verbose)
    result = PathResult(
        positions,
        np.concatenate([[0.0], np.cumsum(model.segment_lengths(positions))]),
        model.arc_length(num_points=2),
        *(points.columns(split) for split in ("train", "test", "ensemble")),
        settings,
    )
    if path is not None:
        result.save(path)
    return result


def evaluate_plane(
    networks,
    train,
    test,
    bends=None,
    num_points=21,
    margin=0.2,
    batch_size=128,
    train_samples=None,
    bn_samples=None,
    path=None,
    verbose=True,
):
    """Evaluates the plane through three networks, or three bends of a curve, on a grid.

    A point of the plane is w_0 + x e_x + y e_y with the orthonormal vectors (paper, appendix A.1)

        e_x = (w_2 - w_0) / ||w_2 - w_0||,   e_y = v / ||v||,   v = (w_1 - w_0) - <w_1 - w_0, e_x> e_x.

    At each point of the grid the BatchNormalization statistics are re-estimated and everything is measured as in
    `evaluate_path`. The curve, if there is one, is projected on the plane; a curve of three bends lies in it.
    Afterwards, also after an error, the networks have the weights they had.

    Args:
        networks: A compiled `CurveModel`; or three `keras.Model` of one architecture, w_0, w_1 and w_2, of which the
            first is compiled.
        train, test, batch_size, train_samples, bn_samples, path, verbose: As in `evaluate_path`.
        bends: Which three bends of a `CurveModel` span the plane, w_0, w_1 and w_2. Default: `(0, 1, 2)`, if it has
            three.
        num_points: Points of the grid in each direction: a number, or a pair for x and y. Default: 21.
        margin: How far the grid reaches beyond the three points, as a fraction of their range in x and in y.
            Default: 0.2.

    Returns:
        A `PlaneResult`.

    Raises:
        ValueError: if there are not three networks of one architecture, the three points lie on one line, and as
            `evaluate_path` does.
    """
    curve = networks if isinstance(networks, CurveModel) else None
    model, slots, gram = _plane_of_bends(networks, bends) if curve else _plane_of_networks(networks, bends)
    numbers = (num_points, num_points) if np.ndim(num_points) == 0 else tuple(num_points)
    if len(numbers) != 2 or min(numbers) < 2:
        raise ValueError(f"`num_points` must be at least 2, or a pair of such. Received: num_points={num_points}")
    if not margin >= 0:
        raise ValueError(f"`margin` must not be negative. Received: margin={margin}")
    vertices = _coordinates(np.eye(3)[:, 1:], gram)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    x, y = (np.linspace(a - margin * (b - a), b + margin * (b - a), n) for a, b, n in zip(low, high, numbers))

    def penalty():
        return model.penalty(0.5) if curve else regularization(model)

    meter = Meter(model, train, test, batch_size, train_samples, bn_samples, penalty)
    settings = {"num_points": list(map(int, numbers)), "margin": margin, **meter.settings}
    settings["penalty"] = f"{penalty():.5g}"
    if curve:
        settings.update(_description(curve), bends=_three_bends(curve, bends))
    settings["vertices"] = [round(float(value), 4) for value in vertices.ravel()]
    points = Points(path, PlaneResult, settings, len(x) * len(y))
    if points.result:
        return points.result

    def measure(point):
        first, second = _shares(point, gram)
        for variables, (w_0, w_1, w_2) in slots:
            value = w_0 + first * (w_1 - w_0) + second * (w_2 - w_0)
            for variable in variables:
                variable.assign(value)
        if curve:
            curve.t = 0.5  # All bends are the same point now; at an end, a fixed endpoint would use its own statistics.
        return meter.measure(), {}

    _measure_all(model, points, [(a, b) for b in y for a in x], measure, verbose)
    shape = (len(y), len(x))
    result = PlaneResult(
        x,
        y,
        vertices,
        *(_projection(curve, bends, gram) if curve else (np.zeros((0, 2)), np.zeros(0))),
        *({k: v.reshape(shape) for k, v in points.columns(split).items()} for split in ("train", "test")),
        settings,
    )
    if path is not None:
        result.save(path)
    return result


def _description(model):
    """What tells a curve from another one with the same bends: kind, fixed ends and penalty."""
    kinds = {f"{c.curve!r}, fix_start={c.fix_start}, fix_end={c.fix_end}" for c in model.curve_layers()}
    return {
        "curve": sorted(kinds),
        "num_bends": max(c.curve.num_bends for c in model.curve_layers()),
        "penalty": f"{model.penalty(0.5):.5g}",
    }


def _measure_all(model, points, places, measure, verbose):
    progress = keras.utils.Progbar(len(places), verbose=int(verbose), unit_name="point")
    progress.update(len(points.rows))
    with restored(model):
        for place in places[len(points.rows) :]:
            points.add(*measure(place))
            progress.add(1)


def _plane_of_networks(networks, bends):
    """(the model to measure with, [((variable,), (w_0, w_1, w_2)) of each weight], Gram matrix of w_1 and w_2)."""
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
    """`gram`, if the three points span a plane."""
    first, second = np.sqrt(np.diag(gram))
    if not np.linalg.det(gram) > 1e-8 * (first * second) ** 2:
        raise ValueError("The three points of `networks` lie on one line, or two of them are equal: there is no plane.")
    return gram


def _coordinates(shares, gram):
    """(x, y) of the points w_0 + a (w_1 - w_0) + b (w_2 - w_0), for `shares` (a, b) in rows."""
    (square_1, product), (_, square_2) = gram
    x_1 = product / np.sqrt(square_2)
    y_1 = np.sqrt(square_1 - x_1**2)
    return shares @ np.array([[x_1, y_1], [np.sqrt(square_2), 0.0]])


def _shares(point, gram):
    """(a, b) of the point (x, y): the inverse of `_coordinates`."""
    return np.linalg.solve(_coordinates(np.eye(2), gram).T, point)


def _projection(model, bends, gram):
    """(x, y) of 61 positions on the curve, and their distances from the plane."""
    bends = _three_bends(model, bends)
    products, squares = np.zeros((61, 2)), np.zeros(61)
    for layer in model.curve_layers():
        whole = gram_of_differences(layer.bends, origin=bends[0])
        coefficients = np.stack(
            [ops.convert_to_numpy(layer.curve.coefficients(t)).astype("float64") for t in np.linspace(0, 1, 61)]
        )
        products += coefficients @ whole[:, bends[1:]]
        squares += np.einsum("ji,ik,jk->j", coefficients, whole, coefficients)
    path = _coordinates(np.linalg.solve(gram, products.T).T, gram)
    return path, np.sqrt(np.maximum(squares - np.sum(path**2, axis=1), 0.0))
