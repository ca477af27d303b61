"""Choosing on validation data: one half of them chooses members, greedily, and the other half guards the choice."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.predictions import RunningMean, predicted
from keras_fge.core.tasks import Outputs
from keras_fge.ensemble.members import Members


class HoldOut:
    """Validation labels in two random halves.

    Args:
        network: The network, for the names of its outputs.
        outputs: What it outputs.
        x, y: Validation arrays.
        seed: Seed of the split.

    Raises:
        ValueError: if there are fewer than two samples.
    """

    def __init__(self, network: keras.Model, outputs: Outputs, x: Any, y: Any, seed: int):
        samples = len(keras.tree.flatten(x)[0])
        if samples < 2:
            raise ValueError(f"`x` must hold at least 2 samples. Received: {samples}")
        lengths = {len(labels) for labels in keras.tree.flatten(y)}
        if lengths != {samples}:
            raise ValueError(f"`y` must hold a label for each of {samples} samples. Received: {sorted(lengths)} labels")
        self._network, self._outputs, self._labels = network, outputs, y
        self._halves = np.array_split(np.random.default_rng(seed).permutation(samples), 2)

    def score(self, predictions: Any, half: int) -> float:
        """NLL, or mean squared error, of probabilities, or values, on one half: 0 chooses, 1 guards; less is better.

        Several outputs are added up. Predictions that are not finite are worse than any other.
        """
        rows = self._halves[half]
        labels = keras.tree.map_structure(np.asarray, self._labels)
        chosen = keras.tree.map_structure(lambda array: array[rows], (predictions, labels))
        return self._outputs.loss(self._network, *chosen)


def finite_members(hold_out: HoldOut, predictions: Sequence[Any]) -> list[int]:
    """The members whose predictions are finite; a warning names the others.

    Raises:
        ValueError: if there is none.
    """
    finite = [k for k, array in enumerate(predictions) if np.isfinite(hold_out.score(array, 0))]
    if not finite:
        raise ValueError("No member has finite predictions: the training has diverged.")
    if left_out := sorted(set(range(len(predictions))).difference(finite)):
        names = ", ".join(map(str, left_out))
        warnings.warn(f"Members {names} are left out: their predictions are not finite.", stacklevel=4)
    return finite


def greedy_ensemble(members: Members, x: Any, y: Any, batch_size: int | None, seed: int) -> list[int]:
    """The members that do best together (Caruana et al. 2004); see `Ensemble.select`."""
    hold_out = HoldOut(members.network, members.outputs, x, y, seed)
    predictions = members.all_predictions(x, batch_size)
    finite = finite_members(hold_out, predictions)
    chosen: list[int] = []
    guards = []
    total = None

    def with_member(k):
        mean = RunningMean(total, len(chosen))
        mean.add(predictions[k])
        return mean

    while len(chosen) < len(finite):
        best = min(set(finite).difference(chosen), key=lambda k: hold_out.score(with_member(k).mean(), 0))
        joined = with_member(best)
        guards.append(hold_out.score(joined.mean(), 1))
        total = joined.total
        chosen.append(best)
    return chosen[: np.argmin(guards) + 1]


def greedy_soup(
    members: Members, network: keras.Model, x: Any, y: Any, train: Any, batch_size: int, seed: int
) -> list[int]:
    """The members of a greedy soup (Wortsman et al. 2022, recipe 1), tried in `network`; see `Ensemble.soup`."""
    hold_out = HoldOut(members.network, members.outputs, x, y, seed)
    predictions = members.all_predictions(x, batch_size)

    def predict_mean(chosen):
        members.put_mean_into(network, chosen, train, batch_size)
        return members.outputs.probabilities(predicted(network, x, batch_size))

    order = sorted(finite_members(hold_out, predictions), key=lambda k: hold_out.score(predictions[k], 0))
    chosen, best = order[:1], hold_out.score(predictions[order[0]], 0)
    guards = [hold_out.score(predictions[order[0]], 1)]
    for k in order[1:]:
        mixed = predict_mean([*chosen, k])
        if (value := hold_out.score(mixed, 0)) <= best:
            chosen, best = [*chosen, k], value
            guards.append(hold_out.score(mixed, 1))
    return chosen[: np.argmin(guards) + 1]
