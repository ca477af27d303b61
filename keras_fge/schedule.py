"""Learning rates as functions of the iteration: the formulas; and the callback of ordinary training."""

import math
from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.keras_internals import has_momentum, last_learning_rate, warn_of_newer_keras
from keras_fge.core.networks import to_array
from keras_fge.learning_rate import scale_velocities, scheduled_optimizer, settle


def triangular(step: ArrayLike, max_learning_rate: float, min_learning_rate: float, cycle_steps: int) -> Any:
    """FGE's cyclical learning rate: from max down to min and back up, linearly, in every cycle.

        t(i) = (mod(i - 1, c) + 1) / c
        alpha(i) = (1 - 2 t) alpha_1 + 2 t alpha_2          for 0 < t <= 1/2
        alpha(i) = (2 - 2 t) alpha_2 + (2 t - 1) alpha_1    for 1/2 < t <= 1

    with i = `step`, c = `cycle_steps`, alpha_1 = `max_learning_rate`, alpha_2 = `min_learning_rate`. The minimum is
    reached at i = c/2, 3c/2, ...: there FGE collects its snapshots. If c is odd, the two steps around c/2 have the same
    rate, alpha_2 + (alpha_1 - alpha_2) / c, the smallest of the cycle.

    Args:
        step: Iteration, 1 for the first: integer, array or tensor.
        max_learning_rate, min_learning_rate: Learning rates at the ends and in the middle of a cycle.
        cycle_steps: Length of a cycle in iterations.

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
        keras_fge.piecewise_linear([100, 140, 180], 0.1, total_steps=200)  # [0.1, 0.0505, 0.001]

    References:
        Garipov et al., NeurIPS 2018, the authors' training code.
    """
    progress = ops.cast(step, "float32") / total_steps
    return learning_rate * ops.clip(1 - 0.99 * (progress - 0.5) / 0.4, 0.01, 1)


class PaperTraining(keras.callbacks.Callback):
    """Ordinary training of one network as in the paper: its learning rate, and PyTorch's step.

    At the start of epoch e = 0, 1, ... the learning rate becomes `piecewise_linear(e + 1, learning_rate, epochs)`, and
    stays afterwards. SGD with momentum steps as in the paper's code: Keras' velocity is -alpha v where PyTorch's is v,
    so when alpha changes, it is multiplied by the ratio (see `keras_fge.learning_rate`). Other optimizers get the
    rate alone. It needs no state of its own: a training that `Checkpoint` resumes goes on with it.

    Args:
        learning_rate: The rate of the first half of the training.
        epochs: Epochs of the whole training, whatever part of it a `fit` does.
        until: The epoch from which the rate is left alone, as for an `FGE` in the same `fit` with that `start_epoch`.
            Default: `epochs`.

    Raises:
        ValueError: if `learning_rate` is not positive, or `epochs` or `until` no positive integer; by `fit`, if the
            optimizer has a schedule or several learning rates.

    Example:
        paper = keras_fge.PaperTraining(0.05, epochs=6, until=4)
        fge = keras_fge.FGE(0.05, 0.0005, cycle_epochs=2, start_epoch=4)
        model.fit(x, y, epochs=6, verbose=0, callbacks=[paper, fge])

    References:
        Garipov et al., NeurIPS 2018, the authors' training code.
    """

    def __init__(self, learning_rate: float, epochs: int, until: int | None = None):
        super().__init__()
        self.learning_rate = as_number("learning_rate", learning_rate)
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be positive. Received: learning_rate={learning_rate}")
        self.epochs = as_integer("epochs", epochs)
        self.until = self.epochs if until is None else as_integer("until", until)

    def on_train_begin(self, logs=None):
        warn_of_newer_keras()
        optimizer = scheduled_optimizer(self.model.optimizer)
        settle(optimizer)
        if isinstance(optimizer.get_config()["learning_rate"], dict):
            raise ValueError("PaperTraining needs an optimizer with a number as learning rate. Received: a schedule")

    def on_epoch_begin(self, epoch, logs=None):
        if epoch >= self.until:
            return
        optimizer = scheduled_optimizer(self.model.optimizer)
        before = to_array(optimizer.learning_rate)
        rate = ops.convert_to_numpy(piecewise_linear(epoch + 1, self.learning_rate, self.epochs))
        if rate != before:
            if before and has_momentum(optimizer):
                scale_velocities(optimizer, rate / before)
            optimizer.learning_rate = float(rate)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and epoch < self.until:
            logs["learning_rate"] = last_learning_rate(scheduled_optimizer(self.model.optimizer))


def _phase(step, cycle_steps):
    """mod(step - 1, cycle_steps) + 1, in integers, as float32: exact however long the training."""
    return ops.cast(ops.mod(ops.convert_to_tensor(step) - 1, cycle_steps) + 1, "float32")
