"""Lines and curves between small vision transformers, before and after alignment by each symmetry that `align` knows.

    cd benchmarks && python -m evidence.transformers --output=transformers.json

Pairs of networks trained apart on the subset of Fashion-MNIST: patches of 3 x 3 pixels, positions by a depthwise
convolution, blocks of attention and two dense layers behind LayerNormalization, AdamW. The record is written after each
pair, and the same command goes on.
"""

import os
import pathlib
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
from absl import app, flags
from keras import layers

import curves
import keras_fge
from inputs import data
from report.connecting import rise
from study.progress import console
from study.records import opened_record, write_json
from study.training import default_jit_compile

FLAGS = flags.FLAGS
WIDTH, HEADS, DEPTH, BATCH_SIZE, POINTS = 32, 4, 2, 64, 21
EPOCHS, RATE, DECAY = 40, 0.001, 0.004
ENDS = {  # How the second network is aligned to the first.
    "as trained": lambda b, a, x: b,
    "permutations": lambda b, a, x: curves.align(b, a, rotate=False, verbose=False),
    "permutations and turned heads": lambda b, a, x: curves.align(b, a, verbose=False),
    "the same, by activations": lambda b, a, x: curves.align(b, a, data=x, method="activations", verbose=False),
}
CURVES = ("as trained", "permutations and turned heads")  # Also connected by a trained curve.
MEASURED = (("train", "nll"), ("train", "error"), ("test", "nll"), ("test", "error"))


def new_network(images, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(images.train[0].shape[1:])
    h = layers.Conv2D(WIDTH, 3, strides=3)(layers.Rescaling(1 / images.largest_pixel)(inputs))
    h = h + layers.DepthwiseConv2D(3, padding="same")(h)
    h = layers.Reshape((-1, WIDTH))(h)
    for _ in range(DEPTH):
        normed = layers.LayerNormalization()(h)
        h = h + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(normed, normed)
        hidden = layers.Dense(2 * WIDTH, activation="gelu")(layers.LayerNormalization()(h))
        h = h + layers.Dense(WIDTH)(hidden)
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
    return keras.Model(inputs, layers.Dense(images.num_classes)(h))


def fit(model, images, seed, epochs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=0 if isinstance(model, curves.CurveModel) else DECAY)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=default_jit_compile())
    if epochs:
        batches = keras_fge.Batches(*images.train, BATCH_SIZE, seed)
        model.fit(batches, epochs=epochs, verbose=0, callbacks=[keras_fge.PaperTraining(RATE, epochs)])


def measured(curve, images):
    """The rise of each quantity above the worse end, and values along the path."""
    path = curves.evaluate_path(curve, images.train, images.test, POINTS, batch_size=1000, verbose=False, line=False)
    values = {f"{split}_{name}": [float(v) for v in getattr(path, split)[name]] for split, name in MEASURED}
    return {"rise": {name: rise(along) for name, along in values.items()}, **values, "distance": path.arc_length}


def measure_pair(images, seed):
    networks = [new_network(images, seed + k) for k in (0, 1000)]
    for k, network in enumerate(networks):
        fit(network, images, seed + 1000 * k, FLAGS.epochs)
    a, b = networks
    found = {}
    for name, aligned in ENDS.items():
        end = aligned(b, a, images.train[0][:2000])
        line = curves.connect(a, end, curves.Bezier(2))
        fit(line, images, seed, 0)
        found[f"line, {name}"] = measured(line, images)
        if name in CURVES:
            curve = curves.connect(a, end, curves.Bezier(3), seed=seed)
            fit(curve, images, seed, FLAGS.epochs)
            found[f"curve, {name}"] = measured(curve, images)
    return found


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, seed=FLAGS.seed, pairs=FLAGS.pairs, epochs=FLAGS.epochs)
    path, images = pathlib.Path(FLAGS.output), data.load("fashion_subset")
    record = opened_record(path, settings, data=images.about(), pairs={})
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.pairs):
        if str(seed) not in record["pairs"]:
            record["pairs"][str(seed)] = found = measure_pair(images, seed)
            write_json(record, path)
            for name, values in found.items():
                rises = {quantity: round(value, 4) for quantity, value in values["rise"].items()}
                console.print(f"{seed}: {name}: rises {rises}, distance {values['distance']:.2f}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/transformers.json", "Record to write.")
    flags.DEFINE_integer("pairs", 5, "Pairs of networks.", lower_bound=1)
    flags.DEFINE_integer("epochs", EPOCHS, "Epochs of a network, and of a curve.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first pair; the next ones follow.")
    app.run(main)
