"""Loss and metrics of a model at its current weights, on train and test data."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_fge.core.arguments import as_integer, check_data
from keras_fge.core.batch_norm import BatchNormEstimator
from keras_fge.core.compiled import compiled_outputs, name_of_data_loss
from keras_fge.core.files import checksum_of_arrays
from keras_fge.core.keras_internals import EvaluationWithPredictions
from keras_fge.core.networks import read
from keras_fge.core.predictions import RunningMean
from keras_fge.core.tasks import Outputs

ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy", "binary_accuracy")


class Meter:
    """Measures one compiled model at one position after the other, without compiling anything twice.

    The caller moves the model, and puts it back (`restored`).

    Args:
        model: A compiled `keras.Model`.
        train, test: Data as `keras.Model.evaluate` takes them. BatchNormalization statistics come from `train`.
        batch_size: Samples per batch, for arrays.
        train_samples, bn_samples: Number of samples of `train`, drawn at random with a fixed seed, to measure on and to
            estimate BatchNormalization statistics from. None: all. Only for arrays.
        penalty: Function of no arguments that returns the part of the loss that depends on the current weights alone.
        predicts: Whether `test_predictions` will be asked for.
    """

    def __init__(
        self,
        model: keras.Model,
        train: Any,
        test: Any,
        batch_size: int,
        train_samples: int | None,
        bn_samples: int | None,
        penalty: Callable[[], float],
        predicts: bool = False,
    ):
        if not model.compiled:
            raise ValueError("`model` must be compiled with a loss: call `compile(optimizer, loss, metrics=[...])`.")
        for name, data in (("train", train), ("test", test)):
            check_data(name, data)
        self.model, self.penalty = model, penalty
        self.batch_size = as_integer("batch_size", batch_size)
        train, test = _without_none(train), _without_none(test)
        self.data = {"train": _subset(train, train_samples, "train_samples"), "test": test}
        self.batch_norm = BatchNormEstimator(model)
        self._evaluation = EvaluationWithPredictions(model) if predicts and isinstance(test, tuple) else None
        self._batch_norm_data = _subset(train, bn_samples, "bn_samples")
        self.settings = {
            "batch_size": self.batch_size,
            "train_samples": train_samples and int(train_samples),
            "bn_samples": bn_samples and int(bn_samples),
            **_compiled(model),
            "model": _checksum_of_model(model, self.batch_norm.statistics),
            "train": _checksum_of_data(train),
            "test": _checksum_of_data(test),
        }

    def samples(self) -> dict[str, int]:
        """How many samples a test error, and statistics of BatchNormalization, come from, where that is known."""
        counted = {"test_samples": self.data["test"]}
        if self.batch_norm.statistics:
            counted["batch_norm_samples"] = self._batch_norm_data
        return {k: len(keras.tree.flatten(data)[0]) for k, data in counted.items() if isinstance(data, tuple)}

    def measure(self) -> dict[str, float]:
        """Estimates the BatchNormalization statistics, and returns {"train_loss": ..., ...}, a dictionary of floats."""
        self.batch_norm.update(self._batch_norm_data, self.batch_size)
        penalty = self.penalty()
        row = {}
        for split, data in self.data.items():
            # One program for both, but no predictions of the train data in memory.
            run = self._evaluation and functools.partial(self._evaluation, keeps=split == "test")
            values = evaluate(run or self.model.evaluate, data, self.batch_size)
            values = {name_of_data_loss(self.model): values["loss"] - penalty, **values}
            row.update({f"{split}_{name}": value for name, value in values.items()})
        return row

    def test_predictions(self) -> Any:
        """What the model predicts for the test arrays, as of the last `measure`; None, if it has several outputs."""
        x = self.data["test"][0]
        outputs = self._evaluation.predictions if self._evaluation else None  # Of the test data, which come last.
        if outputs is None or len(outputs[0]) != len(keras.tree.flatten(x)[0]):  # As replicas share a batch.
            outputs = keras.tree.flatten(self.model.predict(x, batch_size=self.batch_size, verbose=0))
        return outputs[0] if len(outputs) == 1 else None


def evaluate(run: Callable[..., Any], data: Any, batch_size: int) -> dict[str, float]:
    """Calls `model.evaluate` on any kind of data, and adds "error", 1 - accuracy, if an accuracy was compiled.

    Args:
        run: `model.evaluate`, or what is called in the same way.
        data, batch_size: Data as `keras.Model.evaluate` takes them, and the samples per batch, for arrays.
    """
    if isinstance(data, tuple):
        x, y, *weights = data
        arguments = {"sample_weight": weights[0] if weights else None, "batch_size": batch_size}
        values = run(x, y, **arguments, verbose=0, return_dict=True)
    else:
        values = run(data, verbose=0, return_dict=True)
    for name, value in values.items():
        if np.ndim(value):
            raise ValueError(
                f"The metric '{name}' must be one number. Received: shape {np.shape(value)}. Compile it with an "
                "average, as in keras.metrics.F1Score('macro')."
            )
    accuracies = [values[name] for name in ACCURACIES if name in values]
    return {**values, **({"error": 1 - accuracies[0]} if accuracies else {})}


class PathEnsemble:
    """Two ensembles of the positions at which `add` is called: the first and the current one, and all so far.

    Args:
        model: A compiled `keras.Model`. Its losses say what it outputs, else its outputs do.
        data: Test data. Only arrays keep their order from pass to pass, so nothing is measured on other data.
        carry: The carry that `add` returned last, to continue from there.

    Attributes:
        why_not: Why nothing is measured; None: it is.
    """

    def __init__(self, model: keras.Model, data: Any, carry: Mapping[str, Any]):
        self.model, self.data = model, _without_none(data)
        self.why_not = None if isinstance(data, tuple) else "the test data are no arrays, and may change their order"
        self._kind: Outputs | None = None
        self.start = carry.get("start")
        self.so_far = RunningMean(carry.get("total"), int(carry.get("count", 0)))

    def restart(self) -> None:
        """Forgets the positions before: the next one is the first of another path."""
        self.start, self.so_far = None, RunningMean()

    def add(self, predict: Callable[[], Any]) -> tuple[dict[str, float], dict[str, Any]]:
        """Adds a position, at which `predict()` returns what the model outputs, and returns (row, carry).

        The row is {"ensemble_with_start_error": ..., ...}; the carry holds the arrays to continue from.
        """
        if self.why_not:
            return {}, {}
        _, y, *weights = self.data
        outputs = predict()
        try:
            if outputs is None:
                raise ValueError("the network has several outputs")
            self._kind = kind = self._kind or compiled_outputs(self.model, outputs)  # Once: a NaN shows nothing.
            present = kind.probabilities(outputs).astype("float64")
            self.start = present if self.start is None else self.start
            means: dict[str, Any] = {"with_start": None, "so_far": None}
            if np.all(np.isfinite(present)):  # A point that is not spoils no other.
                self.so_far.add(present)
                means = {"with_start": (self.start + present) / 2, "so_far": self.so_far.mean()}
            row = {}
            for name, mean in means.items():
                values = self._metrics(kind, mean, y, *weights)
                row.update({f"ensemble_{name}_{key}": value for key, value in values.items()})
        except ValueError as error:
            self.why_not = str(error)
            return {}, {}
        return row, {"start": self.start, "total": self.so_far.total, "count": self.so_far.count}

    def _metrics(self, kind, mean, labels, weights=None):
        """As Keras computes metrics and losses: without sample weights, and with them, divided by N."""
        names = ("mse",) if kind.each(1)[0].task == "regression" else ("error", "nll")
        if mean is None:
            return dict.fromkeys(names, float("nan"))
        values = kind.metrics(self.model, mean, labels)
        if weights is not None:
            weighted = kind.metrics(self.model, mean, labels, weights)[names[-1]]
            values[names[-1]] = weighted * float(np.mean(weights))
        return {name: values[name] for name in names}


def _subset(data, samples, name):
    if samples is None:
        return data
    samples = as_integer(name, samples)
    if not isinstance(data, tuple):
        raise ValueError(f"`{name}` needs `train` as arrays (x, y); make another data set shorter itself.")
    size = len(keras.tree.flatten(data[0])[0])
    if samples > size:
        raise ValueError(f"`{name}` must lie between 1 and the {size} samples of `train`. Received: {name}={samples}")
    chosen = np.sort(np.random.default_rng(0).choice(size, samples, replace=False))
    return keras.tree.map_structure(lambda array: array[chosen], data)


def _checksum_of_model(model, statistics):
    """Checksum of all values that training leaves behind, except those that differ from position to position."""
    ignored = {id(variable) for variable in statistics}
    ignored.add(id(getattr(model, "t", None)))
    variables = [v for v in model.variables if id(v) not in ignored and str(v.dtype).startswith(("float", "bfloat"))]
    return checksum_of_arrays(read(variable) for variable in variables)


def _checksum_of_data(data):
    """Checksum of arrays; for other data, which can be anything, only the name of the class."""
    return checksum_of_arrays(keras.tree.flatten(data)) if isinstance(data, tuple) else type(data).__name__


def _compiled(model):
    """The compiled losses and metrics, in a form that JSON can hold."""
    config = model.get_compile_config() or {}
    kept = {name: config.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    return json.loads(json.dumps(kept, default=str))


def _without_none(data):
    """The data without an empty place for sample weights: (x, y, None) becomes (x, y)."""
    return data[:2] if isinstance(data, tuple) and len(data) == 3 and data[2] is None else data
