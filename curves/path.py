"""Loss, metrics and ensembles along a curve, at evenly spaced positions."""

import os
from typing import Any

import numpy as np

from curves.measure import Meter, PathEnsemble
from curves.model import CurveModel
from curves.points import Points, measure_points
from curves.results import PathResult
from keras_fge.core.arguments import as_integer
from keras_fge.core.networks import locked, read


def evaluate_path(
    model: CurveModel,
    train: Any,
    test: Any,
    num_points: int = 61,
    batch_size: int = 128,
    train_samples: int | None = None,
    bn_samples: int | None = None,
    path: str | os.PathLike | None = None,
    verbose: bool = True,
    line: bool = True,
) -> PathResult:
    """Evaluates a curve at `num_points` evenly spaced positions.

    At each t it re-estimates the BatchNormalization statistics on `train` (see `update_batch_norm`), then computes the
    compiled loss and metrics over all of `train` and `test`, as `model.evaluate` defines them, without augmentation.
    At a fixed endpoint it measures the endpoint network with its own statistics. Then it does the same on the straight
    line between the endpoints, which shows whether the curve goes around anything. Nothing is compiled twice.
    Afterwards, also after an error, the model has its previous position and weights again.

    Args:
        model: A compiled `CurveModel`. `curves.connect(a, b, curve=curves.Bezier(2))` is the straight line.
        train, test: Data as `keras.Model.evaluate` takes them: arrays `(x, y)`, a `tf.data.Dataset`, a `PyDataset`, ...
        num_points: Number of positions, endpoints included, at least 2. Default: 61, as in the paper's code.
        batch_size: Samples per batch, for arrays. Default: 128.
        train_samples: Number of samples of `train`, drawn at random with a fixed seed, to measure the train loss on.
            Only for arrays. Default: all.
        bn_samples: Number of samples of `train`, drawn in the same way, to estimate BatchNormalization statistics from.
            Only for arrays. Default: all.
        path: A .npz file, in which every finished point is stored at once. If it exists, the measurement continues
            where it stopped. At the end the file holds the result. Default: none.
        verbose: Whether to show a progress bar.
        line: Whether to measure the straight line too, as `result.line`, in the same time again. Default: yes, unless
            the curve is that line.

    Returns:
        A `PathResult`.

    Raises:
        ValueError: if the model is not a compiled `CurveModel`, `num_points` is below 2, data are a generator, or
            `path` holds a measurement of another model, other data or other settings (for data that are not arrays,
            only the class is compared).

    Example:
        line = curves.connect(net_a, net_b, curve=curves.Bezier(2))
        line.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        result = curves.evaluate_path(line, (x, y), (x_test, y_test), num_points=5)
        result.barrier()  # How far the train loss rises above the worse end.

    References:
        Garipov et al., NeurIPS 2018, section 4, https://arxiv.org/abs/1802.10026
    """
    if not isinstance(model, CurveModel):
        raise ValueError(f"`model` must be a curves.CurveModel. Received: model={model!r}")
    if len(model.t.shape):
        raise ValueError("`model` must lie on a curve. On a simplex, measure a plane: `curves.evaluate_plane`.")
    num_points = as_integer("num_points", num_points, least=2)
    with locked(model):
        return _measured(model, train, test, num_points, batch_size, train_samples, bn_samples, path, verbose, line)


def _measured(model, train, test, num_points, batch_size, train_samples, bn_samples, path, verbose, line):
    def penalty():
        return model.penalty(float(read(model.t)))

    meter = Meter(model, train, test, batch_size, train_samples, bn_samples, penalty, predicts=True)
    description = model.description()
    has_line = bool(line) and description["num_bends"] > 2
    settings = {"num_points": num_points, "line": has_line, **meter.settings, **description}
    positions = np.linspace(0, 1, num_points)
    straight = model.arc_length(num_points=2)
    distances = np.concatenate([[0.0], np.cumsum(model.segment_lengths(positions))])
    places = [(is_line, t) for is_line in ((False, True) if has_line else (False,)) for t in positions]
    points = Points(path, PathResult, settings, len(places))
    if points.result:
        return points.result
    ensemble = PathEnsemble(model, test, points.carry)

    def measure(place):
        is_line, t = place
        if is_line:
            model.init_linear()
            if t == 0:
                ensemble.restart()
        model.t = t
        row = meter.measure()
        ensemble_row, carry = ensemble.add(meter.test_predictions)
        return {**row, **ensemble_row}, carry

    measure_points(model, points, places, measure, verbose)

    def part_of_the_result(rows, distance, line):
        parts = {split: points.columns(split, rows) for split in ("train", "test", "ensemble")}
        return PathResult(positions, distance, straight, **parts, settings={**settings, **note}, line=line)

    note = {**meter.samples(), **({"no_ensemble": ensemble.why_not} if ensemble.why_not else {})}
    line = part_of_the_result(slice(num_points, None), straight * positions, None) if has_line else None
    result = part_of_the_result(slice(num_points), distances, line)
    if path is not None:
        result.save(path)
    return result
