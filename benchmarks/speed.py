"""Cost of a training step on a curve and under FGE, as a ratio to the plain step, measured side by side in one run.

    python benchmarks/speed.py --output=speed.json

The trainings take turns, epoch by epoch, on random images of CIFAR-10's shape; the first turn, which compiles,
does not count. The ratio is that of the fastest turns: other programs on the machine only ever add time. The record has
the seconds of every turn.
"""

import os
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import curves
import keras_fge
from networks import make_network
from progress import console
from records import new_record, write_json

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "results/speed.json", "Record to write.")
flags.DEFINE_integer("seed", 0, "Seed of weights and images.")
flags.DEFINE_integer("batch_size", 128, "Images per step.", lower_bound=1)
flags.DEFINE_integer("steps", 10, "Steps of one turn.", lower_bound=2)
flags.DEFINE_integer("turns", 20, "Turns that count.", lower_bound=1)
flags.DEFINE_integer("width", 32, "Filters of the first stage of the network.", lower_bound=1)


def compiled(model):
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def measure(batch_size, steps, turns, width, seed):
    """Seconds per turn: `{name: [...]}`."""
    keras.utils.set_random_seed(seed)
    x = np.random.default_rng(seed).integers(0, 256, (steps * batch_size, 32, 32, 3), "uint8")
    y = np.arange(len(x)) % 10
    networks = [compiled(make_network("small_cnn", (32, 32, 3), 10, 5e-4, width=width)) for _ in range(3)]
    models = {
        "plain": networks[0],
        "curve, 3 bends": compiled(curves.connect(networks[0], networks[1], seed=seed)),
        "curve, arc length": compiled(curves.connect(networks[0], networks[1], objective="arc_length", seed=seed)),
        "FGE": networks[2],
    }
    seconds = {name: [] for name in models}

    class Turn(keras.callbacks.Callback):
        """Trains the other models in each epoch of the FGE run, which must not be split: each fit compiles anew."""

        def on_epoch_begin(self, epoch, logs=None):
            for name in [name for name in models if name != "FGE"]:
                begin = time.perf_counter()
                models[name].fit(x, y, batch_size=batch_size, verbose=0, shuffle=False)
                seconds[name].append(time.perf_counter() - begin)
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds["FGE"].append(time.perf_counter() - self.begin)

    fge = keras_fge.FGE(0.01, 0.001, cycle_epochs=2)
    models["FGE"].fit(x, y, batch_size=batch_size, epochs=turns + 1, verbose=0, shuffle=False, callbacks=[fge, Turn()])
    return {name: values[1:] for name, values in seconds.items()}


def main(_):
    settings = types.SimpleNamespace(**{flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(__name__)})
    folder = os.path.dirname(settings.output) or "."
    os.makedirs(folder, exist_ok=True)
    seconds = measure(settings.batch_size, settings.steps, settings.turns, settings.width, settings.seed)
    record = new_record(settings)
    record["seconds_per_turn"] = seconds
    record["milliseconds_per_step"] = {name: 1000 * min(turns) / settings.steps for name, turns in seconds.items()}
    record["ratio_to_plain"] = {name: min(turns) / min(seconds["plain"]) for name, turns in seconds.items()}
    for name, ratio in record["ratio_to_plain"].items():
        console.print(f"{name}: {record['milliseconds_per_step'][name]:.0f} ms per step, {ratio:.2f} of the plain step")
    write_json(record, settings.output)


if __name__ == "__main__":
    app.run(main)
