"""`Checkpoint`: a callback that makes any `fit` resumable, bit for bit."""

import os
from typing import Any

import keras
import numpy as np

from keras_fge import state
from keras_fge.batches import announce_epoch
from keras_fge.core.keras_internals import is_chief
from keras_fge.folder import Folder
from keras_fge.lock import FolderLock
from keras_fge.termination import Termination


class Checkpoint(keras.callbacks.Callback):
    """Writes the whole state of a training at the end of epochs; the same program, given again, goes on from there.

    A training that was killed, at any moment and any number of times, ends with the same weights as one that was not,
    bit for bit where the hardware computes so: the state has weights, optimizer, random seeds and generators, the epoch
    and the History. It is one file, `state.npz`, which is replaced as a whole or not at all, at the end of each epoch
    unless that would take more than a tenth of the time. (`keras.callbacks.BackupAndRestore` overwrites its files in
    place, and does not save the generators that shuffle the data.) The state stays when the training is done: the same
    program then trains nothing.

    It takes data in an order that does not depend on the process: `keras_fge.Batches`, or `shuffle=False`. (Keras' own
    shuffling of arrays is resumed on JAX and torch, not on TensorFlow.) On torch, give `Dropout` a `seed`. An epoch
    that was cut short by `stop_training` is done again. List this callback last; the states of the others are not
    saved. `FGE` and `SnapshotEnsemble` do the same with their own `directory`.

    Args:
        directory: Folder for the state; it is made if it is not there.
        resume: Whether to go on with the training in `directory`, if there is one. False: that is an error. Default:
            True.

    Attributes:
        epoch: The epoch that `fit` is in, 0 before.

    Raises:
        ValueError: by `fit`, before the first update, if the network is not built, if `directory` holds the training of
            another network, optimizer or number of batches, an ensemble, or a damaged file, or if `FGE`,
            `SnapshotEnsemble` or another `Checkpoint` is in the same `fit`.
        OSError: if the state cannot be written. The one before is untouched.

    Example:
        batches = keras_fge.Batches(x, y, batch_size=32, seed=0)
        model.fit(batches, epochs=4, verbose=0, callbacks=[keras_fge.Checkpoint("training")])
    """

    def __init__(self, directory: str | os.PathLike, resume: bool = True):
        super().__init__()
        self.directory = os.fspath(directory)
        self.resume = resume
        self.epoch = 0
        self._state, self._lock = state.StateFile(directory), FolderLock(directory)
        self._termination = Termination()
        self._batches: dict[str, Any] | None = None  # What is noted of the batches.
        self._settings: dict[str, Any] = {}
        self._history: dict[str, Any] = {"epoch": [], "history": {}}
        self._is_restored = False  # Whether the History of `fit` has what came before.
        self._batch = 0

    def on_train_begin(self, logs=None):
        model = self.model
        state.claim_fit(self, "`FGE(directory=...)` keeps the whole state of the training itself.")
        state.prepare(model)
        self._settings = {**state.describe(model), "steps_per_epoch": self.params.get("steps")}
        self._history, self._is_restored, self._batches = {"epoch": [], "history": {}}, False, None
        with self._lock.acquired():
            self._begin_or_resume(model)
        self._termination.watch(model)

    def _begin_or_resume(self, model):
        if Folder(self.directory).exists():
            raise ValueError(
                f"`directory`: '{self.directory}' holds an ensemble, or a run of FGE. Give another folder."
            )
        if not self._state.exists():
            self._write(0)
            return
        if not self.resume:
            raise ValueError(
                f"`directory`: '{self.directory}' holds a training already. Continue it with `resume=True`, or give "
                "another folder."
            )
        stored = self._state.read()
        changed = []
        if "settings" in stored.counters:  # Version 0.1 wrote none.
            changed = state.check_settings(self.directory, stored.counters["settings"], self._settings)
        self._batches = stored.counters.get("batches")
        stored.check(model)
        self._state.remove_leftovers()
        self.epoch = stored.counters["epoch"]
        self._history = stored.counters.get("history") or self._history_of_last_epoch(stored.counters)
        stored.restore(model, changed)

    def on_epoch_begin(self, epoch, logs=None):
        announce_epoch(epoch, None if self._is_restored else self._check_batches)
        state.see_rate(self.model)
        self.epoch = epoch
        self._restore_history()

    def on_train_batch_begin(self, batch, logs=None):
        announce_epoch(None)
        self._batch = batch

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        state.see_rate(model)
        if self._termination.is_requested:
            model.stop_training = True
        self._history["epoch"].append(epoch)
        for name, value in (logs or {}).items():
            self._history["history"].setdefault(name, []).append(np.asarray(value).tolist())
        is_last = epoch + 1 == self.params["epochs"] or model.stop_training
        is_whole = state.is_whole_epoch(self._batch, self.params.get("steps"), model.steps_per_execution)
        if is_whole and (is_last or self._state.is_due()):
            self._write(epoch + 1)

    def on_train_end(self, logs=None):
        self._restore_history()
        self._lock.release()
        self._termination.end(self, logs)

    def _check_batches(self, batches):
        if is_chief():
            self._batches = state.check_batches(self.directory, self._batches, batches)

    def _write(self, epoch):
        model = self.model  # On JAX, this brings the model up to date, in every process.
        if is_chief():
            os.makedirs(self.directory, exist_ok=True)
            counters = {"epoch": epoch, "settings": self._settings, "batches": self._batches, "history": self._history}
            self._state.write_training(counters, model)

    def _restore_history(self):
        """Puts the epochs before into the History of `fit`, which begins its own after `on_train_begin`."""
        if not self._is_restored:
            history = self.model.history
            history.epoch.extend(self._history["epoch"])
            history.history.update({name: list(values) for name, values in self._history["history"].items()})
            self._is_restored = True

    @staticmethod
    def _history_of_last_epoch(counters):
        """Version 0.1 kept the logs of the last epoch only."""
        logs = counters.get("logs") or {}
        epochs = [counters["epoch"] - 1] if logs else []
        return {"epoch": epochs, "history": {name: [value] for name, value in logs.items()}}
