"""Bytes of a member and time of a snapshot of MobileNetV2, of which only a head of 10 classes is trained.

    cd benchmarks && python -m evidence.small_members --output=small_members.json --name=after

In memory and in a folder. With the code of another commit (PYTHONPATH) and another name, the same file holds both.
"""

import json
import os
import pathlib
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
SNAPSHOTS = 9


class Timed(keras_fge.FGE):
    """FGE whose snapshots are taken before every other step, and that notes how long each takes."""

    def __init__(self, directory):
        super().__init__(0.01, 0.001, cycle_steps=2, directory=directory)
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        begin, before = time.perf_counter(), len(self.snapshots)
        super().on_train_batch_begin(batch, logs)
        if len(self.snapshots) > before:
            self.seconds.append(time.perf_counter() - begin)


def make_network():
    backbone = keras.applications.MobileNetV2((96, 96, 3), include_top=False, weights=None, pooling="avg")
    backbone.trainable = False
    network = keras.Sequential([backbone, keras.layers.Dense(10)])
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return network


def measure(directory):
    """Bytes of a member, and the median seconds of a snapshot."""
    keras.utils.set_random_seed(0)
    network, fge = make_network(), Timed(directory)
    x, y = np.random.default_rng(0).random((2 * SNAPSHOTS, 96, 96, 3), "float32"), np.arange(2 * SNAPSHOTS) % 10
    network.fit(x, y, batch_size=1, verbose=0, shuffle=False, callbacks=[fge])
    if directory:
        sizes = [os.path.getsize(path) for path in pathlib.Path(directory).glob("member-*.npz")]
    else:  # Arrays that another member, or the start, holds are there once.
        arrays = [{id(array): array.nbytes for array in snapshot.weights} for snapshot in fge.snapshots]
        sizes = [sum(size for key, size in each.items() if key not in arrays[0]) for each in arrays[1:]]
    return {"bytes per member": float(np.median(sizes)), "seconds per snapshot": float(np.median(fge.seconds[1:]))}


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, name=FLAGS.name, seed=0)
    path = pathlib.Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        measured = {"in memory": measure(None), "in a folder": measure(os.path.join(folder, "run"))}
    record[FLAGS.name] = {**new_record(settings), **measured}
    write_json(record, path)
    console.print(f"{FLAGS.name}: {measured}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/small_members.json", "Record to write.")
    flags.DEFINE_string("name", "after", "Name of this measurement.")
    app.run(main)
