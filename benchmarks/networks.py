"""Networks, as functions of input shape and number of classes. All output logits."""

import functools

import keras
from keras import layers


def small_cnn(input_shape, num_classes, weight_decay=0.0, width=16, dropout=0.25, batch_norm=False):
    """A VGG in miniature: two stages of two 3 x 3 convolutions, and dropout around the hidden layer of the classifier.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
        weight_decay: wd of a loss term 0.5 * wd * ||w||^2 over all kernels and biases, as PyTorch's SGD decays.
        width: Filters of the first stage; the second has twice as many.
        dropout: Rate before both dense layers, as in the paper's VGG.
        batch_norm: Whether each convolution is followed by BatchNormalization. Default: no.
    """
    decay = keras.regularizers.L2(weight_decay / 2)
    arguments = {"kernel_initializer": "he_normal", "kernel_regularizer": decay, "bias_regularizer": decay}
    x = inputs = keras.Input(input_shape)
    for filters in (width, 2 * width):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", **arguments)(x)
            if batch_norm:
                x = layers.BatchNormalization(momentum=0.9, gamma_regularizer=decay, beta_regularizer=decay)(x)
            x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(dropout)(layers.Flatten()(x))
    x = layers.Dense(4 * width, activation="relu", **arguments)(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, layers.Dense(num_classes, **arguments)(x), name="small_cnn")


NETWORKS = {"small_cnn": small_cnn, "small_cnn_bn": functools.partial(small_cnn, batch_norm=True)}
