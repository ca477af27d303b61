"""Learning rates as functions of the iteration, and the engine that applies them inside the compiled step."""

import contextlib
import math

import keras
from keras import ops


def triangular(step, max_learning_rate, min_learning_rate, cycle_steps):
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

    References:
        Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018, section 5,
        https://arxiv.org/abs/1802.10026
    """
    t = _phase(step, cycle_steps) / cycle_steps
    falling = (1 - 2 * t) * max_learning_rate + 2 * t * min_learning_rate
    rising = (2 - 2 * t) * min_learning_rate + (2 * t - 1) * max_learning_rate
    return ops.where(t <= 0.5, falling, rising)


def cosine(step, max_learning_rate, cycle_steps):
    """The learning rate of Snapshot Ensembles: in each cycle from max towards 0 along half a cosine, then back up.

        alpha(i) = alpha_0 / 2 (cos(pi mod(i - 1, c) / c) + 1)

    Args:
        step: Iteration, 1 for the first: integer, array or tensor.
        max_learning_rate: alpha_0, the rate at the start of each cycle.
        cycle_steps: c, the length of a cycle in iterations.

    Returns:
        float32 tensor of the shape of `step`.

    References:
        Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR 2017, equation (2),
        https://arxiv.org/abs/1704.00109
    """
    return max_learning_rate / 2 * (ops.cos(math.pi * (_phase(step, cycle_steps) - 1) / cycle_steps) + 1)


def piecewise_linear(step, learning_rate, total_steps):
    """The paper's learning rate for training one network: constant for the first half of the steps, then linearly down
    to 1 % of it at 90 % of the steps, then constant.

    Args:
        step: Iteration, 1 for the first: integer, array or tensor.
        learning_rate: The rate of the first half.
        total_steps: Iterations of the whole training.

    Returns:
        float32 tensor of the shape of `step`.

    References:
        Garipov et al., NeurIPS 2018, the authors' training code.
    """
    progress = ops.cast(step, "float32") / total_steps
    return learning_rate * ops.clip(1 - 0.99 * (progress - 0.5) / 0.4, 0.01, 1)


def _phase(step, cycle_steps):
    """mod(step - 1, cycle_steps) + 1, in integers, as float32: exact however long the training."""
    return ops.cast(ops.mod(ops.convert_to_tensor(step) - 1, cycle_steps) + 1, "float32")


class LearningRateFunction(keras.optimizers.schedules.LearningRateSchedule):
    """A Keras schedule from a function of the iteration 1, 2, ..., counted from `start` updates of the optimizer on."""

    def __init__(self, function, start=0):
        self.function = function
        self.start = int(start)

    def __call__(self, iterations):
        return self.function(iterations - self.start + 1)


def scheduled_optimizer(optimizer):
    """The optimizer that holds the learning rate: the inner one of a `LossScaleOptimizer`.

    Raises:
        ValueError: for kinds that one learning rate as a function of the iteration does not fit.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(optimizer, "_learning_rate") or hasattr(optimizer, "optimizers"):
        raise ValueError(f"An optimizer with one learning rate is needed. Received: {type(optimizer).__name__}")
    return optimizer


@contextlib.contextmanager
def scheduled(optimizer, schedule):
    """Inside, `optimizer` steps with `schedule`; outside, it has the learning rate it had.

    The public setter would drop the learning rate variable for good, so that checkpoints of the optimizer no longer
    match, and would refuse a number afterwards.
    """
    own = optimizer._learning_rate
    optimizer._learning_rate = schedule
    try:
        yield
    finally:
        optimizer._learning_rate = own
