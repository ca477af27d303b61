"""Each member, and the ensemble with those before it, on validation data while a run goes on."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.arguments import check_data
from keras_fge.core.networks import borrowed, restored, set_weights
from keras_fge.core.predictions import (
    RunningMean,
    batches_of,
    check_order,
    compiled_from_logits,
    metrics_of_outputs,
    predict_with_labels,
    to_probabilities,
)
from keras_fge.snapshots import Snapshot


class Validation:
    """Measures snapshots on `data`, one pass for each; of those before, only the sum of probabilities is kept.

    Args:
        data: Arrays `(x, y)`, or a data set of such batches in an order that does not change.
        from_logits: What the network outputs; see `Ensemble`. Default: as the compiled losses say, or the outputs.

    Attributes:
        data: As given.
        count: How many members `measure` or `sum_up` has added.

    Raises:
        ValueError: if `data` cannot be read several times, or has other parts.
    """

    def __init__(self, data: Any, from_logits: Any = "as compiled"):
        if isinstance(data, tuple) and len(data) != 2:
            raise ValueError(f"`validation_data` must be (x, y) or a data set. Received: {len(data)} parts")
        check_data("validation_data", data)
        self.data = data
        self._x, self._y = data if isinstance(data, tuple) else (data, None)
        self._running = RunningMean()
        self._labels: Any = None
        self._given = self._from_logits = from_logits

    @property
    def count(self) -> int:
        return self._running.count

    def check(self, model: keras.Model) -> None:
        """Measures `model` as it is, so that what cannot be measured is known before the training.

        Raises:
            ValueError: if outputs or labels do not fit, or the compiled losses do not say what the outputs are.
        """
        self._labels, self._from_logits = None, self._given
        outputs, labels = self._predict(model)
        metrics_of_outputs(model, outputs, labels, self._from_logits)
        if self._y is None:  # A data set, which may come in another order the next time.
            again = [keras.tree.map_structure(np.asarray, batch[1]) for batch in batches_of(self._x)]
            again = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *again)
            check_order(labels, again, "`validation_data`")

    def measure(self, model: keras.Model) -> dict[str, float]:
        """Adds `model` as it is, and returns its metrics, "member_...", and those of all so far, "ensemble_..."."""
        outputs, labels = self._predict(model)
        from_logits = self._from_logits
        self._running.add(outputs)
        member = metrics_of_outputs(model, outputs, labels, from_logits)
        ensemble = metrics_of_outputs(model, self._running.mean(), labels, from_logits)
        return {
            **{f"member_{name}": value for name, value in member.items() if name.endswith(("error", "mse"))},
            **{f"ensemble_{n}": value for n, value in ensemble.items() if n.endswith(("error", "nll", "mse"))},
        }

    def sum_up(self, model: keras.Model, snapshots: Sequence[Snapshot]) -> None:
        """Begins anew with the members that are there already."""
        self._running = RunningMean()
        with borrowed(model):
            for snapshot in snapshots:
                set_weights(model, snapshot.weights)
                self._running.add(self._predict(model)[0])

    def names(self) -> list[str]:
        """The names in what `measure` will return, as far as they are known after `check`."""
        if isinstance(self._from_logits, list):
            return []
        metrics = ["mse"] if self._from_logits is None else ["error", "nll"]
        return [f"member_{metrics[0]}", *(f"ensemble_{metric}" for metric in metrics)]

    def _predict(self, model):
        """(probabilities, labels)."""
        with restored(model, only_on_error=True):
            outputs, labels = predict_with_labels(model, self._x, self._y, None)
        check_order(self._labels, labels, "`validation_data`")
        self._labels = labels
        if self._from_logits == "as compiled":
            self._from_logits = compiled_from_logits(model, outputs)
        return to_probabilities(outputs, self._from_logits), labels
