"""A line of networks learned from scratch in one run: its midpoint against one network that is trained as long."""

import io
import lzma
import pathlib

import keras
import numpy as np
from keras import layers

import curves
import keras_fge

FILE = pathlib.Path(__file__).parent.parent / "benchmarks" / "datasets" / "fashion_mnist.npz.xz"
RATE, LOSS = 0.05, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load(count):
    data = np.load(io.BytesIO(lzma.decompress(FILE.read_bytes())))
    (x, y), test = [(data[f"{p}_x"][:, ::2, ::2] / np.float32(255), data[f"{p}_y"]) for p in ("train", "test")]
    return (x[:count], y[:count].astype("int32")), (test[0], test[1].astype("int32"))


def make_network():
    convolutions = [layers.Conv2D(filters, 3, padding="same", activation="relu") for filters in (16, 32)]
    first, second = [[convolution, layers.MaxPooling2D()] for convolution in convolutions]
    return keras.Sequential([*first, *second, layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10)])


def fit(model, x, y, epochs, seed):
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), LOSS, jit_compile=False)
    paper = keras_fge.PaperTraining(RATE, epochs)
    model.fit(keras_fge.Batches(x, y, 64, seed), epochs=epochs, verbose=0, callbacks=[paper])


def run(seed, count=4000, epochs=20):
    """Test metrics of one network, of the midpoint, and of the ensemble of five points of the line."""
    train, test = load(count)
    keras.utils.set_random_seed(seed)
    one = make_network()
    fit(one, *train, epochs, seed)

    keras.utils.set_random_seed(seed)
    regularizer = curves.CosineRegularizer(1.0)  # Or both ends would become one network.
    line = curves.Curve(make_network(), curves.Bezier(2), fix_start=False, fix_end=False, regularizer=regularizer)
    model = curves.CurveModel(line, seed=seed)
    fit(model, *train, epochs, seed)
    points = [model.network_at(t) for t in (0.5, 0.0, 0.25, 0.75, 1.0)]

    methods = {"one network": [one], "midpoint": points[:1], "five points": points}
    ensembles = {name: keras_fge.Ensemble.of(each, from_logits=True) for name, each in methods.items()}
    return {name: ensemble.evaluate(*test, calibrate=True) for name, ensemble in ensembles.items()}


if __name__ == "__main__":
    print(run(seed=0))
