"""Small networks of the kinds that came after the paper, for images of 16 x 16 pixels and more.

Each takes the first stage's `width`, and is made by `inputs.networks.make_network`.
"""

import functools

from keras import initializers, layers, ops

EXPANSION, HEADS, DEPTH = 4, 4, 2


def mobilenet(x, num_classes, decayed, width=16, activation="relu6", squeeze=False):
    """Inverted residual blocks with depthwise convolutions (MobileNetV2, Sandler et al. 2018).

    Args:
        activation: That of convolutions, but the last of a block, which has none.
        squeeze: Whether channels are scaled by what their mean says (squeeze-and-excitation), as in EfficientNet.
    """
    conv = functools.partial(decayed.conv, use_bias=False)

    def activated(x):
        return layers.Activation(activation)(decayed.batch_norm(x))

    x = activated(conv(x, width, 3))
    for filters, count, first_stride in ((width, 1, 1), (3 * width // 2, 2, 2), (2 * width, 2, 2)):
        for block in range(count):
            stride, channels = first_stride if block == 0 else 1, x.shape[-1]
            h = activated(conv(x, EXPANSION * channels, 1))
            h = activated(_depthwise(h, stride, decayed))
            if squeeze:
                h = _squeezed(h, channels // 4, activation, decayed)
            h = decayed.batch_norm(conv(h, filters, 1))
            x = layers.Add()([x, h]) if stride == 1 and channels == filters else h
    x = layers.GlobalAveragePooling2D()(activated(conv(x, 8 * width, 1)))
    return decayed.logits(x, num_classes)


def _depthwise(x, stride, decayed):
    return layers.DepthwiseConv2D(
        3,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal"),
        depthwise_regularizer=decayed.decay,
    )(x)


def _squeezed(x, units, activation, decayed):
    mean = layers.GlobalAveragePooling2D(keepdims=True)(x)
    hidden = layers.Activation(activation)(decayed.conv(mean, units, 1))
    return layers.Multiply()([x, layers.Activation("sigmoid")(decayed.conv(hidden, x.shape[-1], 1))])


def efficientnet(x, num_classes, decayed, width=16):
    """`mobilenet` with squeeze-and-excitation and the smooth activation of EfficientNet (Tan and Le 2019)."""
    return mobilenet(x, num_classes, decayed, width, activation="silu", squeeze=True)


def cct(x, num_classes, decayed, width=16):
    """Compact convolutional transformer (Hassani et al. 2021): a convolution makes tokens, which are pooled at the end.

    Its tokens have no positions, one of the authors' variants; the convolution sees the borders of the image.
    """
    size, decay = 4 * width, decayed.decay
    norm = functools.partial(layers.LayerNormalization, gamma_regularizer=decay, beta_regularizer=decay)
    attention = functools.partial(layers.MultiHeadAttention, kernel_regularizer=decay, bias_regularizer=decay)
    x = layers.MaxPooling2D()(layers.ReLU()(decayed.conv(x, size, 3)))
    h = layers.Reshape((-1, size))(x)
    for _ in range(DEPTH):
        normed = norm()(h)
        h = layers.Add()([h, attention(HEADS, size // HEADS)(normed, normed)])
        hidden = decayed.dense(norm()(h), 2 * size, "glorot_uniform", activation="gelu")
        h = layers.Add()([h, decayed.dense(hidden, size, "glorot_uniform")])
    h = norm()(h)
    shares = ops.softmax(decayed.dense(h, 1, "glorot_uniform"), axis=1)
    return decayed.logits(ops.sum(h * shares, axis=1), num_classes)


MODERN = {"mobilenet": mobilenet, "efficientnet": efficientnet, "cct": cct}
