"""The networks of the paper, layer by layer as in the authors' code (timgaripov/dnn-mode-connectivity), and small ones.

`make_network` builds one. All output logits. Where that code sets nothing, PyTorch's defaults hold: epsilon 1e-5 and
momentum 0.1 (Keras' 0.9) of BatchNormalization, symmetric padding, and weights and biases drawn from
U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
"""

import functools
import re

import keras
from keras import initializers, layers

from inputs.fused import BatchNormalization
from inputs.modern import MODERN
from inputs.transforms import make_transform


def make_network(
    name, input_shape, num_classes, weight_decay=0.0, transform="none", largest_pixel=255, kind=keras.Model, **options
):
    """Makes a new network, from uint8 images to logits.

    Args:
        name: "vgg16", "vgg19-bn", "preresnet164", "wrn28x10" (depth and width), "convfc", "small_cnn", "small_cnn_bn",
            and those of `inputs.modern`.
        input_shape: (height, width, channels).
        num_classes: Number of logits.
        weight_decay: wd of a loss term 0.5 * wd * ||w||^2 over all trainable weights, as PyTorch's SGD decays them.
        transform, largest_pixel: See `make_transform`.
        kind: The class of the model: `keras.Model`, or `inputs.rows.NetworkOnRows`.
        options: Options of the network, such as `width` of "small_cnn".
    """
    inputs = keras.Input(input_shape, dtype="uint8")
    x = make_transform(transform, input_shape, largest_pixel)(inputs)
    outputs = _architecture(name)(x, num_classes, Decayed(weight_decay), **options)
    return kind(inputs, outputs, name=name.replace("-", "_"))


def _architecture(name):
    """The function below that builds the network of this name."""
    if match := re.fullmatch(r"vgg(16|19)(-bn)?", name):
        return functools.partial(vgg, depth=int(match[1]), batch_norm=bool(match[2]))
    if match := re.fullmatch(r"preresnet(\d+)", name):
        return functools.partial(preresnet, depth=int(match[1]))
    if match := re.fullmatch(r"wrn(\d+)x(\d+)", name):
        return functools.partial(wide_resnet, depth=int(match[1]), widen=int(match[2]))
    if match := re.fullmatch(r"small_cnn(_bn)?", name):
        return functools.partial(small_cnn, batch_norm=bool(match[1]))
    if name == "convfc":
        return conv_fc
    if name in MODERN:
        return MODERN[name]
    raise ValueError(f"There is no network '{name}'.")


# --- Layers -----------------------------------------------------------------------------------------------------------

# An initializer draws the same numbers each time, so each weight needs one of its own.


def he_fan_out():
    return initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")  # N(0, sqrt(2 / (k * k * filters)))


def torch_uniform(fan_in):
    return initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


class Decayed:
    """Makes the layers of the networks, with the same weight decay on every weight."""

    def __init__(self, weight_decay):
        self.decay = keras.regularizers.L2(weight_decay / 2) if weight_decay else None

    def conv(self, x, filters, size, stride=1, use_bias=True, initializer="he_fan_out"):
        """A convolution that keeps the size of the image, or divides it by `stride`."""
        bias_initializer = "zeros"
        if initializer == "torch":
            initializer, bias_initializer = (torch_uniform(size * size * x.shape[-1]) for _ in range(2))
        elif initializer == "he_fan_out":
            initializer = he_fan_out()
        if stride > 1 and size > 1:  # Keras' "same" would pad on one side only.
            x = layers.ZeroPadding2D(size // 2)(x)
        return layers.Conv2D(
            filters,
            size,
            stride,
            padding="valid" if stride > 1 else "same",
            use_bias=use_bias,
            kernel_initializer=initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=self.decay,
            bias_regularizer=self.decay,
        )(x)

    def batch_norm(self, x, momentum=0.9):
        return BatchNormalization(
            momentum=momentum, epsilon=1e-5, gamma_regularizer=self.decay, beta_regularizer=self.decay
        )(x)

    def dense(self, x, units, initializer="torch", **arguments):
        bias_initializer = "zeros"
        if initializer == "torch":
            initializer, bias_initializer = (torch_uniform(x.shape[-1]) for _ in range(2))
        return layers.Dense(
            units,
            kernel_initializer=initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=self.decay,
            bias_regularizer=self.decay,
            **arguments,
        )(x)

    def logits(self, x, num_classes, **arguments):
        return self.dense(x, num_classes, dtype="float32", **arguments)  # Also under mixed precision.


# --- Networks ---------------------------------------------------------------------------------------------------------


def vgg(x, num_classes, decayed, depth=16, batch_norm=False):
    """Five stages of 3 x 3 convolutions with max pooling, and two hidden layers of 512 with dropout before them."""
    repeats = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    for filters, count in zip((64, 128, 256, 512, 512), repeats):
        for _ in range(count):
            x = decayed.conv(x, filters, 3)
            x = layers.ReLU()(decayed.batch_norm(x) if batch_norm else x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = decayed.dense(layers.Dropout(0.5)(x), 512, activation="relu")
    return decayed.logits(x, num_classes)


def preresnet(x, num_classes, decayed, depth):
    """Pre-activation residual network: bottleneck blocks from depth 44 on, basic blocks below."""
    bottleneck = depth >= 44
    blocks, expansion = ((depth - 2) // 9, 4) if bottleneck else ((depth - 2) // 6, 1)
    conv = functools.partial(decayed.conv, use_bias=False)

    def activated(x):
        return layers.ReLU()(decayed.batch_norm(x))

    x = conv(x, 16, 3)
    for filters, first_stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            changes = stride > 1 or x.shape[-1] != expansion * filters
            shortcut = conv(x, expansion * filters, 1, stride) if changes else x
            x = activated(x)
            if bottleneck:
                x = activated(conv(x, filters, 1))
                x = activated(conv(x, filters, 3, stride))
                x = conv(x, expansion * filters, 1)
            else:
                x = activated(conv(x, filters, 3, stride))
                x = conv(x, filters, 3)
            x = layers.Add()([x, shortcut])
    return decayed.logits(layers.GlobalAveragePooling2D()(activated(x)), num_classes)


def wide_resnet(x, num_classes, decayed, depth, widen):
    """Wide residual network, with biases and the stride in the second convolution of a block, as in the authors' code.

    That layout differs from the one of Zagoruyko and Komodakis (2016), who stride in the first.
    """
    conv = functools.partial(decayed.conv, initializer="torch")
    x = conv(x, 16, 3)
    for filters, first_stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
        for block in range((depth - 4) // 6):
            stride = first_stride if block == 0 else 1
            shortcut = conv(x, filters, 1, stride) if block == 0 else x
            x = conv(layers.ReLU()(decayed.batch_norm(x)), filters, 3)
            x = conv(layers.ReLU()(decayed.batch_norm(x)), filters, 3, stride)
            x = layers.Add()([x, shortcut])
    x = layers.ReLU()(decayed.batch_norm(x, momentum=0.1))  # The authors write 0.9, in PyTorch's convention.
    return decayed.logits(layers.GlobalAveragePooling2D()(x), num_classes)


def conv_fc(x, num_classes, decayed):
    """Three 5 x 5 convolutions with overlapping max pooling, and two hidden layers of 1000."""
    for filters in (32, 64, 128):
        x = layers.ReLU()(decayed.conv(x, filters, 5))
        x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = decayed.dense(x, 1000, activation="relu")
    return decayed.logits(x, num_classes)


def small_cnn(x, num_classes, decayed, width=16, dropout=0.25, batch_norm=False):
    """A VGG in miniature: two stages of two 3 x 3 convolutions, and dropout around the hidden layer of the classifier.

    Args:
        width: Filters of the first stage; the second has twice as many.
        dropout: Rate before both dense layers, as in the paper's VGG.
        batch_norm: Whether each convolution is followed by BatchNormalization. Default: no.
    """
    for filters in (width, 2 * width):
        for _ in range(2):
            x = decayed.conv(x, filters, 3, initializer="he_normal")
            x = layers.ReLU()(decayed.batch_norm(x) if batch_norm else x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(dropout)(layers.Flatten()(x))
    x = layers.Dropout(dropout)(decayed.dense(x, 4 * width, "he_normal", activation="relu"))
    return decayed.logits(x, num_classes, initializer="he_normal")
