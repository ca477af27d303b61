"""Making and training the networks of the benchmark, resumably, with the paper's learning rate and step.

`settings` is any object with the flags of `cifar.py` as attributes.
"""

import json
import os
import time

import keras
import numpy as np

import keras_fge
from inputs.networks import make_network
from inputs.rows import NetworkOnRows, rows_of
from keras_fge.core.files import write_atomically
from keras_fge.core.networks import to_array
from study.machine import accelerator
from study.presets import SMALL_NETWORKS


def new_network(settings, data, seed):
    """A new network, initialized by `seed`, compiled with the settings of ordinary training."""
    keras.utils.set_random_seed(seed)
    options = {"width": settings.width} if settings.network in SMALL_NETWORKS else {}
    network = make_network(
        settings.network,
        data.train[0].shape[1:],
        data.num_classes,
        settings.weight_decay,
        settings.transform,
        data.largest_pixel,
        NetworkOnRows if settings.images_on_device else keras.Model,
        **options,
    )
    compile_model(network, settings, settings.learning_rate)
    return network


def default_jit_compile():
    """Keras' own choice; on TensorFlow without a GPU, no XLA: its convolutions took twice as long on a CPU."""
    return "auto" if keras.backend.backend() != "tensorflow" or accelerator() else False


def compile_model(model, settings, learning_rate):
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=settings.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=settings.jit_compile,
        steps_per_execution=settings.steps_per_execution,
    )


def batches_for(callback, model, settings, data, seed):
    """The batches of a run that `callback` resumes: images, or their row numbers if the images are on the device."""
    x, y = data.train
    x = rows_of(model, data.images_on_device) if settings.images_on_device else x
    return callback.batches(x, y, settings.batch_size, seed)


def train(model, settings, data, epochs, learning_rate, seed, folder, callbacks=(), first_epoch=0, until=None):
    """Trains a network or a curve, and continues from the checkpoint in `folder` if there is one.

    Args:
        epochs: Epochs of the whole training: the learning rate depends on them.
        first_epoch, until: First epoch of this part, and the epoch before which it ends. Default: the whole training.
        callbacks: Further callbacks.

    Returns:
        The History, including the epochs before a resumption.
    """
    checkpoint = keras_fge.Checkpoint(folder)
    return model.fit(
        batches_for(checkpoint, model, settings, data, seed),
        initial_epoch=first_epoch,
        epochs=until or epochs,
        callbacks=[keras_fge.PaperTraining(learning_rate, epochs), *callbacks, checkpoint],
        verbose=0,
    )


def train_start(study, network, seed, callbacks=()):
    """Trains the first part of an ordinary run, up to where FGE branches off; this part has its own checkpoint."""
    settings, start = study.settings, study.settings.fge_start_epoch
    folder = os.path.join(study.checkpoint("ind", seed), f"epoch_{start}")
    epochs, rate = settings.epochs, settings.learning_rate
    with study.locked(f"start of network {seed}"):  # FGE need not wait for the rest.
        return train(network, settings, study.data, epochs, rate, seed, folder, callbacks, until=start)


def trained_network(study, seed, callbacks=()):
    """Returns the independent network of a seed, and finishes its training first if necessary, with `callbacks`."""
    settings = study.settings
    network = new_network(settings, study.data, seed)
    folder, rate, start = study.checkpoint("ind", seed), settings.learning_rate, settings.fge_start_epoch
    with study.locked(f"network {seed}"), study.progress.task(f"network {seed}", settings.epochs) as ticker:
        callbacks = [*callbacks, ticker]
        train_start(study, network, seed, callbacks)
        train(network, settings, study.data, settings.epochs, rate, seed, folder, callbacks, first_epoch=start)
    return network


def train_cyclic(network, callback, settings, data, seed, others=(), first_epoch=0):
    """Trains a run of FGE or SSE, which resumes from its own folder."""
    batches = batches_for(callback, network, settings, data, seed)
    callbacks = [*others, callback]
    network.fit(batches, epochs=settings.epochs, initial_epoch=first_epoch, callbacks=callbacks, verbose=0)


class SecondsPerEpoch(keras.callbacks.Callback):
    """Measures the time of each epoch, without what happens between them. `median` is None before the first."""

    def __init__(self):
        super().__init__()
        self._seconds = []

    @property
    def median(self):
        return float(np.median(self._seconds)) if self._seconds else None

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self._seconds.append(time.perf_counter() - self._begin)


class TrajectoryRecorder(keras.callbacks.Callback):
    """Records test error and distance from the start, ||w_i - w_0|| of the trainable weights, every few iterations.

    Args:
        test: `(x, y)`.
        start: The weights w_0: numpy arrays, in the order of the trainable variables.
        first_epoch: First epoch of the run.
        path: File that keeps the measurements, so that a resumed run has them all.
        every: Number of iterations from one measurement to the next.

    Attributes:
        trace: Lists "iteration", "test_error" and "distance".
    """

    def __init__(self, test, start, first_epoch, path, every):
        super().__init__()
        self.test, self.start, self.first_epoch, self.path = test, start, first_epoch, path
        self.every = every
        self.trace = {"iteration": [], "test_error": [], "distance": []}
        self._begin = 0

    def on_train_begin(self, logs=None):
        if os.path.exists(self.path):
            with open(self.path) as file:
                self.trace = json.load(file)

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = (epoch - self.first_epoch) * self.params["steps"]
        count = sum(iteration < self._begin for iteration in self.trace["iteration"])  # The rest is recorded again.
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
        # Not `networks.distance`: it adds up in another order, and differs from committed records in the last bit.
        weights = [to_array(variable).astype("float64") for variable in self.model.trainable_variables]
        squares = [np.sum((now - start) ** 2) for now, start in zip(weights, self.start)]
        x, y = self.test
        self.trace["iteration"].append(iteration)
        self.trace["distance"].append(float(np.sqrt(np.sum(squares))))
        prediction = self.model.predict(x, batch_size=1000, verbose=0)
        self.trace["test_error"].append(float(np.mean(np.argmax(prediction, axis=1) != y)))
