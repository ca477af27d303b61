"""`CyclicEnsemble`: the hooks that `FGE` and `SnapshotEnsemble` share, from the first step to the ensemble."""

import abc
import contextlib
import os
import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_fge import cycle as cycles
from keras_fge import state
from keras_fge.batches import Batches, announce_epoch
from keras_fge.core.compiled import AS_COMPILED, check_metrics, compiled_outputs
from keras_fge.core.figures import as_html
from keras_fge.core.keras_internals import (
    callbacks_around,
    has_one_process,
    last_learning_rate,
    optimizer_calls,
    validation_of_fit,
)
from keras_fge.core.networks import check_finite, distance
from keras_fge.core.tasks import Outputs
from keras_fge.cycle import Cycle
from keras_fge.diagnosis import of_run
from keras_fge.ensemble import Ensemble
from keras_fge.learning_rate import (
    SMALLEST_RATE,
    LearningRateFunction,
    ScheduledStep,
    has_momentum,
    rate_of_last_update,
    scheduled_optimizer,
)
from keras_fge.run import Run, RunFolder
from keras_fge.snapshots import Snapshot
from keras_fge.termination import Termination
from keras_fge.validation import Validation

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class CyclicEnsemble(keras.callbacks.Callback, abc.ABC):
    """What `FGE` and `SnapshotEnsemble` share: a cyclical learning rate, and a snapshot at its minimum in every cycle.

    (The class is long because it has all hooks of a run, and this text; what they do is in the files it imports.)

    The learning rate is applied inside the compiled step, as a function of the optimizer's iteration count, so it is
    exact for every update, also with `steps_per_execution` > 1, and costs nothing. Before `start_epoch` training is as
    it would be without this callback. Each `fit` starts a cycle of its own; snapshots are added to those of earlier
    runs. After training, also after an error or an interrupt, the optimizer has the learning rate it had, and the next
    `fit` uses it. With gradient accumulation, steps are batches, and a snapshot falls on an update.

    SGD with momentum, also Nesterov's, steps as in the paper's PyTorch code (see `keras_fge.learning_rate`), from the
    first update on, for which the velocity of the training before is taken over; with `rescale_momentum=False`, as
    Keras does. Adam and the like keep moments of the gradients alone, without the learning rate, and need nothing.

    Each epoch logs "learning_rate" and "snapshots", their number. From the first snapshot on, it logs of the last one
    what `Snapshot.metrics` holds too: "distance_from_start" and "distance_from_last", ||w - v|| over the trainable
    weights, from where the cycles began and from the snapshot before; and with validation data, "member_error" and
    "ensemble_error", "ensemble_nll" of the ensemble so far (or the metrics that fit other outputs; see
    `Ensemble.evaluate`). Before that there is nothing to log; only where a CSVLogger follows, which takes its columns
    from the first epoch, it is NaN.

    Where there is no `validation_data`, those of `fit` are taken, also the part that `validation_split` keeps back:
    arrays as they are, a data set if it can be read again in the same order. Where that cannot be measured, a warning
    says why, and nothing is measured.

    With a `directory`, nothing is lost when the process dies. Every snapshot is written there as soon as it is taken,
    and no longer held in memory; `Ensemble.load(directory)` reads the folder, also of an unfinished run. At the end of
    every epoch, unless that would take more than a tenth of the time, the whole state of the training is written:
    weights, optimizer, random seeds, cycle. The same program with `resume=True` continues from there (or begins, if
    there is nothing yet), and ends with the same members, bit for bit where the hardware computes so. That takes data
    in an order that does not depend on the process: `shuffle=False`, or `keras_fge.Batches`. (Keras' own shuffling of
    arrays is resumed on JAX and torch, not on TensorFlow.) A second `fit` with a folder continues that run, too. List
    this callback after those that change weights or optimizer at the end of an epoch; the states of other callbacks are
    not saved. Where JAX runs on several processes, the first one writes, and all read the folder.

    Attributes:
        snapshots: List of `Snapshot`, one for each cycle so far.
        epoch: The epoch that `fit` is in, 0 before.
    """

    # Snapshots are taken before the next batch or at the end of the epoch: a callback that overrides
    # `on_train_batch_end` makes JAX wait for every step.

    max_learning_rate: float
    min_learning_rate: float
    chooses_rates = False  # Whether they are known only when the cycles begin.

    def __init__(
        self,
        cycle_epochs: int | None,
        cycle_steps: int | None,
        start_epoch: int,
        validation_data: Any,
        directory: str | os.PathLike | None,
        resume: bool,
        rescale_momentum: bool,
        from_logits: Any,
        task: Any,
        metrics: str | None,
    ):
        super().__init__()
        cycles.check_arguments(cycle_epochs, cycle_steps, start_epoch)
        if resume and directory is None:
            raise ValueError("`resume=True` needs the `directory` of the run to resume.")
        self.cycle_epochs = cycle_epochs and int(cycle_epochs)
        self.cycle_steps = cycle_steps and int(cycle_steps)
        self.start_epoch = int(start_epoch)
        Outputs(False if from_logits == AS_COMPILED else from_logits, task)  # Raises an error on bad ones.
        check_metrics(metrics)
        self.from_logits, self.task, self.metrics = from_logits, task, metrics
        self._validation: Validation | None = None
        self.validation_data = validation_data
        self.directory = directory
        self.resume = resume
        self.rescale_momentum = bool(rescale_momentum)
        self.snapshots: list[Snapshot] = []
        self.epoch = 0
        self._folder = None if directory is None else RunFolder(directory)
        self._run: Run | None = None
        self._termination = Termination()

    @property
    def validation_data(self) -> Any:
        """What each snapshot, and the ensemble so far, is measured on; None: those of `fit`, if there are any."""
        return self._validation.data if self._validation and self._has_own_validation else None

    @validation_data.setter
    def validation_data(self, data: Any) -> None:
        self._has_own_validation = data is not None
        self._validation = None if data is None else Validation(data, self.from_logits, self.task, self.metrics)

    @abc.abstractmethod
    def learning_rate(self, step: Any, cycle_steps: int) -> Any:
        """The learning rate of update `step` = 1, 2, ..., for a cycle of `cycle_steps` updates."""

    def choose_rates(self, rate: float) -> None:
        """Chooses rates that were not given, when the optimizer has the learning rate `rate`."""

    @abc.abstractmethod
    def position_of_minimum(self, cycle_steps: int) -> int:
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

    def batches(self, x: Any, y: Any, batch_size: int = 32, seed: int = 0, sample_weight: Any = None) -> Batches:
        """The arrays as a data set for a `fit` with this callback; see `Batches`.

        Example:
            fge = keras_fge.FGE(0.05, 0.0005, directory="run", resume=True)
            model.fit(fge.batches(x, y, batch_size=128), epochs=20, verbose=0, callbacks=[fge])
        """
        return Batches(x, y, batch_size, seed, sample_weight)

    def plot(self, path: str | os.PathLike | None = None, columns: int | None = None) -> "Figure":
        """The paper's figure of the last run: learning rate, error, and distances, against the iteration.

        Args:
            path: File to write; matplotlib takes the format from its ending, such as .pdf or .svg. Default: none.
            columns: 1 or 2: for so many columns of a paper; see `curves.plot_paths`. Default: for a screen.

        Returns:
            A `matplotlib.figure.Figure`. The panel of errors is there if there were `validation_data`.
        """
        from keras_fge.plots import plot_run

        steps, rates, snapshots, _ = self._shown()
        return plot_run(steps, rates, snapshots, path, columns)

    def to_html(self, path: str | os.PathLike) -> None:
        """Writes a page to look at the last run in a browser: one HTML file, which needs no network.

        It shows start and members on the plane of their first two principal components, with the share of the variance
        that this plane has, errors of members and ensembles, distances and the learning rate; a slider goes from member
        to member. It needs plotly, when it is written only.

        Args:
            path: File to write, such as "run.html".

        Raises:
            ValueError: if no snapshot has been collected yet.
            ImportError: if plotly is not installed.
        """
        from keras_fge.explorer import explore_run

        steps, rates, snapshots, start = self._shown()
        distances = Ensemble(self.model, [start, *snapshots]).distances()
        explore_run(steps, rates, snapshots, distances, self._sentences() or [repr(self)], path, type(self).__name__)

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table of the snapshots: "step", "learning_rate", and what was measured."""
        import pandas

        rows = [{"step": s.step, "learning_rate": s.learning_rate, **s.metrics} for s in self.snapshots]
        return pandas.DataFrame(rows, index=range(1, len(rows) + 1))

    def _shown(self):
        """(iterations, learning rates, snapshots, snapshot of the start) of the last run."""
        if self._run is None or not self.snapshots[self._run.earlier :]:
            raise ValueError("No snapshot has been collected yet: there is nothing to plot.")
        snapshots = self.snapshots[self._run.earlier :]
        steps = np.arange(1, snapshots[-1].step + 1)
        rates = ops.convert_to_numpy(self.learning_rate(steps, self._run.cycle.length))
        return steps, rates, snapshots, self._run.start_snapshot

    def _sentences(self):
        samples = self._validation.samples if self._validation else None
        return of_run(self.snapshots, samples) if self.snapshots else []

    def __repr__(self) -> str:
        length = f"{self.cycle_epochs} epochs" if self.cycle_epochs else f"{self.cycle_steps} steps"
        return (
            f"{type(self).__name__}({len(self.snapshots)} snapshots, cycles of {length} from epoch {self.start_epoch})"
        )

    def __str__(self) -> str:
        return "\n".join([repr(self), *self._sentences()])

    def _repr_html_(self) -> str:
        return as_html([repr(self), *self._sentences()])

    # --- The hooks, in the order in which `fit` calls them ------------------------------------------------------------

    def on_train_begin(self, logs=None):
        model, steps_per_epoch = self.model, self.params.get("steps")
        state.claim_fit(self, "each sets the learning rate or resumes the training. `directory` keeps the state.")
        if self.snapshots:
            self.snapshots[0].check(model, 0)
        length = cycles.length_in_steps(self.cycle_epochs, self.cycle_steps, steps_per_epoch)
        cycle = Cycle(length, self.position_of_minimum(length))
        run = self._run = Run(cycle, scheduled_optimizer(model.optimizer), earlier=len(self.snapshots))
        run.rate_before = rate_of_last_update(run.optimizer)
        cycle.check_executions(steps_per_epoch, model.steps_per_execution)
        cycle.check_accumulation(run.optimizer.gradient_accumulation_steps or 1)
        self._check_reached(run, 0)
        self._check_validation(model)
        with self._folder.lock.acquired() if self._folder else contextlib.nullcontext():
            stored = self._open_folder(run, model) if self._folder else None
            if self._validation and (stored or self._validation.count != len(self.snapshots)):
                self._validation.sum_up(model, self.snapshots)
            if stored:  # Last: predictions use the random generators too.
                self.epoch = stored.counters["epoch"]
                stored.restore(model, run.changed)
                if self.chooses_rates and run.start is not None:
                    is_new = "learning_rate" in run.changed  # What the user gave the optimizer for this resume.
                    rate = last_learning_rate(run.optimizer) if is_new else stored.counters["largest_rate"]
                    self.choose_rates(rate)
                if run.changed and run.start is not None:
                    self._adopt_rates(run, stored.counters.get("rate"))
        if self._folder:
            self._termination.watch(model)
        before, after = callbacks_around(self)
        self._warn_of_loggers(before)
        run.takes_columns = any(isinstance(other, keras.callbacks.CSVLogger) for other in after)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, run, model = epoch, self._run, self.model
        announce_epoch(epoch, self._check_batches if self._folder and not run.has_epochs else None)
        state.see_rate(model)
        if not run.has_epochs:
            self._check_reached(run, epoch)
            run.has_epochs = True
        if run.start is None and epoch >= self.start_epoch:
            accumulated = run.optimizer.gradient_accumulation_steps or 1
            run.start = cycles.start_of_cycles(optimizer_calls(run.optimizer), accumulated)
            if self.chooses_rates:
                self.choose_rates(last_learning_rate(run.optimizer))
                if self.params.get("verbose"):
                    print(f"\n{type(self).__name__}: rates {self.max_learning_rate:g} to {self.min_learning_rate:g}")
            run.largest_rate = self.max_learning_rate
            start = Snapshot.of(model, like=self.snapshots[-1] if self.snapshots else None)
            run.start_snapshot = self._folder.store(start, "start") if self._folder else start
        if run.start is not None:
            if run.scheduled_step is None:
                run.scheduled_step = self._scheduled_step(run, model)
            run.epoch_start = self._steps_done(run)

    def on_train_batch_begin(self, batch, logs=None):
        announce_epoch(None)
        run = self._run
        run.batch = batch
        if run.scheduled_step is None:
            return
        if run.cycle.is_due(run.epoch_start + batch, run.last_step):
            # Updates that a LossScaleOptimizer skips do not count. The true number is costly to read on JAX, and never
            # larger than the count of batches: so it is enough to look here.
            run.epoch_start = self._steps_done(run) - batch
            self._collect_if_due(run, run.epoch_start + batch)
        # Last: nothing that fails here leaves it in place.
        run.scheduled_step.take_next(run.start + run.epoch_start + batch)

    def on_epoch_end(self, epoch, logs=None):
        run = self._run
        if run.start is None:
            rate = run.rate_before = rate_of_last_update(run.optimizer)
        else:
            step = self._steps_done(run)
            self._collect_if_due(run, step)
            rate = float(ops.convert_to_numpy(self.learning_rate(max(step, 1), run.cycle.length)))
        if logs is not None:
            logs.update(learning_rate=rate, snapshots=len(self.snapshots))
            logs.update(
                run.latest or dict.fromkeys(self._names_of_metrics() if run.takes_columns else (), float("nan"))
            )
        state.see_rate(self.model)
        if self._termination.is_requested:
            self.model.stop_training = True
        is_last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        is_whole = state.is_whole_epoch(run.batch, self.params.get("steps"), self.model.steps_per_execution)
        if self._folder and is_whole and (is_last or self._folder.state_is_due()):
            self._folder.write_state(run, self.model, epoch + 1, self.snapshots)

    def on_train_end(self, logs=None):
        if self._folder:
            self._folder.lock.release()
            self._termination.end(self, logs)
        if self._folder and not self._run.has_epochs:
            warnings.warn(f"There was nothing to train: '{self.directory}' holds the finished run.", stacklevel=2)
        elif not self._run.last_step:
            warnings.warn(f"{type(self).__name__} collected no snapshot: {self._why_there_is_none()}", stacklevel=2)

    # --- The learning rate --------------------------------------------------------------------------------------------

    def _scheduled_step(self, run, model):
        rate = self._schedule(run)
        before = max(run.rate_before, rate.least) if self._rescales(run) else None
        return ScheduledStep(model, run.optimizer, rate, before)

    def _schedule(self, run):
        least = SMALLEST_RATE * self.max_learning_rate if self._rescales(run) else 0.0
        return LearningRateFunction(lambda step: self.learning_rate(step, run.cycle.length), run.start, least)

    def _rescales(self, run):
        return self.rescale_momentum and has_momentum(run.optimizer)

    def _adopt_rates(self, run, rate_then):
        """After a resume with other rates: the velocity holds the rate of the last update, which was one of before."""
        if rate_then is None or not self._rescales(run) or not self._steps_done(run):
            return
        factor = self._schedule(run).of_last_update(run.optimizer) / rate_then
        for velocity in run.optimizer.momentums:
            velocity.assign(velocity * factor)

    def _said_of_outputs(self):
        outputs = self._validation and self._validation.outputs
        return (outputs.from_logits, outputs.task) if outputs else (self.from_logits, self.task)

    # --- Validation ---------------------------------------------------------------------------------------------------

    def _check_validation(self, model):
        """What cannot be measured is refused before the training; of the data of `fit`, it is left out."""
        if self._has_own_validation:
            if not has_one_process():
                raise ValueError(
                    "`validation_data` cannot be measured where JAX runs on several processes. Leave it out, and "
                    "measure in one process afterwards, with `Ensemble.load`."
                )
            self._validation.check(model)
            return
        self._validation = None
        data, steps = validation_of_fit(self)
        if data is not None:
            try:
                if steps is not None:
                    raise ValueError("Only whole data sets can be measured, and `fit` has `validation_steps`.")
                if not has_one_process():
                    raise ValueError("Each of several processes would have a part of them.")
                validation = Validation(data, self.from_logits, self.task, self.metrics)
                validation.check(model)
            except ValueError as error:
                warnings.warn(
                    f"{type(self).__name__} does not measure its members on the validation data of `fit`: {error} "
                    "Its own `validation_data` may be other ones.",
                    stacklevel=2,
                )
            else:
                self._validation = validation

    # --- Snapshots ----------------------------------------------------------------------------------------------------

    def _steps_done(self, run):
        _ = self.model  # On JAX, this brings the optimizer up to date.
        return optimizer_calls(run.optimizer) - run.start

    def _check_reached(self, run, epoch):
        done = 0 if run.start is None else self._steps_done(run)  # In a run that is resumed.
        left = max(0, self.params["epochs"] - max(self.start_epoch, epoch))
        run.cycle.check_reached(done, left, self.params.get("steps"), self.start_epoch)

    def _collect_if_due(self, run, step):
        if not run.cycle.is_due(step, run.last_step):
            return
        model = self.model
        rate = float(ops.convert_to_numpy(self.learning_rate(step, run.cycle.length)))
        snapshot = Snapshot.of(model, step, rate, run.start_snapshot)
        kept = f" '{self.directory}' keeps what came before." if self.directory else ""
        check_finite(model.weights, snapshot.weights, f"in epoch {self.epoch + 1}, step {step} of the cycles.{kept}")
        before = self.snapshots[-1] if self.snapshots else run.start_snapshot
        last = before if run.last_step else run.start_snapshot
        self.snapshots.append(snapshot)  # Before anything that may fail.
        run.last_step = step
        if self._folder:
            self.snapshots[-1] = self._folder.add_member(run, self.snapshots)
        from_last = distance(model, snapshot.weights, last.weights)
        distances = {
            "distance_from_start": distance(model, snapshot.weights, run.start_snapshot.weights),
            "distance_from_last": from_last,
        }
        if (from_last if last is before else distance(model, snapshot.weights, before.weights)) == 0:
            warnings.warn(
                f"Snapshot {len(self.snapshots)} has the same weights as the one before. If it is of another `fit` "
                "from the same start, that took the same batches, as TensorFlow does after "
                "`keras.utils.set_random_seed`: use `keras_fge.Batches` with another seed.",
                stacklevel=2,
            )
        measured = self._validation.measure(model) if self._validation else {}
        self.snapshots[-1].metrics = run.latest = {**distances, **measured}
        if self._folder:
            self._folder.write_manifest(run, self.snapshots)

    def _why_there_is_none(self):
        run = self._run
        if run.start is None:
            return f"training ended before epoch {self.start_epoch}, with which the cycles begin (`start_epoch`)."
        steps, cycle = self._steps_done(run), run.cycle
        fitting = steps * cycle.length // cycle.minimum
        cure = f" `cycle_steps={fitting - fitting % 2}` would have fitted." if fitting >= 2 else ""
        return f"training ended after {steps} steps of the cycles; the first is due after {cycle.minimum}.{cure}"

    def _warn_of_loggers(self, before):
        """Keras hands each callback the logs as those before have left them, so these do not see what is added here."""
        ours = ("ensemble_", "member_", "distance_")
        for callback in before:
            loggers = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard)
            if isinstance(callback, loggers) or str(getattr(callback, "monitor", "")).startswith(ours):
                warnings.warn(
                    f"{type(callback).__name__} stands before {type(self).__name__} in `callbacks`, so it does not get "
                    f"metrics such as '{self._names_of_metrics()[-1]}': list it after.",
                    stacklevel=2,
                )

    def _names_of_metrics(self):
        """What `Run.latest` will hold, as far as it is known before: CSVLogger takes the columns of the first epoch."""
        measured = self._validation.names() if self._validation else []
        return ["distance_from_start", "distance_from_last", *measured]

    def _check_batches(self, batches):
        self._folder.check_batches(self._run, batches, self.snapshots)

    def _open_folder(self, run, model):
        """Begins a run in an empty folder, or takes the members of the one that is there, and returns its state."""
        settings = {
            "callback": type(self).__name__,
            "max_learning_rate": None if self.chooses_rates else self.max_learning_rate,
            "min_learning_rate": None if self.chooses_rates else self.min_learning_rate,
            "cycle_steps": run.cycle.length,
            "start_epoch": self.start_epoch,
            "steps_per_epoch": self.params.get("steps"),
            **state.describe(model),
            "rescale_momentum": self._rescales(run),
        }
        if not (self._folder.exists() and self.resume):
            self._folder.begin(run, model, settings, self._said_of_outputs())
            return None
        self.snapshots, stored = self._folder.resume(run, model, settings, self._said_of_outputs())
        return stored
