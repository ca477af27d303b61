"""The network with the mean weights of several networks: as they are, aligned to the first, and aligned together.

    cd benchmarks && python -m evidence.means --output=means.json

Small CNNs with BatchNormalization on Fashion-MNIST (subset), of several widths, trained apart; statistics of the mean
network are estimated anew. For comparison: one of the networks, and their ensemble. The record is written after each
group, and the same command goes on.
"""

import os
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags

import curves
import keras_fge
from evidence.alignment import trained
from inputs import data
from study.progress import console
from study.records import opened_record, write_json

FLAGS = flags.FLAGS
MOST = 4  # Networks of a group.


def measure_group(images, width, epochs, seed):
    """{kind: {k: test metrics}}, of the first k networks of the group."""
    networks = [trained(images, width, epochs, seed + 1000 * k) for k in range(MOST)]
    to_the_first = [networks[0], *(curves.align(network, networks[0], verbose=False) for network in networks[1:])]
    found = {"one network": {1: metrics(images, networks[:1])}}
    for k in range(2, MOST + 1):
        kinds = {"as they are": networks[:k], "aligned to the first": to_the_first[:k]}
        kinds["aligned together"] = curves.align_all(networks[:k], seed=seed, verbose=False)
        for kind, of in kinds.items():
            mean = keras_fge.Ensemble.of(of, from_logits=True).average_weights(images.train)
            found.setdefault(kind, {})[k] = metrics(images, [mean])
        found.setdefault("ensemble", {})[k] = metrics(images, networks[:k])
    return found


def metrics(images, networks):
    ensemble = keras_fge.Ensemble.of(networks, from_logits=True)
    return {name: float(value) for name, value in ensemble.evaluate(*images.test, batch_size=1000).items()}


def main(_):
    settings = types.SimpleNamespace(**{name: FLAGS[name].value for name in OWN_FLAGS})
    images = data.load("fashion_subset")
    record = opened_record(FLAGS.output, settings, data=images.about(), groups={})
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.groups):
        for width in map(int, FLAGS.widths):
            if (key := f"{width} {seed}") not in record["groups"]:
                record["groups"][key] = measure_group(images, width, FLAGS.epochs, seed)
                write_json(record, FLAGS.output)
                for kind, of in record["groups"][key].items():
                    errors = ", ".join(f"{100 * metrics['error']:.1f}" for metrics in of.values())
                    console.print(f"width {width}, seed {seed}, {kind}: error {errors} %", markup=False)
    console.print(f"Written: {FLAGS.output}")


OWN_FLAGS = ("output", "epochs", "widths", "groups", "seed")

if __name__ == "__main__":
    flags.DEFINE_string("output", "results/means.json", "Record to write.")
    flags.DEFINE_integer("epochs", 20, "Epochs of a network.")
    flags.DEFINE_list("widths", ["8", "16", "32"], "Filters of the first stage.")
    flags.DEFINE_integer("groups", 3, f"Groups of {MOST} networks of each width.", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "Seed of the first group.")
    app.run(main)
