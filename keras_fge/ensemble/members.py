"""`Members`: the members of an ensemble, put into one network one after the other, to predict or to be averaged."""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.batch_norm import update_batch_norm
from keras_fge.core.data import check_can_be_read_again
from keras_fge.core.networks import borrowed, set_weights
from keras_fge.core.output import Output
from keras_fge.core.predictions import RunningMean, check_order, only_part, predict_with_labels, predicted
from keras_fge.core.tasks import Outputs, Temperature
from keras_fge.ensemble.stacked import Stacked, stacked_of
from keras_fge.ensemble.trunk import Trunk, trunk_of
from keras_fge.run import Batches, Snapshot


class Members:
    """Members of one network, whose own weights come back after each method.

    Args:
        network: The network.
        snapshots: The members.
        outputs: What the network outputs.
        weights: Shares of the members; None: equal ones.
        temperature: That of the mean, see `Ensemble.calibrated`. Default: none.

    Attributes:
        network, snapshots, outputs, weights, temperature: As given.
        shares: The shares, 1 each if they are equal.
    """

    def __init__(
        self,
        network: keras.Model,
        snapshots: Sequence[Snapshot],
        outputs: Outputs,
        weights: Sequence[float] | None,
        temperature: Temperature = None,
    ):
        self.network, self.snapshots, self.outputs = network, snapshots, outputs
        self.weights, self.temperature = weights, temperature
        self.shares = [1.0] * len(snapshots) if weights is None else weights

    def __len__(self) -> int:
        return len(self.snapshots)

    def one_output(self, name: str) -> Output:
        """What the one output is.

        Raises:
            ValueError: if there are several; it names what needs one.
        """
        given = self.outputs.from_logits, self.outputs.task
        if any(isinstance(value, list | tuple) and len(value) > 1 for value in given):
            raise ValueError(f"`{name}` needs a network with one output. Received: {given}")
        return self.outputs.each(1)[0]

    def scaled(self, mean: Any) -> Any:
        """The mean with the temperature."""
        return self.outputs.with_temperature(self.network, mean, self.temperature)

    def predict(self, x: Any, batch_size: int | None) -> Any:
        """The mean of the probabilities of all members, with the temperature, as arrays; of a generator in one pass."""

        def mean(inputs, size):
            return keras.tree.map_structure(np.asarray, self.scaled(self.add_up(RunningMean(), inputs, size).mean()))

        if not hasattr(x, "__next__"):
            return mean(x, batch_size)
        means = [mean(_inputs(batch), None) for batch in x]
        if not means:
            raise ValueError("`x` holds no batches: it may have been read before.")
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *means)

    @functools.cached_property
    def stacked(self) -> Stacked | None:
        """All members in one program, if they are small."""
        return stacked_of(self.network, self.snapshots)

    @functools.cached_property
    def trunk(self) -> Trunk | None:
        """What all members have in common, and runs once."""
        return trunk_of(self.network, self.snapshots) if len(self.snapshots) > 1 else None

    def _predictions(self, x, batch_size):
        """Inside `borrowed`: the probabilities of one member after the other."""
        check_can_be_read_again("x", x)
        x = _arrays_of(x)  # Each pass over Batches would have an order of its own.
        if way := self._way_for(x, _is_data_set(x)):
            results = predicted(way.before, x, batch_size)
        for index, snapshot in enumerate(self.snapshots):
            if way:
                outputs = way.outputs_of(index, results, batch_size)
            else:
                set_weights(self.network, snapshot.weights)
                outputs = predicted(self.network, x, batch_size)
            yield self.outputs.probabilities(outputs)

    def _way_for(self, x, is_data_set):
        """Inside `borrowed`: how to predict these data in one pass; None: a pass for each member."""
        if hasattr(x, "__next__"):  # Its first rows would be gone.
            return None
        if isinstance(x, Batches):
            x = _arrays_of(x)
            is_data_set = _is_data_set(x)
        if self.stacked and self.stacked.serves(x, is_data_set):
            return self.stacked
        if self.trunk is None:
            return None
        set_weights(self.network, self.snapshots[0].weights)
        return self.trunk if self.trunk.serves(x, is_data_set) else None

    def all_predictions(self, x: Any, batch_size: int | None) -> list[Any]:
        """The probabilities of all members."""
        with borrowed(self.network):
            return list(self._predictions(x, batch_size))

    def add_up(self, running: RunningMean, x: Any, batch_size: int | None) -> Any:
        """Adds the probabilities of all members to `running`, and returns it."""
        with borrowed(self.network):
            for share, outputs in zip(self.shares, self._predictions(x, batch_size)):
                running.add(outputs, share)
        return running

    def growing(
        self, x: Any, y: Any, weights: Any, batch_size: int | None, running: RunningMean | None = None
    ) -> Iterator[tuple[RunningMean, Any, Any]]:
        """(running mean of probabilities, labels, sample weights) of the first 1, 2, ..., K members."""
        running, labels = running or RunningMean(), None
        with borrowed(self.network):
            if way := self._way_for(x, is_data_set=y is None):
                results, y, weights = predict_with_labels(way.before, x, y, weights, batch_size)
            for index, (share, snapshot) in enumerate(zip(self.shares, self.snapshots)):
                if way:
                    outputs, new_labels, sample_weights = way.outputs_of(index, results, batch_size), y, weights
                else:
                    set_weights(self.network, snapshot.weights)
                    outputs, new_labels, sample_weights = predict_with_labels(self.network, x, y, weights, batch_size)
                check_order(labels, new_labels, "`x`")
                labels = new_labels
                running.add(self.outputs.probabilities(outputs), share)
                yield running, labels, sample_weights

    def together(
        self, x: Any, y: Any, weights: Any, batch_size: int | None, running: RunningMean | None = None
    ) -> tuple[RunningMean, Any, Any]:
        """The last one of `growing`: of all members."""
        return collections.deque(self.growing(x, y, weights, batch_size, running), maxlen=1)[0]

    def of_one_output(
        self, name: str, x: Any, y: Any, weights: Any, batch_size: int | None, running: RunningMean | None = None
    ) -> tuple[RunningMean, Any, Any, Any]:
        """(running mean, mean, labels, sample weights) of the one output; labels may stand in a structure of one.

        Raises:
            ValueError: if there are several outputs; it names the method that needs one.
        """
        check_can_be_read_again("x", x)
        running, labels, shares = self.together(x, y, weights, batch_size, running)
        means = keras.tree.flatten(running.mean())
        if len(means) != 1:
            raise ValueError(f"`{name}` needs a network with one output. Received: {len(means)} outputs")
        return running, means[0], only_part(labels), only_part(shares)

    def put_mean_into(self, network: keras.Model, chosen: Sequence[int], train: Any, batch_size: int) -> None:
        """Gives `network` the mean of the weights of the members `chosen`; weights that are no floats, of the first.

        With data `train`, it estimates the statistics of BatchNormalization.
        """
        shares = np.array([self.shares[k] for k in chosen])
        totals = [w * shares[0] if w.dtype.kind == "f" else w for w in self._weights_in_float64(chosen[0])]
        for k, share in zip(chosen[1:], shares[1:]):
            for index, array in enumerate(self._weights_in_float64(k)):
                if array.dtype.kind == "f":
                    totals[index] += array * share
        set_weights(network, [total / sum(shares) if total.dtype.kind == "f" else total for total in totals])
        if train is not None:
            update_batch_norm(network, train, batch_size)

    def _weights_in_float64(self, index):
        return [w.astype("float64") if w.dtype.kind == "f" else w for w in self.snapshots[index].weights]


def _arrays_of(x):
    """The inputs in Batches, in the order of their arrays; other data as they are."""
    return _inputs(x.in_order()) if isinstance(x, Batches) else x


def _is_data_set(x):
    return not all(hasattr(part, "shape") for part in keras.tree.flatten(x))


def _inputs(batch):
    """The inputs in a batch, or in arrays, which may hold labels too."""
    return batch[0] if isinstance(batch, tuple) else batch
