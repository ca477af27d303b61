"""`Checkpoint`: a callback that makes any `fit` resumable, bit for bit."""

import os

from keras_fge.run import Folder, Resumable


class Checkpoint(Resumable):
    """Writes the whole state of a training at the end of epochs; the same program, given again, goes on from there.

    A training that was killed, at any moment and any number of times, ends with the same weights as one that was not,
    bit for bit if the hardware computes so: the state has weights, optimizer, random seeds and generators, the epoch
    and the History. It is one file, `state.npz`, which is replaced as a whole or not at all, at the end of each epoch
    unless that would take more than a tenth of the time. (`keras.callbacks.BackupAndRestore` overwrites its files in
    place, and does not save the generators that shuffle the data.) The state stays when the training is done: the same
    program then trains nothing.

    It takes data in an order that does not depend on the process: `checkpoint.batches(x, y)`, or `shuffle=False`.
    (Keras' own shuffling of arrays is resumed on JAX and torch, not on TensorFlow.) On torch, give `Dropout` a `seed`.
    An epoch that was cut short by `stop_training` is done again. List this callback last: what `EarlyStopping`,
    `ReduceLROnPlateau`, `ModelCheckpoint` and `SwapEMAWeights` remember is saved if they are listed before. What is
    lost, as the best weights of EarlyStopping or the attributes of a class of your own, a warning says at the resume.
    `FGE` and `SnapshotEnsemble` do the same with their own `directory`.

    Args:
        directory: Folder for the state; it is made if it is not there.
        resume: Whether to go on with the training in `directory`, if there is one. False: that is an error. Default:
            True.
        every: Minutes from one state in the middle of an epoch to the next, for epochs that take long. It takes
            `checkpoint.batches(x, y)` and `shuffle=False`. What `fit` logs of the epoch in which it went on is of its
            other batches; if no callback follows that, weights are those of a run without interruption, bit for bit.
            SIGTERM no longer waits for the end of an epoch. Default: at the end of epochs only.

    Attributes:
        epoch: The epoch that `fit` is in, 0 before.

    Raises:
        ValueError: by `fit`, before the first update, if the network is not built, if `directory` holds the training of
            another network, optimizer or number of batches, an ensemble, or a damaged file, or if `FGE`,
            `SnapshotEnsemble` or another `Checkpoint` is in the same `fit`.
        OSError: if the state cannot be written. The one before is untouched.

    Example:
        checkpoint = keras_fge.Checkpoint("training")
        model.fit(checkpoint.batches(x, y, batch_size=32), epochs=4, verbose=0, callbacks=[checkpoint])
    """

    def __init__(self, directory: str | os.PathLike, resume: bool = True, every: float | None = None):
        super().__init__(os.fspath(directory), resume, every)

    def _check(self, model, fit):
        if Folder(self.directory).exists():
            raise ValueError(
                f"`directory`: '{self.directory}' holds an ensemble, or a run of FGE. Give another folder."
            )

    def _own_settings(self):
        return {}

    def _holds_run(self):
        return self._state.exists()

    def _begin(self, model):
        self._write_state(0)

    def _read(self, model, stored):
        if stored.own:
            raise ValueError("it holds a training with `EMA`, whose averages would be lost. Give another folder.")

    def _counters(self):
        return {}
