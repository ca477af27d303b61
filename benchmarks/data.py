"""Data sets as uint8 arrays in memory, with fixed train / validation / test splits."""

import dataclasses
import hashlib
import os
import pathlib
import warnings

import keras
import numpy as np

from keras_fge.core.files import read_npz, to_npz, write_atomically

# Training images, test images, classes.
COUNTS = {"cifar10": (50_000, 10_000, 10), "cifar100": (50_000, 10_000, 100)}


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
        dataset: "digits", "cifar10", "cifar100" or "folder".
        data_dir: For "folder", the folder; for CIFAR, the folder of tensorflow_datasets, by default its usual one.
        image_size: For "folder": height and width in pixels to which images are resized, by averaging.
        train_size: Images to train on. Default: all that are left.
        validation_size: Training images put aside for validation. Default: 5,000; 500 for "digits".
        use_test: Whether to train on all training images, as the paper does for its tables. Choose no settings then:
            there are no validation images.

    Raises:
        ValueError: if the data are missing, incomplete or damaged, or the sizes ask for too many images.
    """
    (x, y), test, classes, largest_pixel, name = LOADERS[dataset](data_dir, image_size)
    for split, images, labels in (("training", x, y), ("test", *test)):
        _check(name, split, images, labels, classes)
    if x.shape[1:] != test[0].shape[1:]:
        raise ValueError(f"{name}: training images have shape {x.shape[1:]}, test images {test[0].shape[1:]}.")
    if validation_size is None:
        validation_size = 500 if dataset == "digits" else 5000
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


def _load_tfds(name, data_dir, image_size):
    """Reads CIFAR, already prepared, through tensorflow_datasets: nothing is downloaded here."""
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
        if len(x) != count:
            raise ValueError(f"{name} is incomplete: {len(x)} images instead of {count}. Prepare it anew.")
        arrays.append((x, y.astype("int32")))
    return *arrays, classes, 255, name


def _load_folder(folder, image_size):
    """Reads images from files, `<folder>/train/<class>/*` and `<folder>/test/<class>/*`.

    Reading 60,000 files takes a while, so the arrays are kept in the user's cache, under a checksum of the names, sizes
    and times of the files.
    """
    if not folder:
        raise ValueError("folder: there is no data_dir, a folder with train/<class>/*.jpg and test/<class>/*.jpg.")
    folder = pathlib.Path(folder)
    classes = {split: sorted(path.name for path in (folder / split).glob("*/")) for split in ("train", "test")}
    if not classes["train"] or classes["train"] != classes["test"]:
        raise ValueError(
            f"{folder} must hold images as train/<class>/<name>.jpg and test/<class>/<name>.jpg, with the same "
            f"classes. Received: {classes['train']} and {classes['test']}"
        )
    files = {split: [_files(folder / split / name) for name in classes[split]] for split in classes}
    digest = hashlib.sha256(f"{folder.resolve()} {image_size}".encode())
    for path in (path for split in files.values() for names in split for path in names):
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    cache = cache_folder() / f"{folder.name}-{digest.hexdigest()[:16]}.npz"
    if cache.exists():
        arrays = read_npz(cache, cache)
    else:
        arrays = {}
        for split, names in files.items():
            arrays[f"{split}_x"], arrays[f"{split}_y"] = _read_images(folder / split, names, image_size)
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(cache, to_npz(arrays))
        except OSError as error:
            warnings.warn(f"The images will be read again next time: {cache} cannot be written: {error}", stacklevel=2)
    train, test = ((arrays[f"{split}_x"], arrays[f"{split}_y"]) for split in ("train", "test"))
    return train, test, len(classes["train"]), 255, folder.name


def cache_folder():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "keras-fge"


def _files(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def _read_images(folder, files, image_size):
    from PIL import Image

    images, labels = [], []
    for label, paths in enumerate(files):
        for path in paths:
            try:
                with Image.open(path) as file:
                    image = file.convert("RGB")
            except OSError as error:
                raise ValueError(f"{path} is no image, or a damaged one. PIL says: {error}") from error
            if image_size and image.size != (image_size, image_size):
                image = image.resize((image_size, image_size), Image.Resampling.BOX)
            images.append(np.asarray(image))
            labels.append(label)
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"{folder}: all images must have one size, use --image_size. Received: {sorted(shapes)}")
    return np.stack(images), np.array(labels, "int32")


LOADERS = {
    "digits": _load_digits,
    "cifar10": lambda *arguments: _load_tfds("cifar10", *arguments),
    "cifar100": lambda *arguments: _load_tfds("cifar100", *arguments),
    "folder": _load_folder,
}
