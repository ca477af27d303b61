"""Was it worth it? The last network, the ensemble and the averaged weights, side by side on validation data."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_fge.core.batch_norm import batch_norm_layers
from keras_fge.core.networks import borrowed
from keras_fge.core.pages import as_table
from keras_fge.ensemble import Members
from keras_fge.run import Snapshot, Validation

if TYPE_CHECKING:
    import pandas

LAST, ENSEMBLE, AVERAGED = "last network", "ensemble", "averaged weights"
LOSSES = {"nll": "NLL", "mse": "mean squared error", "loss": "loss"}  # What is compared, and how it is called.


class Comparison(dict):
    """Metrics of the "last network", the "ensemble" and the "averaged weights" on validation data, by these names.

    Args:
        rows: The metrics of each, a dictionary as `Ensemble.evaluate` returns it.
        differences: By (name, name of another one): (difference, standard error) of the metrics that are means over
            samples, by name; see `differences`.
        samples: How many validation samples there were.
        members: How many members the ensemble has.
        missing: Why a row is missing, by its name.

    Attributes:
        differences: `{("ensemble", "last network"): {"nll": (-0.05, 0.01), ...}, ...}`: the metric of the first minus
            that of the second, and the standard error of this difference over the samples, which both have seen.
        samples, members, missing: As given.
    """

    def __init__(
        self,
        rows: Mapping[str, Mapping[str, float]],
        differences: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]],
        samples: int,
        members: int,
        missing: Mapping[str, str],
    ):
        super().__init__({name: dict(row) for name, row in rows.items()})
        self.differences, self.samples, self.members, self.missing = differences, samples, members, dict(missing)

    def sentences(self) -> list[str]:
        """The comparison in words: what was measured, what the samples can tell, and what to take."""
        said = [sentence for loss in self._losses() for sentence in self._sentences(loss)]
        return [*said, *(f"There are no {name} to compare with: {reason}" for name, reason in self.missing.items())]

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each."""
        import pandas

        return pandas.DataFrame.from_dict(dict(self), orient="index")

    def _losses(self):
        """The names of what is compared: one for each output."""
        names = [name for row in self.values() for name in row if name.rpartition("_")[2] in LOSSES]
        return ["loss"] if "loss" in names else list(dict.fromkeys(names))

    def _sentences(self, loss):
        output, _, kind = loss.rpartition("_")
        error = f"{output}_error".lstrip("_")
        values = {name: row[loss] for name, row in self.items()}
        parts = []
        for name, row in self.items():
            words = ("", "") if parts else (" error", f"{LOSSES[kind]} ")  # What the numbers are, once.
            numbers = [f"{100 * row[error]:.3g} %{words[0]}"] if error in row else []
            called = f"ensemble of {self.members}" if name == ENSEMBLE else name
            parts.append(f"{called} {', '.join([*numbers, f'{words[1]}{row[loss]:.4g}'])}")
        of_output = f" for {output!r}" if output else ""
        measured = f"On {self.samples} validation samples{of_output}: {'; '.join(parts)}."
        best = min(values, key=lambda name: values[name])
        first = [f"The last network is the best of these by {LOSSES[kind]}{of_output}."] if best == LAST else []
        differences = [self._difference(name, LAST, loss, error) for name in self if name != LAST]
        return [*first, measured, *filter(None, differences), self._advice(values, loss, error)]

    def _difference(self, name, other, loss, error):
        found = self.differences.get((name, other), {})
        if loss not in found:
            return None
        parts = [_lower_or_higher(LOSSES[loss.rpartition("_")[2]], *found[loss])]
        if error in found:
            difference, standard_error = found[error]
            parts.append(_lower_or_higher("error", 100 * difference, 100 * standard_error, " points"))
        return f"{name.capitalize()} against {other}: {', '.join(parts)}."

    def _advice(self, values, loss, error):
        """What to take, by the loss: one network, unless the ensemble beats it by more than chance."""
        best = min(values, key=lambda name: values[name])
        if loss not in self.differences.get((ENSEMBLE, LAST), {}):
            return f"By this, take the {best}; how much of it is chance is not known."
        if best == LAST:
            return "Take the last network."
        if not self._beats(best, LAST, loss):
            needed = self._needed(best, LAST, loss)
            more = f": about {needed:,} would, if the difference is as measured" if needed else ""
            return f"These samples do not tell that the {best} is better than the last network{more}."
        taken, reason = best, ""
        is_averaged_good = best == ENSEMBLE and AVERAGED in values and self._beats(AVERAGED, LAST, loss)
        if is_averaged_good and not self._beats(ENSEMBLE, AVERAGED, loss):
            taken = AVERAGED
            reason = ": they are one network, and these samples do not tell that the ensemble is better"
        difference, standard_error = self.differences[taken, LAST].get(error, (0.0, 0.0))
        but = " Its error is higher, by more than chance: that is for its probabilities alone."
        return f"Take the {taken}{reason}.{but if difference > 2 * standard_error else ''}"

    def _beats(self, name, other, loss):
        """Whether the loss of `name` is lower by more than twice the standard error of the difference."""
        sign = 1 if (name, other) in self.differences else -1
        difference, standard_error = self.differences[(name, other) if sign == 1 else (other, name)][loss]
        return sign * difference < -2 * standard_error

    def _needed(self, name, other, loss):
        """With how many samples twice the standard error would be the difference; None: nobody knows."""
        difference, standard_error = self.differences[name, other][loss]
        if not (difference and np.isfinite(standard_error)):
            return None
        return int(np.ceil(self.samples * (2 * standard_error / difference) ** 2))

    def _repr_html_(self) -> str:
        return as_table(self.sentences(), {name: row for name, row in self.items()})


def compare(model: keras.Model, snapshots: Sequence[Snapshot], validation: Validation, train: Any) -> Comparison:
    """Measures `model` as it is, the ensemble of `snapshots`, and the mean of their weights.

    Args:
        model: The network at the end of its training; its weights come back.
        snapshots: The members, all of which `validation` has measured.
        validation: The validation data.
        train: Training data for the statistics of BatchNormalization, or None.
    """
    predictions = {LAST: validation.predict(model), ENSEMBLE: validation.mean()}
    missing = {}
    if train is None and batch_norm_layers(model):
        missing[AVERAGED] = (
            "their BatchNormalization is to be estimated on training data, which `fit` would have from "
            "`fge.batches(x, y)` or `Batches`. Or call `ensemble.average_weights(train)`."
        )
    else:
        with _reason_of_failure(missing, AVERAGED), borrowed(model):
            Members(model, snapshots, validation.outputs, None).put_mean_into(model, range(len(snapshots)), train, 128)
            predictions[AVERAGED] = validation.predict(model)
    rows = {}
    for name, predicted in list(predictions.items()):
        with _reason_of_failure(missing, name):
            rows[name] = validation.metrics(model, predicted)
    pairs = [(ENSEMBLE, LAST), (AVERAGED, LAST), (AVERAGED, ENSEMBLE)]
    differences = {
        pair: validation.differences(model, *(predictions[name] for name in pair))
        for pair in pairs
        if set(pair) <= rows.keys()
    }
    return Comparison(rows, differences, validation.samples or 0, len(snapshots), missing)


@contextlib.contextmanager
def _reason_of_failure(missing: dict[str, str], name: str) -> Iterator[None]:
    """If the block raises a ValueError, that is why `name` is missing."""
    try:
        yield
    except ValueError as error:
        missing[name] = str(error)


def _lower_or_higher(what, difference, standard_error, unit=""):
    direction = "lower" if difference < 0 else "higher"
    size = f"{abs(difference):.2g}{unit}"
    by = f"{what} {direction} by {size}" if difference else f"the same {what}"
    return f"{by} (standard error {standard_error:.2g})"
