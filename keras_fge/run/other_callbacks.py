"""What the other callbacks of a `fit` remember: kept with the state of the training, or said to be lost."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from keras_fge.core.keras_internals import Fit, remembered

_GIVEN = ("model", "_model", "params", "validation_data")  # By `fit`.


class OtherCallbacks:
    """`EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint` and `SwapEMAWeights` go on if they are listed before.

    What they do after ours, at the end of an epoch, is not in the state that is written then. Of callbacks of other
    classes, what they remember is not known: attributes that change are said to be lost.

    Args:
        fit: The `fit` that begins. None: it cannot be seen, and there are no others.
    """

    def __init__(self, fit: Fit | None):
        self._before = _not_ours(fit.before if fit else [])
        self._after = _not_ours(fit.after if fit else [])
        self._at_begin: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Notes how they are at the begin of the first epoch: those listed after ours have heard of it only then."""
        self._at_begin = [_marks(callback) for callback in (*self._before, *self._after)]

    def counters(self) -> list[dict[str, Any]]:
        """For each callback its class, what is kept of it, by attribute, and the names of what is lost.

        Before the first epoch, there is nothing to keep.
        """
        callbacks, result = [*self._before, *self._after], []
        for index, (callback, at_begin) in enumerate(zip(callbacks, self._at_begin)):
            changed = [name for name, mark in _marks(callback).items() if mark != at_begin.get(name)]
            values = (remembered(callback) or {}) if index < len(self._before) else {}
            kept = {name: value for name, value in values.items() if _is_plain(value)}
            lost = [name for name in changed if name not in kept]
            result.append({"class": type(callback).__name__, "kept": kept, "lost": lost})
        return result

    def restore(self, stored: Sequence[Mapping[str, Any]], directory: str) -> None:
        """Gives the callbacks what is kept of those of the same class, in the same order.

        Warns:
            of what is lost.
        """
        left = [*self._before, *self._after]
        for entry in stored:
            same = [callback for callback in left if type(callback).__name__ == entry["class"]]
            for callback in same[:1]:
                left.remove(callback)
                vars(callback).update(entry["kept"])
                if entry["lost"]:
                    cure = " List it before the callback that resumes." if callback in self._after else ""
                    warnings.warn(
                        f"{entry['class']} begins anew with {', '.join(map(repr, entry['lost']))}, which the state in "
                        f"'{directory}' does not hold.{cure}",
                        stacklevel=2,
                    )


def _not_ours(callbacks):
    """Those of Keras and of the user; ours know how to resume."""
    return [
        callback for callback in callbacks if type(callback).__module__.split(".")[0] not in ("keras_fge", "curves")
    ]


def _marks(callback):
    """What shows, for each attribute that may matter, whether it has changed."""
    values = remembered(callback)
    if values is None:
        values = {name: value for name, value in vars(callback).items() if name not in _GIVEN and not callable(value)}
    return {name: _mark(value) for name, value in values.items()}


def _mark(value):
    if _is_plain(value):
        return repr(value)
    # A list may be long, as of the loss of each batch.
    return f"{id(value)} {len(value)}" if isinstance(value, (list, dict, set)) else str(id(value))


def _is_plain(value):
    """Whether JSON can hold it."""
    return value is None or isinstance(value, (bool, int, float, str))
