"""The methods that baselines.py compares, and the settings that it tries for each."""

import dataclasses
import types

import keras
import numpy as np

import keras_fge
from inputs.networks import make_network
from keras_fge.core.keras_internals import averaged_weights, inner_optimizer
from study.search import alike, grid
from study.training import default_jit_compile

BATCH_SIZE, WIDTH, SAMPLES, NARROW = 64, 16, 10, 4


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, a network, the epochs of one training, and the methods that are compared on them, with their settings."""

    data: dict
    network: str
    epochs: int
    methods: dict


def new_network(task, images, seed, decay, width=WIDTH, **options):
    keras.utils.set_random_seed(seed)
    shape, pixel = images.train[0].shape[1:], images.largest_pixel
    return make_network(task.network, shape, 10, decay, "none", pixel, width=width, **options)


def fit(task, network, images, seed, optimizer, *callbacks, epochs=None, loss=None):
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer, loss, jit_compile=default_jit_compile())
    batches = keras_fge.Batches(*images.train, BATCH_SIZE, seed)
    network.fit(batches, epochs=epochs or task.epochs, verbose=0, callbacks=list(callbacks))


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9)


def of(*networks):
    """What each network predicts for images."""
    return of_members(keras_fge.Ensemble.of(networks, from_logits=True))


def of_members(ensemble):
    return lambda x: [ensemble[k : k + 1].predict(x, batch_size=1000) for k in range(len(ensemble))]


# --- The methods: each trains, and returns {name: (function of images: what each member predicts, passes)} -----------


def one_network(task, images, seed, rate, decay, epochs):
    network = new_network(task, images, seed, decay)
    fit(task, network, images, seed, sgd(rate), keras_fge.PaperTraining(rate, epochs), epochs=epochs)
    return {"one network": (of(network), 1)}


def fge(task, images, seed, rate, decay, **cycles):
    """FGE, and the mean of the weights of its members (SWA)."""
    network = new_network(task, images, seed, decay)
    ensemble = fge_of(task, network, images, seed, sgd(rate), rate=rate, **cycles)
    average = ensemble.average_weights(images.train)
    return {"FGE": (of_members(ensemble), len(ensemble)), "SWA": (of(average), 1)}


def fge_of(task, network, images, seed, optimizer, *, rate, start, cycle, largest):
    """The ensemble of a training at `rate` whose cycles, of `cycle` epochs, begin at epoch `start`."""
    steps = -(-len(images.train[0]) // BATCH_SIZE)
    callback = keras_fge.FGE(largest, largest / 100, cycle_steps=2 * round(cycle * steps / 2), start_epoch=start)
    fit(task, network, images, seed, optimizer, keras_fge.PaperTraining(rate, task.epochs, until=start), callback)
    return callback.ensemble()


def sse(task, images, seed, largest, decay, cycles):
    network, steps = new_network(task, images, seed, decay), -(-len(images.train[0]) // BATCH_SIZE)
    callback = keras_fge.SnapshotEnsemble(largest, cycle_steps=task.epochs * steps // cycles)
    fit(task, network, images, seed, sgd(largest), callback)
    ensemble = callback.ensemble()
    return {"SSE": (of_members(ensemble), len(ensemble))}


def cosine(task, images, seed, rate, decay):
    network = new_network(task, images, seed, decay)
    steps = task.epochs * -(-len(images.train[0]) // BATCH_SIZE)
    fit(task, network, images, seed, sgd(keras.optimizers.schedules.CosineDecay(rate, steps)))
    return {"cosine schedule": (of(network), 1)}


def label_smoothing(task, images, seed, smoothing, decay):
    network = new_network(task, images, seed, decay)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    one_hot = types.SimpleNamespace(train=(images.train[0], keras.utils.to_categorical(images.train[1], 10)))
    fit(task, network, one_hot, seed, sgd(0.05), keras_fge.PaperTraining(0.05, task.epochs), loss=loss)
    return {"label smoothing": (of(network), 1)}


def ema(task, images, seed, horizon, decay):
    network, average = new_network(task, images, seed, decay), keras_fge.EMA((horizon,))
    fit(task, network, images, seed, sgd(0.05), keras_fge.PaperTraining(0.05, task.epochs), average)
    return {"EMA": (of(average.network(horizon)), 1)}


class ConstantRate(keras.callbacks.Callback):
    """From an epoch on, a constant rate, and a copy of the weights after each epoch."""

    def __init__(self, rate, start):
        super().__init__()
        self.rate, self.start, self.snapshots = rate, start, []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.start:
            self.model.optimizer.learning_rate = self.rate

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.start:
            self.snapshots.append(keras_fge.Snapshot.of(self.model))


def swa(task, images, seed, rate, decay):
    """Stochastic weight averaging at a constant rate, in the second half (Izmailov et al. 2018)."""
    network, constant = new_network(task, images, seed, decay), ConstantRate(rate, task.epochs // 2)
    fit(
        task,
        network,
        images,
        seed,
        sgd(0.05),
        keras_fge.PaperTraining(0.05, task.epochs, until=task.epochs // 2),
        constant,
    )
    average = keras_fge.Ensemble(network, constant.snapshots, from_logits=True).average_weights()
    return {"SWA, constant rate": (of(average), 1)}


class SharpnessAware(keras.Model):
    """Sharpness-aware minimization (Foret et al. 2021): the gradient at w + rho g / ||g||."""

    rho = 0.05

    def train_step(self, batch):
        import tensorflow as tf

        x, y = batch
        weights = self.trainable_variables

        def gradients():
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            return tape.gradient(loss, [variable.value for variable in weights]), loss

        first, loss = gradients()
        scale = self.rho / (tf.linalg.global_norm(first) + 1e-12)
        for variable, gradient in zip(weights, first):
            variable.assign_add(scale * gradient)
        second, _ = gradients()
        for variable, gradient in zip(weights, first):
            variable.assign_sub(scale * gradient)
        self.optimizer.apply_gradients(zip(second, weights))
        return {"loss": loss}


def sam(task, images, seed, rho, decay):
    """With half of the epochs, as each step takes two gradients."""
    plain = new_network(task, images, seed, decay)
    network = SharpnessAware(plain.inputs, plain.outputs)
    network.rho = rho
    fit(
        task, network, images, seed, sgd(0.05), keras_fge.PaperTraining(0.05, task.epochs // 2), epochs=task.epochs // 2
    )
    plain.set_weights(network.get_weights())
    return {"SAM, half the epochs": (of(plain), 1)}


def adamw(task, images, seed, rate, decay):
    network = new_network(task, images, seed, 0.0)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
    fit(task, network, images, seed, optimizer, keras_fge.PaperTraining(rate, task.epochs))
    return {"AdamW": (of(network), 1)}


def fge_with_adamw(task, images, seed, rate, decay, **cycles):
    network, optimizer = new_network(task, images, seed, 0.0), keras.optimizers.AdamW(rate, weight_decay=decay)
    ensemble = fge_of(task, network, images, seed, optimizer, rate=rate, **cycles)
    return {"FGE with AdamW": (of_members(ensemble), len(ensemble))}


def schedule_free(task, images, seed, rate, decay):
    """Schedule-free AdamW (Defazio et al. 2024), with its averaged weights."""
    network = new_network(task, images, seed, 0.0)
    fit(task, network, images, seed, keras.optimizers.ScheduleFreeAdamW(rate, weight_decay=decay))
    for variable, value in averaged_weights(inner_optimizer(network.optimizer)):
        variable.assign(value)
    return {"schedule-free AdamW": (of(network), 1)}


def mc_dropout(task, images, seed, dropout, decay):
    """The mean of passes with dropout (Gal and Ghahramani 2016)."""
    network = new_network(task, images, seed, decay, dropout=dropout)
    fit(task, network, images, seed, sgd(0.05), keras_fge.PaperTraining(0.05, task.epochs))

    def each_pass(x):
        keras.utils.set_random_seed(seed)
        parts = np.array_split(x, -(-len(x) // 1000))
        passes = [[keras.ops.softmax(network(part, training=True)) for part in parts] for _ in range(SAMPLES)]
        return [np.concatenate([keras.ops.convert_to_numpy(p) for p in one]) for one in passes]

    return {"MC dropout": (each_pass, SAMPLES)}


def narrow(task, images, seed, rate, decay):
    """Four networks of half the width: trained and predicted in about the time of one."""
    networks = [new_network(task, images, seed + 10_000 * k, decay, width=WIDTH // 2) for k in range(NARROW)]
    for k, network in enumerate(networks):
        fit(task, network, images, seed + 10_000 * k, sgd(rate), keras_fge.PaperTraining(rate, task.epochs))
    share = multiplications(networks[0]) / multiplications(new_network(task, images, seed, decay))
    return {"four networks of half the width": (of(*networks), round(NARROW * share, 2))}


def multiplications(network):
    """Those of one image, in convolutions and dense layers."""
    return sum(
        int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:-1]))
        for layer in network.layers
        if hasattr(layer, "kernel")
    )


DECAYS = (3e-4, 1e-3, 3e-3, 6e-3)
RATES = (0.02, 0.05, 0.1, 0.2)
FGE_GRID = {
    "rate": (0.05, 0.1),
    "decay": DECAYS,
    "start": (16, 20, 24, 28),
    "cycle": (1, 2, 4),
    "largest": (0.02, 0.05, 0.1),
}
FASHION_METHODS = {  # How it trains, and the settings to try. Those of the first three are as many.
    "one network": (one_network, grid(16, rate=RATES, decay=DECAYS, epochs=(20, 30, 40))),
    "FGE": (fge, grid(16, **FGE_GRID)),
    "SSE": (sse, grid(16, largest=(0.05, 0.1, 0.2, 0.4), decay=DECAYS, cycles=(1, 2, 3, 4, 6))),
    "cosine schedule": (cosine, grid(rate=(0.05, 0.1), decay=DECAYS)),
    "label smoothing": (label_smoothing, grid(smoothing=(0.05, 0.1), decay=DECAYS)),
    "EMA": (ema, grid(horizon=(1.0, 4.0), decay=DECAYS)),
    "SWA, constant rate": (swa, grid(rate=(0.02, 0.05), decay=DECAYS)),
    "SAM, half the epochs": (sam, grid(rho=(0.02, 0.05), decay=DECAYS)),
    "AdamW": (adamw, grid(rate=(5e-4, 1e-3, 2e-3, 4e-3), decay=(0.004, 0.04))),
    "FGE with AdamW": (
        fge_with_adamw,
        grid(rate=(0.002,), decay=(0.004, 0.04), start=(20,), cycle=(2, 4), largest=(0.001, 0.002)),
    ),
    "schedule-free AdamW": (schedule_free, grid(rate=(1e-3, 3e-3, 1e-2, 3e-2), decay=(0.0, 0.01))),
    "MC dropout": (mc_dropout, grid(dropout=(0.1, 0.25, 0.4, 0.5), decay=(1e-3, 3e-3))),
    "four networks of half the width": (narrow, grid(rate=(0.05, 0.1), decay=DECAYS)),
}
CIFAR_DECAYS = (4e-3, 8e-3)
CIFAR_METHODS = {  # Two rates and two decays for each, and two settings of its own with each of these.
    "one network": (one_network, alike(2, grid(rate=(0.02, 0.05), decay=CIFAR_DECAYS), epochs=(67, 100))),
    "FGE": (
        fge,
        alike(
            2,
            grid(rate=(0.02, 0.05), decay=CIFAR_DECAYS),
            **{"start": (40, 50, 67), "cycle": (3, 6), "largest": (0.03, 0.05, 0.1)},
        ),
    ),
    "SSE": (sse, alike(2, grid(largest=(0.05, 0.1), decay=CIFAR_DECAYS), cycles=(2, 3, 5))),
}
TASKS = {
    "fashion": Task({"dataset": "fashion_subset"}, "small_cnn", 40, FASHION_METHODS),
    "cifar10": Task({"dataset": "folder", "image_size": 16, "train_size": 5000}, "small_cnn_bn", 100, CIFAR_METHODS),
}
