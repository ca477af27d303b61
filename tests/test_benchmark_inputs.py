"""What the benchmark works on: networks and transforms of the paper, and data."""

import gzip
import os
import pathlib
import re
import sys

import keras
import numpy as np
import pytest

import curves
from conftest import to_numpy, values
from inputs import data as benchmark_data
from inputs import folder as image_folder
from inputs.data import load
from inputs.fused import BatchNormalization
from inputs.modern import MODERN
from inputs.networks import make_network
from inputs.transforms import CIFAR, IMAGENET, Transform, make_transform
from keras_fge.core.files import to_npz
from keras_fge.core.networks import distance
from study.presets import SMALL_NETWORKS

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent


def images(count=6, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), "uint8")


# --- Networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("vgg16", 10, 15_245_130),
        ("vgg16", 100, 15_291_300),
        ("vgg16-bn", 10, 15_253_578),
        ("vgg19", 10, 20_554_826),
        ("vgg19-bn", 10, 20_565_834),
        ("preresnet20", 10, 272_282),
        ("preresnet56", 10, 590_426),
        ("preresnet110", 10, 1_146_842),
        ("preresnet164", 10, 1_703_258),
        ("wrn28x10", 10, 36_489_290),
        ("wrn16x4", 10, 2_751_146),
        ("convfc", 10, 2_422_634),
    ],
)
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the shapes do not depend on the backend")
def test_parameters_are_those_of_the_authors_networks(name, classes, parameters):
    network = make_network(name, (32, 32, 3), classes)
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == parameters
    assert network.output_shape == (None, classes)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            is_last_of_wrn = name.startswith("wrn") and layer is network.layers[-4]
            assert layer.epsilon == 1e-5 and layer.momentum == (0.1 if is_last_of_wrn else 0.9)


@pytest.mark.parametrize("name", ["preresnet20", "preresnet56", "wrn16x4", "convfc", *SMALL_NETWORKS])
def test_networks_predict_and_decay_every_weight(name):
    network = make_network(name, (32, 32, 3), 10, weight_decay=0.01, transform="resnet")
    outputs = network.predict(images(2, 32), verbose=0)
    assert outputs.shape == (2, 10) and outputs.dtype == np.float32 and np.isfinite(outputs).all()
    squares = sum(np.sum(value.astype("float64") ** 2) for value in values(network.trainable_variables))
    assert float(sum(to_numpy(loss) for loss in network.losses)) == pytest.approx(0.5 * 0.01 * squares, rel=1e-5)


@pytest.mark.parametrize("name", MODERN)
def test_units_of_later_networks_can_be_aligned(name):
    a, b = (make_network(name, (16, 16, 3), 10, width=8) for _ in range(2))
    aligned, x = curves.align(b, a, verbose=False), images(4, 16)
    assert aligned.predict(x, verbose=0) == pytest.approx(b.predict(x, verbose=0), abs=1e-4)
    far, near = (distance(a, a.get_weights(), network.get_weights()) for network in (b, aligned))
    assert near < 0.9 * far


def test_residual_networks_stride_where_the_authors_do():
    def convolutions(name):
        return [layer for layer in make_network(name, (32, 32, 3), 10).layers if type(layer) is keras.layers.Conv2D]

    for name, has_bias in (("wrn16x4", True), ("preresnet56", False)):
        layers = convolutions(name)
        strided = [layer for layer in layers if layer.strides == (2, 2)]
        assert sorted(layer.kernel_size[0] for layer in strided) == [1, 1, 3, 3]
        assert all(layer.use_bias == has_bias for layer in layers)
        for layer in strided:
            if layer.kernel_size[0] == 3:  # In a block, this convolution keeps the number of filters.
                assert layer.kernel.shape[-2] == layer.kernel.shape[-1]


def test_strided_convolutions_are_padded_on_both_sides():
    network = make_network("preresnet20", (8, 8, 3), 10)
    layer = next(layer for layer in network.layers if isinstance(layer, keras.layers.ZeroPadding2D))
    strided = next(
        layer for layer in network.layers if getattr(layer, "strides", None) == (2, 2) and layer.kernel_size[0] > 1
    )
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype("float32")
    kernel = to_numpy(strided.kernel)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [
        [np.einsum("hwc,hwcf->f", padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel) for j in range(4)]
        for i in range(4)
    ]
    assert np.allclose(to_numpy(strided(layer(x)))[0], expected, atol=1e-4)


def test_initialization_is_that_of_the_authors():
    def layers(name, kind):
        return [layer for layer in make_network(name, (32, 32, 3), 10).layers if type(layer) is kind]

    conv = layers("vgg16", keras.layers.Conv2D)[4]  # 128 to 256 filters.
    assert np.std(to_numpy(conv.kernel)) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)
    assert np.max(np.abs(to_numpy(conv.kernel))) > 4 * np.sqrt(2 / (9 * 256))  # Not truncated.
    assert not to_numpy(conv.bias).any()
    dense = layers("vgg16", keras.layers.Dense)[0]
    conv = layers("wrn16x4", keras.layers.Conv2D)[-1]
    for layer, fan_in in ((dense, 512), (conv, 9 * 256)):
        assert np.std(to_numpy(layer.kernel)) == pytest.approx(1 / np.sqrt(3 * fan_in), rel=0.03)
        assert np.max(np.abs(to_numpy(layer.kernel))) <= fan_in**-0.5 * 1.00001
        assert np.std(to_numpy(layer.bias)) == pytest.approx(1 / np.sqrt(3 * fan_in), rel=0.3)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_fused_batch_normalization_is_that_of_keras(momentum):
    """Outputs, moving statistics and, by a step of training, gradients."""
    x = np.random.default_rng(0).normal(3, 2, (6, 5, 4, 3)).astype("float32")
    y = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    results = []
    for layer_class in (keras.layers.BatchNormalization, BatchNormalization):
        keras.utils.set_random_seed(0)
        hidden = keras.layers.Conv2D(3, 3, padding="same")
        layer = layer_class(momentum=momentum, epsilon=1e-3)
        model = keras.Sequential([keras.Input(x.shape[1:]), hidden, layer])
        layer.set_weights([np.array([0.5, 1.0, 2.0]), np.array([1.0, 0.0, -1.0]), np.ones(3), np.full(3, 4.0)])
        before = to_numpy(model(x, training=True)), *layer.get_weights()[2:]
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, batch_size=6, verbose=0)
        layer.trainable = False
        results.append([*before, *model.get_weights(), to_numpy(model(x, training=True))])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def test_networks_with_fused_batch_normalization_can_be_aligned(capsys):
    networks = [make_network("small_cnn_bn", (8, 8, 1), 10, width=4) for _ in range(2)]
    curves.align(*networks, data=np.zeros((4, 8, 8, 1), "uint8"))
    assert "without a rule" not in capsys.readouterr().out


# --- Transform --------------------------------------------------------------------------------------------------------


def crops(image, padding):
    """All that random crop and flip can make of an image."""
    size = len(image)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    windows = [padded[i : i + size, j : j + size] for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    return windows + [window[:, ::-1] for window in windows]


def test_every_weight_is_drawn_anew_and_by_the_seed():
    def kernels(name, seed):
        keras.utils.set_random_seed(seed)
        network = make_network(name, (32, 32, 3), 10)
        return [to_numpy(v) for v in network.trainable_variables if len(v.shape) > 1]

    for name in ("vgg16", "preresnet20", "convfc", "wrn10x1"):
        first, again, other = (kernels(name, seed) for seed in (0, 0, 1))
        assert all(np.array_equal(a, b) for a, b in zip(first, again))
        assert not any(np.array_equal(a, b) for a, b in zip(first, other))
        for k, kernel in enumerate(first):
            assert not any(np.array_equal(kernel, earlier) for earlier in first[:k])


@pytest.mark.parametrize("compiled", [False, True])
def test_augmented_images_are_padded_crops_and_flips(compiled):
    x = images(40)
    layer = Transform(0.0, 1.0, padding=2, flip=True, seed=1)
    if compiled:

        class Trained(keras.Model):
            def call(self, x):
                return layer(x, training=True)

        model = Trained()
        outputs = [model.predict(x, batch_size=20, verbose=0) for _ in range(2)]
    else:
        outputs = [to_numpy(layer(x, training=True)) for _ in range(2)]
    assert outputs[0].shape == x.shape and outputs[0].dtype == np.float32
    found = []
    for image, output in zip(x, outputs[0]):
        match = [index for index, crop in enumerate(crops(image, 2)) if np.array_equal(crop, output)]
        assert len(match) == 1
        found += match
    assert len(set(found)) > 10  # Each image has its own.
    assert 8 < sum(index >= 25 for index in found) < 32  # Half of them are flipped.
    if not compiled:
        assert not np.array_equal(*outputs)  # Each time anew.


def test_transform_normalizes_as_the_authors_do():
    x = images(4, 32)
    for name, statistics in (("vgg", IMAGENET), ("resnet", CIFAR)):
        layer = make_transform(name, (32, 32, 3), 255)
        assert layer.padding == 4 and layer.flip
        mean, std = (np.array(statistics[key]) / 255 for key in ("mean", "std"))
        assert np.allclose(to_numpy(layer(x)), (x / 255 - mean) / std, atol=1e-5)
    assert CIFAR["mean"][0] / 255 == pytest.approx(0.4914) and IMAGENET["std"][2] / 255 == pytest.approx(0.225)
    plain = make_transform("none", (8, 8, 1), 16)
    assert np.allclose(to_numpy(plain(np.full((1, 8, 8, 1), 8, "uint8"), training=True)), 0.5)


def test_transform_under_mixed_precision_and_in_a_file(tmp_path):
    layer = Transform(**CIFAR, padding=2, flip=True, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(images()).dtype) == "bfloat16"
    network = make_network("small_cnn", (8, 8, 3), 10, transform="resnet", width=4)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert np.array_equal(network.predict(images(), verbose=0), loaded.predict(images(), verbose=0))


def test_networks_with_augmentation_on_a_curve():
    ends = [make_network("small_cnn_bn", (8, 8, 3), 10, 1e-3, "resnet", width=4) for _ in range(2)]
    x, y = images(20), np.arange(20) % 10
    model = curves.connect(*ends)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(x, y, batch_size=10, verbose=0)
    path = curves.evaluate_path(model, (x, y), (x, y), num_points=3, verbose=False)
    network = model.network_at(0.0)
    assert np.allclose(values(network.trainable_variables)[0], values(ends[0].trainable_variables)[0])
    assert np.isfinite(path.train["loss"]).all()


# --- Data -------------------------------------------------------------------------------------------------------------


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
