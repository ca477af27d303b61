"""Data sets as numpy arrays, with fixed train / validation / test splits."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in [0, 1] of shape `(n, height, width, channels)`, float32, and integer labels."""

    name: str
    train: tuple
    validation: tuple
    test: tuple
    num_classes: int


def load_digits():
    """scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 pixels, which ship with the package.

    The split is a fixed permutation: 500 training, 500 validation and 797 test images.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[..., None] / 16).astype("float32")
    y = digits.target.astype("int32")
    order = np.random.default_rng(0).permutation(len(x))
    train, validation, test = np.split(order, [500, 1000])
    return Dataset("digits", (x[train], y[train]), (x[validation], y[validation]), (x[test], y[test]), 10)


DATASETS = {"digits": load_digits}
