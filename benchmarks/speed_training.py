"""What a training step costs: on a curve, against PyTorch by hand, under FGE, with transforms and from `Batches`."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np

import curves
import keras_fge
from networks import make_network
from turns import Turns, compared

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WEIGHT_DECAY = 5e-4
STEPS = {"vgg16": 2, "preresnet20": 6, "preresnet110": 2, "convfc": 12, "small_cnn": 40, "small_cnn_bn": 30}


def images(settings, steps, size=32):
    """(x, y) of random uint8 images for so many steps."""
    count = steps * settings.batch_size
    x = np.random.default_rng(settings.seed).integers(0, 256, (count, size, size, 3), "uint8")
    return x, np.arange(count) % 10


def compiled(model, settings):
    optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=settings.jit_compile)
    return model


def network(name, settings, weight_decay=0.0, size=32, **options):
    return compiled(make_network(name, (size, size, 3), 10, weight_decay, **options), settings)


def steps_of(name, settings):
    return settings.steps or STEPS.get(name, 10)


def curve(name, settings):
    """The step on curves of 3 and 5 bends against the plain step of the same network."""
    data = images(settings, steps_of(name, settings))
    models, references = {}, {}
    for label, decay in (("", 0.0), (", weight decay", WEIGHT_DECAY)):
        ends = [network(name, settings, decay) for _ in range(2)]
        models[f"plain{label}"] = ends[0]
        for bends in (3, 5):
            case = f"curve of {bends}{label}"
            models[case] = compiled(curves.connect(*ends, curves.Bezier(bends), seed=settings.seed), settings)
            references[case] = f"plain{label}"
    turns = Turns(settings.turns)
    works = {case: turns.of_fit(model, *data, batch_size=settings.batch_size) for case, model in models.items()}
    return {"steps": steps_of(name, settings), **compared(turns.run(works), references)}


class Handwritten:
    """`handwritten.py` in a process of its own, which makes some steps when it is asked to."""

    def __init__(self, name, settings, **options):
        self.seconds = []
        arguments = {"network": name, "steps": steps_of(name, settings), "batch_size": settings.batch_size}
        arguments |= {**options, "seed": settings.seed}
        script = pathlib.Path(__file__).with_name("handwritten.py")
        command = [settings.torch_python or sys.executable, script, *(f"--{k}={v}" for k, v in arguments.items())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._process.stdout.readline()))

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def peer(name, settings):
    """Our step, plain and on a curve, against the same steps written by hand in PyTorch, in both memory layouts."""
    data = images(settings, steps_of(name, settings))
    ends = [network(name, settings) for _ in range(2)]
    models = {"plain": ends[0], "curve": compiled(curves.connect(*ends, seed=settings.seed), settings)}
    half = keras.config.dtype_policy().name == "mixed_bfloat16"
    by_hand = {
        f"{case} by hand, channels {place}": Handwritten(
            name, settings, curve=case == "curve", channels_last=place == "last", half=half, compile=settings.compile
        )
        for case in models
        for place in ("first", "last")
    }
    turns = Turns(settings.turns)
    works = {case: turns.of_fit(model, *data, batch_size=settings.batch_size) for case, model in models.items()}
    works |= {case: turns.of(process) for case, process in by_hand.items()}
    try:
        seconds = turns.run(works)
    finally:
        for process in by_hand.values():
            process.close()
    best = {
        case: min((other for other in by_hand if other.startswith(case)), key=lambda o: np.median(seconds[o]))
        for case in models
    }
    return {"steps": steps_of(name, settings), **compared(seconds, best)}


def fge(name, settings):
    """`fit` with FGE against `fit`: alone, with validation data, with a folder; and the times of what it writes."""
    size, options = (8, {}) if name == "preresnet164" else (32, {})
    steps = settings.steps or (20 if name == "preresnet164" else 100)
    data, validation = images(settings, steps, size), images(settings, 4, size)

    def make():
        return network(name, settings, size=size, **options)

    def callback(**arguments):
        return keras_fge.FGE(0.001, 0.0001, cycle_epochs=2, **arguments)

    turns, common = Turns(settings.turns), {"batch_size": settings.batch_size}
    checked = {**common, "validation_data": validation}
    with tempfile.TemporaryDirectory() as folder:
        works = {
            "plain": turns.of_fit(make(), *data, **common),
            "FGE": turns.of_fit(make(), *data, callbacks=[callback()], **common),
            "plain, validation data": turns.of_fit(make(), *data, **checked),
            "FGE, validation data": turns.of_fit(make(), *data, callbacks=[callback()], **checked),
            "FGE, folder": turns.of_fit(make(), *data, callbacks=[callback(directory=f"{folder}/turns")], **common),
        }
        references = {"FGE": "plain", "FGE, validation data": "plain, validation data", "FGE, folder": "plain"}
        result = {"steps": steps, **compared(turns.run(works), references)}
        result["single"] = _times_of_writing(make, callback, data, common, os.path.join(folder, "single"))
    return result


def _times_of_writing(make, callback, data, arguments, folder):
    """Seconds from the end of an epoch to the next: of a snapshot and a state in a folder, and of a resume."""
    data = [array[: 2 * arguments["batch_size"]] for array in data]

    def seconds(epochs, **options):
        clock, begin = _Ends(), time.perf_counter()
        fge = callback(**options)
        make().fit(*data, epochs=epochs, verbose=0, shuffle=False, callbacks=[clock, fge, clock.after], **arguments)
        return clock, begin

    clock, _ = seconds(9, directory=folder)
    in_memory, _ = seconds(9)
    resumed, begin = seconds(10, directory=folder)
    fresh, fresh_begin = seconds(1)
    return {
        # Of the epochs that end in a snapshot, and of the others; each epoch writes a state.
        "snapshot in memory": float(np.median(in_memory.seconds[2::2])),
        "snapshot and state in a folder": float(np.median(clock.seconds[2::2])),
        "state in a folder": float(np.median(clock.seconds[1::2])),
        "begin of a resumed fit": resumed.first - begin,
        "begin of a new fit": fresh.first - fresh_begin,
    }


class _Ends(keras.callbacks.Callback):
    """Notes how long the callbacks between this one and `after` take at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds, self.first = [], None
        self.after = keras.callbacks.LambdaCallback(on_epoch_end=self._end)

    def on_train_batch_begin(self, batch, logs=None):
        self.first = self.first or time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def _end(self, epoch, logs):
        self.seconds.append(time.perf_counter() - self._begin)


def pipeline(name, settings):
    """Random crop and flip in the step against none, and `Batches` against arrays in memory."""
    data = images(settings, steps_of(name, settings))
    turns, common = Turns(settings.turns), {"batch_size": settings.batch_size}
    works = {
        "plain": turns.of_fit(network(name, settings), *data, **common),
        "crop and flip": turns.of_fit(network(name, settings, transform="vgg"), *data, **common),
        "Batches": turns.of_fit(network(name, settings), keras_fge.Batches(*data, settings.batch_size)),
    }
    return {
        "steps": steps_of(name, settings),
        **compared(turns.run(works), {"crop and flip": "plain", "Batches": "plain"}),
    }
