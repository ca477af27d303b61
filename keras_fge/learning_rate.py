"""A learning rate inside the compiled step of one `fit`: exact at every update, and gone afterwards.

With a changing learning rate alpha_i, SGD with momentum m has two meanings. The paper's code, in PyTorch, steps by

    v_i = m v_{i-1} + g_i,   w_i = w_{i-1} - alpha_i v_i           (Nesterov: w_i = w_{i-1} - alpha_i (g_i + m v_i))

Keras keeps u = -alpha v, and so goes on with the larger steps of before while the rate falls:

    u_i = m u_{i-1} - alpha_i g_i,   w_i = w_{i-1} + u_i           (Nesterov: w_i = w_{i-1} + m u_i - alpha_i g_i)

The two agree if u_{i-1} is first multiplied by alpha_i / alpha_{i-1}: that is the paper's step in Keras' variables.
Between two `fit`s, the velocity is that of the learning rate which the optimizer has: see `settle`.
"""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_fge.core.batch_norm import batch_norm_layers
from keras_fge.core.keras_internals import (
    averages_weights,
    has_momentum,
    has_one_learning_rate,
    inner_optimizer,
    last_learning_rate,
    learning_rate_replaced,
    new_train_function,
    optimizer_calls,
    own_learning_rate,
    set_train_function,
    train_function,
    velocities,
    velocities_scaled,
)
from keras_fge.cycle import start_of_cycles

# Where the rate reaches 0, Keras' velocity -alpha v would forget v. This share of the largest rate moves no weight.
SMALLEST_RATE = 1e-7


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


def scale_velocities(optimizer: keras.optimizers.Optimizer, factor: float) -> None:
    """Multiplies the velocities of `optimizer`, if it has made any, as its learning rate changes by this factor."""
    for velocity in velocities(optimizer):
        velocity.assign(velocity * factor)


def check_optimizer(model: keras.Model) -> None:
    """Raises a ValueError if no snapshot could hold the weights that the optimizer of `model` means."""
    optimizer = inner_optimizer(model.optimizer)
    if not averages_weights(optimizer):
        return
    if not optimizer.built:  # By `fit` on TensorFlow, it would be with averages of 0, and these become the weights.
        raise ValueError(
            f"{type(optimizer).__name__} needs a built network: call '{model.name}' on some data before `fit`."
        )
    if norms := batch_norm_layers(model):
        raise ValueError(
            f"{type(optimizer).__name__} means averaged weights, for which BatchNormalization '{norms[0].name}' would "
            "have the statistics of others: use another optimizer, or another normalization."
        )


def check_largest_rate(optimizer: keras.optimizers.Optimizer, largest: float, steps: int | None) -> None:
    """Raises a ValueError if `optimizer` takes smaller rates than `largest` before it has made `steps` more steps."""
    if not isinstance(optimizer, keras.optimizers.Adafactor):
        return
    calls = optimizer_calls(optimizer) + (steps or 0)
    limit = 0.0 if steps is None else max(calls // (optimizer.gradient_accumulation_steps or 1), 1) ** -0.5
    if largest > limit:
        end = "the number of steps is not known" if steps is None else f"which is {limit:.3g} at the end of this `fit`"
        raise ValueError(
            f"`max_learning_rate`: at update i, Adafactor takes 1 / sqrt(i) at most; {end}. Give less, or another "
            f"optimizer. Received: max_learning_rate={largest:g}"
        )


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

    def take_next(self) -> None:
        """Lets `fit` take this step for the execution that it announces, instead of the model's own."""
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


# Optimizers whose velocity is that of a schedule: (the schedule, calls of the optimizer up to which it was applied).
# A `fit` that breaks off tells nobody, and the next callback may be another one, so no callback can keep this. The
# entry holds a function of numbers, no model, and goes with the optimizer.
_unsettled: weakref.WeakKeyDictionary[keras.optimizers.Optimizer, tuple[LearningRateFunction, int]]
_unsettled = weakref.WeakKeyDictionary()


def settle(optimizer: keras.optimizers.Optimizer) -> None:
    """Brings the velocity that the cycles of a `fit` have left to the learning rate that `optimizer` has."""
    schedule, end = _unsettled.pop(optimizer, (None, 0))
    calls = optimizer_calls(optimizer)
    last = calls - calls % (optimizer.gradient_accumulation_steps or 1)
    if schedule and schedule.start < last and calls <= end:  # Else another training has gone on from there.
        own = max(last_learning_rate(optimizer), schedule.least)
        scale_velocities(optimizer, own / schedule.of_last_update(optimizer))


class CyclicRate:
    """The cyclical learning rate of one `fit`: the steps of the cycles so far, and the compiled step that has it.

    Args:
        model: The model, whose optimizer is settled.
        rescales: Whether SGD with momentum takes the paper's step.

    Attributes:
        optimizer: The one that holds the learning rate; see `scheduled_optimizer`.
        rescales: Whether the optimizer has such a momentum, and takes that step.
        start: Calls of the optimizer before the first step of the first cycle; None until that begins.
        before: Learning rate of the last update before the cycles.
        schedule: The learning rate, once `set_function` was called.
    """

    def __init__(self, model: keras.Model, rescales: bool):
        self.optimizer = scheduled_optimizer(model.optimizer)
        settle(self.optimizer)
        self.rescales = rescales and has_momentum(self.optimizer)
        self.start: Any = None
        self.before = last_learning_rate(self.optimizer)
        self._own: float | None = None  # The learning rate of the optimizer in the cycles, if it is a number.
        self.schedule: Any = None
        self._step: Any = None
        self._steps_per_execution = model.steps_per_execution

    def set_start(self) -> None:
        """The cycles begin now."""
        accumulated = self.optimizer.gradient_accumulation_steps or 1
        self.start = start_of_cycles(optimizer_calls(self.optimizer), accumulated)

    def set_function(self, function: Callable[[Any], Any], largest: float) -> None:
        """Sets the rate as a function of the step 1, 2, ...; `largest` is its largest value."""
        least = SMALLEST_RATE * largest if self.rescales else 0.0
        self.schedule = LearningRateFunction(function, self.start, least)

    def compile(self, model: keras.Model) -> None:
        """Makes the compiled step of `model`."""
        self._own = own_learning_rate(self.optimizer)
        before = max(self.before, self.schedule.least) if self.rescales else None
        self._step = ScheduledStep(model, self.optimizer, self.schedule, before)

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` was called in this `fit`."""
        return self._step is not None

    def take_next(self, steps_before: int) -> None:
        """Gives the announced execution, after `steps_before` steps of the cycles, the cyclical rate."""
        if self.rescales:
            _unsettled[self.optimizer] = self.schedule, self.start + steps_before + self._steps_per_execution
        self._step.take_next()

    def steps_done(self) -> int:
        """Steps of the cycles so far. On JAX, the model must have been brought up to date."""
        return optimizer_calls(self.optimizer) - self.start

    def of_last_update(self) -> float:
        """The learning rate of the last update."""
        if self.start is None or not self.steps_done():
            return last_learning_rate(self.optimizer)
        return self.schedule.of_last_update(self.optimizer)

    def change_from(self, rate: float) -> None:
        """After a resume with another function: the velocity is that of `rate`, which the last update had before."""
        if self.rescales and self.steps_done():
            scale_velocities(self.optimizer, self.schedule.of_last_update(self.optimizer) / rate)

    def put_back(self) -> None:
        """Gives the optimizer its own learning rate again, if another callback has changed that in the cycles."""
        if self._own is not None and own_learning_rate(self.optimizer) != self._own:
            self.optimizer.learning_rate = self._own

    def end(self) -> None:
        """Ends the cycles with their `fit`. On JAX, the model must have been brought up to date."""
        self.put_back()
        if self.rescales and self.schedule:  # Also of a run that was finished: its velocity came from the folder.
            _unsettled.setdefault(self.optimizer, (self.schedule, optimizer_calls(self.optimizer)))
        settle(self.optimizer)
        self._step = None
