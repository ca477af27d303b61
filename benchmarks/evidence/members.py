"""What prediction with K members costs, in times of one network: a frozen backbone with heads, and small dense ones.

    cd benchmarks && KERAS_BACKEND=... python -m evidence.members

Each way is called in turns, `--repeats` times after a first call that compiles; the record has the median.
"predict" is what `Ensemble.predict` does: it runs the frozen part once, and dense members in one program. "Each member"
runs the whole network for each member.
"""

import json
import os
import pathlib
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from absl import app, flags
from keras import layers

import keras_fge
from study.progress import console
from study.records import opened_record, write_json

FLAGS = flags.FLAGS
SIZES = (2, 10, 50)


def heads(size):
    """A frozen CNN on images of 64 x 64 pixels, and members of its head."""
    inputs = x = keras.Input((64, 64, 3))
    for width in (32, 64, 64, 64):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    body = keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="body")
    body.trainable = False
    network = keras.Model(inputs, layers.Dense(10, "softmax")(body(inputs)))
    return with_members(network, size), np.random.default_rng(0).random((32, 64, 64, 3)).astype("float32")


def dense(size):
    """A small dense network, 64-64-64-10."""
    hidden = [layers.Dense(64, "relu"), layers.Dense(64, "relu")]
    network = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, "softmax")])
    return with_members(network, size), np.random.default_rng(0).normal(size=(2000, 64)).astype("float32")


def with_members(network, size):
    rng = np.random.default_rng(1)
    trained = {id(variable) for variable in network.trainable_variables}
    noise = [0.1 if id(variable) in trained else 0.0 for variable in network.weights]
    snapshots = [
        [(w + n * rng.normal(size=w.shape)).astype("float32") for n, w in zip(noise, network.get_weights())]
        for _ in range(size)
    ]
    return keras_fge.Ensemble(network, snapshots)


def each_member(ensemble, x):
    """A plain loop: each member is put into the network, which predicts."""
    total = 0
    for snapshot in ensemble.snapshots:
        ensemble.network.set_weights(snapshot.weights)
        total = total + ensemble.network.predict(x, batch_size=32, verbose=0)
    return total / len(ensemble)


def seconds(ways):
    """The median time of each way."""
    for call in ways.values():
        call()
    times = {name: [] for name in ways}
    for _ in range(FLAGS.repeats):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, seed=0, repeats=FLAGS.repeats)
    record = opened_record(FLAGS.output, settings, seconds={})
    done = record["seconds"]
    for name, make, sizes in (("heads", heads, (8,)), ("dense", dense, SIZES)):
        for size in sizes:
            if f"{name} {size}" in done:
                continue
            ensemble, x = make(size)
            network = ensemble.network
            ways = {
                "one network": lambda network=network, x=x: network.predict(x, batch_size=32, verbose=0),
                "predict": lambda ensemble=ensemble, x=x: ensemble.predict(x, batch_size=32),
                "each member": lambda ensemble=ensemble, x=x: each_member(ensemble, x),
            }
            if size <= 10:  # A model of 50 members takes minutes to compile.
                one = ensemble.to_model()
                ways["to_model"] = lambda one=one, x=x: one.predict(x, batch_size=32, verbose=0)
            difference = max(
                float(np.abs(call() - ways["predict"]()).max()) for n, call in ways.items() if "one" not in n
            )
            assert difference < 1e-5, difference
            done[f"{name} {size}"] = seconds(ways)
            console.print(f"{name} {size}: {json.dumps(done[f'{name} {size}'])}")
            write_json(record, pathlib.Path(FLAGS.output))
    console.print(f"Written: {FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("output", f"../results/members_{keras.backend.backend()}.json", "Record to write.")
    flags.DEFINE_integer("repeats", 7, "Calls of each way.", lower_bound=1)
    app.run(main)
