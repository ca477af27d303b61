"""Measures ensembles from the subspace of a curve: even points, slice samples, FGE of the same start, two networks.

    cd benchmarks && python -m evidence.subspaces --output=subspaces.json

The small CNN with BatchNormalization on the subset of Fashion-MNIST. The temperature of the samples is chosen by NLL on
validation images; test images only report. The record is written after each seed, and the same command goes on.
"""

import os
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from absl import app, flags

import curves
import keras_fge
from evidence.alignment import BATCH_SIZE, RATE, fit, trained
from inputs import data
from study.progress import console
from study.records import opened_record, write_json

FLAGS = flags.FLAGS
WIDTH, TEMPERATURES = 8, (10.0, 100.0, 1000.0, 10_000.0, 100_000.0)


def measure(images, seed, epochs, members):
    """Test metrics of each ensemble, and the temperature that was chosen."""
    first, second = (trained(images, WIDTH, epochs, seed + k) for k in (0, 1000))
    curve = curves.connect(first, second, seed=seed)
    fit(curve, images, epochs // 2, seed)

    points = []
    for t in np.linspace(0, 1, members):
        points.append(curve.network_at(t))
        if 0 < t < 1:
            curves.update_batch_norm(points[-1], images.train)

    samples, scores = {}, {}
    for temperature in TEMPERATURES:
        samples[temperature] = curves.sample_subspace(
            curve, images.train, members, temperature, batch_size=500, seed=seed, verbose=False
        )
        scores[temperature] = samples[temperature].evaluate(*images.validation, batch_size=500)["nll"]
    temperature = min(scores, key=scores.get)

    start = trained(images, WIDTH, epochs * 7 // 10, seed, schedule_epochs=epochs)
    steps = -(-len(images.train[0]) // BATCH_SIZE)
    fge = keras_fge.FGE(RATE, RATE / 100, cycle_steps=2 * (steps // 2))
    batches = keras_fge.Batches(*images.train, BATCH_SIZE, seed)
    start.fit(batches, epochs=epochs - epochs * 7 // 10, verbose=0, callbacks=[fge])

    of = keras_fge.Ensemble.of
    ensembles = {
        "one network": of([first], from_logits=True),
        "two networks": of([first, second], from_logits=True),
        "even points of the curve": of(points, from_logits=True),
        "samples of the subspace": samples[temperature],
        "FGE": fge.ensemble(),
    }
    results = {
        name: {**each.evaluate(*images.test, batch_size=500, calibrate=True), "members": len(each)}
        for name, each in ensembles.items()
    }
    return {"temperature": temperature, "validation_nll": {str(t): score for t, score in scores.items()}, **results}


def main(_):
    settings = types.SimpleNamespace(
        **{name: FLAGS[name].value for name in ("output", "epochs", "members", "runs", "seed")}
    )
    images = data.load("fashion_subset", None, None, None, None, False)
    record = opened_record(FLAGS.output, settings, runs={})
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.runs):
        if str(seed) not in record["runs"]:
            record["runs"][str(seed)] = measure(images, seed, FLAGS.epochs, FLAGS.members)
            write_json(record, FLAGS.output)
            nll = {
                k: round(v["nll"], 3)
                for k, v in record["runs"][str(seed)].items()
                if isinstance(v, dict) and "nll" in v
            }
            console.print(f"seed {seed}: T = {record['runs'][str(seed)]['temperature']}, {nll}")
    console.print(f"Written: {FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/subspaces.json", "Record to write.")
    flags.DEFINE_integer("epochs", 20, "Epochs of a network; the curve takes half of them.")
    flags.DEFINE_integer("members", 10, "Points, and samples.")
    flags.DEFINE_integer("runs", 6, "Seeds.")
    flags.DEFINE_integer("seed", 0, "The first one.")
    app.run(main)
