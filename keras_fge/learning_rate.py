"""A learning rate inside the compiled step of one `fit`: exact at every update, and gone afterwards.

With a changing learning rate alpha_i, SGD with momentum m has two meanings. The paper's code, in PyTorch, steps by

    v_i = m v_{i-1} + g_i,   w_i = w_{i-1} - alpha_i v_i           (Nesterov: w_i = w_{i-1} - alpha_i (g_i + m v_i))

Keras keeps u = -alpha v, and so goes on with the larger steps of before while the rate falls:

    u_i = m u_{i-1} - alpha_i g_i,   w_i = w_{i-1} + u_i           (Nesterov: w_i = w_{i-1} + m u_i - alpha_i g_i)

The two agree if u_{i-1} is first multiplied by alpha_i / alpha_{i-1}: that is the paper's step in Keras' variables.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_fge.core.keras_internals import (
    has_one_learning_rate,
    inner_optimizer,
    last_learning_rate,
    learning_rate_replaced,
    new_train_function,
    optimizer_calls,
    set_train_function,
    train_function,
    velocities_scaled,
)

# Where the rate reaches 0, Keras' velocity -alpha v would forget v. This share of the largest rate moves no weight.
SMALLEST_RATE = 1e-7
APPLIED = "_keras_fge_applied"


class LearningRateFunction(keras.optimizers.schedules.LearningRateSchedule):
    """A Keras schedule from a function of the iteration 1, 2, ..., counted from `start` calls of the optimizer on.

    Args:
        function: The rate as a function of the iteration.
        start: Calls of the optimizer before the first iteration. Default: 0.
        least: The least rate. Default: 0.
    """

    def __init__(self, function: Callable[[Any], Any], start: int = 0, least: float = 0.0):
        self.function = function
        self.start = int(start)
        self.least = least

    def __call__(self, iterations: Any) -> Any:
        return ops.maximum(self.function(iterations - self.start + 1), self.least)

    def of_last_update(self, optimizer: keras.optimizers.Optimizer) -> float:
        """The rate that the last update of `optimizer` had, or would have had, by this function."""
        calls = optimizer_calls(optimizer)
        last = calls - calls % (optimizer.gradient_accumulation_steps or 1)
        return float(ops.convert_to_numpy(self(last - 1)))

    def ratio(self, iterations: Any, calls_per_update: int, rate_before: float) -> Any:
        """alpha_i / alpha_{i-1} of the update after `iterations` calls; `rate_before` is alpha_0, before the first."""
        has_one_before = iterations - self.start >= calls_per_update
        before = ops.where(has_one_before, self(iterations - calls_per_update), rate_before)
        return self(iterations) / before


def scheduled_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer that holds the learning rate: the inner one of a `LossScaleOptimizer`.

    Raises:
        ValueError: for kinds that one learning rate as a function of the iteration does not fit.
    """
    optimizer = inner_optimizer(optimizer)
    if not has_one_learning_rate(optimizer):
        raise ValueError(f"An optimizer with one learning rate is needed. Received: {type(optimizer).__name__}")
    return optimizer


def has_momentum(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `optimizer` folds the learning rate into a velocity, so that the paper's step is another one."""
    return isinstance(optimizer, keras.optimizers.SGD) and optimizer.momentum > 0


@dataclasses.dataclass(frozen=True)
class _Applied:
    """The schedule of a `ScheduledStep`, and up to which call of the optimizer it was applied, at most."""

    schedule: LearningRateFunction
    end: int


def rate_of_last_update(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate with which `optimizer` made its last update.

    It is that of a `ScheduledStep`, also of one that broke off, unless there were updates since; then it is the rate
    that the optimizer has.
    """
    applied, calls = vars(optimizer).get(APPLIED), optimizer_calls(optimizer)
    last = calls - calls % (optimizer.gradient_accumulation_steps or 1)
    if applied and applied.schedule.start < last and calls <= applied.end:
        return applied.schedule.of_last_update(optimizer)
    return last_learning_rate(optimizer)


class ScheduledStep:
    """The compiled train step of `model`, traced with a schedule as the learning rate of `optimizer`.

    Keras does not say when `fit` breaks off, so nothing may stay in place that would act on a later one: `take_next`
    lets `fit` run this step once, and it takes itself out as it starts.

    Args:
        model: A model inside `fit`.
        optimizer: The one that holds its learning rate; see `scheduled_optimizer`.
        schedule: The learning rate.
        rate_before: The learning rate of the last update before, for the paper's step with momentum. None: Keras' step.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        schedule: LearningRateFunction,
        rate_before: float | None = None,
    ):
        self._model, self._optimizer, self._schedule, self._rate_before = model, optimizer, schedule, rate_before
        self._plain = train_function(model)
        self._compiled = new_train_function(model)
        self._epochs = model.history.epoch  # Each fit begins a list of its own.

    def take_next(self, calls: int) -> None:
        """Lets `fit` take this step for the execution that it announces, instead of the model's own.

        Args:
            calls: How often the optimizer was called before, at most.
        """
        # Not by `setattr`: Keras would track it. Not in a table here: the optimizer would never be freed.
        vars(self._optimizer)[APPLIED] = _Applied(self._schedule, calls + self._model.steps_per_execution)
        set_train_function(self._model, self._run)

    def _run(self, *args):
        set_train_function(self._model, self._plain)
        if self._model.history.epoch is not self._epochs:  # A fit broke off between announcement and execution.
            return self._plain(*args)
        with learning_rate_replaced(self._optimizer, self._schedule), self._momentum():
            return self._compiled(*args)

    def _momentum(self):
        if self._rate_before is None:
            return contextlib.nullcontext()
        accumulated, before = self._optimizer.gradient_accumulation_steps or 1, self._rate_before
        return velocities_scaled(self._optimizer, lambda calls: self._schedule.ratio(calls, accumulated, before))
