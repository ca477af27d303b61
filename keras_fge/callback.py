"""`FGE` and `SnapshotEnsemble`: Keras callbacks that turn one training run into an ensemble."""

import abc
import warnings

import keras
from keras import ops

from keras_fge.ensemble import Ensemble
from keras_fge.schedule import LearningRateFunction, cosine, scheduled, scheduled_optimizer, triangular
from keras_fge.snapshots import Snapshot


class CyclicEnsemble(keras.callbacks.Callback, abc.ABC):
    """What `FGE` and `SnapshotEnsemble` share: a cyclical learning rate, and a snapshot at its minimum in every cycle.

    The learning rate is applied inside the compiled step, as a function of the optimizer's iteration count, so it is
    exact for every update, also with `steps_per_execution` > 1, and costs nothing. Each `fit` starts a cycle of its own
    at its first update; snapshots are added to those of earlier runs. After training, also after an error or an
    interrupt, the optimizer has the learning rate it had, and the next `fit` uses it.

    Attributes:
        snapshots: List of `Snapshot`, one for each cycle so far.
    """

    # Snapshots are taken before the next batch or at the end of the epoch: a callback that overrides
    # `on_train_batch_end` makes JAX wait for every step.

    def __init__(self, cycle_epochs, cycle_steps):
        super().__init__()
        if (cycle_epochs is None) == (cycle_steps is None):
            raise ValueError(
                "Give the length of a cycle as either `cycle_epochs` or `cycle_steps`. "
                f"Received: cycle_epochs={cycle_epochs}, cycle_steps={cycle_steps}"
            )
        name, length = ("cycle_epochs", cycle_epochs) if cycle_steps is None else ("cycle_steps", cycle_steps)
        if isinstance(length, bool) or int(length) != length or length < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={length!r}")
        self.cycle_epochs = cycle_epochs
        self.cycle_steps = cycle_steps
        self.snapshots = []

    @abc.abstractmethod
    def learning_rate(self, step, cycle_steps):
        """The learning rate of update `step` = 1, 2, ..., for a cycle of `cycle_steps` updates."""

    @abc.abstractmethod
    def position_of_minimum(self, cycle_steps):
        """The update of the cycle, 1 to `cycle_steps`, after which the snapshot is taken."""

    def ensemble(self, from_logits=None):
        """The `Ensemble` of the snapshots so far.

        Args:
            from_logits: Whether the network outputs logits. Default: as the compiled losses say.

        Raises:
            ValueError: if there is no snapshot yet, or the compiled losses do not say whether they take logits.
        """
        if not self.snapshots:
            raise ValueError("No snapshot has been collected yet: pass this callback to `fit`.")
        return Ensemble(self.model, self.snapshots, _takes_logits(self.model) if from_logits is None else from_logits)

    def on_train_begin(self, logs=None):
        model = self.model
        if self.snapshots:
            self.snapshots[0].check(model, 0)
        self._cycle = self._cycle_in_steps(self.params.get("steps"))
        self._snapshot_at = self.position_of_minimum(self._cycle)
        self._check_alignment(self.params.get("steps"), model.steps_per_execution)
        self._optimizer = scheduled_optimizer(model.optimizer)
        self._start = int(ops.convert_to_numpy(self._optimizer.iterations.value))
        self._run_begins = True
        self._install(model, LearningRateFunction(lambda step: self.learning_rate(step, self._cycle), self._start))

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self._steps_done()
        if self._run_begins:
            self._check_members(self.params["epochs"] - epoch)
            self._run_begins = False

    def on_train_batch_begin(self, batch, logs=None):
        self._armed = True
        if self._is_due(self._epoch_start + batch):
            # Updates that a LossScaleOptimizer skips do not count. The true number is costly to read on JAX, and never
            # larger than the count of batches: so it is enough to look here.
            self._epoch_start = self._steps_done() - batch
            self._collect_if_due(self._epoch_start + batch)

    def on_epoch_end(self, epoch, logs=None):
        step = self._steps_done()
        self._collect_if_due(step)
        if logs is not None:
            logs["learning_rate"] = self._learning_rate_at(max(step, 1))

    def on_train_end(self, logs=None):
        self.model.train_function = self._plain_function
        if not self._last_snapshot_step:
            warnings.warn(f"{type(self).__name__} collected no snapshot: training ended too early.", stacklevel=2)

    def _steps_done(self):
        _ = self.model  # On JAX, this brings the optimizer up to date.
        return int(ops.convert_to_numpy(self._optimizer.iterations.value)) - self._start

    def _learning_rate_at(self, step):
        return float(ops.convert_to_numpy(self.learning_rate(step, self._cycle)))

    def _is_due(self, step):
        return step % self._cycle == self._snapshot_at % self._cycle and step > self._last_snapshot_step

    def _collect_if_due(self, step):
        if self._is_due(step):
            self._last_snapshot_step = step
            self.snapshots.append(Snapshot.of(self.model, step, self._learning_rate_at(step)))

    def _install(self, model, schedule):
        """Replaces the compiled train function, for this run, by one that was traced with `schedule`."""
        history = model.history
        if getattr(model.train_function, "owner", self) is not self and model.train_function.history is history:
            raise ValueError(
                f"{type(self).__name__} and {type(model.train_function.owner).__name__} cannot share one `fit`: each "
                "sets the learning rate."
            )
        self._armed = False
        self._last_snapshot_step = 0
        plain = self._plain_function = getattr(model.train_function, "plain", model.train_function)
        cyclic = _make_train_function(model)

        def train_function(*args):
            # Keras does not say when fit breaks off. A later fit without this callback has another `history`, or, where
            # the user shares that, does not announce its batches here.
            if not (self._armed and model.history is history):
                model.train_function = plain
                return plain(*args)
            self._armed = False
            with scheduled(self._optimizer, schedule):
                return cyclic(*args)

        train_function.plain, train_function.owner, train_function.history = plain, self, history
        model.train_function = train_function

    def _cycle_in_steps(self, steps_per_epoch):
        if self.cycle_steps is not None:
            return self.cycle_steps
        if steps_per_epoch is None:
            raise ValueError(
                "`cycle_epochs` needs data of known length, but fit does not know the number of batches of an epoch. "
                "Use `cycle_steps`, or pass `steps_per_epoch` to fit."
            )
        return self.cycle_epochs * steps_per_epoch

    def _check_alignment(self, steps_per_epoch, steps_per_execution):
        """A snapshot can be taken only between two executions of the compiled function."""
        aligned = [self._cycle, self._snapshot_at] + ([steps_per_epoch] if steps_per_epoch else [])
        if any(steps % steps_per_execution for steps in aligned):
            raise ValueError(
                f"The snapshot after {self._snapshot_at} of the {self._cycle} steps of a cycle would fall inside an "
                f"execution of steps_per_execution={steps_per_execution} steps. Compile with a `steps_per_execution` "
                f"that divides {', '.join(str(steps) for steps in aligned)}, such as 1."
            )

    def _check_members(self, epochs):
        steps_per_epoch = self.params.get("steps")
        if steps_per_epoch and epochs * steps_per_epoch < self._snapshot_at:
            raise ValueError(
                f"This fit has {epochs} epochs of {steps_per_epoch} steps and would end before the first snapshot, "
                f"which is due after {self._snapshot_at} steps. Train longer, or use a shorter cycle."
            )


class FGE(CyclicEnsemble):
    """Fast Geometric Ensembling (paper, section 5, algorithm 1) as a callback of `model.fit`.

    Starts from a network that was trained in the usual way. The learning rate follows `keras_fge.triangular`, and after
    every update i with mod(i, c) = c/2, at the minimum, all weights are collected. With momentum m, choose cycles much
    longer than 1 / (1 - m) updates: Keras' SGD folds the learning rate into the velocity (PyTorch's does not), so its
    steps go on at the learning rates of that many updates before.

    Args:
        max_learning_rate: alpha_1, at the ends of a cycle.
        min_learning_rate: alpha_2, in its middle; at least 0, below `max_learning_rate`.
        cycle_epochs: Length c of a cycle in epochs. Default: 2, unless `cycle_steps` is given. The paper uses 2 or 4.
        cycle_steps: Length c of a cycle in iterations, instead of `cycle_epochs`. Must be even.

    Raises:
        ValueError: on bad arguments here; by `fit`, before the first update, if the cycle has an odd number of
            iterations, does not fit `steps_per_execution`, or is so long that no snapshot would be taken, and if the
            optimizer accumulates gradients, has several learning rates, or is driven by another such callback.

    Example:
        fge = keras_fge.FGE(max_learning_rate=0.05, min_learning_rate=0.0005, cycle_epochs=2)
        model.fit(x, y, epochs=12, callbacks=[fge])
        fge.ensemble().evaluate(x_test, y_test)

    References:
        Garipov et al., NeurIPS 2018, section 5, https://arxiv.org/abs/1802.10026
    """

    def __init__(self, max_learning_rate, min_learning_rate, cycle_epochs=None, cycle_steps=None):
        if not 0 <= min_learning_rate < max_learning_rate:
            raise ValueError(
                "`min_learning_rate` must be at least 0 and below `max_learning_rate`. Received: "
                f"max_learning_rate={max_learning_rate}, min_learning_rate={min_learning_rate}"
            )
        super().__init__(2 if cycle_epochs is None and cycle_steps is None else cycle_epochs, cycle_steps)
        if cycle_steps is not None:
            self.position_of_minimum(cycle_steps)
        self.max_learning_rate = max_learning_rate
        self.min_learning_rate = min_learning_rate

    def learning_rate(self, step, cycle_steps):
        return triangular(step, self.max_learning_rate, self.min_learning_rate, cycle_steps)

    def position_of_minimum(self, cycle_steps):
        if cycle_steps % 2:
            epochs = f" ({self.cycle_epochs} epochs)" if self.cycle_steps is None else ""
            cure = "an even `cycle_epochs`, or " if epochs else ""
            neighbours = " or ".join(str(steps) for steps in (cycle_steps - 1, cycle_steps + 1) if steps)
            raise ValueError(
                f"A cycle must have an even number of iterations, to have its minimum after half of them. Received: "
                f"{cycle_steps}{epochs}. Use {cure}`cycle_steps={neighbours}`."
            )
        return cycle_steps // 2


class SnapshotEnsemble(CyclicEnsemble):
    """Snapshot Ensembles (SSE) as a callback of `model.fit`: cosine cycles, a snapshot at the end of each.

    The learning rate follows `keras_fge.cosine`. Usually the whole training consists of a few long cycles.

    Args:
        max_learning_rate: alpha_0, at the start of each cycle.
        cycle_epochs: Length of a cycle in epochs.
        cycle_steps: Length of a cycle in iterations, instead of `cycle_epochs`.

    Raises:
        ValueError: on bad arguments here; by `fit`, before the first update, if the cycle does not fit
            `steps_per_execution`, or is so long that no snapshot would be taken.

    References:
        Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR 2017, https://arxiv.org/abs/1704.00109
    """

    def __init__(self, max_learning_rate, cycle_epochs=None, cycle_steps=None):
        if not max_learning_rate > 0:
            raise ValueError(f"`max_learning_rate` must be positive. Received: max_learning_rate={max_learning_rate}")
        super().__init__(cycle_epochs, cycle_steps)
        self.max_learning_rate = max_learning_rate

    def learning_rate(self, step, cycle_steps):
        return cosine(step, self.max_learning_rate, cycle_steps)

    def position_of_minimum(self, cycle_steps):
        return cycle_steps


def _takes_logits(model):
    """Whether all losses that `model` was compiled with take logits."""
    answers = set()
    for loss in keras.tree.flatten(model.loss):
        from_logits = getattr(loss, "from_logits", False)
        if from_logits and type(loss).__name__.startswith("Binary") and model.output_shape[-1] != 1:
            raise ValueError(
                "Logits of several independent binary outputs are not supported: end the network with a sigmoid. "
                f"Received: loss={loss!r}, output_shape={model.output_shape}"
            )
        if not isinstance(loss, (str, keras.losses.Loss)):
            raise ValueError(f"Say `ensemble(from_logits=True)` or `False`: the loss {loss!r} does not tell.")
        answers.add(bool(from_logits))
    if len(answers) > 1:
        raise ValueError("Some losses take logits and some do not: give all outputs one form.")
    return answers == {True}


def _make_train_function(model):
    """A compiled train function whose trace no other one shares.

    JAX finds the trace of an equal function again, and `model.train_step` always equals itself; hence the detour.
    """
    own, step = model.__dict__.get("train_step"), model.train_step
    model.train_step = lambda *args: step(*args)
    try:
        model.make_train_function(force=True)
    finally:
        del model.train_step
        if own is not None:
            model.train_step = own
    return model.train_function
