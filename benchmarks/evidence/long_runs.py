"""What grows in long runs: 2,000 snapshots of one run, 200 fits in one process, and a run that is preempted for a week.

    cd benchmarks && KERAS_BACKEND=torch python -m evidence.long_runs --output=results/long_runs/torch.json

A network of two dense layers, so that nothing but the library and Keras takes time and memory. Fits without FGE stand
beside those with it. A preemption is a SIGTERM in the middle of an epoch, one for each hour; the run then goes on with
a new network and a new callback. Memory is what the process holds (Linux).
"""

import gc
import os
import pathlib
import shutil
import signal
import tempfile
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_fge
from study.progress import console
from study.records import new_record, write_json

FLAGS = flags.FLAGS
STEPS, BATCH = 40, 4  # Of an epoch; of a batch.
X = np.random.default_rng(0).normal(size=(STEPS * BATCH, 8)).astype("float32")
Y = np.arange(len(X)) % 3


def new_network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
    network = keras.Sequential([keras.Input((8,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return network


def fit(folder, epochs, cycle_steps, *others, every=None):
    """A run of FGE that resumes in the folder."""
    fge = keras_fge.FGE(0.01, 0.001, cycle_steps=cycle_steps, directory=folder, resume=True, every=every)
    new_network().fit(fge.batches(X, Y, BATCH), epochs=epochs, shuffle=False, verbose=0, callbacks=[*others, fge])
    return fge


def held():
    """Megabytes, open files and threads of this process."""
    gc.collect()
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "megabytes": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
    }


class Clock(keras.callbacks.Callback):
    """The seconds from the end of one epoch to that of the next, with what the process then holds."""

    def __init__(self):
        super().__init__()
        self.seconds, self.held, self._last = [], [], None

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
            self.held.append(held())
        self._last = time.perf_counter()


class Preempted(keras.callbacks.Callback):
    """Sends SIGTERM to its process after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self._left = batches

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGTERM)


def snapshots(count, folder):
    """Epochs with 20 snapshots each: their seconds, at first and at last; what lies in the folder."""
    clock = Clock()
    fge = fit(folder, count // (STEPS // 2), 2, clock)
    part = max(len(clock.seconds) // 10, 1)
    begin = time.perf_counter()
    loaded = keras_fge.Ensemble.load(folder)
    return {
        "snapshots": len(fge.snapshots),
        "milliseconds_of_one": [
            1000 * float(np.median(seconds)) / (STEPS // 2) for seconds in (clock.seconds[:part], clock.seconds[-part:])
        ],
        "held": [clock.held[part], clock.held[-1]],
        "bytes_of_the_manifest_per_snapshot": os.path.getsize(folder / "manifest.json") / len(loaded),
        "bytes_of_a_state": os.path.getsize(folder / "state.npz"),
        "seconds_to_load": time.perf_counter() - begin,
    }


def fits(count, folder):
    """What the process holds after a tenth of so many fits, and after all: with FGE, in new folders, and without."""
    found = {}
    for name in ("plain", "FGE"):
        states = []
        for number in range(count):
            if name == "FGE":
                fit(folder, 2, STEPS)
                shutil.rmtree(folder)
            else:
                new_network().fit(X, Y, BATCH, epochs=2, verbose=0)
            if number + 1 in (count // 10, count):
                states.append(held())
        found[name] = states
    return {"fits": count, **found}


def preemptions(count, folder, other):
    """One run that SIGTERM ends so many times, against one that nothing disturbs."""
    rng, states, ended = np.random.default_rng(0), [], 0
    epochs = -(-count * 9 // STEPS)  # No life has more than 9 batches.
    while True:
        disturbance = [Preempted(int(rng.integers(1, 10)))] if ended < count else []
        try:
            disturbed = fit(folder, epochs, STEPS, *disturbance, every=60)
            break
        except SystemExit:
            ended += 1
            if ended in (count // 10, count):
                states.append(held())
    quiet = fit(other, epochs, STEPS)
    members = [[snapshot.weights for snapshot in fge.snapshots] for fge in (disturbed, quiet)]
    is_same = all(np.array_equal(a, b) for ours, theirs in zip(*members, strict=True) for a, b in zip(ours, theirs))
    return {
        "preemptions": ended,
        "members": len(members[0]),
        "same_bits": is_same,
        "held": states,
        "files_in_the_folder": [len(os.listdir(path)) for path in (folder, other)],
    }


def main(_):
    flags_of_record = types.SimpleNamespace(output=FLAGS.output, seed=0, snapshots=FLAGS.snapshots, fits=FLAGS.fits)
    record = {**new_record(flags_of_record), "found": {}}
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "snapshots": lambda: snapshots(FLAGS.snapshots, pathlib.Path(folder, "snapshots")),
            "fits": lambda: fits(FLAGS.fits, pathlib.Path(folder, "fits")),
            "preemptions": lambda: preemptions(FLAGS.preemptions, *(pathlib.Path(folder, name) for name in "ab")),
        }
        for name, part in parts.items():
            begin = time.monotonic()
            record["found"][name] = part()
            record["wall_seconds"][name] = round(time.monotonic() - begin)
            console.print(f"{name}: {record['found'][name]}", markup=False)
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("output", "results/long_runs.json", "Record to write.")
    flags.DEFINE_integer("snapshots", 2000, "Snapshots of one run; 20 an epoch.", lower_bound=60)
    flags.DEFINE_integer("fits", 200, "Fits in one process.", lower_bound=10)
    flags.DEFINE_integer("preemptions", 168, "Times that one run is stopped: the hours of a week.", lower_bound=10)
    app.run(main)
