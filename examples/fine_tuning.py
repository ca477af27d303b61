"""Fine-tuning on few images, six ways of equal cost: one network, WiSE-FT, FGE, SWAG, StarSSE, its soup."""

import io
import lzma
import pathlib

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import curves
import keras_fge

FILE = pathlib.Path(__file__).parent.parent / "benchmarks" / "datasets" / "fashion_mnist.npz.xz"
RATE, LOSS = 0.02, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load(seed):
    """Fashion-MNIST's classes 0-4; 200 images of 5-9 to learn from, 100 to choose on, 2,000 to test; digits."""
    data = np.load(io.BytesIO(lzma.decompress(FILE.read_bytes())))
    x, x_test = (data[name][:, ::2, ::2] / np.float32(255) for name in ("train_x", "test_x"))
    y, y_test = (data[name].astype("int32") - 5 for name in ("train_y", "test_y"))
    few, is_new = np.random.default_rng(seed).permutation(np.flatnonzero(y >= 0)), y_test >= 0
    train, validation = [(x[rows], y[rows]) for rows in (few[:200], few[200:300])]
    digits = np.kron(load_digits().images, np.ones((2, 2)))[:, 1:15, 1:15, None] / np.float32(16)
    return (x[y < 0], y[y < 0] + 5), train, validation, (x_test[is_new], y_test[is_new]), digits


def fit(network, data, epochs, seed, callback=None):
    network.compile(keras.optimizers.SGD(RATE, momentum=0.9), LOSS, jit_compile=False)
    paper = keras_fge.PaperTraining(RATE, epochs)
    network.fit(keras_fge.Batches(*data, 32, seed), epochs=epochs, verbose=0, callbacks=[callback or paper])


def run(seed, pretrain_epochs=10, epochs=40):
    """Test metrics by method. Each begins with the pretrained network and a new head, and trains for `epochs`."""
    old, train, validation, test, digits = load(seed)
    keras.utils.set_random_seed(seed)
    convolutions = [layers.Conv2D(filters, 3, padding="same", activation="relu") for filters in (16, 32)]
    first, second = [[convolution, layers.MaxPooling2D()] for convolution in convolutions]
    network = keras.Sequential([keras.Input((14, 14, 1)), *first, *second, layers.Flatten(), layers.Dense(5)])
    fit(network, old, pretrain_epochs, seed)
    start = network.get_weights()[:-2] + [np.zeros_like(weights) for weights in network.get_weights()[-2:]]
    network.set_weights(start)
    pretrained = keras_fge.Ensemble.of([network])[0]  # A copy.

    fit(network, train, epochs, seed)
    wise = curves.wise_ft(pretrained, network, *validation)
    one, wise = [keras_fge.Ensemble.of([each], from_logits=True) for each in (network, wise)]

    network.set_weights(start)
    fge = keras_fge.FGE(RATE, RATE / 100, cycle_epochs=2, start_epoch=epochs // 2)
    fit(network, train, epochs, seed, fge)
    swag = keras_fge.SWAG(fge.ensemble(), rank=5).sample(10)

    network.set_weights(start)
    fit(network, train, epochs // 2, seed)
    center, star = network.get_weights(), keras_fge.SnapshotEnsemble(RATE, cycle_epochs=epochs // 10)
    for k in range(5):
        network.set_weights(center)
        fit(network, train, epochs // 10, 100 + 5 * seed + k, star)
    soup = keras_fge.Ensemble.of([star.ensemble().soup(*validation)], from_logits=True)
    methods = {"one network": one, "WiSE-FT": wise, "FGE": fge.ensemble(), "SWAG": swag, "StarSSE": star.ensemble()}
    return {name: e.evaluate(*test, calibrate=True, ood=digits) for name, e in {**methods, "its soup": soup}.items()}


if __name__ == "__main__":
    print(run(seed=0))
