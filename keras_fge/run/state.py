"""The state of a training in a file: all that `fit` needs to continue after an epoch as if it had never stopped."""

import dataclasses
import json
import math
import os
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.architecture import architecture, training_options
from keras_fge.core.files import (
    always_right,
    checksum,
    read_bytes,
    read_npz,
    remove_leftovers,
    to_npz,
    write_atomically,
)
from keras_fge.core.keras_internals import (
    all_layers,
    inner_optimizer,
    random_states,
    random_states_kept,
    set_random_states,
    track_all_variables,
)
from keras_fge.core.networks import check_finite, recompute_constants, recurrent_states, to_array
from keras_fge.core.processes import is_chief
from keras_fge.run.schema import Counters, check


def training_state(model: keras.Model) -> list[keras.Variable]:
    """The variables that a training goes on from: weights, statistics, seeds, states of recurrent layers, optimizer."""
    # In an order that does not depend on what is frozen.
    return model.variables + recurrent_states(model) + model.optimizer.variables


@dataclasses.dataclass(frozen=True)
class State:
    """The content of a state file.

    Attributes:
        counters: `Counters`, of which "epoch" is the first one to do, "batch" the first one of it, and what else the
            callback wrote.
        values: Arrays in the order of `training_state`.
        own: Further arrays of the callback, by name.
        directory: Folder of the file, for errors.
    """

    counters: dict[str, Any]
    values: list[np.ndarray]
    own: dict[str, np.ndarray]
    directory: str

    def check(self, model: keras.Model) -> None:
        """Raises a ValueError unless this is the state of a training of `model`, by the shapes."""
        expected = [tuple(variable.shape) for variable in training_state(model)]
        received = [tuple(value.shape) if value.dtype.kind in "biufc" else None for value in self.values]
        if expected != received:
            raise ValueError(
                f"`directory`: '{self.directory}' holds the run of another network or optimizer: {len(received)} "
                f"values against {len(expected)}, or other shapes."
            )

    def restore(self, model: keras.Model, changed: Sequence[str] = ()) -> None:
        """Brings `model`, its optimizer and the random generators to this state.

        Args:
            model: The model.
            changed: What `check_settings` returned. The optimizer keeps its own "learning_rate" if that is among them.
        """
        optimizer = inner_optimizer(model.optimizer)
        rate = float(optimizer.learning_rate) if "learning_rate" in changed else None
        for variable, value in zip(training_state(model), self.values, strict=True):
            variable.assign(value)
        if rate is not None:
            optimizer.learning_rate = rate
        recompute_constants(model)
        set_random_states(self.counters["random"])


class StateFile:
    """Reads and writes `state.npz` in a folder: the newest state only.

    Args:
        directory: The folder.
        check: Called before a file takes its place: raises an error if `directory` is another folder by now.
    """

    def __init__(self, directory: str | os.PathLike, check: Callable[[], None] = always_right):
        self.directory, self.check = os.fspath(directory), check
        self.path = os.path.join(self.directory, "state.npz")
        self._written_at, self._seconds_to_write = -math.inf, 0.0

    def exists(self) -> bool:
        """Whether there is a state."""
        return os.path.exists(self.path)

    def write(self, counters: dict[str, Any], model: keras.Model, own: Mapping[str, np.ndarray] | None = None) -> None:
        """Replaces the state by that of the training of `model`, with `counters`, as JSON can hold, and arrays.

        Raises:
            FloatingPointError: if it has diverged. The state before stays.
        """
        begin = time.monotonic()
        variables = training_state(model)
        values = [to_array(variable) for variable in variables]
        when = f"in epoch {counters['epoch'] + 1}" if counters["batch"] else f"at the end of epoch {counters['epoch']}"
        end = f"{when}. '{self.directory}' keeps the state before."
        check_finite(variables, values, end)
        rate = given_rate(inner_optimizer(model.optimizer))
        text = json.dumps({**counters, "learning_rate": rate, "random": random_states()})
        arrays = {f"value_{index:06}": value for index, value in enumerate(values)}
        arrays |= {f"own_{name}": value for name, value in (own or {}).items()}
        write_atomically(self.path, to_npz({**arrays, "counters": text}), self.check)
        self._written_at = time.monotonic()
        self._seconds_to_write = self._written_at - begin

    def remove_leftovers(self) -> None:
        """Removes what a killed process had not finished writing."""
        if is_chief():
            remove_leftovers(self.directory, lambda name: name == "state.npz")

    def is_due(self, least: float = 0.0) -> bool:
        """Whether the state can be written again, so that writing takes at most a tenth of the time of training.

        Args:
            least: Seconds from one to the next, at least.
        """
        return time.monotonic() - self._written_at >= max(least, 9 * self._seconds_to_write)

    def read(self, kind: type = Counters) -> State:
        """Reads the state; `kind` is the type of its counters.

        Raises:
            ValueError: if there is none, or the file is damaged.
        """
        if not self.exists():
            raise ValueError(f"`directory`: '{self.directory}' holds no state of a run to resume.")
        arrays = read_npz(read_bytes(self.path, follows=False), self.path)
        self._written_at = time.monotonic()
        try:
            counters = json.loads(str(arrays.pop("counters")))
            check(counters, kind)
            own = {name[4:]: arrays.pop(name) for name in list(arrays) if name.startswith("own_")}
            values = [arrays.pop(f"value_{index:06}") for index in range(len(arrays))]
            with random_states_kept():  # Nothing else says whether a generator takes its state.
                set_random_states(counters["random"])
        except Exception as error:
            raise ValueError(
                f"'{self.path}' is no state of a training, or a damaged one: {error!r}. (What version 0.1 or 0.2 wrote "
                "cannot be resumed.)"
            ) from error
        return State(counters, values, own, self.directory)


def build_optimizer(model: keras.Model) -> bool:
    """Makes the variables of the optimizer of `model`; False if a layer is not built yet.

    On TensorFlow, `fit` would make them inside the compiled step, which is then traced twice.
    """
    if not all(layer.built for layer in all_layers(model)):
        return False
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    track_all_variables(model.optimizer)
    return True


def describe(model: keras.Model) -> dict[str, Any]:
    """What tells a training from one of another network or with other settings of the optimizer."""
    optimizer = inner_optimizer(model.optimizer)
    config = optimizer.get_config()
    rate = config.get("learning_rate")
    frozen = [index for index, variable in enumerate(model.weights) if not variable.trainable]
    return {
        "architecture": architecture(model),
        "frozen_weights": ", ".join(map(str, frozen)) or "none",
        **training_options(model),
        "loss": _described_loss(model.loss),
        "schedule": rate if isinstance(rate, dict) else None,
        "optimizer": type(optimizer).__name__,
        "optimizer_config": checksum({**config, "learning_rate": None, "name": None}),
        "learning_rate": given_rate(optimizer),
    }


def _described_loss(loss):
    """The compiled losses, as JSON can hold them."""

    def described(part):
        if isinstance(part, keras.losses.Loss):
            return {"class": type(part).__name__, **{k: str(v) for k, v in part.get_config().items() if k != "name"}}
        return part if part is None or isinstance(part, str) else getattr(part, "__name__", type(part).__name__)

    return keras.tree.map_structure(described, loss)


def given_rate(optimizer: keras.optimizers.Optimizer) -> float | None:
    """The learning rate that `optimizer` was given, as a user reads it (0.02, not 0.0199999996); None: a schedule."""
    rate = optimizer.get_config().get("learning_rate")
    return float(str(np.float32(rate))) if isinstance(rate, (int, float, np.floating)) else None


# The learning rate that training has brought an optimizer to: a later `fit`, with whatever callback, is not to take it
# for a wish of the user.
_rates_seen: weakref.WeakKeyDictionary[keras.optimizers.Optimizer, float | None] = weakref.WeakKeyDictionary()


def see_rate(model: keras.Model) -> None:
    """Remembers the learning rate that the training of `model` has come to."""
    optimizer = inner_optimizer(model.optimizer)
    _rates_seen[optimizer] = given_rate(optimizer)


def check_settings(
    directory: str, counters: dict[str, Any], ours: dict[str, Any], optimizer: keras.optimizers.Optimizer
) -> list[str]:
    """Compares the settings of the run in a folder with `ours`; what `ours` does not know is taken over.

    Args:
        directory: The folder.
        counters: Those of its state.
        ours: The settings of this `fit`.
        optimizer: That of this `fit`. A learning rate to which training has brought it is no wish of the user.

    Returns:
        The names of what has changed: a run that diverged goes on with lower learning rates.

    Warns:
        of what has changed and may: learning rates, loss, schedule, validation data, and the options of layers that
            matter only in training.

    Raises:
        ValueError: that names the first other setting that differs.
    """
    theirs = counters["settings"]
    seen = _rates_seen.get(inner_optimizer(optimizer))
    if ours["learning_rate"] in (None, seen, counters["learning_rate"]) or theirs.get("learning_rate") is None:
        ours["learning_rate"] = theirs.get("learning_rate")
    changed: dict[str, str] = {}
    for name, value in ours.items():
        if theirs.get(name) == value:
            continue
        is_rate = name.endswith("learning_rate")
        may_change = name in ("loss", "schedule", "validation_data") or " of layer " in name
        if not may_change and (not is_rate or None in (value, theirs.get(name))):
            raise ValueError(
                f"`directory`: '{directory}' holds another run: its {name} is {theirs.get(name)}, here it is {value}."
            )
        changed[name] = f"{name}={theirs.get(name)}, and goes on with {value}"
    if changed:
        said, more = list(changed.values())[:5], len(changed) - 5
        also = f" (And {more} more options of layers.)" if more > 0 else ""
        warnings.warn(f"The run in '{directory}' began with {'; with '.join(said)}.{also}", stacklevel=2)
    return list(changed)


def check_batches(directory: str, theirs: dict[str, Any] | None, ours: dict[str, Any]) -> dict[str, Any]:
    """Raises a ValueError unless the run in a folder had these batches, and returns what to note of them.

    Args:
        directory: The folder.
        theirs: What was noted when the run began. None: nothing, so that any are right.
        ours: What `Batches.about` says of those of this `fit`.
    """
    theirs = theirs or ours
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"`directory`: '{directory}' holds a run on other batches: their {name} is {theirs.get(name)}, here it "
                f"is {value}."
            )
    return ours
