"""Was it worth it? The last network, the ensemble and the averaged weights, side by side on validation data."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_fge.core.batch_norm import batch_norm_layers
from keras_fge.core.mixture import Mixture
from keras_fge.core.networks import borrowed
from keras_fge.core.pages import as_table
from keras_fge.core.predictions import only_part
from keras_fge.core.tasks import loss_names
from keras_fge.ensemble import Members, Reliability, Selective
from keras_fge.run import Snapshot, Validation

if TYPE_CHECKING:
    import pandas

MOST_POSITIONS = 100_000  # A temperature is fitted, and a curve drawn, of so many predictions.
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
        reliability: How sure the ensemble is, before and after a temperature that is fitted to these samples; of a
            classifier with one output.
        selective: What it would bring to refuse its least sure predictions; of a classifier, or of a mean and a
            variance, with one output.

    Attributes:
        differences: `{("ensemble", "last network"): {"nll": (-0.05, 0.01), ...}, ...}`: the metric of the first minus
            that of the second, and the standard error of this difference over the samples, which both have seen.
        samples, members, missing, reliability, selective: As given.
    """

    def __init__(
        self,
        rows: Mapping[str, Mapping[str, float]],
        differences: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]],
        samples: int,
        members: int,
        missing: Mapping[str, str],
        reliability: Reliability | None = None,
        selective: Selective | None = None,
    ):
        super().__init__({name: dict(row) for name, row in rows.items()})
        self.differences, self.samples, self.members, self.missing = differences, samples, members, dict(missing)
        self.reliability, self.selective = reliability, selective

    def sentences(self) -> list[str]:
        """The comparison in words: what was measured, what the samples can tell, and what to take."""
        missing = [f"No comparison with the {name}: {reason}" for name, reason in self.missing.items()]
        compared = [sentence for loss in self._losses() for sentence in self._sentences(loss)]
        decisions = [sentence for part in (self.reliability, self.selective) if part for sentence in part.sentences()]
        return [*missing, *compared, *decisions]

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each."""
        import pandas

        return pandas.DataFrame.from_dict(dict(self), orient="index")

    def _losses(self):
        """The names of what is compared: one for each output."""
        names = [name for row in self.values() for name in row]
        return ["loss"] if "loss" in names else loss_names(names)

    def _sentences(self, loss):
        output, _, kind = loss.rpartition("_")
        error = f"{output}_error".lstrip("_") if kind == "nll" else ""
        of_output = f" of {output!r}" if output else ""
        values = {name: row[loss] for name, row in self.items()}
        parts = []
        for name, row in self.items():
            words = ("", "") if parts else (" error", f"{LOSSES[kind]} ")  # What the numbers are, once.
            numbers = [f"{100 * row[error]:.3g} %{words[0]}"] if error in row else []
            called = f"ensemble of {self.members}" if name == ENSEMBLE else name
            parts.append(f"{called} {', '.join([*numbers, f'{words[1]}{row[loss]:.4g}'])}")
        best = min(values, key=lambda name: values[name])
        others = " and ".join(name for name in values if name != LAST)
        first = [f"By the {LOSSES[kind]}{of_output}, the last network is better than {others}."]
        return [
            *(first if best == LAST and others else []),
            f"On {self.samples} validation samples{of_output}: {'; '.join(parts)}.",
            *filter(None, (self._difference(name, loss, error, of_output) for name in self if name != LAST)),
            *([self._advice(best, loss, error, of_output)] if others else []),
        ]

    def _difference(self, name, loss, error, of_output):
        found = self.differences.get((name, LAST), {})
        if loss not in found:
            return None
        parts = [_lower_or_higher(LOSSES[loss.rpartition("_")[2]], *found[loss])]
        if error in found:
            difference, standard_error = found[error]
            parts.append(_lower_or_higher("error", 100 * difference, 100 * standard_error, " points"))
        return f"{name.capitalize()} against {LAST}{of_output}: {', '.join(parts)}."

    def _advice(self, best, loss, error, of_output):
        """What to take: one network, unless the ensemble beats it by more than chance."""
        prefix = f"For {of_output.removeprefix(' of ')}: " if of_output else ""
        if loss not in self.differences.get((ENSEMBLE, LAST), {}):
            return f"{prefix}Take the {best}, by this; how much of it is chance is not known."
        if best == LAST:
            return f"{prefix}Take the last network."
        better = [name for name in (ENSEMBLE, AVERAGED) if self._beats(name, LAST, loss)]
        if not better:
            needed = self._needed(best, loss)
            more = f": about {needed:,} would, if the difference is as measured" if needed else ""
            return f"{prefix}These samples do not tell that anything is better than the last network{more}."
        taken, reason = better[0], ""
        if AVERAGED in better and not self._beats(ENSEMBLE, AVERAGED, loss):
            taken = AVERAGED
            if best != AVERAGED:
                reason = ": they are one network, and these samples do not tell that the ensemble is better"
        difference, standard_error = self.differences[taken, LAST].get(error, (0.0, 0.0))
        but = " Its error is higher, by more than chance: that is for its probabilities alone."
        return f"{prefix}Take the {taken}{reason}.{but if difference > 2 * standard_error else ''}"

    def _beats(self, name, other, loss):
        """Whether the loss of `name` is lower by more than twice the standard error of the difference."""
        difference, standard_error = self.differences.get((name, other), {}).get(loss, (0.0, 0.0))
        return difference < -2 * standard_error

    def _needed(self, name, loss):
        """With how many samples twice the standard error would be the difference; None: nobody knows, or too many."""
        difference, standard_error = self.differences[name, LAST][loss]
        ratio = 2 * standard_error / max(abs(difference), 1e-9)
        return int(np.ceil(self.samples * ratio**2)) if self.samples * ratio**2 < 1e7 else None

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
            if not all(np.isfinite(array).all() for array in keras.tree.flatten(predicted)):
                raise ValueError("what it predicts is not finite.")
            rows[name] = validation.metrics(model, predicted)
    pairs = [(ENSEMBLE, LAST), (AVERAGED, LAST), (ENSEMBLE, AVERAGED)]
    differences = {
        pair: validation.differences(model, *(predictions[name] for name in pair))
        for pair in pairs
        if set(pair) <= rows.keys()
    }
    decisions = (None, None)
    if ENSEMBLE in rows:
        with contextlib.suppress(ValueError):  # The comparison is not to be lost for them.
            decisions = _decisions(validation, predictions[ENSEMBLE])
    return Comparison(rows, differences, validation.samples or 0, len(snapshots), missing, *decisions)


def _decisions(validation, mean):
    """(reliability, selective) of the ensemble, each None where there is none: of several outputs, or of values."""
    if validation.is_compiled or not isinstance(mean, np.ndarray | Mixture):
        return None, None
    output, (labels, weights) = validation.outputs.each(1)[0], map(only_part, validation.labels)
    if output.task == "regression":
        return None, None
    positions = int(np.prod(mean.shape[1:-1]))
    if len(mean) * positions > MOST_POSITIONS:  # As of images with a class at each pixel.
        rows = np.random.default_rng(0).permutation(len(mean))[: max(MOST_POSITIONS // positions, 2)]
        mean, labels = mean[rows], np.asarray(labels)[rows]  # Of pandas, labels[rows] would go by the index.
        weights = None if weights is None else np.asarray(weights)[rows]
    selective = Selective.of(output, mean, labels, weights)
    if not output.has_classes:
        return None, selective
    temperature, _ = output.fit_temperature(mean, labels, weights)["temperature"]
    means = [mean, output.with_temperature(mean, temperature)]
    return Reliability.of(output, means, labels, weights, temperature), selective


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
