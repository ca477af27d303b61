"""What a measurement along a curve or on a plane means, in sentences, and what to distrust in it.

Each function looks at a result, and returns a sentence, or None if there is nothing to say.
"""

import numpy as np

from curves.results.data import PathData, PlaneData
from keras_fge.core.metrics import standard_error_of_error

# From where on one speaks of a barrier. The 2 points of test error are those of Frankle et al., Linear Mode
# Connectivity and the Lottery Ticket Hypothesis, ICML 2020, https://arxiv.org/abs/1912.05671
NAT, POINTS, SHARE = 0.05, 2.0, 0.1
FEW_BATCH_NORM_SAMPLES = 400  # A mean of so many has a standard error of 5 % of the standard deviation.


def of_path(result: PathData) -> list[str]:
    """The sentences about a path: whether there is a barrier, and what to distrust."""
    checks = [_verdict, _positions_between, _next_to_the_highest, _not_at_a_minimum, _few_batch_norm_samples]
    checks += [_jump_at_an_end, _few_test_samples, _alike, _no_ensemble]
    return [sentence for check in checks if (sentence := check(result))]


def of_plane(result: PlaneData) -> list[str]:
    """The sentences about a plane: what is to be seen on it, and what to distrust."""
    checks = (
        _what_a_plane_shows,
        _curvature,
        _lower_elsewhere,
        _not_finite,
        _coarse_plane,
        _far_from_the_plane,
        _few_batch_norm_samples,
    )
    return [sentence for check in checks if (sentence := check(result))]


def has_barrier(result: PathData) -> bool:
    """Whether the values between the ends rise above both of them.

    For a classifier: by more than 0.05 nat of train loss, or 2 points of test error. For other losses, whose unit is
    not known: by more than a tenth of the larger end. A loss that is not finite is a barrier.
    """
    losses = result.train["loss"]
    if not np.all(np.isfinite(losses)):
        return True
    if "nll" in result.train:
        error = 100 * result.barrier("test", "error") if "error" in result.test else 0.0
        return result.barrier() > NAT or error > POINTS
    return result.barrier() > SHARE * max(abs(losses[0]), abs(losses[-1]))


def name_of(result: PathData) -> str:
    """What a reader calls the path."""
    description = result.settings.get("curve", [""])[0]
    if result.settings.get("num_bends") == 2:
        return "straight line"
    kinds = {"Bezier": "Bezier curve", "PolygonalChain": "polygonal chain"}
    return next((name for kind, name in kinds.items() if description.startswith(kind)), "path")


def _verdict(result):
    name, line = name_of(result), result.line
    along = f" {_along(result)}" if result.train["loss"].size > 2 else ""
    if line is None:
        said = f"The {name} has {_barrier(result)}: "
        return (
            said + ("it does not connect the networks." if has_barrier(result) else "it connects the networks.") + along
        )
    said = f"The straight line has {_barrier(line)}; the {name} has {_barrier(result, 'none')}: "
    if not has_barrier(line):
        more = (
            ", also without a curve." if not has_barrier(result) else "; the curve is worse, and needs other training."
        )
        return f"{said}the networks are linearly connected{more}{along}"
    if not has_barrier(result):
        return f"{said}the networks are connected.{along}"
    return f"{said}it does not connect them. Longer training, or more bends, may.{along}"


def _barrier(result, none="no barrier"):
    """Such as "a barrier of 1.53 nat (75 % test error at t = 0.50)", or "none (0.01 nat)"."""
    losses = result.train["loss"]
    if count := int(np.sum(~np.isfinite(losses))):
        return f"a loss that is not finite at {count} of its {losses.size} positions"
    height = f"{result.barrier():.3g}{' nat' if 'nll' in result.train else ''}"
    if not has_barrier(result):
        return f"{none} ({height})"
    top = int(np.argmax(losses))
    error = f"{100 * result.test['error'][top]:.3g} % test error " if "error" in result.test else ""
    return f"a barrier of {height} ({error}at t = {result.t[top]:.2f})"


def _along(result):
    quantity, scale, unit = ("error", 100, " %") if "error" in result.test else ("loss", 1, "")
    values = scale * result.test[quantity]
    return f"Test {quantity} along it: {np.nanmin(values):.3g} to {np.nanmax(values):.3g}{unit}."


def _positions_between(result):
    if not has_barrier(result) and result.t.size < 11:
        return f"{result.t.size} positions do not show what lies between them: measure more (`num_points`)."


def _next_to_the_highest(result):
    for path in (result.line, result):
        if path is not None and has_barrier(path) and np.all(np.isfinite(losses := path.train["loss"])):
            top = int(np.argmax(losses))
            if 0 < top < losses.size - 1:
                drop = losses[top] - max(losses[top - 1], losses[top + 1])
                if drop > 0.25 * path.barrier():
                    return (
                        f"The grid is coarse: next to the highest position the loss is {drop:.3g} lower, so the "
                        "barrier may be higher than said. Measure more positions (`num_points`)."
                    )


def _data_loss(result):
    return next((result.train[name] for name in ("nll", "mse", "data_loss") if name in result.train), None)


def _not_at_a_minimum(result):
    losses = _data_loss(result)
    if losses is None or not np.all(np.isfinite(losses)):
        return None
    lower, least = min(losses[0], losses[-1]), float(np.min(losses))
    if least < 0.8 * lower and lower - least > ("nll" in result.train) * NAT / 2:
        return (
            f"The networks at the ends are not at a minimum: between them the train loss falls to {least:.3g}, below "
            f"the {lower:.3g} of the better end. Longer training of the networks would change the picture."
        )


def _few_batch_norm_samples(result):
    samples = result.settings.get("batch_norm_samples")
    if samples and samples < FEW_BATCH_NORM_SAMPLES:
        return (
            f"The statistics of BatchNormalization come from {samples} samples: their means are uncertain by "
            f"{100 / np.sqrt(samples):.0f} % of a standard deviation. Give more (`bn_samples`, `train`)."
        )


def _jump_at_an_end(result):
    losses = _data_loss(result)
    if not result.settings.get("batch_norm_samples") or losses is None or losses.size < 9:
        return None
    steps = np.abs(np.diff(losses))
    for t, jump, others in ((0, steps[0], steps[1:4]), (1, steps[-1], steps[-4:-1])):
        if jump > max(5 * np.max(others), ("nll" in result.train) * NAT / 2):
            return (
                f"Next to t = {t} the train loss jumps by {jump:.3g}: the network at this end has the statistics of "
                "BatchNormalization of its training, its neighbours have those of `train`, and they differ. Compare "
                "with the network after `curves.update_batch_norm(network, train)`."
            )


def _few_test_samples(result):
    samples, errors = result.settings.get("test_samples"), result.test.get("error")
    if not samples or errors is None or not np.all(np.isfinite(errors)):
        return None
    spread, uncertain = 100 * float(np.ptp(errors)), 100 * standard_error_of_error(float(np.mean(errors)), samples)
    if 0 < spread < 2 * uncertain:
        return (
            f"On {samples} test samples a test error has a standard error of {uncertain:.2g} points: the "
            f"differences along the path ({spread:.2g}) are within twice that."
        )


def _alike(result):
    together, errors = result.ensemble.get("with_start_error"), result.test.get("error")
    samples = result.settings.get("test_samples")
    if together is None or errors is None or not samples or not np.all(np.isfinite(together)):
        return None
    gain = 100 * float(np.max((errors[0] + errors) / 2 - together))
    uncertain = 100 * standard_error_of_error(float(np.mean(errors)), samples)
    if gain < uncertain:
        return (
            f"Networks along the path hardly differ in what they predict: two of them together gain at most "
            f"{gain:.2g} points of error, with a standard error of {uncertain:.2g}."
        )


def _no_ensemble(result):
    if why := result.settings.get("no_ensemble"):
        return f"No ensemble was measured: {why}."


def _what_a_plane_shows(result):
    losses, unit = result.train["loss"], " nat" if "nll" in result.train else ""
    errors = result.test.get("error")
    ranges = [f"train loss {np.nanmin(losses):.3g} to {np.nanmax(losses):.3g}{unit}"]
    if errors is not None:
        ranges.append(f"test error {100 * np.nanmin(errors):.3g} to {100 * np.nanmax(errors):.3g} %")
    grid = f"{result.x.size} x {result.y.size} points"
    if "directions" in result.settings:
        kind = {"filter": "two random directions", "hessian": "the directions of largest curvature"}
        reach = f"up to {result.x[-1]:.3g} and {result.y[-1]:.3g} away in {kind[result.settings['directions']]}"
        return f"Around the network ({grid}, {reach}): {', '.join(ranges)}."
    sides = [f"{value:.3g}" for name, value in result.summary().items() if name.startswith("distance_")]
    return f"On the plane ({grid}): {', '.join(ranges)}. Its three networks are {', '.join(sides)} from each other."


def _curvature(result):
    """What the eigenvalues of the Hessian mean for training; gradient descent is stable up to a rate of 2 / lambda."""
    if not (values := result.settings.get("curvatures")):
        return None
    said = (
        f"The largest curvatures of the train loss (eigenvalues of its Hessian) are {values[0]:.3g} and {values[1]:.3g}"
    )
    if values[0] < 0:
        return f"{said}: the network lies at no minimum."
    if not values[0]:
        return f"{said}: the train loss is flat."
    return f"{said}: gradient descent with a rate above {2 / values[0]:.2g} would not stay here."


def _lower_elsewhere(result):
    """Around one network: whether it has the least loss on this grid."""
    losses = result.train["loss"]
    if "directions" not in result.settings or not (losses.shape[0] % 2 and losses.shape[1] % 2):
        return None
    here = losses[losses.shape[0] // 2, losses.shape[1] // 2]
    if np.nanmin(losses) < here - max(1e-3, 0.01 * abs(here)):
        return (
            f"The train loss is lower elsewhere on this grid: {np.nanmin(losses):.3g}, and {here:.3g} at the network."
        )


def _not_finite(result):
    if count := int(np.sum(~np.isfinite(result.train["loss"]))):
        return f"The loss is not finite at {count} of the {result.train['loss'].size} points."


def _coarse_plane(result):
    if min(result.x.size, result.y.size) < 11:
        return "The grid is coarse: the contours between its points are interpolated. Measure more (`num_points`)."


def _far_from_the_plane(result):
    if not result.path_distance.size:
        return None
    far, side = float(result.path_distance.max()), result.summary()["distance_02"]
    if far > 0.05 * side:
        return (
            f"The curve leaves the plane: it is up to {far:.3g} away, {100 * far / side:.0f} % of the distance between "
            "the ends, so its shadow on the plane does not have the values around it."
        )
    return f"The curve lies in the plane, up to a distance of {far:.2g}."
