"""The benchmark: networks and transforms of the paper, data, records, presets, and the command line with its report."""

import contextlib
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from keras_fge.state import StateFile, training_state

import cifar
import curves
import data as benchmark_data
import figures
import keras_fge
import networks
import presets
import progress
import reference
import tables
import training
import units
from conftest import slow_elsewhere, to_numpy, values
from data import load
from fused import BatchNormalization
from networks import make_network
from records import Records, locked
from transforms import CIFAR, IMAGENET, Transform, make_transform

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


@pytest.mark.parametrize("name", ["preresnet20", "preresnet56", "wrn16x4", "convfc", "small_cnn", "small_cnn_bn"])
def test_networks_predict_and_decay_every_weight(name):
    network = make_network(name, (32, 32, 3), 10, weight_decay=0.01, transform="resnet")
    outputs = network.predict(images(2, 32), verbose=0)
    assert outputs.shape == (2, 10) and outputs.dtype == np.float32 and np.isfinite(outputs).all()
    squares = sum(np.sum(value.astype("float64") ** 2) for value in values(network.trainable_variables))
    assert float(sum(to_numpy(loss) for loss in network.losses)) == pytest.approx(0.5 * 0.01 * squares, rel=1e-5)


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
        patch.setattr(benchmark_data, "_read_images", fail)
        assert np.array_equal(load("folder", folder, validation_size=8).train[0], first.train[0])
        with pytest.raises(AssertionError, match="read again"):
            load("folder", folder, 4, validation_size=8)
    (folder / "train" / "cat" / "0000.png").unlink()
    assert len(load("folder", folder, validation_size=8).train[0]) == len(first.train[0]) - 1


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
    with pytest.raises(ValueError, match=r"small.png is no image, or a damaged one"):
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


# --- Training ---------------------------------------------------------------------------------------------------------


class Interrupt(Exception):
    pass


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            raise Interrupt


def small_settings():
    return types.SimpleNamespace(
        network="small_cnn_bn",
        width=4,
        weight_decay=1e-3,
        transform="resnet",
        learning_rate=0.05,
        momentum=0.9,
        batch_size=8,
        jit_compile="auto",
        steps_per_execution=1,
    )


@slow_elsewhere
@pytest.mark.parametrize("what", ["network", "curve"])
def test_an_interrupted_training_ends_with_the_same_weights(what, tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self: True)
    settings = small_settings()
    data = types.SimpleNamespace(train=(images(20), np.arange(20) % 10), num_classes=10, largest_pixel=255)
    if what == "curve":
        ends = [training.new_network(settings, data, seed) for seed in range(2)]

    def make():
        if what == "network":
            return training.new_network(settings, data, 3)
        keras.utils.set_random_seed(3)
        model = curves.connect(*ends, seed=3)
        training.compile_model(model, settings, 0.05)
        return model

    def train(model, name, stop_at=None, until=None, first_epoch=0):
        arguments = (settings, data, 5, 0.05, 3, str(tmp_path / name), [StopAfter(stop_at)])
        history = training.train(model, *arguments, until=until, first_epoch=first_epoch)
        return {key: history_values[-1] for key, history_values in history.history.items()}

    expected = make()
    logs = train(expected, "whole")
    with pytest.raises(Interrupt):
        train(make(), "parts", 3)
    model = make()
    assert train(model, "parts") == pytest.approx(logs)
    for ours, theirs in zip(values(training_state(model)), values(training_state(expected))):
        assert np.array_equal(ours, theirs)
    again = make()
    assert train(again, "parts") == pytest.approx(logs)  # Nothing is left to do.
    assert np.array_equal(values(again.weights)[0], values(expected.weights)[0])
    # The first part of a training has a checkpoint of its own, from which another one can branch off.
    in_two = make()
    train(in_two, "first", until=2)
    train(in_two, "second", first_epoch=2)
    for ours, theirs in zip(values(training_state(in_two)), values(training_state(expected))):
        assert np.array_equal(ours, theirs)
    kept = []
    for name in ("first", "again"):
        kept.append(make())
        train(kept[-1], name, until=2)
    assert all(np.array_equal(a, b) for a, b in zip(*(values(training_state(model)) for model in kept)))


def test_training_takes_the_step_of_pytorch(tmp_path):
    """Against a loop of PyTorch's SGD in numpy: v = m v + g, w -= rate v, with the paper's rate for each epoch."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.normal(size=(24, 1)).astype("float32")
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    w, velocity = values(network.weights)[0].astype("float64"), 0.0
    settings = types.SimpleNamespace(batch_size=24)  # One step an epoch, with all images.
    training.train(network, settings, types.SimpleNamespace(train=(x, y)), 20, 0.05, 3, str(tmp_path))
    for epoch in range(20):
        velocity = 0.9 * velocity + 2 / 24 * x.T.astype("float64") @ (x @ w - y)
        w = w - 0.05 * min(1, max(0.01, 1 - 0.99 * ((epoch + 1) / 20 - 0.5) / 0.4)) * velocity
    assert np.linalg.norm(values(network.weights)[0] - w) <= 1e-5 * np.linalg.norm(w)


def test_a_training_whose_loss_is_not_finite_ends_before_its_state_is_written(tmp_path):
    settings = small_settings()
    data = types.SimpleNamespace(train=(images(20), np.arange(20) % 10), num_classes=10, largest_pixel=255)
    model = training.new_network(settings, data, 3)
    with pytest.raises(FloatingPointError, match="The training has diverged"):
        training.train(model, settings, data, 5, 1e30, 3, str(tmp_path))
    assert all(np.isfinite(value).all() for value in StateFile(tmp_path).read().values)


# --- Units ------------------------------------------------------------------------------------------------------------


def test_units_are_done_once_after_what_they_need(tmp_path):
    settings, done = types.SimpleNamespace(output_dir=str(tmp_path)), []
    study = units.Study(settings, None, Records(tmp_path, {}), progress.ProgressBars())

    def work(study, *key):
        done.append(key)
        return {"value": 1.0}

    network = units.Unit("network", (0,), work)
    curves_ = [units.Unit("curve", (name,), work, needs=(network,)) for name in ("bezier", "chain")]
    path = units.Unit("path", ("bezier",), work, needs=(curves_[0],))
    units.run(study, [path, *curves_])
    assert done == [(0,), ("bezier",), ("bezier",), ("chain",)]
    assert list(study.records.units) == ["network 0", "curve bezier", "path bezier", "curve chain"]
    units.run(study, [path])
    assert len(done) == 4


def test_what_another_process_does_is_waited_for_only_in_the_end(tmp_path, monkeypatch):
    settings = types.SimpleNamespace(output_dir=str(tmp_path))
    study = units.Study(settings, None, Records(tmp_path, {}), progress.ProgressBars())
    asked, done = [], []

    def work(study, key):
        done.append(key)
        return {}

    @contextlib.contextmanager
    def locked_by_another_at_first(path, wait):
        asked.append((os.path.basename(path), wait))
        yield wait or "network_1" not in path

    monkeypatch.setattr(units, "locked", locked_by_another_at_first)
    first, second = (units.Unit("network", (seed,), work) for seed in (1, 2))
    curve = units.Unit("curve", (3,), work, needs=(first,))
    units.run(study, [curve, second])
    assert done == [2, 1, 3]
    first_pass = [("network_1.lock", False), ("curve_3.lock", False), ("network_2.lock", False)]
    assert asked == [*first_pass, ("network_1.lock", True), ("curve_3.lock", True)]


# --- Records ----------------------------------------------------------------------------------------------------------


def append(records, experiment="ind", key=(0,), value=1.0):
    records.append(experiment, list(key), {"value": value}, 1.5, {"epochs": 2})


def test_records_are_lines_that_come_back(tmp_path):
    records = Records(tmp_path, {"epochs": 2})
    append(records)
    append(records, key=(1,), value=2.0)
    assert "ind 1" in records and "ind 2" not in records
    again = Records(tmp_path, {"epochs": 2})
    append(again, "fge", (0,), 3.0)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(lines) == 3
    read = Records(tmp_path)
    assert read.metrics("ind 1") == {"value": 2.0} and read.configuration == {"epochs": 2}
    assert [record["key"] for record in read.of("ind")] == [[0], [1]]
    assert len((tmp_path / "commands.jsonl").read_text().splitlines()) == 1  # Flags and configuration stand once.
    assert not any(name in lines[0] for name in ("flags", "packages", "epochs"))
    record = read.units["ind 0"]
    assert record == {**again.units["ind 0"]} and record["configuration"] == {"epochs": 2}
    assert record["wall_seconds"] == 1.5 and record["backend"] == keras.backend.backend()
    assert record["packages"]["keras"] == keras.__version__ and record["flags"] == {"epochs": 2}
    append(records, key=(1,), value=4.0)  # Another process did the same unit: the first one counts.
    assert Records(tmp_path).metrics("ind 1") == {"value": 2.0}


def test_records_of_another_configuration_and_damaged_ones(tmp_path):
    ours, others = {"epochs": 2, "data": {"sha256": "a"}}, {"epochs": 3, "data": {"sha256": "b"}}
    append(Records(tmp_path, ours))
    path = tmp_path / "records.jsonl"
    before = path.read_bytes()
    message = (
        r"configuration.json is of another configuration: --data={'sha256': 'a'} there, {'sha256': 'b'} here; --epoch"
    )
    with pytest.raises(ValueError, match=message):
        Records(tmp_path, others)
    for damage in (b"{}\n", b"[1]\n", b'"\xff\xfe\n', before[:100] + b"\n"):
        path.write_bytes(before + damage)
        with pytest.raises(
            ValueError, match=r"records.jsonl, line 2, is no record, or a damaged one. Remove that line"
        ):
            Records(tmp_path, ours)
        assert path.read_bytes() == before + damage
    bare = json.loads(before)
    del bare["checksum"]  # As version 0.1 wrote it:
    record = {**bare, "command": "python", "flags": {}}
    path.write_text(json.dumps({**record, "configuration": ours}) + "\n")
    assert Records(tmp_path, ours).metrics("ind 0") == {"value": 1.0}
    path.write_text(json.dumps({**record, "configuration": {**ours, "epochs": 4}}) + "\n")
    with pytest.raises(
        ValueError, match=r"line 1, \(ind 0\) is of another configuration: --epochs=4 there, 2 here. Give"
    ):
        Records(tmp_path, ours)
    path.write_text(json.dumps({**bare, "configuration": "0"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1, \(ind 0\) is of another configuration. Give"):
        Records(tmp_path, ours)
    path.write_text(json.dumps({**bare, "command": "0"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1, is of a command that is not in .*commands.jsonl. Remove that line"):
        Records(tmp_path, ours)
    path.write_bytes(before)
    (tmp_path / "commands.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"commands.jsonl, line 1, is no command, or a damaged one"):
        Records(tmp_path, ours)
    (tmp_path / "configuration.json").write_text("{")
    with pytest.raises(ValueError, match=r"configuration.json is no configuration, or a damaged one"):
        Records(tmp_path)


def test_half_a_line_of_a_killed_process_is_no_record(tmp_path):
    append(Records(tmp_path, {}))
    before = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(before + before[:50])
    records = Records(tmp_path, {})
    assert list(records.units) == ["ind 0"]
    append(records, key=(1,))
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2 and lines[0] == before and json.loads(lines[1])["unit"] == "ind 1"


def test_no_changed_byte_goes_unnoticed(tmp_path):
    records = Records(tmp_path, {"epochs": 2})
    append(records)
    append(records, key=(1,), value=0.25)
    path = tmp_path / "records.jsonl"
    content = path.read_bytes()
    assert content.count(b'"checksum"') == 2
    generator = np.random.default_rng(0)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            read = Records(tmp_path)
        except ValueError as error:
            assert "records.jsonl, line " in str(error)
        else:  # As in the name of the checksum.
            assert {name: read.metrics(name) for name in read.units} == {
                "ind 0": {"value": 1.0},
                "ind 1": {"value": 0.25},
            }
    path.write_bytes(content[:-1])  # Only the end of the last line is missing.
    append(records, key=(2,))
    assert list(Records(tmp_path).units) == ["ind 0", "ind 1", "ind 2"]


def test_numbers_that_json_does_not_know_come_back(tmp_path):
    records = Records(tmp_path, {})
    records.append("path", ["line"], {"loss": float("inf"), "ends": [1.0, float("nan")]}, 1.0, {})
    assert "null" in (tmp_path / "records.jsonl").read_text()
    metrics = Records(tmp_path).metrics("path line")
    assert np.isnan(metrics["loss"]) and metrics["ends"][0] == 1 and np.isnan(metrics["ends"][1])


@slow_elsewhere
def test_two_processes_do_not_do_the_same_unit(tmp_path):
    path = str(tmp_path / "unit.lock")
    code = f"from records import locked\nwith locked({path!r}, wait=False) as free: print(free)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}

    def other():
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    with locked(path) as free:
        assert free and other() == "False"
    assert other() == "True"


# --- Presets and flags ------------------------------------------------------------------------------------------------


def benchmark(*flags, **environment):
    command = [sys.executable, "benchmarks/cifar.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=imagenet"], "--dataset=imagenet"),
        (
            ["--experiment=everything"],
            "--experiment=everything is unknown. There are: all, report, status, endpoint, curve",
        ),
        (["--num_bends=2"], "--num_bends=2"),
        (["--epochs=many"], "--epochs=many"),
        (["--learning_rat=0.1"], "learning_rat"),
        (["seed=3"], "Flags start with two dashes"),
        (["--fge_max_learning_rate=0.0001"], "--fge_min_learning_rate=0.0005 must be below"),
        (["--fge_cycle_epochs=0"], "must be more than 0"),
        (["--fge_start_epoch=40"], "there would be no snapshot"),
        (["--sse_cycles=90000"], "--sse_cycles=90000 are more than the steps of 40 epochs"),
        (["--output_dir=/dev/null/results"], "--output_dir=/dev/null/results cannot be written"),
        (["--preset=vgg17"], "--preset=vgg17 is unknown. There are: vgg16_cifar10,"),
        (["--preset=smoke", "--epochs=5"], "--epochs=5 contradicts --preset=smoke, which sets --epochs=4"),
        (["--preset=vgg16_folder"], "--dataset=folder needs --data_dir"),
        (["--dataset=folder", "--data_dir=/nowhere"], "--data_dir=/nowhere does not exist"),
        (["--dataset=folder", "--data_dir=docs"], "docs must hold images as train/<class>"),
        (["--network=vgg16"], "is made for images of 32 x 32 pixels; these have 14 x 14"),
        (["--network=vgg16", "--dataset=digits"], "these have 8 x 8"),
        (["--transform=vgg"], "--transform is for photographs, not for fashion_subset"),
        (["--dataset=digits", "--image_size=16"], "--image_size=16 is only for other data than digits"),
        (["--bn_samples=4001"], "--bn_samples=4001 must not exceed the 4000 training images"),
        (
            ["--steps_per_execution=2"],
            "--steps_per_execution=2 must divide the 63 iterations of an epoch, the 32 of half an FGE cycle and the",
        ),
        (["--experiment=report"], "has no records yet"),
        (["--learning_rate=nan"], "--learning_rate=nan must be a finite number"),
        (["--fge_max_learning_rate=inf"], "--fge_max_learning_rate=inf must be a finite number"),
    ],
)
def test_bad_flags_end_with_a_message_before_any_training(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "run", None)
    output = [] if any("output_dir" in flag for flag in flags) else [f"--output_dir={tmp_path}"]
    with flagsaver.flagsaver(), pytest.raises((SystemExit, absl_flags.Error)) as error:
        cifar.main(cifar.FLAGS(["cifar.py", *flags, *output]))
    assert message in str(error.value)


def test_help_is_short_and_has_every_flag():
    result = benchmark("--help")
    assert result.returncode == 0 and len(result.stdout.splitlines()) <= 60
    names = {flag.name for flag in cifar.FLAGS.get_key_flags_for_module(cifar.__name__)}
    assert names == {name for group in cifar.GROUPS.values() for name in group}
    assert all(f"--{name}: " in result.stdout for name in names)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped: the same command goes on from here"),
        (
            FloatingPointError("The training has diverged."),
            1,
            "error: The training has diverged. Lower the learning rate",
        ),
        (
            OSError(28, "No space left on device", "state.npz"),
            1,
            "error: [Errno 28] No space left on device: 'state.npz'",
        ),
        (ModuleNotFoundError("No module named 'jax'"), 1, "error: No module named 'jax'. Install what is missing: pip"),
    ],
)
def test_what_a_user_can_cure_ends_with_one_line(error, status, message, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr(cifar.app, "run", fail)
    monkeypatch.setattr(sys, "argv", ["cifar.py"])
    with pytest.raises(SystemExit) as end:
        cifar.run()
    assert status == (end.value.code if isinstance(end.value.code, int) else 1)
    assert message in (str(end.value) if status == 1 else capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", ["cifar.py", "--debug"])
    with pytest.raises(type(error)):
        cifar.run()


def test_without_its_packages_it_says_how_to_install_them():
    command = [sys.executable, "-S", "benchmarks/cifar.py", "--help"]  # Without site-packages.
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={})
    assert result.returncode == 1 and result.stderr.startswith("error: No module named 'absl'. Install what is missing")


def test_errors_are_messages_and_no_tracebacks(tmp_path):
    result = benchmark("--preset=smoke", "--epochs=5", f"--output_dir={tmp_path}")
    assert result.returncode == 1 and result.stderr.startswith("error: --epochs=5 contradicts --preset=smoke, which")


def test_help_is_quick_and_says_what_to_do():
    result = benchmark("--help")
    assert "python benchmarks/cifar.py --experiment=report" in result.stdout
    assert "--fge_max_learning_rate: alpha_1 of FGE." in result.stdout


def test_presets_are_whole_and_documented():
    text = (ROOT / "docs" / "benchmark.md").read_text()
    flags = {flag.name: flag.default for flag in cifar.FLAGS.get_key_flags_for_module(cifar)}
    assert {"vgg16_cifar10", "preresnet164_cifar100", "wrn28x10_folder", "small", "smoke"} <= set(presets.PRESETS)
    for name in ("preresnet20", "vgg19-bn"):
        assert name in cifar.NETWORKS
    for name in cifar.NETWORKS:  # Each can be made.
        assert callable(networks._architecture(name))
    with pytest.raises(ValueError, match="There is no network 'vgg17'"):
        make_network("vgg17", (32, 32, 3), 10)
    for name, preset in presets.PRESETS.items():
        assert set(preset) <= set(flags), name
        settings = types.SimpleNamespace(**{**flags, **preset})
        assert settings.fge_start_epoch < settings.epochs
        assert f"--preset={name}" in text
    for network, members in (("vgg16", 22), ("preresnet164", 6), ("wrn28x10", 12)):  # Those of the paper.
        preset = presets.PRESETS[f"{network}_cifar100"]
        assert (preset["epochs"] - preset["fge_start_epoch"]) / preset["fge_cycle_epochs"] == members


def test_only_flags_without_influence_may_differ_from_a_preset():
    def flag(value=None, present=False):
        return types.SimpleNamespace(value=value, present=present)

    flags = {name: flag() for name in presets.PRESETS["smoke"]}
    flags |= {"runs": flag(7, True), "epochs": flag(4, True)}
    presets.apply_preset("smoke", flags, {"runs"})
    assert flags["runs"].value == 7 and flags["epochs"].value == 4 and flags["width"].value == 4
    flags["width"].present, flags["width"].value = True, 5
    with pytest.raises(ValueError, match="--width=5 contradicts --preset=smoke, which sets --width=4"):
        presets.apply_preset("smoke", flags, {"runs"})


def test_flags_without_influence_on_results_have_defaults_for_the_device(monkeypatch):
    assert cifar.default_steps_per_execution(391, 391) == 1
    monkeypatch.setattr("records.accelerator", lambda: "a GPU")
    is_torch = keras.backend.backend() == "torch"
    for *lengths, expected in ((391, 391, 782, 23), (352, 352, 352, 32), (352, 176, 352, 22), (391, 391, 14662, 1)):
        assert cifar.default_steps_per_execution(*lengths) == (1 if is_torch else expected)


# --- The whole --------------------------------------------------------------------------------------------------------

KINDS = {"ind": 3, "sse": 3, "fge": 3, "fge_bn": 3, "swa": 3, "curve": 2, "path": 3, "plane": 3}


def metrics_of(folder):
    """The metrics of all units, without the times."""
    units = {unit: dict(record["metrics"]) for unit, record in Records(folder).units.items()}
    for metrics in units.values():
        metrics.pop("seconds_per_epoch", None)
    return units


def test_smoke_runs_every_experiment_and_records_it(smoke):
    folder, output = smoke
    records = Records(folder)
    for experiment, count in KINDS.items():
        assert len(records.of(experiment)) == count
    for method, members in (("ind", 1), ("sse", 2), ("fge", 2), ("fge_bn", 2)):
        groups = records.of(f"{method} ensemble")
        assert [record["key"] for record in groups] == [[1, 0], [1, 1], [1, 2], [2, 0, 1], [3, 0, 1, 2]]
        assert [record["metrics"]["members"] for record in groups] == [members * k for k in (1, 1, 1, 2, 3)]
        for seed in range(3):
            single, pooled = records.metrics(f"{method} {seed}"), records.metrics(f"{method} ensemble 1 {seed}")
            assert single["members"] == members == len(single["epochs"]) == len(single["member_error"])
            assert {name: single["test"][name] for name in pooled["test"]} == pytest.approx(pooled["test"], rel=1e-4)
            assert single["ensemble_error"][-1] == pytest.approx(single["test"]["error"])
            epochs = {"ind": [4.0], "sse": [2.0, 4.0], "fge": [2.5, 3.5], "fge_bn": [2.5, 3.5]}[method]
            assert single["epochs"] == epochs and single.get("seconds_per_epoch", 1) != 0
            assert single["test"]["member_error"] == pytest.approx(np.mean(single["member_error"]))
            assert (single["test"]["disagreement"] > 0) == (members > 1)
    assert records.metrics("plane bezier")["largest_distance_of_the_path"] < 1e-4
    assert records.metrics("path line")["length_ratio"] == pytest.approx(1)
    trace = records.metrics("fge 0")["trace"]
    assert trace["iteration"][0] == 0 and trace["iteration"][-1] == 20 and trace["distance"][0] == 0
    assert len(trace["test_error"]) == len(trace["iteration"]) == 11 and trace["snapshots"] == [5, 15]
    for record in records.units.values():
        assert record["flags"]["width"] == 4 and "--preset=smoke" in record["command"]
        data = dict(record["configuration"]["data"])
        assert len(data.pop("sha256")) == 16
        assert data == {
            "name": "digits",
            "shape": [8, 8, 1],
            "num_classes": 10,
            "train": 500,
            "validation": 500,
            "test": 797,
        }
    for text in ("straight line", "Barrier", "Ind, 1 a run", "SWA, 1 network", "share s"):
        assert text in output


def test_predictions_of_a_run_are_those_of_its_members(smoke):
    folder, _ = smoke
    data = load("digits")
    ensemble = keras_fge.Ensemble.load(folder / "checkpoints" / "fge_1")
    metrics = metrics_of(folder)["fge 1"]
    expected = ensemble.evaluate(*data.test)
    assert {name: metrics["test"][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    stored = np.load(folder / "checkpoints" / "predictions_fge_1.npz")["validation"]
    assert np.allclose(stored, ensemble.predict(data.validation[0]), atol=1e-5)


def test_report_is_made_of_the_records_alone(smoke, tmp_path):
    folder, output = smoke
    for path in [*folder.glob("*.json*"), *folder.glob("*.npz")]:
        shutil.copy(path, tmp_path)
    result = benchmark("--experiment=report", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout[: result.stdout.index("Records, arrays")] in output
    names = {name for name, _, _ in figures.FIGURES}
    names -= {"settings.png"}  # There was no search.
    assert len(names) == 8 and {path.name for path in tmp_path.glob("*.png")} == names
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 8 and page.count("<table>") == 8
    assert set(re.findall(r'(?:src|href)="(?!#)(.*?)"', page)) == {"data:,", "explorer.html"}
    assert "Between two trained networks, the straight line crosses a barrier of" in page
    explorer = (tmp_path / "explorer.html").read_text()
    assert "plane: three independent networks" in explorer and '"Bezier curve"' in explorer
    for text in ("Bezier curve", "epochs=4", "python benchmarks/cifar.py --preset=smoke", "SWA, 1 network"):
        assert text in page


@slow_elsewhere
def test_what_is_recorded_is_not_done_again(smoke):
    folder, _ = smoke
    before = (folder / "records.jsonl").read_bytes()
    result = benchmark("--preset=smoke", f"--output_dir={folder}")
    assert result.returncode == 0, result.stderr
    assert (folder / "records.jsonl").read_bytes() == before
    assert "units of work are recorded already" in result.stdout and "network 0:" not in result.stdout
    result = benchmark("--output_dir", str(folder), "--experiment=ind")
    assert result.returncode != 0 and "is of another configuration: " in result.stderr
    assert "--epochs=4 there, 40 here" in result.stderr and "Traceback" not in result.stderr


def test_reference_numbers_belong_to_known_networks():
    text = (ROOT / "docs" / "benchmark.md").read_text()
    for methods in reference.ENSEMBLES.values():
        cells = [" / ".join(tables.theirs_text(row, budget) for budget in (1, 2, 3)) for row in methods.values()]
        single, fge = methods["ind"], methods["fge"]
        cells.append(f"{(single[0] - fge[0]) / (single[0] - single[1]):.2f}")
        assert f"| {' | '.join(cells)} |" in text
    assert {name for name, _ in [*reference.CURVES, *reference.ENSEMBLES]} <= set(cifar.NETWORKS)
    for paths in reference.CURVES.values():
        assert all(least <= most for row in paths.values() for least, most in (row[:2],))


def test_numbers_of_the_authors_stand_beside_ours(tmp_path):
    preset = presets.PRESETS["vgg16_cifar100"]
    records = Records(tmp_path, {**preset, "data": {"name": "cifar100", "num_classes": 100}})
    summary = dict.fromkeys(
        ["train_loss_min", "train_loss_max", "train_loss_mean", "train_loss_length_mean", "train_loss_barrier"], 0.5
    )
    summary |= {"test_error_min": 0.2, "test_error_max": 0.3, "length_ratio": 1.0}
    summary |= {"train_loss_ends": [0.4, 0.3], "test_error_ends": [0.25, 0.2]}
    records.append("path", ["line"], summary, 1.0, {})
    records.append("path", ["bezier"], summary, 1.0, {})
    for seed in range(2):
        test = {"error": 0.25 + 0.02 * seed, **dict.fromkeys(["nll", "calibrated_nll", "brier", "ece"], 1.0)}
        records.append("ind ensemble", [1, seed], {"members": 1, "test": test}, 1.0, {})
    table = tables.curve_tables(records)[0]
    assert [len(row) for row in table.rows] == [len(table.columns)] * 3
    assert table.rows[0][1] == "0.300 to 0.400" and table.rows[0][-2:] == ["0.89 to 0.89", "27.50 to 27.50"]
    assert table.rows[1][-2:] == ["", ""] and table.rows[2][-1] == "27.40 to 30.10"
    table = tables.ensemble_tables(records)[0]
    assert table.columns == ["", "1B", "paper, CIFAR-100, 1B"]
    assert table.rows == [["Ind, 1 a run", "26.00 ± 1.41 (2)", "27.40 ± 0.10"]]
    records.configuration["epochs"] = 10  # Another training is not compared.
    assert tables.ensemble_tables(records)[0].columns == ["", "1B"]


def test_a_log_says_how_much_is_left(monkeypatch, capsys):
    bars = progress.ProgressBars()
    monkeypatch.setattr(progress, "console", progress.Console(width=110, file=io.StringIO()))
    bars.finished(2, 3, "ind 1", 0.2, 500)
    bars.finished(2, 3, "ind 1", 12.3, 170)
    bars.finished(3, 3, "ind 2", 12.3, 20)
    lines = progress.console.file.getvalue().splitlines()
    assert lines == ["unit 2 of 3, ind 1: 12 s; about 3 min left", "unit 3 of 3, ind 2: 12 s; less than a minute left"]


def test_the_time_left_is_that_of_units_of_a_kind(tmp_path):
    records = Records(tmp_path, {})
    names = [("ind", 0), ("ind", 1), ("fge", 0), ("ind ensemble", 1)]
    ordered = {unit.name: unit for unit in (units.Unit(kind, (key,), None) for kind, key in names)}
    records.append("ind", [0], {}, 10.0, {})
    assert units.seconds_left(records, ordered) == 20.0  # The other network, and FGE as long as a network.
    records.append("fge", [0], {}, 4.0, {})
    assert units.seconds_left(records, ordered) == 10.0
