"""`PathEnsemble`: ensembles of the networks along a path, which evaluate_path measures beside each of them."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_fge.core.compiled import compiled_outputs
from keras_fge.core.data import without_none
from keras_fge.core.predictions import RunningMean
from keras_fge.core.tasks import Outputs


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
        self.model, self.data = model, without_none(data)
        self.why_not = None if isinstance(data, tuple) else "the test data are no arrays, and may change their order"
        self._kind: Outputs | None = None
        self.start = carry.get("start")
        self.so_far = RunningMean(carry.get("total"), int(carry.get("count", 0)))

    def restart(self) -> None:
        """Forgets the positions before: the next one is the first of another path."""
        self.start, self.so_far = None, RunningMean()

    def add(self, predict: Callable[[], list[np.ndarray]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Adds a position, at which `predict()` returns the outputs of the model, and returns (row, carry).

        The row is {"ensemble_with_start_error": ..., ...}; the carry holds the arrays to continue from.
        """
        if self.why_not:
            return {}, {}
        _, y, *weights = self.data
        outputs = predict()
        try:
            if len(outputs) != 1:
                raise ValueError("the network has several outputs")
            self._kind = kind = self._kind or compiled_outputs(self.model, outputs[0])  # Once: a NaN shows nothing.
            if kind.each(1)[0].task == "gaussian":
                raise ValueError("the network outputs means and variances")
            present = kind.probabilities(outputs[0]).astype("float64")
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
