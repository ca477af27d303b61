"""Images from files, `<folder>/train/<class>/*` and `<folder>/test/<class>/*`, which are read once."""

import hashlib
import os
import pathlib
import warnings

import numpy as np

from keras_fge.core.files import read_npz, to_npz, write_atomically


def load_folder(folder, image_size):
    """Returns (train, test, number of classes, value of white, name), as all loaders of `inputs.data`.

    Reading 60,000 files takes a while, so the arrays are kept in the user's cache, under a checksum of the names, sizes
    and times of the files. One of these times is that of the last change, which nobody can set.
    """
    if not folder:
        raise ValueError("folder: there is no data_dir, a folder with train/<class>/*.jpg and test/<class>/*.jpg.")
    folder = pathlib.Path(folder)
    classes = {split: classes_of(folder / split) for split in ("train", "test")}
    if not classes["train"] or classes["train"] != classes["test"]:
        raise ValueError(
            f"{folder} must hold images as train/<class>/<name>.jpg and test/<class>/<name>.jpg, with the same "
            f"classes. Received: {classes['train']} and {classes['test']}"
        )
    files = {split: [files_of(folder / split / name) for name in classes[split]] for split in classes}
    digest = hashlib.sha256(f"{folder.resolve()} {image_size}".encode())
    for path in (path for split in files.values() for names in split for path in names):
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n".encode())
    cache = cache_folder() / f"{folder.name}-{digest.hexdigest()[:16]}.npz"
    arrays = _read_cache(cache)
    if not arrays:
        for split, names in files.items():
            arrays[f"{split}_x"], arrays[f"{split}_y"] = _read_images(folder / split, names, image_size)
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(cache, to_npz(arrays))
        except OSError as error:
            warnings.warn(f"The images will be read again next time: {cache} cannot be written: {error}", stacklevel=2)
    train, test = ((arrays[f"{split}_x"], arrays[f"{split}_y"]) for split in ("train", "test"))
    return train, test, len(classes["train"]), 255, folder.name


def _read_cache(cache):
    """The arrays in the cache; none if there is no such file, or it is damaged: it will be written again."""
    if not cache.exists():
        return {}
    try:
        arrays = read_npz(cache, cache)
        if set(arrays) == {"train_x", "train_y", "test_x", "test_y"}:
            return arrays
        error = f"it holds {', '.join(arrays) or 'nothing'}"
    except (ValueError, OSError) as damage:
        error = damage
    warnings.warn(f"{cache} is damaged. The images are read again. ({error})", stacklevel=2)
    return {}


def cache_folder():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "keras-fge"


def classes_of(folder):
    return sorted(path.name for path in folder.glob("*/"))


def files_of(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def open_rgb(source, where, least=None):
    """The image in a file, or a stream, with 8 bits for each of three colours.

    `where` names it for errors. Of a JPEG, it decodes no more pixels than sides of `least` pixels need.
    """
    from PIL import Image

    try:
        with Image.open(source) as image:
            if least:
                image.draft("RGB", (least, least))
            return _to_rgb(image)
    except Exception as error:  # PIL's are of a dozen kinds, such as one for images that unfold to gigabytes.
        said = " ".join(str(error).split()) or repr(error)
        raise ValueError(f"{where} is no image that can be read: remove or replace it. PIL says: {said}") from error


def _to_rgb(image):
    """The image with 8 bits for each of three colours; PIL itself would clip 16 bits to white, and not scale them."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype("uint32") * 255 + 32767) // 65535
        return Image.fromarray(grey.astype("uint8")).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its values (mode {image.mode!r}) have no known white; save it with 8 or 16 bits")
    return image.convert("RGB")


def _read_images(folder, files, image_size):
    from PIL import Image

    images, labels = [], []
    for label, paths in enumerate(files):
        for path in paths:
            image = open_rgb(path, path)
            if image_size and image.size != (image_size, image_size):
                image = image.resize((image_size, image_size), Image.Resampling.BOX)
            images.append(np.asarray(image))
            labels.append(label)
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"{folder}: all images must have one size, use --image_size. Received: {sorted(shapes)}")
    return np.stack(images), np.array(labels, "int32")
