"""Networks, as functions of input shape and number of classes. All output logits."""

import keras
from keras import layers


def small_cnn(input_shape, num_classes, width=32):
    """Four 3 x 3 convolutions in two stages and a dense layer, without BatchNormalization: a VGG in miniature."""
    inputs = keras.Input(input_shape)
    x = inputs
    for filters in (width, 2 * width):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(4 * width, activation="relu", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, layers.Dense(num_classes)(x), name="small_cnn")
