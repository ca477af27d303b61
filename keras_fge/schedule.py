"""Learning rates as functions of the iteration: the formulas."""

import math
from typing import Any

from keras import ops
from numpy.typing import ArrayLike


def triangular(step: ArrayLike, max_learning_rate: float, min_learning_rate: float, cycle_steps: int) -> Any:
    """FGE's cyclical learning rate: from max down to min and back up, linearly, in every cycle.

        t(i) = (mod(i - 1, c) + 1) / c
        alpha(i) = (1 - 2 t) alpha_1 + 2 t alpha_2          for 0 < t <= 1/2
        alpha(i) = (2 - 2 t) alpha_2 + (2 t - 1) alpha_1    for 1/2 < t <= 1

    with i = `step`, c = `cycle_steps`, alpha_1 = `max_learning_rate`, alpha_2 = `min_learning_rate`. The minimum is
    reached at i = c/2, 3c/2, ...: there FGE collects its snapshots.

    Args:
        step: Iteration, 1 for the first: integer, array or tensor.
        max_learning_rate, min_learning_rate: Learning rates at the ends and in the middle of a cycle.
        cycle_steps: Length of a cycle in iterations, an even number.

    Returns:
        float32 tensor of the shape of `step`.

    Example:
        keras_fge.triangular([1, 2, 3, 4], 0.05, 0.01, cycle_steps=4)  # [0.03, 0.01, 0.03, 0.05]

    References:
        Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018, section 5,
        https://arxiv.org/abs/1802.10026
    """
    t = _phase(step, cycle_steps) / cycle_steps
    falling = (1 - 2 * t) * max_learning_rate + 2 * t * min_learning_rate
    rising = (2 - 2 * t) * min_learning_rate + (2 * t - 1) * max_learning_rate
    return ops.where(t <= 0.5, falling, rising)


def cosine(step: ArrayLike, max_learning_rate: float, cycle_steps: int) -> Any:
    """The learning rate of Snapshot Ensembles: in each cycle from max towards 0 along half a cosine, then back up.

        alpha(i) = alpha_0 / 2 (cos(pi mod(i - 1, c) / c) + 1)

    Args:
        step: Iteration, 1 for the first: integer, array or tensor.
        max_learning_rate: alpha_0, the rate at the start of each cycle.
        cycle_steps: c, the length of a cycle in iterations.

    Returns:
        float32 tensor of the shape of `step`.

    Example:
        keras_fge.cosine([1, 2, 3, 4], 0.1, cycle_steps=4)  # [0.1, 0.085, 0.05, 0.015]

    References:
        Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR 2017, equation (2),
        https://arxiv.org/abs/1704.00109
    """
    return max_learning_rate / 2 * (ops.cos(math.pi * (_phase(step, cycle_steps) - 1) / cycle_steps) + 1)


def piecewise_linear(step: ArrayLike, learning_rate: float, total_steps: int) -> Any:
    """The paper's learning rate for training one network: constant for the first half of the steps, then linearly down
    to 1 % of it at 90 % of the steps, then constant.

    Args:
        step: Iteration, 1 for the first: integer, array or tensor.
        learning_rate: The rate of the first half.
        total_steps: Iterations of the whole training.

    Returns:
        float32 tensor of the shape of `step`.

    Example:
        rate = lambda epoch: float(keras_fge.piecewise_linear(epoch + 1, 0.1, 200))
        keras.callbacks.LearningRateScheduler(rate)  # The paper's, for 200 epochs.

    References:
        Garipov et al., NeurIPS 2018, the authors' training code.
    """
    progress = ops.cast(step, "float32") / total_steps
    return learning_rate * ops.clip(1 - 0.99 * (progress - 0.5) / 0.4, 0.01, 1)


def _phase(step, cycle_steps):
    """mod(step - 1, cycle_steps) + 1, in integers, as float32: exact however long the training."""
    return ops.cast(ops.mod(ops.convert_to_tensor(step) - 1, cycle_steps) + 1, "float32")
