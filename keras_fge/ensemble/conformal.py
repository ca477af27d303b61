"""`Conformal`: sets of classes, or intervals, that hold the right answer as often as one asks for."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.conformal import INTERVALS, SETS, Intervals, Sets
from keras_fge.core.files import naming
from keras_fge.core.metrics import checked_labels, of_both_classes
from keras_fge.core.predictions import RunningMean, RunningVariance
from keras_fge.ensemble.coverage import IntervalCoverage, SetCoverage
from keras_fge.ensemble.export import one_model
from keras_fge.ensemble.members import Members
from keras_fge.ensemble.stored import read, write


class Conformal:
    """What `ensemble.conformal` returns: an ensemble that predicts sets of classes, or intervals.

    A new sample of the same kind as the calibration samples has the right answer in its set with probability at least
    1 - alpha, whatever the network and the data are. That is a mean over samples: of some kinds of samples it may be
    less, see `coverage_by_class` in `evaluate`.

    Attributes:
        method, alpha: See `Ensemble.conformal`.
        threshold: Of the scores; of each class, or of each element of a target, an array.
        samples: How many calibration samples there were.

    Example:
        ensemble = keras_fge.Ensemble(net_a, [net_a.get_weights(), net_b.get_weights()])
        sets = ensemble.conformal(x_test[:300], y_test[:300], alpha=0.1)
        sets.save("sets")
        keras_fge.Conformal.load("sets").predict(x_test[300:])  # bool, shape (N, classes)
    """

    def __init__(self, members: Members, rule: Sets | Intervals, alpha: float, threshold: np.ndarray, samples: int):
        self._members, self._rule = members, rule
        self.method, self.alpha, self.threshold, self.samples = rule.method, alpha, threshold, samples

    def predict(self, x: Any, batch_size: int | None = None) -> Any:
        """Sets, or intervals.

        Args:
            x, batch_size: As for `Ensemble.predict`; a data set, not a generator.

        Returns:
            Of a classifier, bool of shape `(N, classes)`: which classes are in the set. It is empty where no class is
            probable enough. Of a regression, (lower, upper), arrays of the shape of the targets.
        """
        running = self._members.add_up(_running(self._members, self._rule), x, batch_size)
        return self._rule.predict(_prediction(self._members, self._rule, running), self.threshold)

    def evaluate(self, x: Any, y: Any = None, batch_size: int | None = None) -> SetCoverage | IntervalCoverage:
        """How often sets, or intervals, hold the right answer, and how large they are.

        Args:
            x, y, batch_size: Test data, as for `Ensemble.evaluate`. Never the calibration data.

        Returns:
            A dictionary, with `sentences`, `plot`, `to_html`, `show` and `to_frame`: `coverage`, the fraction of
            samples whose label is in its set, with a 95 % interval of it, `coverage_low` and `coverage_high`
            (Wilson's). Of a classifier, `size`, the mean number of classes in a set, `coverage_by_class`, shape
            `(classes,)`, NaN where there is no sample, `coverage_by_size` and `count_by_size`, by the number of classes
            in the set. Of a regression, `width`, the mean of upper minus lower, and `coverage_by_width`, shape `(4,)`,
            of the quarters of the samples from the narrowest to the widest intervals.
        """
        prediction, labels, rows = _measured(self._members, self._rule, x, y, batch_size)
        decided: Any = self._rule.predict(prediction, self.threshold)
        if isinstance(self._rule, Sets):
            return SetCoverage.of(decided, checked_labels(labels, *decided.shape), self.alpha)
        lower, upper = decided
        place = x[rows] if isinstance(x, np.ndarray) else None
        return IntervalCoverage.of(lower, upper, _targets(labels, lower.shape), place, self.alpha)

    def to_model(self) -> keras.Model:
        """One `keras.Model` that outputs sets, or [lower, upper]: to save as .keras, export, or serve.

        Raises:
            ValueError: as `Ensemble.to_model` does.
        """
        rule = self._rule
        members, needs_variance = self._members, isinstance(_running(self._members, rule), RunningVariance)
        model = one_model(members, with_variance=needs_variance)
        if isinstance(rule, Sets):
            results = rule.layers(_both_classes(model.output), self.threshold)
        else:
            mean, variance = model.output if needs_variance else (model.output, None)
            limit = keras.ops.convert_to_tensor(np.asarray(self.threshold, "float32"))
            lower, upper = rule.predict(_low_high_scale(mean, variance, members, rule), limit)
            results = [keras.layers.Identity(name=name)(t) for name, t in (("lower", lower), ("upper", upper))]
        return keras.Model(model.input, results, name=f"{model.name}_conformal")

    def save(self, directory: str | os.PathLike, about: str = "") -> None:
        """Writes the ensemble with its threshold to a new folder, as `Ensemble.save` does, which see."""
        known = {"kind": type(self._rule).__name__, "rule": dataclasses.asdict(self._rule), "alpha": self.alpha}
        known |= {"threshold": np.asarray(self.threshold).tolist(), "samples": self.samples}
        write(directory, self._members, about, {"conformal": known})

    @classmethod
    def load(cls, directory: str | os.PathLike, network: keras.Model | None = None) -> "Conformal":
        """What `save` wrote; `network` as for `Ensemble.load`. (`Ensemble.load` reads the ensemble in it,
        without the threshold.)

        Raises:
            ValueError: if there is none, or it is damaged.
        """
        with naming(directory):
            members, known = read(directory, network)
            if (saved := known.get("conformal")) is None:
                raise ValueError(f"'{directory}' holds an ensemble that was not saved by `conformal(...).save`.")
            rule = (Sets if saved["kind"] == "Sets" else Intervals)(**saved["rule"])
            return cls(members, rule, saved["alpha"], np.asarray(saved["threshold"]), saved["samples"])

    def __repr__(self) -> str:
        members = f"{len(self._members)} members of '{self._members.network.name}'"
        return f"Conformal({members}, method={self.method!r}, alpha={self.alpha}, {self.samples} calibration samples)"


def fit_conformal(
    members: Members,
    x: Any,
    y: Any,
    alpha: float,
    method: str | None,
    batch_size: int | None,
    options: Mapping[str, Any],
) -> Conformal:
    """See `Ensemble.conformal`; `options` are those of sets."""
    alpha = as_number("alpha", alpha)
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must be between 0 and 1. Received: alpha={alpha}")
    rule = _rule(members, method, options)
    prediction, labels, _ = _measured(members, rule, x, y, batch_size)
    if isinstance(rule, Sets):
        labels = checked_labels(labels, *prediction.shape)
        if labels.ndim > 1:
            raise ValueError(f"`y` must hold one class for each sample, no soft labels. Received: shape {labels.shape}")
    else:
        labels = _targets(labels, prediction[0].shape)
        if not np.all(prediction[2] > 0):
            raise ValueError(
                '`method`="scaled" needs members that differ on each sample; some agree exactly. Use method="residual".'
            )
    return Conformal(members, rule, alpha, rule.fitted(prediction, labels, alpha), len(labels))


def _rule(members, method, options):
    """The rule of a method for these outputs."""
    task = _task(members)
    methods = SETS if task == "classification" else INTERVALS[:2] if task == "gaussian" else INTERVALS
    method = method or methods[0]
    if method not in methods:
        raise ValueError(f"`method` must be one of {methods} for this network. Received: method={method!r}")
    if options["randomized"] and method not in ("aps", "raps"):
        raise ValueError(f'`randomized` is for method="aps" and "raps". Received: method={method!r}')
    if task != "classification":
        if options["by_class"]:
            raise ValueError("`by_class` is for classes. This network outputs values.")
        return Intervals(method)
    lam, k_reg = as_number("lam", options["lam"], least=0), as_integer("k_reg", options["k_reg"], least=0)
    seed = as_integer("seed", options["seed"], least=0) if options["randomized"] else None
    return Sets(method, lam, k_reg, bool(options["by_class"]), seed)


def _task(members):
    """That of the one output."""
    task = members.one_output("conformal").task
    if task == "multilabel":
        raise ValueError("`conformal` needs classes that exclude each other, or values. Received: task='multilabel'")
    return task


def _running(members, rule):
    """What adds the members up: with their variance, if intervals are scaled by it, and a mixture does not know it."""
    return RunningVariance() if rule.method == "scaled" and _task(members) == "regression" else RunningMean()


def _measured(members, rule, x, y, batch_size):
    """(prediction, labels, rows) of the samples that count; sample weights of a data set may be 0 and 1."""
    running, _, labels, weights = members.of_one_output("conformal", x, y, None, batch_size, _running(members, rule))
    prediction = _prediction(members, rule, running)
    if weights is None:
        return prediction, labels, slice(None)
    weights = np.asarray(weights)
    if weights.ndim > 1 or not np.isin(weights, (0, 1)).all():
        raise ValueError("`conformal` takes sample weights of 0 and 1 alone, one for each sample.")
    rows = weights > 0
    if isinstance(rule, Sets):
        return prediction[rows], np.asarray(labels)[rows], rows
    return tuple(part[rows] if np.ndim(part) else part for part in prediction), np.asarray(labels)[rows], rows


def _prediction(members, rule, running):
    """Probabilities `(N, classes)`; or (low, high, scale) of values, in float64."""
    mean = keras.tree.flatten(members.scaled(running.mean()))[0]
    if not np.all(np.isfinite(np.asarray(mean))):
        raise ValueError("The outputs of the network are not finite: the training has diverged, or an input is NaN.")
    if isinstance(rule, Sets):
        if mean.ndim != 2:
            raise ValueError(f"`conformal` needs one class for each sample. Received: outputs of shape {mean.shape}")
        return _both_classes(mean)
    variance = keras.tree.flatten(running.variance())[0] if isinstance(running, RunningVariance) else None
    return _low_high_scale(np.asarray(mean, "float64"), variance, members, rule)


def _low_high_scale(mean, variance, members, rule):
    """Of arrays or symbolic tensors; the variance is None if `mean` holds it, or it is not needed."""
    if _task(members) == "gaussian":
        mean, variance = mean[..., 0], mean[..., 1]
    if rule.method == "quantile":
        if mean.shape[-1] != 2:
            raise ValueError(
                '`method`="quantile" needs a network that outputs (lower, upper) on the last axis. Received: outputs '
                f"of shape {mean.shape}"
            )
        return mean[..., 0], mean[..., 1], 1.0
    return mean, mean, variance**0.5 if rule.method == "scaled" else 1.0


def _both_classes(probabilities):
    """`of_both_classes`, of an array or a tensor."""
    if isinstance(probabilities, np.ndarray):
        return of_both_classes(probabilities)
    return (
        keras.ops.concatenate([1 - probabilities, probabilities], axis=-1)
        if probabilities.shape[-1] == 1
        else probabilities
    )


def _targets(targets, shape):
    """Targets in the shape of the predictions.

    Raises:
        ValueError: if they have another one, or are not finite.
    """
    targets = np.asarray(targets, "float64")
    if targets.shape not in (shape, (*shape, 1)) and (*targets.shape, 1) != shape:
        raise ValueError(f"`y` must have the shape of the predictions, {shape}. Received: {targets.shape}")
    if not np.all(np.isfinite(targets)):
        raise ValueError("`y` must be finite. Received: NaN or infinity")
    return targets.reshape(shape)
