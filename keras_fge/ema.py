"""`EMA`: exponential moving averages of the weights, over several horizons at once, as a callback of `fit`."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.compiled import compiled_outputs
from keras_fge.core.networks import locked, to_array
from keras_fge.core.predictions import predicted
from keras_fge.ensemble import Ensemble
from keras_fge.run import EMACounters, Resumable, Snapshot

SAMPLES = 20  # Of the weights in the shortest horizon, if the user does not say how many.


class EMA(Resumable):
    """Keeps exponential moving averages (EMA) of the weights of a training, one for each horizon.

    Every few updates the weights w are sampled. An average a with a horizon of h epochs, of s updates each, takes a
    sample that comes d updates after the last one by

        b = exp(-d / (h s)),   S <- b S + (1 - b),   a <- a + (1 - b) / S (w - a),   S = 0 at first

    so a is a weighted mean of all samples, in which one that is h epochs older counts 1/e as much. (The division by S
    takes out the start, as Adam does with its moments.) Training itself is as it would be without this callback. Which
    horizon is best depends on the learning rate and on the length of the training, and all of them cost one training:
    `best` chooses on validation data.

    Trainable weights are averaged; others, as statistics of BatchNormalization, are those of the last sample. They do
    not fit averaged weights: give the training data as `train`, to estimate them anew.

    Args:
        horizons: Epochs, in each of which the weight of a sample falls by 1/e: numbers above 0. Default: 0.5, 1, 2, 4.
        every: Updates from one sample to the next. Default: a twentieth of the shortest horizon, at least 1. Each
            sample copies the weights to the host; on JAX it also waits for the step before.
        directory: Folder for the averages and the whole state of the training, as for `Checkpoint`. Default: they stay
            in memory.
        resume: Whether to go on with the training in `directory`, if there is one. Default: a training there is an
            error.

    Attributes:
        horizons: As given, as a tuple.
        snapshots: The averages, one `Snapshot` for each horizon; none before the first sample.
        epoch: The epoch that `fit` is in, 0 before.

    Raises:
        ValueError: on bad arguments here; by `fit`, before the first update, if the number of steps of an epoch is not
            known, if `directory` holds another training, or if another callback of this library that resumes is in the
            same `fit`.
        OSError: if the state cannot be written. The one before is untouched.

    Example:
        ema = keras_fge.EMA(horizons=(0.5, 1, 2))
        model.fit(ema.batches(x, y, batch_size=32), epochs=4, verbose=0, callbacks=[ema])
        network = ema.best(x_val, y_val, train=(x, y))  # A compiled network, with the average that fits best.
        ema.ensemble().evaluate_sizes(x_test, y_test)

    References:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; Morales-Brotons et al.,
        Exponential Moving Average of Weights in Deep Learning: Dynamics and Benefits, TMLR 2024,
        https://arxiv.org/abs/2411.18704
    """

    def __init__(
        self,
        horizons: Sequence[float] = (0.5, 1, 2, 4),
        every: int | None = None,
        directory: str | os.PathLike | None = None,
        resume: bool = False,
    ):
        if resume and directory is None:
            raise ValueError("`resume=True` needs the `directory` of the training to resume.")
        super().__init__(directory, resume)
        given = [horizons] if isinstance(horizons, int | float) else horizons
        self.horizons = tuple(as_number("horizons", horizon) for horizon in given)
        if not self.horizons or min(self.horizons) <= 0 or len(set(self.horizons)) < len(self.horizons):
            raise ValueError(f"`horizons` must be different numbers above 0. Received: horizons={horizons}")
        self.every = every if every is None else as_integer("every", every, least=1)
        # Of the present, or the last, `fit`:
        self._averages: list[list[np.ndarray]] = []  # Of the trainable weights, for each horizon, in float64.
        self._last: list[np.ndarray] = []  # All weights of the last sample.
        self._sums = [0.0] * len(self.horizons)  # S, for each horizon.
        self._step = self._step_of_sample = self._steps_before = 0
        self._steps = self._interval = 1  # Updates of an epoch, and from one sample to the next.

    @property
    def snapshots(self) -> list[Snapshot]:
        places = _trainable_places(self.model) if self._averages else []
        snapshots = []
        for average in self._averages:
            weights = list(self._last)
            for place, value in zip(places, average, strict=True):
                weights[place] = value.astype(weights[place].dtype)
            snapshots.append(Snapshot(weights, self._step_of_sample))
        return snapshots

    def ensemble(self) -> Ensemble:
        """The `Ensemble` of the averages, a member for each horizon.

        Raises:
            ValueError: if there is no average yet, or the compiled losses do not say whether they take logits.
        """
        if not self._averages:
            raise ValueError("There is no average yet: pass this callback to `fit`.")
        outputs = compiled_outputs(self.model)
        return Ensemble(self.model, self.snapshots, outputs.from_logits, outputs.task)

    def network(self, horizon: float, train: Any = None) -> keras.Model:
        """The network with the average over `horizon`, compiled as the one that was trained.

        Args:
            horizon: One of `horizons`.
            train: Training data, to estimate the statistics of BatchNormalization on; see `Ensemble.average_weights`.
        """
        if horizon not in self.horizons:
            raise ValueError(f"`horizon` must be one of {self.horizons}. Received: horizon={horizon}")
        index = self.horizons.index(horizon)
        return self.ensemble()[index : index + 1].average_weights(train)

    def best(self, x: Any, y: Any, train: Any = None) -> keras.Model:
        """The network, as of `network`, whose average has the least NLL (or mean squared error) on validation data.

        Args:
            x, y: Validation arrays. Never test data.
            train: As for `network`.
        """
        outputs = compiled_outputs(self.model)

        def loss(network):
            predictions = outputs.probabilities(predicted(network, x, None))
            return np.nan_to_num(outputs.loss(network, predictions, y), nan=np.inf)

        return min((self.network(horizon, train) for horizon in self.horizons), key=loss)

    # --- The hooks, in the order in which `fit` calls them ------------------------------------------------------------

    def _check(self, model, fit):
        self._steps = self.params.get("steps")
        if not self._steps:
            raise ValueError("`horizons` are in epochs, and these data do not say how many steps an epoch has.")
        self._interval = self.every or max(1, round(min(self.horizons) * self._steps / SAMPLES))
        self._averages, self._sums, self._step, self._step_of_sample = [], [0.0] * len(self.horizons), 0, 0

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._steps_before = self._step

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch, logs)
        self._step = self._steps_before + batch
        if self._step - self._step_of_sample >= self._interval:
            self._sample()

    def on_epoch_end(self, epoch, logs=None):
        self._step = self._steps_before + self._steps
        self._sample()
        super().on_epoch_end(epoch, logs)

    def _sample(self):
        elapsed = self._step - self._step_of_sample
        if not elapsed:
            return
        model = self.model
        with locked(model):
            self._last = [to_array(variable) for variable in model.weights]
        weights = [self._last[place].astype("float64") for place in _trainable_places(model)]
        self._averages = self._averages or [list(weights) for _ in self.horizons]
        for index, horizon in enumerate(self.horizons):
            rest = np.exp(-elapsed / (horizon * self._steps))
            self._sums[index] = rest * self._sums[index] + (1 - rest)
            share = (1 - rest) / self._sums[index]
            average = self._averages[index]
            self._averages[index] = [a + share * (w - a) for a, w in zip(average, weights, strict=True)]
        self._step_of_sample = self._step

    # --- The training in the folder -----------------------------------------------------------------------------------

    def _kind_of_counters(self):
        return EMACounters

    def _own_settings(self):
        return {"callback": type(self).__name__, "horizons": list(self.horizons), "every": self._interval}

    def _holds_run(self):
        return self._state.exists()

    def _begin(self, model):
        self._write_state(0)

    def _read(self, model, stored):
        counters = stored.counters
        self._step, self._step_of_sample, self._sums = counters["step"], counters["step_of_sample"], counters["sums"]
        shapes = [tuple(variable.shape) for variable in model.trainable_variables]
        count = len(self.horizons) * len(shapes) if self._step_of_sample else 0
        arrays = [stored.own.get(f"{index:06}") for index in range(len(stored.own))]
        expected = shapes * len(self.horizons) if count else []
        if [array is not None and array.shape for array in arrays] != expected or len(self._sums) != len(self.horizons):
            raise ValueError("the averages in its state do not fit the network.")
        self._averages = [arrays[begin : begin + len(shapes)] for begin in range(0, count, len(shapes))]

    def _adopt(self, stored, changed):
        self._last = [to_array(variable) for variable in self.model.weights]  # A state is written after a sample.

    def _counters(self):
        return {"step": self._step, "step_of_sample": self._step_of_sample, "sums": self._sums}

    def _own_arrays(self):
        arrays = [array for average in self._averages for array in average]
        return {f"{index:06}": array for index, array in enumerate(arrays)}


def _trainable_places(model):
    """The indices of the trainable weights of `model` among all its weights."""
    return [index for index, variable in enumerate(model.weights) if variable.trainable]
