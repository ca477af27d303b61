"""What stands beside a cyclic callback in its `fit`: validation data, and other callbacks."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_fge.core.keras_internals import Fit
from keras_fge.core.processes import has_one_process
from keras_fge.run import Validation
from keras_fge.schedule import PaperTraining


def validation_of_fit(
    fit: Fit | None, model: keras.Model, name: str, from_logits: Any, task: Any, metrics: str | None
) -> Validation | None:
    """The validation data of `fit`; None if there are none, or, with a warning, if they cannot be measured.

    Args:
        fit, model: The `fit` that the callback `name` is in, and what it trains.
        from_logits, task, metrics: As for `Validation`.
    """
    if fit is None or fit.validation_data is None:
        return None
    try:
        if fit.validation_steps is not None:
            raise ValueError("Only whole data sets can be measured, and `fit` has `validation_steps`.")
        if not has_one_process():
            raise ValueError("Each of several processes would have a part of them.")
        validation = Validation(fit.validation_data, from_logits, task, metrics)
        validation.check(model)
    except ValueError as error:
        warnings.warn(
            f"{name} does not measure its members on the validation data of `fit`: {error} Its own `validation_data` "
            "may be other ones.",
            stacklevel=2,
        )
        return None
    return validation


def check_companions(fit: Fit, name: str, start_epoch: int, metrics: Sequence[str]) -> None:
    """Looks at the other callbacks of `fit`.

    A `PaperTraining` that would change the learning rate in the cycles is refused, and callbacks of Keras that try get
    a warning. So does one that stands before the callback `name`, and so does not see its `metrics` in the logs, as
    Keras hands each callback what those before have left.

    Raises:
        ValueError: if there is a `PaperTraining` after `start_epoch`, with which the cycles begin.
    """
    for other in (*fit.before, *fit.after):
        if isinstance(other, PaperTraining) and other.until > start_epoch:
            raise ValueError(
                f"PaperTraining would change the learning rate in the cycles of {name}: give it `until={start_epoch}`, "
                f"or leave it out. Received: until={other.until}"
            )
    changers = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
    for other in (*fit.before, *fit.after):
        if isinstance(other, changers):
            start = f" from epoch {start_epoch} on" if start_epoch else ""
            warnings.warn(
                f"{type(other).__name__} does not change the learning rate in the cycles: {name} sets it{start}. "
                "Afterwards the optimizer has the rate that it had when they began."
                + (
                    " Listed after, it also writes 'learning_rate' into the logs: list it before."
                    * (other in fit.after)
                ),
                stacklevel=2,
            )
    for other in fit.after:
        if isinstance(other, keras.callbacks.EarlyStopping) and other.restore_best_weights:
            warnings.warn(
                f"EarlyStopping stands after {name}, so it restores its best weights after {name} has compared the "
                "last network with the ensemble.",
                stacklevel=2,
            )
    loggers = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard)
    ours = ("ensemble_", "member_", "distance_")
    for other in fit.before:
        if isinstance(other, loggers) or str(getattr(other, "monitor", "")).startswith(ours):
            warnings.warn(
                f"{type(other).__name__} stands before {name} in `callbacks`, so it does not get metrics such as "
                f"'{metrics[-1]}': list it after.",
                stacklevel=2,
            )
