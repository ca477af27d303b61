"""What the tests share. They run on the backend named by KERAS_BACKEND, one process each."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers, ops


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def to_numpy(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def values(variables):
    return [to_numpy(variable) for variable in variables]


def logits_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batch_norm_network():
    """A small network with nested BatchNormalization, a regularizer and dropout; outputs logits of 3 classes."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(1e-2))(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = keras.Sequential([layers.Conv2D(5, 3), layers.BatchNormalization(momentum=0.8)], name="block")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def images(samples=50):
    rng = np.random.default_rng(1)
    return rng.normal(1.0, 2.0, (samples, 6, 6, 2)).astype("float32"), rng.integers(0, 3, samples)


@pytest.fixture
def trained():
    """A function that returns two networks of one architecture, trained for two epochs, and their data."""

    def make(build=batch_norm_network):
        x, y = images()
        networks = []
        for _ in range(2):
            network = build()
            network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"])
            network.fit(x, y, batch_size=16, epochs=2, verbose=0)
            networks.append(network)
        return *networks, x, y

    return make
