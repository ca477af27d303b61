"""Each member, and the ensemble with those before it, on validation data while a run goes on."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.compile_as import compile_as
from keras_fge.core.compiled import AS_COMPILED, compiled_metrics, compiled_outputs
from keras_fge.core.data import ArrayBatches, batches_of, check_data, checksum_of_data
from keras_fge.core.files import checksum_of_arrays
from keras_fge.core.keras_internals import random_states_kept
from keras_fge.core.networks import borrowed, clone, read, reset_states, restored, set_weights
from keras_fge.core.predictions import RunningMean, Votes, check_order, predict_with_labels
from keras_fge.core.processes import has_one_process, is_same_everywhere, on_this_process, together
from keras_fge.run.batches import arrays_of
from keras_fge.run.snapshots import Snapshot


class Validation:
    """Measures snapshots on `data`, one pass for each; of those before, only sums are kept.

    Where JAX runs on several processes, each has all of the data, and measures a copy of the network alone: so all log
    the same.

    Args:
        data: Arrays `(x, y)` or `(x, y, sample_weight)`, or a data set of such batches, always in the same order.
        from_logits, task: What the network outputs; see `Ensemble`. Default: as the compiled losses, or the outputs,
            say.
        metrics: "compiled": the compiled loss and metrics. Default: those of `Ensemble.evaluate`.

    Attributes:
        data: As given.
        count: How many members `measure` or `sum_up` has added.
        outputs: What the network outputs, after `check`.

    Raises:
        ValueError: if `data` cannot be read several times, or has other parts.
    """

    def __init__(self, data: Any, from_logits: Any = AS_COMPILED, task: Any = None, metrics: str | None = None):
        if isinstance(data, tuple) and len(data) not in (2, 3):
            raise ValueError(
                f"`validation_data` must be (x, y), (x, y, sample_weight) or a data set. Received: {len(data)} parts"
            )
        check_data("validation_data", data)
        self.data = data
        data = arrays_of(data)  # `fit` shuffles Batches anew before each of its own passes.
        self._parts = data if isinstance(data, tuple) else (data,)
        self._running, self._votes = RunningMean(), Votes()
        self._labels: Any = None
        self._weights: Any = None
        self._given = from_logits, task
        self._metrics = metrics
        self._copy: keras.Model | None = None  # On this process alone.
        self.outputs: Any = None  # `Outputs`, once predicted.
        self._names: list[str] = []

    @property
    def count(self) -> int:
        return int(self._running.count)

    @property
    def labels(self) -> Any:
        """The labels, and sample weights or None, of the last pass: what predictions are compared with."""
        return self._labels, self._weights

    @property
    def is_compiled(self) -> bool:
        """Whether it measures by the compiled loss and metrics."""
        return self._metrics == "compiled"

    @property
    def samples(self) -> int | None:
        """How many samples the data hold; None before they were read."""
        return None if self._labels is None else len(keras.tree.flatten(self._labels)[0])

    def check(self, model: keras.Model) -> None:
        """Measures `model` as it is, so that what cannot be measured is known before the training.

        Raises:
            ValueError: if outputs or labels do not fit, the compiled losses do not say what the outputs are, or the
                processes of JAX have other data.
        """
        self._labels = self.outputs = self._copy = None
        with together():
            outputs = self.predict(model)
        if not has_one_process():
            labels = checksum_of_arrays(map(np.asarray, keras.tree.flatten(self._labels)))
            if not is_same_everywhere(f"{self.checksum()} {labels}"):
                raise ValueError("`validation_data` must be the same in all processes of JAX: the whole, not a part.")
        metrics = self.metrics(model, outputs)
        self._names = [*self._named("member", metrics), *self._named("ensemble", metrics)]
        if len(self._parts) == 1 and not isinstance(self._parts[0], ArrayBatches):
            # A data set, which may come in another order the next time.
            again = [keras.tree.map_structure(np.asarray, batch[1]) for batch in batches_of(self._parts[0])]
            again = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *again)
            check_order(self._labels, again, "`validation_data`")

    def measure(self, model: keras.Model) -> dict[str, float]:
        """Adds `model` as it is, and returns its metrics, "member_...", and those of all so far, "ensemble_..."."""
        outputs = self._add(model)
        member, ensemble = self.metrics(model, outputs), self.metrics(model, self.mean())
        return {**self._named("member", member), **self._named("ensemble", ensemble)}

    def measure_alone(self, model: keras.Model) -> dict[str, float]:
        """What `measure` would return of `model` if it were the only member; it is not added."""
        with random_states_kept():  # On torch, a pass over data draws a number, and training is to go on as without.
            metrics = self.metrics(model, self.predict(model))
        return {**self._named("member", metrics), **self._named("ensemble", metrics)}

    def sum_up(self, model: keras.Model, snapshots: Sequence[Snapshot]) -> None:
        """Begins anew with the members that are there already."""
        self._with_each(model, snapshots, lambda snapshot: self._add(model))

    def measure_again(self, model: keras.Model, snapshots: Sequence[Snapshot]) -> None:
        """Does what `sum_up` does, and replaces what was measured of each member."""

        def measure(snapshot):
            others = {k: v for k, v in snapshot.metrics.items() if not k.startswith(("member_", "ensemble_"))}
            snapshot.metrics = {**others, **self.measure(model)}

        self._with_each(model, snapshots, measure)

    def _with_each(self, model, snapshots, function):
        """Begins anew: calls `function` with each member, which then stands in `model`."""
        self._running, self._votes = RunningMean(), Votes()
        with borrowed(model):
            for snapshot in snapshots:
                set_weights(model, snapshot.weights)
                function(snapshot)

    def checksum(self) -> str | None:
        """A checksum of the data; of a data set that is no `Batches`, the name of its class."""
        return checksum_of_data(self._parts if len(self._parts) > 1 else self._parts[0])

    def names(self) -> list[str]:
        """The names in what `measure` will return, known after `check`."""
        return self._names

    def mean(self) -> Any:
        """The mean of the probabilities of all members so far."""
        return self._running.mean()

    def disagreement(self) -> float | None:
        """In which fraction of the predictions two members differ, on average; None of values, or several outputs."""
        return self._votes.disagreement()

    def differences(self, model: keras.Model, first: Any, second: Any) -> dict[str, tuple[float, float]]:
        """Of two predictions: (first minus second, its standard error) by metric; none of compiled metrics."""
        if self._metrics == "compiled" or self.outputs is None:
            return {}
        return self.outputs.differences(model, first, second, self._labels, self._weights)

    def metrics(self, model: keras.Model, outputs: Any) -> dict[str, float]:
        """All metrics of predictions."""
        if self._metrics == "compiled":
            with on_this_process():
                return compiled_metrics(self._here(model), self.outputs, outputs, self._labels, self._weights)
        return self.outputs.metrics(model, outputs, self._labels, self._weights)

    def _named(self, name, metrics):
        """The part of the metrics that is logged, by the names in the logs."""
        if self._metrics == "compiled":
            kept = list(metrics)
        else:
            kept = [key for key in metrics if key.endswith(("error", "mse", *(["nll"] if name == "ensemble" else [])))]
        return {f"{name}_{key}": metrics[key] for key in kept}

    def _add(self, model):
        outputs = self.predict(model)
        self._running.add(outputs)
        if isinstance(outputs, np.ndarray) and (output := self.outputs.each(1)[0]).has_classes:
            self._votes.add(output.classes(outputs), self._weights)
        return outputs

    def predict(self, model: keras.Model) -> Any:
        """Probabilities that `model` predicts, as it is."""
        network = self._here(model)
        with on_this_process(), restored(network, only_on_error=True):
            reset_states(network)
            outputs, labels, self._weights = predict_with_labels(network, *self._parts)
        check_order(self._labels, labels, "`validation_data`")
        self._labels = labels
        if self.outputs is None:
            self.outputs = compiled_outputs(model, outputs, *self._given)
        return self.outputs.probabilities(outputs)

    def _here(self, model):
        """`model`; where JAX runs on several processes, a copy of it on this one, as it is now."""
        if has_one_process():
            return model
        if self._copy is None:
            with random_states_kept(), on_this_process():
                self._copy = compile_as(clone(model), model)
        set_weights(self._copy, [read(variable) for variable in model.weights])
        return self._copy
