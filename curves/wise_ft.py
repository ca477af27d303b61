"""`wise_ft`: a network on the line between a pretrained and a fine-tuned one, chosen on validation data."""

from typing import Any

import keras
import numpy as np

from curves.connect import connect
from curves.parametrization import Bezier
from keras_fge.core.arguments import as_integer
from keras_fge.core.batch_norm import check_can_be_estimated, update_batch_norm
from keras_fge.core.compile_as import compile_as
from keras_fge.core.compiled import compiled_outputs
from keras_fge.core.networks import set_weights
from keras_fge.core.predictions import predicted


def wise_ft(
    pretrained: keras.Model,
    finetuned: keras.Model,
    x: Any,
    y: Any,
    *,
    train: Any = None,
    num_points: int = 11,
    batch_size: int = 128,
) -> keras.Model:
    """Interpolates between a pretrained and a fine-tuned network: w(t) = (1 - t) w_pretrained + t w_finetuned.

    Of `num_points` evenly spaced t, the endpoints included, it takes the one with the lowest NLL on validation data
    (for values, mean squared error; of several outputs, the sum). Of equally good ones, that nearest to the pretrained
    network. The more the validation data look like what the network will meet, the better the choice.

    Args:
        pretrained: The network before fine-tuning, of the same architecture, with the same layers frozen. Its head must
            be for the same classes: if fine-tuning brings a new one, train that alone first, and take that network.
        finetuned: The network after it, compiled: its losses tell what it outputs.
        x, y: Validation arrays. Never test data: what chose the position cannot measure it.
        train: Training data, for the statistics of BatchNormalization between the ends. Needed if the network trains
            such layers.
        num_points: Number of positions, at least 2. Default: 11.
        batch_size: Samples per batch, for arrays. Default: 128.

    Returns:
        A `keras.Model` of its own, compiled as `finetuned` is.

    Raises:
        ValueError: if the architectures differ, `finetuned` is not compiled, the network has BatchNormalization and
            `train` is missing, or no position has finite predictions.

    Example:
        network = curves.wise_ft(net_a, net_b, x_test, y_test, train=(x, y), num_points=3)

    References:
        Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, https://arxiv.org/abs/2109.01903
    """
    num_points = as_integer("num_points", num_points, least=2)
    line = connect(pretrained, finetuned, Bezier(2))
    if not finetuned.compiled:
        raise ValueError("`finetuned` must be compiled: its loss tells what the network outputs.")
    check_can_be_estimated(finetuned, train)
    network = line.network_at(1)

    def put(t):
        set_weights(network, line.weights_at(t))
        if train is not None and 0 < t < 1:  # The ends have statistics of their own.
            update_batch_norm(network, train, batch_size)

    positions = np.linspace(0, 1, num_points)
    outputs, losses = None, []
    for t in positions[::-1]:  # The fine-tuned one first: its outputs show what kind they are.
        put(t)
        predictions = predicted(network, x, batch_size)
        outputs = outputs or compiled_outputs(finetuned, predictions)
        losses.append(outputs.loss(finetuned, outputs.probabilities(predictions), y))
    if not np.isfinite(min(losses)):
        raise ValueError("The predictions of both networks, and between them, are not finite.")
    put(positions[np.argmin(losses[::-1])])
    return compile_as(network, finetuned)
