"""Photographs of any size, decoded when they are asked for, so that there may be more of them than memory holds."""

import concurrent.futures
import io
import pathlib

import numpy as np

from inputs.folder import classes_of, files_of, open_rgb

LARGER = 256 / 224  # By how much the shorter side is larger than the square that is cut out, as in the field.
THREADS = 16  # PIL lets others run while it decodes.


class Photos:
    """Squares from the middle of photographs, as rows of an array for `keras_fge.Batches`.

    Args:
        sources: What each photograph is read from: a file, or a function without arguments that returns its bytes.
        size: Pixels of a side.
    """

    ndim, dtype = 4, np.dtype("uint8")

    def __init__(self, sources, size):
        self.sources, self.size = list(sources), size
        self.shape = (len(self.sources), size, size, 3)
        self._pool = None

    def __len__(self):
        return len(self.sources)

    def __getitem__(self, rows):
        self._pool = self._pool or concurrent.futures.ThreadPoolExecutor(THREADS)
        return np.stack(list(self._pool.map(self._one, rows)))

    def _one(self, row):
        from PIL import Image

        source, shorter = self.sources[row], round(self.size * LARGER)
        if callable(source):
            image = open_rgb(io.BytesIO(source()), f"photograph {row}", shorter)
        else:
            image = open_rgb(source, source, shorter)
        ratio = shorter / min(image.size)
        image = image.resize([max(round(side * ratio), shorter) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - self.size) // 2 for side in image.size)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))


def of_folder(folder, size):
    """{"train": (photos, labels), "val": ...} and the number of classes, from <folder>/<split>/<class>/<file>."""
    folder, found = pathlib.Path(folder), {}
    names = {split: classes_of(folder / split) for split in ("train", "val")}
    if not names["train"] or names["train"] != names["val"]:
        raise ValueError(
            f"{folder} must hold photographs as train/<class>/<file> and val/<class>/<file>, with the same classes. "
            f"Received: {len(names['train'])} and {len(names['val'])} classes"
        )
    for split, classes in names.items():
        files = [files_of(folder / split / name) for name in classes]
        labels = np.repeat(np.arange(len(classes)), [len(of_class) for of_class in files])
        found[split] = Photos([file for of_class in files for file in of_class], size), labels
    return found, len(names["train"])


def of_tfds(name, data_dir, size):
    """The same from tensorflow_datasets, prepared there with file_format="array_record".

    The labels stand beside the photographs, so it reads all once, without decoding them.
    """
    import tensorflow_datasets as tfds

    builder, found = tfds.builder(name, data_dir=data_dir), {}
    for split, theirs in (("train", "train"), ("val", "validation")):
        source = builder.as_data_source(split=theirs, decoders={"image": tfds.decode.SkipDecoding()})
        labels = np.array([source[row]["label"] for row in range(len(source))])
        found[split] = Photos([_bytes_of(source, row) for row in range(len(source))], size), labels
    return found, builder.info.features["label"].num_classes


def _bytes_of(source, row):
    return lambda: source[row]["image"]


def split(photos, labels, count, seed=0):
    """(the others, `count` of them), drawn at random: what is chosen on is not trained on."""
    order = np.random.default_rng(seed).permutation(len(photos))
    parts = np.sort(order[count:]), np.sort(order[:count])
    return [(Photos([photos.sources[row] for row in rows], photos.size), labels[rows]) for rows in parts]
