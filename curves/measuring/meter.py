"""`Meter`: loss, metrics and predictions of a model at its current weights, on train and test data."""

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from curves.measuring.evaluation import Evaluation
from keras_fge.core.arguments import as_integer
from keras_fge.core.batch_norm import BatchNormEstimator, check_can_be_estimated
from keras_fge.core.compiled import name_of_data_loss
from keras_fge.core.data import check_data, checksum_of_data, number_of_samples, subset, without_none
from keras_fge.core.files import checksum_of_arrays
from keras_fge.core.keras_internals import is_replicated
from keras_fge.core.networks import read
from keras_fge.core.processes import check_alone

ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy", "binary_accuracy")


class Meter:
    """Measures one model at one position after the other, without compiling anything twice.

    The caller moves the model, and puts it back (`restored`).

    Args:
        model: A built `keras.Model`.
        train: Data as `keras.Model.evaluate` takes them; BatchNormalization statistics come from them. None: it needs
            none.
        test: Further data. None: there are none.
        batch_size: Samples per batch, for arrays.
        train_samples, bn_samples: Number of samples of `train`, drawn at random with a fixed seed, to measure on and to
            estimate BatchNormalization statistics from. None: all. Only for arrays.
        penalty: Returns the part of the loss that depends on the current weights alone: the loss without it is measured
            too. Default: it is not.
        keeps_predictions: Whether `predictions("test")` will be asked for after each `measure`.

    Attributes:
        samples: How many samples a test error, and statistics of BatchNormalization, come from, if that is known.

    Raises:
        ValueError: if data cannot be read again and again, or have too few samples, or the model has BatchNormalization
            and there is no `train`.
    """

    def __init__(
        self,
        model: keras.Model,
        train: Any,
        test: Any,
        *,
        batch_size: int,
        train_samples: int | None = None,
        bn_samples: int | None = None,
        penalty: Callable[[], float] | None = None,
        keeps_predictions: bool = False,
    ):
        check_alone(model)
        train, test = without_none(train), without_none(test)
        for name, data in (("train", train), ("test", test)):
            check_data(name, data)
        check_can_be_estimated(model, train)
        self.model, self._penalty = model, penalty
        self.batch_size = as_integer("batch_size", batch_size)
        self._data = {"train": subset(train, train_samples, "train_samples"), "test": test}
        self._batch_norm = BatchNormEstimator(model)
        self._batch_norm_data = subset(train, bn_samples, "bn_samples")
        self._given = {"train": train, "train_samples": train_samples, "bn_samples": bn_samples}
        has_own_step = type(model).test_step is not keras.Model.test_step
        is_possible = isinstance(test, tuple) and not is_replicated(model) and not has_own_step
        self._evaluation = Evaluation(model) if keeps_predictions and is_possible else None
        self._outputs: list[np.ndarray] | None = None  # Of the test data, as of the last `measure`.
        counted = {"test_samples": number_of_samples(test)}
        if self._batch_norm.statistics:
            counted["batch_norm_samples"] = number_of_samples(self._batch_norm_data)
        self.samples = {name: count for name, count in counted.items() if count is not None}

    @property
    def train(self) -> Any:
        """The data that the train loss is measured on."""
        return self._data["train"]

    def settings(self) -> dict[str, Any]:
        """What two measurements must have in common to be one, as JSON can hold it; the model stands at no position."""
        given = self._given
        return {
            "batch_size": self.batch_size,
            "train_samples": given["train_samples"] and int(given["train_samples"]),
            "bn_samples": given["bn_samples"] and int(given["bn_samples"]),
            **_compiled(self.model),
            "model": _checksum_of_model(self.model, self._batch_norm.statistics),
            "train": checksum_of_data(given["train"]),
            "test": checksum_of_data(self._data["test"]),
        }

    def measure(self, *splits: str) -> dict[str, float]:
        """Estimates BatchNormalization statistics, and returns {"train_loss": ..., ...}, a dictionary of floats.

        Args:
            splits: "train", "test". Default: both.
        """
        self.estimate()
        penalty, row = self._penalty() if self._penalty else None, {}
        for split in splits or self._data:
            values = self._evaluate(split)
            if penalty is not None:
                values = {name_of_data_loss(self.model): values["loss"] - penalty, **values}
            row.update({f"{split}_{name}": value for name, value in values.items()})
        return row

    def estimate(self) -> None:
        """Estimates the BatchNormalization statistics at the current weights."""
        self._batch_norm.update(self._batch_norm_data, self.batch_size)

    def predictions(self, split: str) -> list[np.ndarray]:
        """What the model outputs for the inputs of a split, which are arrays, at its current weights: flat."""
        if split == "test" and self._outputs is not None:  # The test data come last in `measure`.
            return self._outputs
        return keras.tree.flatten(self.model.predict(self._data[split][0], batch_size=self.batch_size, verbose=0))

    def _evaluate(self, split):
        """The compiled loss and metrics, and "error", 1 - accuracy, if an accuracy was compiled."""
        data = self._data[split]
        if isinstance(data, tuple):
            x, y, *weights = data
            sample_weight = weights[0] if weights else None
            if self._evaluation:  # For both splits: one program.
                values, self._outputs = self._evaluation.run(x, y, sample_weight, self.batch_size, split == "test")
            else:
                arguments = {"sample_weight": sample_weight, "batch_size": self.batch_size}
                values = self.model.evaluate(x, y, **arguments, verbose=0, return_dict=True)
        else:
            values = self.model.evaluate(data, verbose=0, return_dict=True)
        for name, value in values.items():
            if np.ndim(value):
                raise ValueError(
                    f"The metric '{name}' must be one number. Received: shape {np.shape(value)}. Compile it with an "
                    "average, as in keras.metrics.F1Score('macro')."
                )
        accuracies = [values[name] for name in ACCURACIES if name in values]
        return {**values, **({"error": 1 - accuracies[0]} if accuracies else {})}


def check_compiled(model: keras.Model) -> None:
    """Raises a ValueError unless `model`, which is to be measured, has a loss."""
    if not model.compiled:
        raise ValueError("`model` must be compiled with a loss: call `compile(optimizer, loss, metrics=[...])`.")


def _checksum_of_model(model, statistics):
    """Checksum of all values that training leaves behind, except those that differ from position to position."""
    ignored = {id(variable) for variable in statistics}
    ignored.add(id(getattr(model, "t", None)))
    variables = [v for v in model.variables if id(v) not in ignored and str(v.dtype).startswith(("float", "bfloat"))]
    return checksum_of_arrays(read(variable) for variable in variables)


def _compiled(model):
    """The compiled losses and metrics, in a form that JSON can hold."""
    config = model.get_compile_config() or {}
    kept = {name: config.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    return json.loads(json.dumps(kept, default=str))
