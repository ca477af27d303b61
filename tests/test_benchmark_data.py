"""The data that the benchmark works on: fixed splits, files as they come, and what is wrong with them."""

import gzip
import os
import pathlib
import re
import sys

import numpy as np
import pytest

from inputs import data as benchmark_data
from inputs import folder as image_folder
from inputs.data import load
from keras_fge.core.files import to_npz
from test_benchmark_networks import images

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent


def test_digits_are_split_once_and_for_all():
    data = load("digits")
    assert [len(x) for x, _ in (data.train, data.validation, data.test)] == [500, 500, 797]
    together = np.concatenate([x for x, _ in (data.train, data.validation, data.test)]).reshape(1797, -1)
    assert together.dtype == np.uint8 and together.max() == data.largest_pixel == 16
    from sklearn.datasets import load_digits

    assert np.array_equal(np.unique(together, axis=0), np.unique(load_digits().data.astype("uint8"), axis=0))
    everything = load("digits", use_test=True)
    assert len(everything.train[0]) == 1000 and everything.validation is None and list(everything.splits) == ["test"]
    assert np.array_equal(everything.test[0], data.test[0])
    assert len(load("digits", train_size=100, validation_size=50).train[0]) == 100
    with pytest.raises(ValueError, match="digits has 1000 training images, too few for 501 to train on and 500 to val"):
        load("digits", train_size=501)


def write_idx(path, array, compress):
    content = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_from_the_original_files(compress, tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark_data.COUNTS, "fashion_mnist", (60, 20, 10))
    rng, ending = np.random.default_rng(0), ".gz" if compress else ""
    arrays = {}
    for split, count in (("train", 60), ("t10k", 20)):
        arrays[split] = rng.integers(0, 256, (count, 28, 28)).astype("uint8"), np.arange(count, dtype="uint8") % 10
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[split]):
            write_idx(tmp_path / f"{split}-{kind}-ubyte{ending}", array, compress)
    data = load("fashion_mnist", tmp_path, validation_size=10)
    assert data.train[0].shape == (50, 28, 28, 1) and data.train[0].dtype == np.uint8
    assert np.array_equal(data.test[0][..., 0], arrays["t10k"][0]) and np.array_equal(data.test[1], arrays["t10k"][1])
    small = load("fashion_mnist", tmp_path, image_size=14, validation_size=10).test[0]
    means = arrays["t10k"][0].reshape(20, 14, 2, 14, 2).mean((2, 4))
    assert small.shape == (20, 14, 14, 1) and np.abs(small[..., 0] - means).max() <= 1  # Rounded in each direction.
    monkeypatch.setitem(benchmark_data.COUNTS, "fashion_mnist", (61, 20, 10))
    with pytest.raises(ValueError, match="fashion_mnist is incomplete: 60 images instead of 61"):
        load("fashion_mnist", tmp_path)
    labels = tmp_path / f"t10k-labels-idx1-ubyte{ending}"
    labels.write_bytes(labels.read_bytes()[:-3])
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte"):
        load("fashion_mnist", tmp_path)


def test_committed_fashion_mnist(tmp_path, monkeypatch):
    data = load("fashion_subset", image_size=28)
    assert [len(x) for x, _ in (data.train, data.validation, data.test)] == [4000, 2000, 4000]
    assert data.train[0].shape == (4000, 28, 28, 1) and load("fashion_subset").train[0].shape == (4000, 14, 14, 1)
    assert all(300 < count < 500 for count in np.bincount(data.train[1]))
    images = np.concatenate([x for x, _ in (data.train, data.validation, data.test)]).reshape(10_000, -1)
    assert len(np.unique(images, axis=0)) > 9_990 and benchmark_data.FASHION_SUBSET.stat().st_size < 4.5e6
    assert "MIT" in (benchmark_data.FASHION_SUBSET.parent / "README.md").read_text()
    damaged = tmp_path / "damaged.xz"
    damaged.write_bytes(benchmark_data.FASHION_SUBSET.read_bytes()[:1000])
    monkeypatch.setattr(benchmark_data, "FASHION_SUBSET", damaged)
    with pytest.raises(ValueError, match=r"damaged.xz is missing or damaged"):
        load("fashion_subset")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """20 training and 4 test images of each of two classes, dark and bright."""
    from PIL import Image

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((8, 8, 3), 100 * label + index) + rng.integers(0, 2, (8, 8, 1))
                Image.fromarray(pixels.astype("uint8")).save(tmp_path / "images" / split / name / f"{index:04}.png")
    return tmp_path / "images"


def test_folder_of_images(folder):
    data = load("folder", folder, train_size=30, validation_size=8)
    assert [len(x) for x, _ in (data.train, data.validation, data.test)] == [30, 8, 8]
    assert data.train[0].shape == (30, 8, 8, 3) and data.num_classes == 2 and data.name == "images"
    for x, y in (data.train, data.validation, data.test):
        assert np.array_equal(x.mean(axis=(1, 2, 3)) > 60, y == 1) and x.dtype == np.uint8
    seen = np.concatenate([data.train[0], data.validation[0]]).mean(axis=(1, 2, 3))
    assert len(np.unique(seen.round(6))) > 30  # No image twice.
    assert load("folder", folder, 4, validation_size=8).test[0].shape == (8, 4, 4, 3)


def test_folder_is_read_once_until_it_changes(folder, monkeypatch):
    first = load("folder", folder, validation_size=8)

    def fail(*arguments):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "_read_images", fail)
        assert np.array_equal(load("folder", folder, validation_size=8).train[0], first.train[0])
        with pytest.raises(AssertionError, match="read again"):
            load("folder", folder, 4, validation_size=8)
    (folder / "train" / "cat" / "0000.png").unlink()
    assert len(load("folder", folder, validation_size=8).train[0]) == len(first.train[0]) - 1


def test_the_cache_notices_what_has_changed_and_heals(folder):
    first = load("folder", folder, validation_size=8)
    path = folder / "test" / "cat" / "0000.png"
    other, times = (folder / "test" / "dog" / "0000.png").read_bytes(), path.stat()
    size = max(len(path.read_bytes()), len(other))
    path.write_bytes(other.ljust(size, b"\0"))  # PIL does not read what comes after an image.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = load("folder", folder, validation_size=8)
    assert not np.array_equal(changed.test[0], first.test[0])
    for damaged in (b"", b"no cache", to_npz({"train_x": np.zeros(3)})):
        newest = max(image_folder.cache_folder().iterdir(), key=lambda file: file.stat().st_mtime_ns)
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{newest.name} is damaged. The images are read again"):
            again = load("folder", folder, validation_size=8)
        assert np.array_equal(again.train[0], changed.train[0])


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_images_of_16_bits_are_scaled(folder, mode):
    """PIL's own conversion makes all that is brighter than 255 of 65,535 white."""
    from PIL import Image

    grey = np.linspace(0, 65535, 64).round().reshape(8, 8)
    path = folder / "test" / "cat" / ("0000.png" if mode != "I;16B" else "0000.tif")
    (folder / "test" / "cat" / "0000.png").unlink()
    Image.fromarray(grey.astype(">u2" if mode == "I;16B" else "uint16")).save(path)
    image = load("folder", folder, validation_size=8).test[0][0]
    assert np.abs(image - grey[..., None] * 255 / 65535).max() <= 0.5


def test_images_that_cannot_be_read_are_one_line(folder, monkeypatch):
    from PIL import Image

    path = folder / "test" / "cat" / "0000.png"
    content = path.read_bytes()
    path.unlink()
    for name, image in (("0000.tif", Image.new("F", (8, 8))), ("0000.png", None)):
        path = folder / "test" / "cat" / name
        if image is None:
            path.write_bytes(content)
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # As for an image that unfolds to gigabytes.
        else:
            image.save(path)
        with pytest.raises(ValueError, match=f"{name} is no image that can be read: remove or replace it") as error:
            load("folder", folder, validation_size=8)
        assert "\n" not in str(error.value)
        path.unlink()


@pytest.mark.parametrize(
    "head", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0", b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x09\x03" + bytes(12)]
)
@pytest.mark.parametrize("compress", [True, False])
def test_heads_of_idx_files_that_are_damaged_are_one_line(head, compress, tmp_path):
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' if compress else ''}"
    path.write_bytes(gzip.compress(head) if compress else head)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.* get it anew") as error:
        benchmark_data.read_idx_files(tmp_path)
    assert "\n" not in str(error.value)


def test_bad_folders(folder):
    from PIL import Image

    for arguments, message in (
        ((folder.parent,), "must hold images as train/<class>"),
        ((None,), "there is no data_dir"),
        ((folder, None, None, 40), "images has 40 training images, too few for some to train on and 40 to validate on"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            load("folder", *arguments)
    Image.new("RGB", (5, 5)).save(folder / "test" / "cat" / "small.png")
    with pytest.raises(ValueError, match=r"must have one size, use --image_size. Received: \[\(5, 5, 3\), \(8, 8, 3\)"):
        load("folder", folder, validation_size=8)
    (folder / "test" / "cat" / "small.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"small.png is no image that can be read: remove or replace it"):
        load("folder", folder, validation_size=8)


def test_cifar_through_tensorflow_datasets(monkeypatch, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setitem(benchmark_data.COUNTS, "cifar10", (300, 300, 10))
    with tfds.testing.mock_data(num_examples=300):
        data = load("cifar10", validation_size=50)
        assert data.train[0].shape == (250, 32, 32, 3) and data.num_classes == 10 and data.name == "cifar10"
        assert data.train[0].dtype == np.uint8 and len(data.test[0]) == 300
        monkeypatch.setitem(benchmark_data.COUNTS, "fashion_mnist", (300, 300, 10))
        assert load("fashion_mnist", image_size=14, validation_size=50).train[0].shape == (250, 14, 14, 1)
        with pytest.raises(ValueError, match="cifar100 is incomplete: 300 images instead of 50000"):
            load("cifar100")
    with pytest.raises(ValueError, match="cifar10 has not been prepared") as error:
        load("cifar10", str(tmp_path))
    assert f"tfds.load('cifar10', data_dir='{tmp_path}')" in str(error.value)


def test_cifar_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="tensorflow_datasets, which is not installed: pip install"):
        load("cifar10")


def test_labels_are_checked(monkeypatch):
    x, y = images(10), np.arange(10) % 2
    for labels, message in ((y + 1, "labels must be 0 to 1"), (np.zeros(10, int), "all of them"), (y[:9], "n labels")):
        monkeypatch.setitem(
            benchmark_data.LOADERS, "digits", lambda *_, labels=labels: ((x, labels), (x, y), 2, 255, "d")
        )
        with pytest.raises(ValueError, match=message):
            load("digits", validation_size=2)
