"""A learning rate inside the compiled step of one `fit`: exact at every update, and gone afterwards."""

from collections.abc import Callable
from typing import Any

import keras

from keras_fge.core.keras_internals import (
    has_one_learning_rate,
    learning_rate_replaced,
    new_train_function,
    set_train_function,
    train_function,
)


class LearningRateFunction(keras.optimizers.schedules.LearningRateSchedule):
    """A Keras schedule from a function of the iteration 1, 2, ..., counted from `start` calls of the optimizer on."""

    def __init__(self, function: Callable[[Any], Any], start: int = 0):
        self.function = function
        self.start = int(start)

    def __call__(self, iterations: Any) -> Any:
        return self.function(iterations - self.start + 1)


def scheduled_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer that holds the learning rate: the inner one of a `LossScaleOptimizer`.

    Raises:
        ValueError: for kinds that one learning rate as a function of the iteration does not fit.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not has_one_learning_rate(optimizer):
        raise ValueError(f"An optimizer with one learning rate is needed. Received: {type(optimizer).__name__}")
    return optimizer


class ScheduledStep:
    """The compiled train step of `model`, traced with a schedule as the learning rate of `optimizer`.

    Keras does not say when `fit` breaks off, so nothing may stay in place that would act on a later one: `take_next`
    lets `fit` run this step once, and it takes itself out as it starts.

    Args:
        model: A model inside `fit`.
        optimizer: The one that holds its learning rate; see `scheduled_optimizer`.
        schedule: A Keras learning rate schedule.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, schedule: LearningRateFunction):
        self._model, self._optimizer, self._schedule = model, optimizer, schedule
        self._plain = train_function(model)
        self._compiled = new_train_function(model)
        self._epochs = model.history.epoch  # Each fit begins a list of its own.

    def take_next(self) -> None:
        """Lets `fit` take this step for the execution that it announces, instead of the model's own."""
        set_train_function(self._model, self._run)

    def _run(self, *args):
        set_train_function(self._model, self._plain)
        if self._model.history.epoch is not self._epochs:  # A fit broke off between announcement and execution.
            return self._plain(*args)
        with learning_rate_replaced(self._optimizer, self._schedule):
            return self._compiled(*args)
