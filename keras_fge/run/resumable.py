"""`Resumable`: a callback whose `fit` goes on from its folder, exactly, whatever stopped it."""

import abc
import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.arguments import as_number
from keras_fge.core.data import checksum_of_data
from keras_fge.core.files import local_path, naming
from keras_fge.core.keras_internals import (
    Fit,
    begin_with_epoch,
    fit_around,
    inner_optimizer,
    own_learning_rate,
    warn_of_newer_keras,
    warn_of_slow_scan,
)
from keras_fge.core.own_state import check_kept
from keras_fge.core.processes import as_first_says, check_whole, has_one_process, is_chief, together
from keras_fge.run.batches import Batches
from keras_fge.run.lock import FolderLock
from keras_fge.run.other_callbacks import OtherCallbacks
from keras_fge.run.schema import Counters
from keras_fge.run.state import State, StateFile, build_optimizer, check_batches, check_settings, describe, see_rate
from keras_fge.run.termination import Termination


class Resumable(keras.callbacks.Callback, abc.ABC):
    """What `Checkpoint`, `EMA`, `FGE` and `SnapshotEnsemble` share: lock, state, batches, History, SIGTERM.

    A subclass says what else belongs to its run, in the methods without a body here. Each hook of a subclass calls the
    one here.

    Args:
        directory: The folder, made absolute. None: nothing is written, and nothing resumes.
        resume: Whether to go on with the run in the folder, if there is one.
        every: Minutes from one state in the middle of an epoch to the next. None: at the end of epochs only.

    Attributes:
        directory, resume: As given.
        epoch: The epoch that `fit` is in, 0 before.
    """

    def __init__(self, directory: str | os.PathLike | None, resume: bool, every: float | None = None):
        super().__init__()
        self.directory = None if directory is None else os.path.abspath(local_path(directory))
        self.resume = bool(resume)
        self._minutes = None if every is None else as_number("every", every, least=0)
        if self._minutes is not None and directory is None:
            raise ValueError("`every` needs the `directory` in which the state is written.")
        self.epoch = 0
        # Of the present, or the last, `fit`:
        self._lock = None if self.directory is None else FolderLock(self.directory)
        self._state = None if self._lock is None else StateFile(self._lock.directory, self._lock.check)
        self._termination = Termination()
        self._settings: dict[str, Any] = {}
        self._others = OtherCallbacks(None)
        self._batches: dict[str, Any] | None = None  # What is noted of the data set that follows this callback.
        self._history: dict[str, Any] = {"epoch": [], "history": {}}
        self._is_seen = True  # Whether `fit` is, if it resumes.
        self._has_begun = False  # Whether an epoch has begun, and the History of `fit` has what came before.
        self._awaits_batches = False  # Whether the first pass over the data that `fit` trains on is about to begin.
        self._batch = 0  # The last one that `fit` announced.
        self._done = 0  # Batches of this epoch that were done before `fit` began, which counts the others from 0.
        self._rate_to_keep: float | None = None  # The optimizer's in an epoch that goes on, if it is a number.

    def batches(self, x: Any, y: Any, batch_size: int = 32, seed: int = 0, *, sample_weight: Any = None) -> Batches:
        """The arrays as a data set for a `fit` with this callback; see `keras_fge.Batches`.

        Example:
            fge = keras_fge.FGE(0.05, 0.0005, directory="run", resume=True)
            model.fit(fge.batches(x, y, batch_size=128), epochs=20, verbose=0, callbacks=[fge])
        """
        return Batches(x, y, batch_size, seed, sample_weight=sample_weight, follow=self)

    def epoch_for(self, batches: Batches) -> int:
        """The epoch whose order `batches`, which follow this callback, are to have now.

        Raises:
            ValueError: if the run in the folder had other batches.
        """
        if self._awaits_batches and self._state and is_chief():
            self._batches = check_batches(self._state.directory, self._batches, batches.about())
        self._awaits_batches = False
        return self.epoch

    def __getstate__(self):
        # What belongs to a `fit` of this process stays here.
        return {**vars(self), "_termination": Termination(), "_others": OtherCallbacks(None)}

    # --- What a subclass says -----------------------------------------------------------------------------------------

    def _kind_of_counters(self) -> type:
        """What its state says, as a type."""
        return Counters

    @abc.abstractmethod
    def _check(self, model: keras.Model, fit: Fit | None) -> None:
        """Raises an error if this `fit` cannot be what is wanted; nothing has been written."""

    @abc.abstractmethod
    def _own_settings(self) -> dict[str, Any]:
        """What a resume must have in common with the run, beside network, optimizer and steps of an epoch."""

    @abc.abstractmethod
    def _holds_run(self) -> bool:
        """Whether there is a run in the folder."""

    @abc.abstractmethod
    def _begin(self, model: keras.Model) -> None:
        """Makes the files of a new run."""

    @abc.abstractmethod
    def _read(self, model: keras.Model, stored: State) -> None:
        """Takes over what the run in the folder has, before the model gets its state."""

    @abc.abstractmethod
    def _counters(self) -> dict[str, Any]:
        """What the state of the run holds beside that of the training, as JSON can hold it."""

    def _own_arrays(self) -> dict[str, np.ndarray]:
        """The arrays that it holds beside these."""
        return {}

    def _adopt(self, stored: State, changed: Sequence[str]) -> None:
        """Does what is to be done once the model has its state; `changed` are the settings that are new."""

    # --- The hooks, in the order in which `fit` calls them ------------------------------------------------------------

    def on_train_begin(self, logs=None):
        warn_of_newer_keras()
        model, fit = self.model, fit_around(self)
        warn_of_slow_scan(model)
        self._check_companions(fit)
        self._has_begun, self._batch, self._done, self._rate_to_keep = False, 0, 0, None
        check_kept(model)
        check_whole(model.variables)
        is_built = build_optimizer(model)
        self._check(model, fit)
        if self.directory is None:
            return
        if not is_built:
            raise ValueError(
                f"`directory` needs a network that is built: call '{model.name}' on some data before `fit`."
            )
        if self._minutes is not None:
            self._check_order(fit, "`every`")
        self._others = OtherCallbacks(fit)
        own = {"steps_per_epoch": self.params.get("steps"), **self._own_settings()}
        if fit and "validation_data" not in own:
            own["validation_data"] = checksum_of_data(fit.validation_data) if has_one_process() else None
        self._settings = {**describe(model), **own}
        with self._lock.acquired():
            if as_first_says(self._holds_run()):
                self._resume(model, fit)
            else:
                self._batches, self._history = None, {"epoch": [], "history": {}}
                self._begin(model)
        self._termination.watch(fit)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self._awaits_batches = not self._has_begun
        if not self._has_begun:
            self._others.begin()
        self._restore_history()

    def on_train_batch_begin(self, batch, logs=None):
        self._awaits_batches, self._batch = False, batch
        if batch == 0:  # After what all callbacks have done at the begin of the epoch.
            if self._rate_to_keep is not None:  # What a scheduler does there was done before, if the epoch goes on.
                inner_optimizer(self.model.optimizer).learning_rate = self._rate_to_keep
                self._rate_to_keep = None
            see_rate(self.model)
        elif self._minutes is not None and (self._termination.is_requested or self._state.is_due(60 * self._minutes)):
            self._write_state(self.epoch, self._done + batch)
            self.model.stop_training |= self._termination.is_requested  # The batch that begins is done again.

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        see_rate(model)
        if self.directory is None:
            return
        self._history["epoch"].append(epoch)
        for name, value in (logs or {}).items():
            self._history["history"].setdefault(name, []).append(np.asarray(value).tolist())
        if self._termination.is_requested:
            model.stop_training = True
        is_last = epoch + 1 == self.params["epochs"] or model.stop_training
        # An epoch that was cut short is done again.
        steps = self.params.get("steps")
        is_whole = not steps or self._done + self._batch + model.steps_per_execution >= steps
        self._done = 0
        if is_whole and (is_last or as_first_says(self._state.is_due())):
            self._write_state(epoch + 1)

    def on_train_end(self, logs=None):
        if self.directory is None:
            return
        self._restore_history()  # If no epoch was left.
        self._lock.release()
        self._others = OtherCallbacks(None)
        when = "after" if self._minutes is None else "in"
        message = f"Ended by SIGTERM {when} epoch {self.epoch + 1}: the same program goes on from '{self.directory}'."
        self._termination.end(self, message, logs)

    # --- What they do -------------------------------------------------------------------------------------------------

    def _check_companions(self, fit):
        """Raises a ValueError if the callbacks or the data of `fit` are not for a `fit` with this callback."""
        if fit is None:
            return
        if others := [other for other in (*fit.before, *fit.after) if isinstance(other, Resumable)]:
            raise ValueError(
                f"{type(self).__name__} and {type(others[0]).__name__} cannot share one `fit`: FGE and "
                "SnapshotEnsemble set the learning rate, and keep the state of the training in their own `directory`."
            )
        if not isinstance(fit.data, Batches) or fit.data.follow is self:
            return
        if fit.data.follow is not None or self.directory is not None:
            raise ValueError(
                f"`x`: these Batches do not follow the {type(self).__name__} in `callbacks`, so a resumed `fit` would "
                "have other ones. Write `callback.batches(x, y, ...)`, or `Batches(x, y, ..., follow=callback)`."
            )

    def _check_order(self, fit, what):
        """Raises a ValueError if it is not known which batches come after the first ones of an epoch."""
        follows = fit and isinstance(fit.data, Batches) and fit.data.follow is self
        has_order = follows and not fit.is_shuffled and fit.data.workers <= 1
        if not has_order or self.params.get("steps") != len(fit.data) or not has_one_process():
            raise ValueError(
                f"{what}: to go on in the middle of an epoch, give `fit` `callback.batches(x, y, ...)` and "
                "`shuffle=False`, no `steps_per_epoch`, one process, and one of their `workers`."
            )

    def _resume(self, model, fit):
        if not self.resume:
            raise ValueError(
                f"`directory`: '{self.directory}' holds a run already. Continue it with `resume=True`, or give another "
                "folder."
            )
        stored = self._state.read(self._kind_of_counters())
        changed = check_settings(self.directory, stored.counters, self._settings, model.optimizer)
        stored.check(model)
        self._batches, self._history = stored.counters["batches"], stored.counters["history"]
        self._others.restore(stored.counters["callbacks"], self.directory)
        if stored.counters["ended"] and stored.counters["epoch"] < self.params["epochs"]:
            warnings.warn(
                f"`stop_training` ended the run in '{self.directory}' after epoch {stored.counters['epoch']}, as "
                "EarlyStopping does. It goes on.",
                stacklevel=2,
            )
        with naming(self.directory):
            self._read(model, stored)
        self._state.remove_leftovers()
        self.epoch, self._done = stored.counters["epoch"], stored.counters["batch"]
        if self._done:
            self._check_order(fit, f"`directory`: '{self.directory}'")
            warnings.warn(
                f"The run in '{self.directory}' goes on in epoch {self.epoch + 1}, after {self._done} of its "
                f"{len(fit.data)} batches. What `fit` logs of that epoch is of the others.",
                stacklevel=2,
            )
        stored.restore(model, changed)  # After `_read`, as predictions use the random generators too.
        if self._done:
            self._rate_to_keep = own_learning_rate(inner_optimizer(model.optimizer))
        begin_with_epoch(model, self.epoch, fit, self._done)
        self._is_seen = fit is not None
        self._adopt(stored, changed)

    def _write_state(self, epoch, batch=0):
        """Writes the state with which the run goes on with `epoch`, after so many of its batches."""
        model = self.model  # On JAX, this brings the model up to date, in every process.
        with together():
            if is_chief():
                counters = {"epoch": epoch, "batch": batch, "settings": self._settings, "batches": self._batches}
                ended = bool(model.stop_training) and not self._termination.is_requested
                others = {"history": self._history, "callbacks": self._others.counters(), "ended": ended}
                self._state.write({**counters, **others, **self._counters()}, model, self._own_arrays())

    def _restore_history(self):
        """Puts the epochs before into the History of `fit`, which begins its own after `on_train_begin`."""
        if self._has_begun:
            return
        self._has_begun = True
        if not self._is_seen:
            begin_with_epoch(self.model, 0, None)
        if self.directory is not None:
            history = self.model.history
            history.epoch.extend(self._history["epoch"])
            history.history.update({name: list(values) for name, values in self._history["history"].items()})
