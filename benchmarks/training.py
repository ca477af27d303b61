"""How the benchmark trains: networks and curves, resumable at the end of an epoch, with the paper's learning rate.

`settings` is any object with the flags of `cifar.py` as attributes.
"""

import json
import math
import os

import keras
import numpy as np
from keras import ops

import keras_fge
import networks
from curves.files import write_atomically
from keras_fge.callback import Batches
from keras_fge.folder import Folder, set_random_states
from keras_fge.snapshots import to_array, training_state


def make_network(settings, data, seed):
    """A new network, initialized by `seed`, compiled with the settings of ordinary training."""
    keras.utils.set_random_seed(seed)
    options = {"width": settings.width} if settings.network.startswith("small_cnn") else {}
    network = networks.make_network(
        settings.network,
        data.train[0].shape[1:],
        data.num_classes,
        settings.weight_decay,
        settings.transform,
        data.largest_pixel,
        **options,
    )
    compile_model(network, settings, settings.learning_rate)
    return network


def compile_model(model, settings, learning_rate):
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=settings.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=settings.jit_compile,
        steps_per_execution=settings.steps_per_execution,
    )


def train(model, settings, data, epochs, learning_rate, seed, folder, ticker, keep=None):
    """Ordinary training, or that of a curve, from where the checkpoint in `folder` stands.

    Args:
        keep: An epoch after which the state is kept for good; `load_state` brings it back.

    Returns:
        The `Checkpoint`.
    """
    checkpoint = Checkpoint(folder, ticker, keep)
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch, _: float(ops.convert_to_numpy(keras_fge.piecewise_linear(epoch + 1, learning_rate, epochs)))
    )
    batches = Batches(checkpoint, *data.train, settings.batch_size, seed)
    # The schedule sets the learning rate at the start of each epoch, as the authors' code does.
    model.fit(batches, epochs=epochs, callbacks=[schedule, checkpoint], verbose=0)
    return checkpoint


def train_cyclic(network, callback, settings, data, seed, others=(), initial_epoch=0):
    """A run of FGE or SSE, which takes itself up from its folder."""
    batches = callback.batches(*data.train, settings.batch_size, seed)
    callbacks = [*others, callback]
    network.fit(batches, epochs=settings.epochs, initial_epoch=initial_epoch, callbacks=callbacks, verbose=0)


class Checkpoint(keras.callbacks.Callback):
    """Writes the whole state of a training at the end of epochs, and takes it up again.

    A run that was killed ends with the same weights as one that was not: weights, optimizer, seeds and the epoch, on
    which the order of the data depends, are in the state. It is written at every epoch, unless that would take more
    than a tenth of the time.

    Attributes:
        epoch: The epoch that `fit` is in.
        logs: Those of the last epoch, also of one that another process has trained.
    """

    def __init__(self, folder, ticker, keep=None):
        super().__init__()
        self.folder, self.ticker, self.keep = Folder(folder), ticker, keep
        self.epoch, self.logs = 0, {}

    def on_train_begin(self, logs=None):
        os.makedirs(self.folder.path, exist_ok=True)
        self.folder.remove_leftovers()
        if has_state(self.folder.path):
            counters = load_state(self.model, self.folder.path)
            self.epoch, self.logs = counters["epoch"], counters["logs"]
            self.model._initial_epoch = self.epoch
            self.ticker.advance(self.epoch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.logs = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(self.logs["loss"]):
            raise FloatingPointError(
                f"The loss is {self.logs['loss']} in epoch {epoch + 1} of {self.folder.path}: train with a lower "
                "learning rate, in another --output_dir."
            )
        self.ticker.advance(1)
        if epoch + 1 == self.keep:
            path = kept_state(self.folder.path, self.keep)
            os.makedirs(path, exist_ok=True)
            self._write(Folder(path), epoch + 1)
        if epoch + 1 == self.params["epochs"] or self.folder.state_is_due():
            self._write(self.folder, epoch + 1)

    def on_train_end(self, logs=None):
        self.model._initial_epoch = None

    def _write(self, folder, epoch):
        values = [to_array(variable) for variable in training_state(self.model)]
        folder.write_state({"epoch": epoch, "logs": self.logs}, values)


def kept_state(folder, epoch):
    """Where `Checkpoint` keeps the state after `epoch` epochs."""
    return os.path.join(folder, f"epoch_{epoch}")


def has_state(folder):
    return os.path.exists(os.path.join(folder, "state.npz"))


def load_state(model, folder):
    """Brings a model, and the generators of random numbers, to a state that `Checkpoint` wrote.

    Returns:
        Its counters: "epoch" and "logs".
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    counters, values = Folder(folder).read_state()
    for variable, value in zip(training_state(model), values, strict=True):
        variable.assign(value)
    set_random_states(counters["random"])
    return counters


class TrajectoryRecorder(keras.callbacks.Callback):
    """Test error and distance from the start, ||w_i - w_0|| over the trainable weights, every few iterations of FGE.

    Args:
        test: `(x, y)`.
        start: The weights w_0: numpy arrays, in the order of the trainable variables.
        first_epoch: The epoch with which the run begins.
        path: File that keeps the measurements, so that a run that is taken up has them all.
        every: Number of iterations from one measurement to the next.

    Attributes:
        trace: Lists "iteration", "test_error" and "distance".
    """

    def __init__(self, test, start, first_epoch, path, every):
        super().__init__()
        self.test, self.start, self.first_epoch, self.path = test, start, first_epoch, path
        self.every = every
        self.trace = {"iteration": [], "test_error": [], "distance": []}

    def on_train_begin(self, logs=None):
        if os.path.exists(self.path):
            with open(self.path) as file:
                self.trace = json.load(file)

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = (epoch - self.first_epoch) * self.params["steps"]
        count = sum(iteration < self._begin for iteration in self.trace["iteration"])  # The rest will come again.
        self.trace = {name: values[:count] for name, values in self.trace.items()}

    def on_train_batch_begin(self, batch, logs=None):
        last = self.trace["iteration"][-1] if self.trace["iteration"] else -self.every
        if self._begin + batch >= last + self.every:
            self._record(self._begin + batch)

    def on_epoch_end(self, epoch, logs=None):
        write_atomically(self.path, json.dumps(self.trace).encode())

    def on_train_end(self, logs=None):
        last = (self.params["epochs"] - self.first_epoch) * self.params["steps"]
        if self.trace["iteration"][-1] < last:
            self._record(last)

    def _record(self, iteration):
        model = self.model
        weights = [to_array(variable).astype("float64") for variable in model.trainable_variables]
        squares = [np.sum((now - start) ** 2) for now, start in zip(weights, self.start)]
        x, y = self.test
        self.trace["iteration"].append(iteration)
        self.trace["distance"].append(float(np.sqrt(np.sum(squares))))
        prediction = model.predict(x, batch_size=1000, verbose=0)
        self.trace["test_error"].append(float(np.mean(np.argmax(prediction, axis=1) != y)))
