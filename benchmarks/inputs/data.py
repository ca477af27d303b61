"""Data sets as uint8 arrays in memory, with fixed train / validation / test splits."""

import dataclasses
import functools
import gzip
import hashlib
import lzma
import math
import pathlib
import zlib

import keras
import numpy as np

from inputs.folder import load_folder
from keras_fge.core.files import read_npz

# Training images, test images, classes.
COUNTS = {"cifar10": (50_000, 10_000, 10), "cifar100": (50_000, 10_000, 100), "fashion_mnist": (60_000, 10_000, 10)}
FASHION_SUBSET = pathlib.Path(__file__).parents[1] / "datasets" / "fashion_mnist.npz.xz"  # Made by draw_fashion.py.
VALIDATION = {"digits": 500, "fashion_subset": 2000}
IMAGE_SIZE = {"fashion_subset": 14}  # A quarter of the pixels takes a quarter of the time.


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images of shape `(n, height, width, channels)`, uint8, and integer labels.

    Attributes:
        name: Name to show.
        train, validation, test: `(x, y)`; `validation` is None if all training images are used to train.
        num_classes: Labels are 0 to `num_classes - 1`.
        largest_pixel: The value of white.
    """

    name: str
    train: tuple
    validation: tuple | None
    test: tuple
    num_classes: int
    largest_pixel: int = 255

    @property
    def splits(self):
        """The parts that are measured: `{"validation": (x, y), "test": (x, y)}`."""
        splits = {"validation": self.validation, "test": self.test}
        return {name: data for name, data in splits.items() if data is not None}

    @functools.cached_property
    def images_on_device(self):
        """The training images as a tensor of Keras' backend, made once for all networks of this process."""
        return keras.ops.convert_to_tensor(self.train[0])

    def about(self):
        """The description of the data for a record."""
        splits, digest = {"train": self.train, **self.splits}, hashlib.sha256()
        for x, y in splits.values():
            digest.update(np.ascontiguousarray(x).data)
            digest.update(np.ascontiguousarray(y).data)
        return {
            "name": self.name,
            "shape": list(self.train[0].shape[1:]),
            "num_classes": self.num_classes,
            **{name: len(x) for name, (x, _) in splits.items()},
            "sha256": digest.hexdigest()[:16],
        }


def load(dataset, data_dir=None, image_size=None, train_size=None, validation_size=None, use_test=False):
    """Loads one of the data sets of `LOADERS`.

    Args:
        dataset: A name in `LOADERS`.
        data_dir: For "folder", the folder; for "fashion_mnist", one with the four original files, if it is not read by
            tensorflow_datasets; for that and CIFAR, the folder of tensorflow_datasets, by default its usual one.
        image_size: Height and width in pixels to which images are resized, by averaging. Default: as they are, or as
            in `IMAGE_SIZE`.
        train_size: Images to train on. Default: all that are left.
        validation_size: Training images put aside for validation. Default: 5,000, or as in `VALIDATION`.
        use_test: Whether to train on all training images, as the paper does for its tables. Choose no settings then:
            there are no validation images.

    Raises:
        ValueError: if the data are missing, incomplete or damaged, or the sizes ask for too many images.
    """
    (x, y), test, classes, largest_pixel, name = LOADERS[dataset](data_dir, image_size or IMAGE_SIZE.get(dataset))
    for split, images, labels in (("training", x, y), ("test", *test)):
        _check(name, split, images, labels, classes)
    if x.shape[1:] != test[0].shape[1:]:
        raise ValueError(f"{name}: training images have shape {x.shape[1:]}, test images {test[0].shape[1:]}.")
    if validation_size is None:
        validation_size = VALIDATION.get(dataset, 5000)
    order = np.random.default_rng(0).permutation(len(x))
    rest, validation = (order, None) if use_test else np.split(order, [max(len(x) - validation_size, 0)])
    if not 0 < (train_size or 1) <= len(rest):
        wishes = f"{train_size or 'some'} to train on" + ("" if use_test else f" and {validation_size} to validate on")
        raise ValueError(f"{name} has {len(x)} training images, too few for {wishes}.")
    train = rest[:train_size]
    validation = None if validation is None else (x[validation], y[validation])
    return Dataset(name, (x[train], y[train]), validation, test, classes, largest_pixel)


def _check(name, split, x, y, classes):
    """Raises a ValueError unless these are images with labels of every class."""
    if x.dtype != np.uint8 or x.ndim != 4 or len(x) != len(y):
        raise ValueError(
            f"{name}: the {split} data must be uint8 images (n, height, width, channels) and n labels. Received: "
            f"{x.dtype} {x.shape} and {y.shape}"
        )
    present = np.unique(y)
    if not np.array_equal(present, np.arange(classes)):
        raise ValueError(f"{name}: the {split} labels must be 0 to {classes - 1}, all of them. Received: {present}")


# --- Loaders: (train, test, number of classes, value of white, name) --------------------------------------------------


def _load_digits(data_dir, image_size):
    """scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 pixels, which ship with the package.

    A fixed permutation splits them into 1,000 training and 797 test images.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = digits.images[..., None].astype("uint8"), digits.target.astype("int32")
    train, test = np.split(np.random.default_rng(0).permutation(len(x)), [1000])
    return (x[train], y[train]), (x[test], y[test]), 10, 16, "digits"


def _load_fashion_subset(data_dir, image_size):
    """The part of Fashion-MNIST that is committed: 6,000 training and 4,000 test images of 28 x 28 pixels."""
    try:
        content = lzma.decompress(FASHION_SUBSET.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise ValueError(f"{FASHION_SUBSET} is missing or damaged; it is part of a checkout. {error}") from error
    arrays = read_npz(content, FASHION_SUBSET)
    splits = [(arrays[f"{split}_x"], arrays[f"{split}_y"].astype("int32")) for split in ("train", "test")]
    return *[(resized(x, image_size), y) for x, y in splits], 10, 255, "Fashion-MNIST (subset)"


def _load_fashion(data_dir, image_size):
    """Fashion-MNIST in full: the four original files in `data_dir`, or through tensorflow_datasets."""
    if data_dir is None or not list(pathlib.Path(data_dir).glob("*-ubyte*")):
        return _load_tfds("fashion_mnist", data_dir, image_size)
    splits = [(x, y.astype("int32")) for x, y in read_idx_files(pathlib.Path(data_dir))]
    for (_, y), count in zip(splits, COUNTS["fashion_mnist"]):
        _check_count("fashion_mnist", len(y), count)
    return *[(resized(x, image_size), y) for x, y in splits], 10, 255, "Fashion-MNIST"


def read_idx_files(folder):
    """The training and the test split, `(images, labels)`, of MNIST's four files, compressed (.gz) or not."""
    return [
        (
            _read_idx(folder / f"{split}-images-idx3-ubyte", 3)[..., None],
            _read_idx(folder / f"{split}-labels-idx1-ubyte", 1),
        )
        for split in ("train", "t10k")
    ]


def _read_idx(path, dimensions):
    """A file of bytes with the head: 0, 0, 8 for bytes, number of dimensions, and the dimensions in 4 bytes each."""
    zipped = path.with_name(f"{path.name}.gz")
    try:
        with gzip.open(zipped) if zipped.exists() else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            is_right = len(head) == 4 + 4 * dimensions and head[:4] == bytes([0, 0, 8, dimensions])
            shape = np.frombuffer(head[4:], ">u4").tolist() if is_right else []
            content = file.read(math.prod(shape) + 1) if is_right else b""  # Not whatever a small file unfolds to.
    except (OSError, EOFError, OverflowError, MemoryError, zlib.error) as error:
        raise ValueError(f"{path}[.gz] is missing or damaged, so get it anew: {error}") from error
    if not is_right or len(content) != math.prod(shape):
        raise ValueError(
            f"{path}[.gz] is no IDX file of bytes in {dimensions} dimensions, or a damaged one: get it anew."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _load_tfds(name, data_dir, image_size):
    """Reads a data set, already prepared, through tensorflow_datasets: nothing is downloaded here."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(
            f"{name} is read by tensorflow_datasets, which is not installed: pip install tensorflow tensorflow-datasets"
        ) from None
    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # Or TensorFlow would take the GPU's memory from the other backend.
    try:
        splits = tfds.load(name, split=["train", "test"], batch_size=1000, data_dir=data_dir, download=False)
    except (AssertionError, tfds.core.DatasetNotFoundError) as error:
        where = f", data_dir='{data_dir}'" if data_dir else ""
        raise ValueError(
            f"{name} has not been prepared. Do it once, with a network connection:\n"
            f"    python -c \"import tensorflow_datasets as tfds; tfds.load('{name}'{where})\"\n"
            f"tensorflow_datasets says: {str(error).splitlines()[0]}"
        ) from error
    train_count, test_count, classes = COUNTS[name]
    arrays = []
    for split, count in zip(splits, (train_count, test_count)):
        batches = list(tfds.as_numpy(split))
        x, y = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
        _check_count(name, len(x), count)
        arrays.append((resized(x, image_size), y.astype("int32")))
    return *arrays, classes, 255, name


def _check_count(name, count, expected):
    if count != expected:
        raise ValueError(f"{name} is incomplete: {count} images instead of {expected}. Prepare it anew.")


def resized(images, size):
    """Square images of `size` pixels: averages, or repeated pixels. As they are if `size` is None."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    grey = images.shape[-1] == 1
    small = [Image.fromarray(i[..., 0] if grey else i).resize((size, size), Image.Resampling.BOX) for i in images]
    return np.stack(small).reshape(len(images), size, size, -1)


LOADERS = {
    "digits": _load_digits,
    "fashion_subset": _load_fashion_subset,
    "fashion_mnist": _load_fashion,
    "cifar10": lambda *arguments: _load_tfds("cifar10", *arguments),
    "cifar100": lambda *arguments: _load_tfds("cifar100", *arguments),
    "folder": load_folder,
}
