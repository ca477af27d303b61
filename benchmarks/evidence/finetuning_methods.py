"""The methods that finetuning.py compares, and the settings that it tries for each.

Each trains with AdamW, with a warm-up of a tenth of the steps, and returns `{name: (Ensemble, trainings it took)}`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

import curves
import keras_fge
from study.search import alike, grid
from study.training import default_jit_compile

MEMBERS, SAMPLES, HEADS = 3, 10, 5  # Networks, or branches of a star; networks that SWAG draws; last layers.


@dataclasses.dataclass(frozen=True)
class Setup:
    """A task, and what of a network is trained.

    Attributes:
        new_network: A function of the seed: the pretrained network with its head, not compiled.
        train, validation, test: `(x, y)`.
        foreign: Inputs of another task.
        batch_size: Samples of a step.
        heads: Rate, weight decay and epochs of further heads on the features; None, if these are the inputs.
    """

    new_network: Callable[[int], keras.Model]
    train: tuple
    validation: tuple
    test: tuple
    foreign: Any
    batch_size: int = 32
    heads: tuple | None = None

    @property
    def steps(self):
        return -(-len(self.train[1]) // self.batch_size)


def warmed_up(rate, steps, falls=True):
    """From 0 to `rate` in a tenth of the steps; then by a cosine to 0, or constant."""
    warmup = max(steps // 10, 1)
    end = {"alpha": 0.0} if falls else {"alpha": 1.0}
    decay = max(steps - warmup, 1)
    return keras.optimizers.schedules.CosineDecay(0.0, decay, warmup_target=rate, warmup_steps=warmup, **end)


def fit(setup, network, seed, rate, decay, epochs, *callbacks):
    """Trains; `rate` is a number or a schedule."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.AdamW(rate, weight_decay=decay), loss, jit_compile=default_jit_compile())
    batches = keras_fge.Batches(*setup.train, setup.batch_size, seed)
    network.fit(batches, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return network


def ordinary(setup, seed, rate, decay, epochs, *callbacks):
    network = setup.new_network(seed)
    return fit(setup, network, seed, warmed_up(rate, epochs * setup.steps), decay, epochs, *callbacks)


def of(*networks):
    return keras_fge.Ensemble.of(networks, from_logits=True)


# --- The methods ------------------------------------------------------------------------------------------------------


def independent(setup, seed, rate, decay, epochs):
    """One network; ensembles of two and three; their soups, each one network; and the best of the line to the start."""
    networks = [ordinary(setup, seed + 10_000 * k, rate, decay, epochs) for k in range(MEMBERS)]
    deep, start = of(*networks), setup.new_network(seed)
    found = {
        "one network": (of(networks[0]), 1),
        "WiSE-FT": (of(curves.wise_ft(start, networks[0], *setup.validation, train=setup.train)), 1),
        "deep ensemble of 2": (of(*networks[:2]), 2),
        "deep ensemble of 3": (deep, 3),
        "uniform soup of 3": (of(deep.average_weights(setup.train)), 3),
        "greedy soup of 3": (of(deep.soup(*setup.validation, setup.train)), 3),
    }
    return found if setup.heads is None else {**found, "last layers": (last_layers(setup, networks[0], seed), 1)}


def last_layers(setup, network, seed):
    """New heads on the features of one network after its training: an ensemble of almost no cost."""
    encoder = keras.Model(network.input, network.get_layer("normalized").output)
    x, y = encoder.predict(setup.train[0], batch_size=64, verbose=0), setup.train[1]
    own = {weight.path for weight in network.get_layer("head").weights}
    places = [index for index, weight in enumerate(network.weights) if weight.path in own]
    members = []
    for number in range(HEADS):
        keras.utils.set_random_seed(seed + 10_000 * number)
        head = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(network.output.shape[-1])])
        fit(dataclasses.replace(setup, train=(x, y)), head, seed + number, *setup.heads)
        members.append(network.get_weights())
        for place, value in zip(places, head.get_weights(), strict=True):
            members[-1][place] = value
    return keras_fge.Ensemble(network, members, from_logits=True)


def fge(setup, seed, rate, decay, epochs, start, cycles, factor):
    """FGE from `start` of the epochs on, the mean of its members' weights, and networks drawn around it (SWAG)."""
    network, begin = setup.new_network(seed), round(start * epochs)
    cycle = 2 * max(round((epochs - begin) * setup.steps / cycles / 2), 1)
    callback = keras_fge.FGE(factor * rate, factor * rate / 100, cycle_steps=cycle, start_epoch=begin)
    schedule = warmed_up(rate, epochs * setup.steps, falls=False)
    fit(setup, network, seed, schedule, decay, epochs, callback)
    ensemble = callback.ensemble()
    return {
        "FGE": (ensemble, 1),
        "SWA": (of(ensemble.average_weights(setup.train)), 1),
        "SWAG": (keras_fge.SWAG(ensemble).sample(SAMPLES, setup.train, seed=seed), 1),
    }


def sse(setup, seed, rate, decay, epochs, cycles):
    network = setup.new_network(seed)
    callback = keras_fge.SnapshotEnsemble(rate, cycle_steps=epochs * setup.steps // cycles)
    fit(setup, network, seed, rate, decay, epochs, callback)
    return {"SSE": (callback.ensemble(), 1)}


def star(setup, seed, rate, decay, epochs, share):
    """A network of a part of the epochs, and branches that begin there (StarSSE); the soup of these."""
    branch = max(round((1 - share) * epochs / MEMBERS), 1)
    network = ordinary(setup, seed, rate, decay, epochs - MEMBERS * branch)
    center, callback = network.get_weights(), keras_fge.SnapshotEnsemble(rate, cycle_epochs=branch)
    for number in range(MEMBERS):
        network.set_weights(center)
        fit(setup, network, seed + 10_000 * (number + 1), rate, decay, branch, callback)
    ensemble = callback.ensemble()
    return {"StarSSE": (ensemble, 1), "soup of StarSSE": (of(ensemble.average_weights(setup.train)), 1)}


def ema(setup, seed, rate, decay, epochs, horizon):
    """The moving average of the weights of a training at a constant rate, over a part of its epochs."""
    average = keras_fge.EMA((horizon * epochs,))
    network = setup.new_network(seed)
    fit(setup, network, seed, warmed_up(rate, epochs * setup.steps, falls=False), decay, epochs, average)
    return {"EMA": (of(average.network(horizon * epochs, setup.train)), 1)}


def settings(draws, rates, decays, epochs):
    """How each method trains, and the settings to try: at each rate and decay, so many of its own choices, drawn."""
    common = grid(rate=rates, decay=decays)
    methods = {
        "independent": (independent, {"epochs": (-(-epochs // 2), epochs)}),
        "FGE": (fge, {"start": (0.4, 0.6), "cycles": (3, 6), "factor": (1, 3)}),
        "SSE": (sse, {"cycles": (2, 4)}),
        "StarSSE": (star, {"share": (0.4, 0.7)}),
        "EMA": (ema, {"horizon": (0.05, 0.2)}),
    }
    return {
        name: (method, alike(draws, common, **{"epochs": (epochs,), **own})) for name, (method, own) in methods.items()
    }


WAYS = {  # What of a network is trained.
    "head": settings(2, (0.003, 0.01, 0.03), (0.1, 1.0), 20),
    "lora": settings(2, (3e-4, 1e-3, 3e-3), (0.01, 0.1), 6),
    "all": settings(2, (2e-5, 5e-5, 1e-4), (0.01, 0.1), 6),
}
