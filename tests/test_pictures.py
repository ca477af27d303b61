"""The network of `inputs.pictures`, a small one with random weights, and images made into its inputs."""

import dataclasses
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from conftest import SLOW_BUT_ON_TORCH
from evidence import finetuning
from evidence.finetuning_methods import WAYS
from inputs import data, pictures

pytestmark = SLOW_BUT_ON_TORCH


def random_tensors(backbone):
    """What PyTorch's network would hold, by its names: the reverse of `set_weights`, as (name, array)."""
    rng, tensors = np.random.default_rng(0), {}
    for layer in backbone.layers:
        name = "_" + re.sub(r"^blocks_(\d+)_", r"blocks.\1._", layer.name)
        if isinstance(layer, layers.BatchNormalization):
            count = layer.gamma.shape[0]
            for part in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{name}.{part}"] = rng.uniform(0.5, 1.5, count).astype("float32")
        elif isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            height, width, channels, filters = layer.kernel.shape
            shape = (channels, 1) if isinstance(layer, layers.DepthwiseConv2D) else (filters, channels)
            tensors[f"{name}.weight"] = rng.normal(0, 0.3, (*shape, height, width)).astype("float32")
    return tensors


class PyTorchNetwork:
    """The same network by PyTorch's functions; if padding is odd, there is more at the bottom and on the right."""

    def __init__(self, tensors):
        import torch

        self.torch, self.tensors = torch, {name: torch.tensor(array) for name, array in tensors.items()}

    def conv(self, x, name, normalization, groups=1, stride=1, is_active=True):
        functional, kernel = self.torch.nn.functional, self.tensors[f"{name}.weight"]
        total = [max((-(-size // stride) - 1) * stride + kernel.shape[-1] - size, 0) for size in x.shape[2:]]
        padding = [edge for size in reversed(total) for edge in (size // 2, size - size // 2)]
        x = functional.conv2d(functional.pad(x, padding), kernel, stride=stride, groups=groups)
        parts = [self.tensors[f"{normalization}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        x = functional.batch_norm(x, *parts, eps=1e-3)
        return x.clamp(0, 6) if is_active else x

    def __call__(self, images):
        x = self.conv(self.torch.tensor(images.transpose(0, 3, 1, 2)), "_conv_stem", "_bn0", stride=2)
        number = 0
        for repeats, _, first_stride, expansion, _ in pictures.BLOCKS[:2]:
            for repeat in range(repeats):
                before, stride, name = x, first_stride if repeat == 0 else 1, f"_blocks.{number}."
                if expansion != 1:
                    x = self.conv(x, f"{name}_expand_conv", f"{name}_bn0")
                x = self.conv(x, f"{name}_depthwise_conv", f"{name}_bn1", x.shape[1], stride)
                x = self.conv(x, f"{name}_project_conv", f"{name}_bn2", is_active=False)
                x = x + before if stride == 1 and x.shape[1] == before.shape[1] else x
                number += 1
        return self.conv(x, "_conv_head", "_bn1").mean(dim=(2, 3)).numpy()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="compares with PyTorch")
def test_the_network_is_that_of_pytorch():
    backbone = pictures.make_backbone(size=16)
    tensors = random_tensors(backbone)
    network = PyTorchNetwork(tensors)
    pictures.set_weights(backbone, network.tensors)
    images = np.random.default_rng(1).uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
    expected = network(images)
    assert backbone.predict(images, verbose=0) == pytest.approx(expected, abs=float(1e-4 * np.abs(expected).max()))
    assert np.ptp(expected) > 0.1


def test_it_has_the_size_of_lite0():
    """As PyTorch's weights file has them, without its last layer of 1,281,000."""
    assert pictures.lite(32).count_params() == 3_413_024


def new_folder(tmp_path):
    """CIFAR-10's folder in small: of each class, one picture with noise."""
    from PIL import Image

    for split, count in (("train", 16), ("test", 4)):
        for label in range(10):
            picture = np.kron(np.random.default_rng(label).integers(0, 200, (4, 4, 3)), np.ones((8, 8, 1)))
            (tmp_path / split / str(label)).mkdir(parents=True)
            for k in range(count):
                image = picture + np.random.default_rng(k).integers(0, 50, (32, 32, 3))
                Image.fromarray(image.astype("uint8")).save(tmp_path / split / str(label) / f"{k}.png")
    return tmp_path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in {"SIZE": 16, "VALIDATION": 40, "FOREIGN_IMAGES": 20}.items():
        monkeypatch.setattr(pictures, name, value)
    monkeypatch.setitem(pictures.TASKS, "cifar1000", ("folder", 120))
    return new_folder(tmp_path)


def test_foreign_images_have_the_shape_of_the_others(folder):
    grey, colored = (
        pictures.foreign_of(name, folder, pictures.load(name, folder)) for name in ("fashion1000", "cifar1000")
    )
    assert grey.shape[1:] == (28, 28, 1) and colored.shape[1:] == (32, 32, 3)
    assert grey.dtype == colored.dtype == np.uint8 and len(colored) == pictures.FOREIGN_IMAGES
    assert np.array_equal(colored[..., 0], colored[..., 2])
    test, labels = pictures.load("cifar1000", folder).test
    distances = [np.abs(data.resized(test, 28).mean(axis=-1) - image[..., 0]).max(axis=(1, 2)) for image in grey]
    assert max(map(min, distances)) <= 0.5
    assert len({labels[each.argmin()] for each in distances}) > 5  # Of ten classes, that come one after the other.


@pytest.mark.parametrize("way", ["head", pytest.param("all", marks=pytest.mark.slow)])
def test_methods_train_on_images(way, folder, tmp_path, monkeypatch):
    """On images that are easily told apart; with all weights, it begins at the head that was trained on features."""
    monkeypatch.setattr(finetuning, "HEAD", (0.03, 0.0, 40))
    setup = finetuning.setup_of("cifar1000", way, folder, None, tmp_path / "records")
    assert [len(part[1]) for part in (setup.train, setup.validation, setup.test)] == [120, 40, 40]
    method, tried = WAYS[way]["FGE"]
    found = method(
        dataclasses.replace(setup, batch_size=16),
        0,
        **{**tried[0], "epochs": 6, "rate": {"head": 0.03, "all": 1e-4}[way]},
    )
    assert set(found) == {"FGE", "SWA", "SWAG"}
    with warnings.catch_warnings(action="ignore"):  # So few samples tell no temperature.
        metrics = finetuning.measured(setup, "runs", *found["FGE"])
    assert metrics["calibrated_nll"] > 0 and metrics["bytes_a_member"] >= 4 * (16 * 10 + 10)
    if way == "head":
        assert metrics["error"] < 0.7
    else:
        of_features = finetuning.setup_of("cifar1000", "head", folder, None, tmp_path / "records")
        expected = finetuning.ordinary(of_features, 0, *finetuning.HEAD).predict(of_features.test[0], verbose=0)
        assert setup.new_network(0).predict(setup.test[0], verbose=0) == pytest.approx(expected, abs=1e-3)
