"""Fine-tuning on few images: any pretrained backbone, its head by FGE, a temperature, and sets that hold the class.

    python examples/fine_tuning.py --backbone=FILE.keras --data=FILE.npz

FILE.keras is a Keras model from images to features. FILE.npz has `x`, images of its input's shape, and `y`, classes
from 0. Without them, a small random network looks at the digits of scikit-learn.
"""

import argparse

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import keras_fge

RATE = 0.01


def load(data):
    if data is None:
        digits = load_digits()
        return digits.images[..., None].astype("float32") / 16, digits.target
    with np.load(data) as arrays:
        return arrays["x"], arrays["y"]


def small_backbone():
    convolutions = [layers.Conv2D(filters, 3, strides=2, activation="relu") for filters in (32, 64)]
    return keras.Sequential([keras.Input((8, 8, 1)), *convolutions, layers.Flatten()])


def run(seed, backbone=None, data=None, epochs=12):
    """Test metrics, calibrated, of one head, of FGE and of three heads; the classes in a set that holds 90 %."""
    keras.utils.set_random_seed(seed)
    x, y = load(data)
    backbone = small_backbone() if backbone is None else keras.saving.load_model(backbone)
    x = backbone.predict(x, verbose=0)  # Once: the backbone stays as it is.
    rows = np.split(np.random.default_rng(seed).permutation(len(y)), [len(y) // 2, 3 * len(y) // 4])
    train, validation, test = [(x[part], y[part]) for part in rows]

    def trained(seed, *callbacks):
        keras.utils.set_random_seed(seed)
        last = layers.Dense(int(y.max()) + 1, activation="softmax")
        head = keras.Sequential([keras.Input(x.shape[1:]), layers.LayerNormalization(), last])
        head.compile(keras.optimizers.AdamW(RATE), "sparse_categorical_crossentropy", jit_compile=False)
        callbacks = callbacks or [keras_fge.PaperTraining(RATE, epochs)]
        head.fit(keras_fge.Batches(*train, 32, seed), epochs=epochs, verbose=0, callbacks=[*callbacks])
        return head

    heads = [trained(seed + 100 * k) for k in range(3)]
    fge = keras_fge.FGE(3 * RATE, 0.03 * RATE, cycle_epochs=1, start_epoch=epochs // 2)
    trained(seed, fge)
    ensembles = {"one network": keras_fge.Ensemble.of(heads[:1]), "FGE": fge.ensemble()}
    ensembles["three heads"] = keras_fge.Ensemble.of(heads)  # Three times the training, which takes seconds here.
    found = {}
    for name, ensemble in ensembles.items():
        calibrated = ensemble.calibrated(*validation)
        found[name] = calibrated.evaluate(*test)
        found[name]["set size"] = calibrated.conformal(*validation, alpha=0.1).evaluate(*test)["size"]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone")
    parser.add_argument("--data")
    print(run(0, **vars(parser.parse_args())))
