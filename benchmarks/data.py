"""Data sets as numpy arrays, with fixed train / validation / test splits."""

import dataclasses
import pathlib

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


def load_folder(folder, image_size=None, train_size=None, validation_size=5000):
    """Images from files, `<folder>/train/<class>/*` and `<folder>/test/<class>/*`, such as CIFAR-10 unpacked as JPEGs.

    The split of `train` is a fixed permutation: its last `validation_size` images are the validation data, and its
    first `train_size` (default: all others) the training data.

    Args:
        folder: Path.
        image_size: Height and width in pixels to which images are resized, by averaging. Default: as they are.

    Raises:
        ValueError: if folders are missing or empty, classes or shapes differ, or the sizes ask for too many images.
    """
    folder = pathlib.Path(folder)
    classes = {split: sorted(path.name for path in (folder / split).glob("*/")) for split in ("train", "test")}
    if not classes["train"] or classes["train"] != classes["test"]:
        raise ValueError(
            f"{folder} must hold images as train/<class>/<name>.jpg and test/<class>/<name>.jpg, with the same "
            f"classes. Received: {classes['train']} and {classes['test']}"
        )
    (x, y), test = (_read_images(folder / split, classes["train"], image_size) for split in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(x))
    others, validation = np.split(order, [max(len(x) - validation_size, 0)])
    if not 0 < (train_size or 1) <= len(others):
        raise ValueError(
            f"{folder} has {len(x)} training images, too few for {validation_size} to validate on and "
            f"{train_size or 'some'} to train on."
        )
    train = others[:train_size]
    return Dataset(folder.name, (x[train], y[train]), (x[validation], y[validation]), test, len(classes["train"]))


def _read_images(folder, classes, image_size):
    from PIL import Image

    images, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted(path for path in (folder / name).iterdir() if path.is_file()):
            with Image.open(path) as file:
                image = file.convert("RGB")
            if image_size and image.size != (image_size, image_size):
                image = image.resize((image_size, image_size), Image.Resampling.BOX)
            images.append(np.asarray(image))
            labels.append(label)
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"{folder}: all images must have one size, use --image_size. Received: {sorted(shapes)}")
    return np.stack(images).astype("float32") / 255, np.array(labels, "int32")
