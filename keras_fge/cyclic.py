"""`CyclicEnsemble`: the hooks that `FGE` and `SnapshotEnsemble` share, from the first step to the ensemble."""

import abc
import contextlib
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from keras import ops

from keras_fge import cycle as cycles
from keras_fge.companions import check_companions, validation_of_fit
from keras_fge.core.compiled import AS_COMPILED, check_metrics, compiled_outputs
from keras_fge.core.keras_internals import last_learning_rate, random_states_kept, shorten_progress
from keras_fge.core.tasks import Outputs
from keras_fge.ensemble import Ensemble
from keras_fge.learning_rate import CyclicRate, check_largest_rate, check_optimizer
from keras_fge.outcome import Comparison, Outcome, compare
from keras_fge.run import Batches, Collector, CyclicCounters, Resumable, Snapshot, Validation

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


SHOWN = 4  # How many of its values the progress bar shows, the learning rate among them.


class Options(TypedDict, total=False):
    """The arguments that `FGE` and `SnapshotEnsemble` share; `CyclicEnsemble` says what they are."""

    start_epoch: int
    validation_data: Any
    directory: str | os.PathLike | None
    resume: bool
    every: float | None
    rescale_momentum: bool
    from_logits: Any
    task: Any
    metrics: str | None
    comparison: bool


class CyclicEnsemble(Resumable):
    """What `FGE` and `SnapshotEnsemble` share: a cyclical learning rate, and a snapshot at its minimum in every cycle.

    The learning rate is applied inside the compiled step, as a function of the optimizer's iteration count, so it is
    exact for every update, also with `steps_per_execution` > 1, and costs nothing. Before `start_epoch` training is as
    it would be without this callback. Each `fit` starts a cycle of its own; snapshots are added to those of earlier
    runs. After training, also after an error or an interrupt, the optimizer has the learning rate it had, and the next
    `fit` uses it. With gradient accumulation, steps are batches, and a snapshot falls on an update.

    SGD with momentum, also Nesterov's, and RMSprop with momentum step as PyTorch's do, which the paper used (see
    `keras_fge.learning_rate`). Adam and the like keep moments of the gradients alone, without the learning rate, and
    need nothing. With `use_ema`, snapshots are the weights of the last step, not the average.

    Each epoch logs "learning_rate", "snapshots", their number, and what `Snapshot.metrics` holds of the last one:
    "distance_from_start" and "distance_from_last", ||w - v|| over the trainable weights, from where the cycles began
    and from the snapshot before; and with validation data, "member_error" and "ensemble_error", "ensemble_nll" of the
    ensemble so far (or the metrics that fit other outputs; see `Ensemble.evaluate`). All stand there from the first
    epoch on: until the first snapshot of the `fit`, "member_" and "ensemble_" metrics are those of the network itself,
    at the end of the epoch, and distances are 0. The progress bar shows up to four of them.

    Without `validation_data`, those of `fit` are taken, also the part that `validation_split` keeps back: arrays as
    they are, a data set if it can be read again in the same order. If they cannot be measured, a warning says why, and
    nothing is measured.

    With a `directory`, nothing is lost when the process dies. Every snapshot is written there as soon as it is taken,
    listed when it is measured, and no longer held in memory; `Ensemble.load(directory)` reads the folder, also of an
    unfinished run. At the end of every epoch, unless that would take more than a tenth of the time, the whole state of
    the training is written: weights, optimizer, random seeds, cycle, History. The same program with `resume=True`
    continues from there (or begins, if there is nothing yet), and ends with the same members, bit for bit if the
    hardware computes so. That takes data in an order that does not depend on the process: `fge.batches(x, y)`, or
    `shuffle=False`. (Keras' own shuffling of arrays is resumed on JAX and torch, not on TensorFlow.) A second `fit`
    with a folder continues that run, too. List this callback after those that change weights or optimizer at the end of
    an epoch; the states of other callbacks are not saved. If JAX runs on several processes, the first one writes, and
    all read the folder.

    Args:
        start_epoch: The epoch, counted from 0, with which the cycles begin. Default: 0.
        validation_data: Arrays `(x, y)` or `(x, y, sample_weight)`, or a data set of such batches, on which each
            snapshot and the ensemble so far are measured: one pass for each epoch before the first snapshot, and then
            for each cycle. Default: those of `fit`.
        directory: Folder for members and state. A network that is not built yet must be called first. Default: members
            stay in memory.
        resume: Whether to continue the run in `directory`, if there is one. Default: a run there is an error.
        every: Minutes from one state in the middle of an epoch to the next; see `Checkpoint`. Default: at the end of
            epochs only.
        rescale_momentum: Whether SGD with momentum takes the paper's step, v = m v + g, w -= alpha_i v. False: Keras'
            step, which lags behind a changing rate by about 1 / (1 - m) updates. Default: True. After other training,
            the velocity is taken to be of the learning rate that the optimizer has when `fit` begins: if you have
            lowered that since the last update, the first steps would be too large; then give False.
        from_logits: What the network outputs: True, False, None or a list, as for `Ensemble`. Default: as the compiled
            losses say; with validation data, if they do not tell, as the outputs show.
        task: "classification", "multilabel", "regression" or "gaussian", or a list, as for `Ensemble`. Default: as the
            losses say.
        metrics: "compiled": validation data are measured by the compiled loss and metrics, "ensemble_loss" and so on,
            for whatever task. Default: by those of `Ensemble.evaluate`.
        comparison: Whether to measure, at the end of `fit` and on the validation data, the last network and the mean of
            the members' weights beside the ensemble. That is a pass over the validation data for each; and one over
            the training data, if they are `Batches` and the network has BatchNormalization. Default: True.

    Attributes:
        comparison: `{"last network": {"error", "nll", ...}, "ensemble": {...}, "averaged weights": {...}}`, a
            `Comparison`, after a `fit` with validation data that took a snapshot; else None.
        snapshots: List of `Snapshot`, one for each cycle so far.
        epoch: The epoch that `fit` is in, 0 before.
    """

    # Snapshots are taken before the next batch or at the end of the epoch: a callback that overrides
    # `on_train_batch_end` makes JAX wait for every step.

    max_learning_rate: float
    min_learning_rate: float
    _chooses_rates = False  # Whether they are known only when the cycles begin.

    def __init__(
        self,
        cycle_epochs: int | None,
        cycle_steps: int | None,
        *,
        start_epoch: int = 0,
        validation_data: Any = None,
        directory: str | os.PathLike | None = None,
        resume: bool = False,
        every: float | None = None,
        rescale_momentum: bool = True,
        from_logits: Any = AS_COMPILED,
        task: Any = None,
        metrics: str | None = None,
        comparison: bool = True,
    ):
        cycles.check_arguments(cycle_epochs, cycle_steps, start_epoch)
        if resume and directory is None:
            raise ValueError("`resume=True` needs the `directory` of the run to resume.")
        super().__init__(directory, resume, every)
        self.cycle_epochs = cycle_epochs and int(cycle_epochs)
        self.cycle_steps = cycle_steps and int(cycle_steps)
        self.start_epoch = int(start_epoch)
        Outputs(False if from_logits == AS_COMPILED else from_logits, task)  # Raises an error on bad ones.
        check_metrics(metrics)
        self.from_logits, self.task, self.metrics = from_logits, task, metrics
        self.rescale_momentum = bool(rescale_momentum)
        self._compares = bool(comparison)
        self.comparison: Comparison | None = None
        self._validation: Validation | None = None
        self.validation_data = validation_data
        self._collector = Collector(self._lock)
        # Of the present, or the last, `fit`:
        self._cycle: cycles.Cycle | None = None
        self._rate: CyclicRate | None = None
        self._steps_before = 0  # Steps of the cycles before this epoch.
        self._train: Any = None  # What `fit` trains on, if these are `Batches`.

    @property
    def snapshots(self) -> list[Snapshot]:
        return self._collector.snapshots

    @snapshots.setter
    def snapshots(self, snapshots: list[Snapshot]) -> None:
        self._collector.snapshots = snapshots

    @property
    def validation_data(self) -> Any:
        """What each snapshot, and the ensemble so far, is measured on; None: those of `fit`, if there are any."""
        return self._validation.data if self._validation and self._has_own_validation else None

    @validation_data.setter
    def validation_data(self, data: Any) -> None:
        self._has_own_validation = data is not None
        self._validation = None if data is None else Validation(data, self.from_logits, self.task, self.metrics)

    @abc.abstractmethod
    def schedule(self, cycle_steps: int) -> Callable[[Any], Any]:
        """The learning rate as a function of the update 1, 2, ..., for a cycle of `cycle_steps` updates."""

    def _choose_rates(self, rate: float) -> None:
        """Chooses rates that were not given, when the optimizer has the learning rate `rate`."""

    @abc.abstractmethod
    def _minimum(self, cycle_steps: int) -> int:
        """The update of the cycle, 1 to `cycle_steps`, after which the snapshot is taken."""

    def ensemble(self, from_logits: Any = "as given", task: Any = "as given") -> Ensemble:
        """The `Ensemble` of the snapshots so far.

        Args:
            from_logits, task: What the network outputs; see `Ensemble`. Default: as given to this callback, as the
                compiled losses say, or as the outputs showed on validation data.

        Raises:
            ValueError: if there is no snapshot yet, or the compiled losses do not say whether they take logits.
        """
        if not self.snapshots:
            raise ValueError("No snapshot has been collected yet: pass this callback to `fit`.")
        given = self._said_of_outputs()
        from_logits = given[0] if from_logits == "as given" else from_logits
        task = given[1] if task == "as given" else task
        outputs = compiled_outputs(self.model, None, from_logits, task)
        return Ensemble(self.model, self.snapshots, outputs.from_logits, outputs.task)

    def _said_of_outputs(self):
        outputs = self._validation and self._validation.outputs
        return (outputs.from_logits, outputs.task) if outputs else (self.from_logits, self.task)

    # --- What the run brought -----------------------------------------------------------------------------------------

    @property
    def outcome(self) -> Outcome:
        """What the last run brought, to print, plot and look at."""
        collector, cycle = self._collector, self._cycle
        rate = self.schedule(cycle.length) if cycle and collector.last_step else None
        network = self.model if collector.last_step else None
        measured = self._validation, self.comparison
        return Outcome(repr(self), self.snapshots, collector.earlier, collector.start, rate, network, *measured)

    def plot(self, path: str | os.PathLike | None = None, columns: int | None = None) -> "Figure":
        """The paper's figure of the last run; see `Outcome.plot`."""
        return self.outcome.plot(path, columns)

    def to_html(self, path: str | os.PathLike) -> None:
        """Writes a page to look at the last run in a browser; see `Outcome.to_html`."""
        self.outcome.to_html(path)

    def show(self) -> None:
        """Shows that page in the cell of a notebook, or else in a browser."""
        self.outcome.show()

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table of the snapshots; see `Outcome.to_frame`."""
        return self.outcome.to_frame()

    def __repr__(self) -> str:
        length = f"{self.cycle_epochs} epochs" if self.cycle_epochs else f"{self.cycle_steps} steps"
        return (
            f"{type(self).__name__}({len(self.snapshots)} snapshots, cycles of {length} from epoch {self.start_epoch})"
        )

    def __str__(self) -> str:
        return str(self.outcome)

    def _repr_html_(self) -> str:
        return self.outcome._repr_html_()

    def __getstate__(self):
        return {**super().__getstate__(), "_rate": None, "_train": None}

    # --- The hooks, in the order in which `fit` calls them ------------------------------------------------------------

    def _check(self, model, fit):
        steps_per_epoch = self.params.get("steps")
        self._collector.begin(model)
        length = cycles.length_in_steps(self.cycle_epochs, self.cycle_steps, steps_per_epoch)
        self._cycle = cycles.Cycle(length, self._minimum(length))
        check_optimizer(model)
        self._rate = CyclicRate(model, self.rescale_momentum)
        largest = last_learning_rate(self._rate.optimizer) if self._chooses_rates else self.max_learning_rate
        check_largest_rate(self._rate.optimizer, largest, steps_per_epoch and steps_per_epoch * self.params["epochs"])
        self._cycle.check_executions(steps_per_epoch, model.steps_per_execution)
        self._cycle.check_accumulation(self._rate.optimizer.gradient_accumulation_steps or 1)
        self._check_reached(0)
        self._find_validation(model, fit)
        self.comparison = None
        self._train = fit.data if fit and isinstance(fit.data, Batches) else None
        if fit:
            names = self._names_of_metrics()
            check_companions(fit, type(self).__name__, self.start_epoch, names)
            shorten_progress(fit, ["snapshots", *sorted(names, key=_importance)[SHOWN - 1 :]])

    def on_epoch_begin(self, epoch, logs=None):
        is_first = not self._has_begun
        super().on_epoch_begin(epoch, logs)
        if is_first:
            self._check_reached(epoch)
        model, rate = self.model, self._rate
        if rate.start is None and epoch >= self.start_epoch:
            rate.set_start()
            if self._chooses_rates:
                self._choose_rates(last_learning_rate(rate.optimizer))
                if self.params.get("verbose"):
                    print(f"\n{type(self).__name__}: rates {self.max_learning_rate:g} to {self.min_learning_rate:g}")
            rate.set_function(self.schedule(self._cycle.length), self.max_learning_rate)
            self._collector.take_start(model)
        if rate.start is not None:
            if not rate.is_compiled:
                rate.compile(model)
            self._steps_before = self._steps_done()

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch, logs)
        if not self._rate.is_compiled:
            return
        if self._cycle.is_due(self._steps_before + batch, self._collector.last_step):
            # Updates that a LossScaleOptimizer skips do not count. The true number is costly to read on JAX, and never
            # larger than the count of batches: so it is enough to look here.
            self._steps_before = self._steps_done() - batch
            self._collect_if_due(self._steps_before + batch)
        self._rate.take_next(self._steps_before + batch)  # Last: nothing that fails here leaves it in place.

    def on_epoch_end(self, epoch, logs=None):
        if self._rate.start is None:
            rate = self._rate.before = last_learning_rate(self._rate.optimizer)
        else:
            step = self._steps_done()
            self._rate.put_back()
            self._collect_if_due(step)
            rate = self._rate_of(max(step, 1))
        if logs is not None:
            logs.update(learning_rate=rate, snapshots=len(self.snapshots), **self._metrics_so_far())
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        _ = self.model  # On JAX, this brings the optimizer up to date.
        self._rate.end()
        is_finished = self.directory is not None and not self._has_begun
        try:
            self._compare()
        finally:  # Also if somebody interrupts that.
            super().on_train_end(logs)
        if is_finished:
            warnings.warn(f"There was nothing to train: '{self.directory}' holds the finished run.", stacklevel=2)
        elif not self._collector.last_step:
            warnings.warn(f"{type(self).__name__} collected no snapshot: {self._why_there_is_none()}", stacklevel=2)

    # --- What they do -------------------------------------------------------------------------------------------------

    def _steps_done(self):
        _ = self.model  # On JAX, this brings the optimizer up to date.
        return self._rate.steps_done()

    def _rate_of(self, step):
        return float(ops.convert_to_numpy(self._rate.schedule.function(step)))

    def _check_reached(self, epoch):
        done = 0 if self._rate.start is None else self._steps_done()  # In a run that is resumed.
        left = max(0, self.params["epochs"] - max(self.start_epoch, epoch))
        self._cycle.check_reached(done, left, self.params.get("steps"), self.start_epoch)

    def _collect_if_due(self, step):
        if self._cycle.is_due(step, self._collector.last_step):
            kept = f" '{self.directory}' keeps what came before." if self.directory else ""
            when = f"in epoch {self.epoch + 1}, step {step} of the cycles.{kept}"
            self._collector.take(self.model, step, self._rate_of(step), when, self._validation)

    def _metrics_so_far(self):
        """Those of the last snapshot of this `fit`; before it, those of the network itself."""
        if self._collector.last_step:
            return self.snapshots[-1].metrics
        measured = {}
        if self._validation:
            measured = dict.fromkeys(self._validation.names(), float("nan"))
            with contextlib.suppress(ValueError):  # Outputs that are not finite end no training; others' callbacks may.
                measured = self._validation.measure_alone(self.model)
        return {"distance_from_start": 0.0, "distance_from_last": 0.0, **measured}

    def _compare(self):
        """Sets `comparison`, and prints it where `fit` prints."""
        is_measured = self._validation and self._collector.last_step and self._validation.count == len(self.snapshots)
        if self._compares and is_measured and not self._termination.is_requested:
            try:
                with random_states_kept():  # What comes after `fit` is as without.
                    train = self._train and self._train.with_batch_size(128)
                    self.comparison = compare(self.model, self.snapshots, self._validation, train)
                if self.params.get("verbose"):
                    print("\n".join(self.comparison.sentences()))
            except Exception as error:  # The training is done, and nothing of it may be lost for a comparison.
                warnings.warn(f"The ensemble was not compared with the last network: {error}", stacklevel=3)
        self._train = None

    def _why_there_is_none(self):
        if self._rate.start is None:
            return f"training ended before epoch {self.start_epoch}, with which the cycles begin (`start_epoch`)."
        steps, cycle = self._steps_done(), self._cycle
        fitting = steps * cycle.length // cycle.minimum
        cure = f" `cycle_steps={fitting}` would have fitted." if fitting >= 2 else ""
        return f"training ended after {steps} steps of the cycles; the first is due after {cycle.minimum}.{cure}"

    def _find_validation(self, model, fit):
        """The validation data of this `fit`, checked."""
        if self._has_own_validation:
            self._validation.check(model)
        else:
            given = self.from_logits, self.task, self.metrics
            self._validation = validation_of_fit(fit, model, type(self).__name__, *given)
        if self._validation and self.directory is None and self._validation.count != len(self.snapshots):
            self._validation.sum_up(model, self.snapshots)

    def _names_of_metrics(self):
        """What the metrics of a snapshot will be, known before."""
        measured = self._validation.names() if self._validation else []
        return ["distance_from_start", "distance_from_last", *measured]

    # --- The run in the folder ----------------------------------------------------------------------------------------

    def _kind_of_counters(self):
        return CyclicCounters

    def _own_settings(self):
        return {
            "validation_data": self._validation and self._validation.checksum(),
            "callback": type(self).__name__,
            "max_learning_rate": None if self._chooses_rates else self.max_learning_rate,
            "min_learning_rate": None if self._chooses_rates else self.min_learning_rate,
            "cycle_steps": self._cycle.length,
            "start_epoch": self.start_epoch,
            "rescale_momentum": self._rate.rescales,
        }

    def _holds_run(self):
        return self._collector.folder.exists()

    def _begin(self, model):
        if self._state.exists() and self._state.read().counters["epoch"] > 0:
            raise ValueError(
                f"`directory`: '{self.directory}' holds the state of a training, but no manifest.json of a run. Give "
                "another folder."
            )
        self._collector.folder.remove_leftovers()  # Of a process that was killed before there was a run.
        self._state.remove_leftovers()
        self._collector.create(model, *self._said_of_outputs())
        if self._validation and self._validation.count != len(self.snapshots):
            self._validation.sum_up(model, self.snapshots)
        self._write_state(0)
        self._collector.write_manifest()

    def _read(self, model, stored):
        self._collector.read(model, stored, *self._said_of_outputs())
        if self._validation:  # Without, what was measured before stays.
            is_other = stored.counters["settings"].get("validation_data") != self._settings["validation_data"]
            is_other |= any(snapshot.metrics.keys() != set(self._names_of_metrics()) for snapshot in self.snapshots)
            go_on = self._validation.measure_again if is_other else self._validation.sum_up
            go_on(model, self.snapshots)
        self._rate.start, self._rate.before = stored.counters["start"], stored.counters["rate_before"]
        if (self._rate.start is None) != (self._collector.start is None):
            raise ValueError("`start` and `start_snapshot` of its state do not fit together.")

    def _adopt(self, stored, changed):
        if self._rate.start is None:
            return
        if self._chooses_rates:
            is_new = "learning_rate" in changed  # What the user gave the optimizer for this resume.
            self._choose_rates(last_learning_rate(self._rate.optimizer) if is_new else stored.counters["largest_rate"])
        self._rate.set_function(self.schedule(self._cycle.length), self.max_learning_rate)
        if any(name.endswith("learning_rate") for name in changed):
            self._rate.change_from(stored.counters["rate"])

    def _counters(self):
        return {
            **self._collector.counters(),
            "start": self._rate.start,
            "rate_before": self._rate.before,
            "rate": self._rate.of_last_update(),
            "largest_rate": None if self._rate.start is None else self.max_learning_rate,
        }


def _importance(name):
    """By which the progress bar shows what a callback logs: first what the ensemble is, then its members."""
    return [not name.startswith(kind) for kind in ("ensemble_", "member_")]
