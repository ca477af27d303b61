"""Measures the barrier between two networks before and after alignment, on the line and on curves, against the width.

    cd benchmarks && python -m evidence.alignment --dataset=fashion_subset --output=alignment.json
    cd benchmarks && python -m evidence.alignment --dataset=folder --data_dir=DIR --image_size=12 --train_size=3000 \\
        --output=FILE

Pairs of independent small CNNs with BatchNormalization, of which statistics are estimated anew at each point.
The record is written after each pair, and the same command goes on; then it draws the figure beside it.
"""

import os
import pathlib
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from absl import app, flags

import curves
import keras_fge
from inputs import data
from inputs.networks import make_network
from keras_fge.core.pages import COLORS, GREY
from study.look import new_figure, save, styled
from study.progress import console
from study.records import name_of_data, opened_record, write_json
from study.training import default_jit_compile

FLAGS = flags.FLAGS
RATE, BATCH_SIZE, POINTS = 0.05, 64, 11
PATHS = {  # Name: (aligned or not, bends).
    "line": (False, 2),
    "aligned line": (True, 2),
    "curve": (False, 3),
    "aligned curve": (True, 3),
}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(model, images, epochs, seed, schedule_epochs=None):
    """Trains as in the paper; `schedule_epochs`, if given, is the budget that the learning rate is made for."""
    model.compile(
        keras.optimizers.SGD(RATE, momentum=0.9), LOSS, metrics=["accuracy"], jit_compile=default_jit_compile()
    )
    paper = keras_fge.PaperTraining(RATE, schedule_epochs or epochs)
    batches = keras_fge.Batches(*images.train, BATCH_SIZE, seed)
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[paper])


def trained(images, width, epochs, seed, schedule_epochs=None):
    keras.utils.set_random_seed(seed)
    shape, classes = images.train[0].shape[1:], images.num_classes
    network = make_network("small_cnn_bn", shape, classes, 3e-4, "none", images.largest_pixel, width=width, dropout=0.0)
    fit(network, images, epochs, seed, schedule_epochs)
    return network


def measure_pair(images, width, epochs, seed):
    """Barriers and mean test metrics of each path between two networks."""
    a, b = (trained(images, width, epochs, seed + k) for k in (0, 1000))
    ends = {False: b, True: curves.align(b, a, verbose=False)}
    results = {}
    for name, (is_aligned, bends) in PATHS.items():
        curve = curves.connect(a, ends[is_aligned], curves.Bezier(bends), seed=seed)
        if bends > 2:
            fit(curve, images, epochs // 2, seed)
        curve.compile("sgd", LOSS, metrics=["accuracy"], jit_compile=default_jit_compile())
        path = curves.evaluate_path(curve, images.train, images.test, POINTS, batch_size=500, verbose=False, line=False)
        results[name] = {
            "train_loss_barrier": float(path.barrier()),
            "train_loss": [float(value) for value in path.train["loss"]],
            "test_error": [float(value) for value in path.test["error"]],
            "straight_distance": float(path.distance[-1]) if bends == 2 else curve.arc_length(2),
        }
    return results


@styled
def draw(record):
    figure = new_figure(3.6)
    barrier, line = figure.subplots(1, 2)
    widths = sorted({int(key.split()[0]) for key in record["pairs"]})
    colors = dict(zip(PATHS, (GREY, COLORS[2], COLORS[0], COLORS[5])))  # The straight line is grey everywhere.
    for name, color in colors.items():
        values = [
            [pair[name]["train_loss_barrier"] for key, pair in record["pairs"].items() if key.split()[0] == str(w)]
            for w in widths
        ]
        barrier.errorbar(
            widths,
            [np.mean(v) for v in values],
            [np.std(v, ddof=1) for v in values],
            color=color,
            marker="o",
            label=name,
            capsize=3,
        )
        last = [pair[name]["test_error"] for key, pair in record["pairs"].items() if key.split()[0] == str(widths[-1])]
        line.plot(np.linspace(0, 1, POINTS), 100 * np.mean(last, axis=0), color=color, label=name)
    barrier.set(
        xscale="log",
        xticks=widths,
        xlabel="width (filters of the first stage)",
        ylabel="barrier of the train loss (nat)",
    )
    barrier.set_xticks(widths, [str(w) for w in widths])
    barrier.minorticks_off()
    line.set(xlabel="position t", ylabel="test error (%)", title=f"width {widths[-1]}")
    barrier.set(title=name_of_data(record), ylim=(0, None))
    figure.legend(*barrier.get_legend_handles_labels(), loc="outside lower center", ncols=len(PATHS))
    return figure


def main(_):
    settings = types.SimpleNamespace(**{name: FLAGS[name].value for name in OWN_FLAGS})
    path = pathlib.Path(FLAGS.output)
    images = data.load(FLAGS.dataset, FLAGS.data_dir, FLAGS.image_size, FLAGS.train_size, None, False)
    record = opened_record(path, settings, data=images.about(), pairs={})
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.pairs):
        for width in map(int, FLAGS.widths):
            if (key := f"{width} {seed}") not in record["pairs"]:
                record["pairs"][key] = measure_pair(images, width, FLAGS.epochs, seed)
                write_json(record, path)
                barriers = {
                    name: round(values["train_loss_barrier"], 3) for name, values in record["pairs"][key].items()
                }
                console.print(f"width {width}, seed {seed}: {barriers}")
    save(draw(record), path.with_suffix(".png"))
    console.print(f"Written: {path} and {path.with_suffix('.png')}")


OWN_FLAGS = ("output", "dataset", "image_size", "train_size", "epochs", "widths", "pairs", "seed")

if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/alignment.json", "Record to write.")
    flags.DEFINE_enum("dataset", "fashion_subset", sorted(data.LOADERS), "Data set.")
    flags.DEFINE_string("data_dir", None, "Its folder.")
    flags.DEFINE_integer("image_size", None, "Height and width of images.")
    flags.DEFINE_integer("train_size", None, "Images to train on.")
    flags.DEFINE_integer("epochs", 20, "Epochs of a network; a curve takes half of them.")
    flags.DEFINE_list("widths", ["8", "16", "32"], "Filters of the first stage.")
    flags.DEFINE_integer("pairs", 3, "Pairs of networks of each width.", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "Seed of the first pair.")
    app.run(main)
