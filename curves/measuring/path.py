"""`evaluate_path`: loss, metrics and ensembles along a curve, at evenly spaced positions."""

import os
from typing import Any

import numpy as np

from curves.geometry import segment_lengths
from curves.measuring.meter import Meter, check_compiled
from curves.measuring.path_ensemble import PathEnsemble
from curves.measuring.points import Points
from curves.measuring.sharpness import Curvature
from curves.model import CurveModel
from curves.parametrization import as_path
from curves.results import PathResult
from keras_fge.core.arguments import as_integer
from keras_fge.core.networks import locked, read


def evaluate_path(
    model: CurveModel,
    train: Any,
    test: Any,
    num_points: int = 61,
    *,
    batch_size: int = 128,
    train_samples: int | None = None,
    bn_samples: int | None = None,
    file: str | os.PathLike | None = None,
    verbose: bool = True,
    line: bool = True,
    sharpness: bool = False,
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
        file: A .npz file, in which every finished point is stored at once. If it exists, the measurement continues
            where it stopped. At the end the file holds the result. Default: none.
        verbose: Whether to show a progress bar.
        sharpness: Whether to measure the curvature of the train loss at each position too, as `curves.sharpness` does:
            `train["largest_eigenvalue"]`, `train["trace"]` and `train["trace_se"]`, on the samples of the train loss.
            It takes about 30 passes forth and back over them. Only for a curve of whole networks, as of `connect`.
            Default: no.
        line: Whether to measure the straight line too, as `result.line`, in the same time again. Default: yes, unless
            the curve is that line.

    Returns:
        A `PathResult`.

    Raises:
        ValueError: if the model is not a compiled `CurveModel`, `num_points` is below 2, data are a generator, or
            `file` holds a measurement of another model, other data or other settings (for data that are not arrays,
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
    as_path(model.curve, "`evaluate_path`")
    check_compiled(model)
    positions = np.linspace(0, 1, as_integer("num_points", num_points, least=2))
    with locked(model):
        meter = Meter(
            model,
            train,
            test,
            batch_size=batch_size,
            train_samples=train_samples,
            bn_samples=bn_samples,
            penalty=lambda: model.penalty(float(read(model.t))),
            keeps_predictions=True,
        )
        layers = model.curve_layers()
        has_line = bool(line) and any(layer.curve.num_bends > 2 for layer in layers)
        settings = {"num_points": len(positions), "line": has_line, **meter.settings(), **settings_of_curve(model)}
        curvature = Curvature(model, meter) if sharpness else None
        settings |= {"sharpness": True} if sharpness else {}
        places = [(is_line, t) for is_line in ((False, True) if has_line else (False,)) for t in positions]
        points = Points(file, PathResult.__name__, settings, len(places))
        if file is not None and points.is_finished:
            return PathResult.load(file)
        straight = model.arc_length(num_points=2)
        distances = np.concatenate([[0.0], np.cumsum(segment_lengths(layers, positions))])
        ensemble = PathEnsemble(model, test, points.carry)
        points.measure(model, places, lambda place: _measured(model, meter, ensemble, curvature, place), verbose)
    settings |= {**meter.samples, **({"no_ensemble": ensemble.why_not} if ensemble.why_not else {})}

    def result_of(rows, distance, line):
        parts = {split: points.columns(split, rows) for split in ("train", "test", "ensemble")}
        return PathResult(positions, distance, straight, **parts, settings=settings, line=line)

    straight_line = result_of(slice(num_points, None), straight * positions, None) if has_line else None
    result = result_of(slice(num_points), distances, straight_line)
    if file is not None:
        result.save(file)
    return result


def _measured(model, meter, ensemble, curvature, place):
    """(row, carry) at one position of the curve, or of the straight line between its ends."""
    is_line, t = place
    if is_line:
        model.init_linear()
        if t == 0:
            ensemble.restart()
    model.t = t
    row = meter.measure()
    if curvature is not None:
        row |= {f"train_{name}": value for name, value in curvature.measure(t).items()}
    of_ensemble, carry = ensemble.add(lambda: meter.predictions("test"))
    return {**row, **of_ensemble}, carry


def settings_of_curve(model: CurveModel) -> dict[str, Any]:
    """The properties that two curves with the same bends can differ in: kind, fixed ends and penalty."""
    layers = model.curve_layers()
    return {
        "curve": sorted({f"{c.curve!r}, fix_start={c.fix_start}, fix_end={c.fix_end}" for c in layers}),
        "num_bends": max(layer.curve.num_bends for layer in layers),
        "penalty": f"{model.penalty(model.curve.middle):.5g}",
    }
