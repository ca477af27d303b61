"""Snapshots: copies of all weights of a network at one moment of a training run, in memory or in a file."""

import hashlib
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_fge.core.files import read_bytes, read_npz, to_npz, write_atomically
from keras_fge.core.networks import locked, to_array


class Snapshot:
    """All weights of a network, BatchNormalization statistics included.

    Weights that are not trained, and equal to those of another snapshot of the network, exist once: this one shares the
    arrays. So members of a network with a large frozen part are as small as what is trained.

    Args:
        weights: numpy arrays in the order of `keras.Model.get_weights`.
        step: Updates since the start of the run. Default: 0, unknown.
        learning_rate: The one of the last of these updates, or None.
        metrics: What was measured when the snapshot was taken: a dictionary of floats. Default: nothing.

    Attributes:
        weights, step, learning_rate, metrics: As given.
        shapes: Shapes of the weights.
        base: The snapshot with which this one shares arrays; None: it shares none.
        shared: The indices of these arrays.

    Example:
        snapshots = [keras_fge.Snapshot.of(network) for network in (net_a, net_b)]
        keras_fge.Ensemble(net_a, snapshots).evaluate(x_test, y_test)
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        step: int = 0,
        learning_rate: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ):
        self._weights = [np.asarray(array) for array in weights]
        self.shapes = [array.shape for array in self._weights]
        self.step = step
        self.learning_rate = learning_rate
        self.metrics = dict(metrics or {})
        self.base: Snapshot | None = None
        self.shared: frozenset[int] = frozenset()

    @property
    def weights(self) -> list[np.ndarray]:
        return self._weights

    @classmethod
    def of(
        cls,
        network: keras.Model,
        step: int = 0,
        learning_rate: float | None = None,
        like: "Snapshot | None" = None,
    ) -> "Snapshot":
        """Copies the present weights of `network`, and shares what it can with the snapshot `like`."""
        with locked(network):
            snapshot = Snapshot([to_array(variable) for variable in network.weights], step, learning_rate)
        return snapshot if like is None else snapshot.relative_to(like, network)

    def relative_to(self, other: "Snapshot", network: keras.Model) -> "Snapshot":
        """The same snapshot, but sharing arrays with `other` (or with what that shares its own with), of `network`."""
        base = other.base or other
        if base.shapes != self.shapes:
            return self
        mine = list(self.weights)
        frozen = [index for index, variable in enumerate(network.weights) if not variable.trainable]
        try:
            theirs = base.arrays(frozen)
        except ValueError:  # Its file is missing or damaged: this one is not to be lost.
            return self
        shared = [index for index in frozen if np.array_equal(mine[index], theirs[index])]
        for index in shared:
            mine[index] = theirs[index]
        snapshot = Snapshot(mine, self.step, self.learning_rate, self.metrics)
        snapshot.base, snapshot.shared = (base, frozenset(shared)) if shared else (None, frozenset())
        return snapshot

    def alone(self) -> "Snapshot":
        """The same snapshot, sharing nothing."""
        return Snapshot(self.weights, self.step, self.learning_rate, self.metrics)

    def arrays(self, indices: Iterable[int]) -> dict[int, np.ndarray]:
        """Some of the weights, by index; always the same arrays."""
        return {index: self._weights[index] for index in indices}

    def check(self, network: keras.Model, index: int) -> None:
        """Raises a ValueError unless these are weights of the architecture of `network`."""
        expected = [tuple(variable.shape) for variable in network.weights]
        received = self.shapes
        if expected != received:
            where = next((i for i, (a, b) in enumerate(zip(expected, received)) if a != b), None)
            detail = (
                f"{len(received)} arrays instead of {len(expected)}"
                if where is None
                else f"shape {received[where]} instead of {expected[where]} for '{network.weights[where].path}'"
            )
            raise ValueError(f"`snapshots[{index}]` does not fit network '{network.name}': it has {detail}.")

    def to_entry(self) -> dict[str, Any]:
        """The snapshot without its weights, as a manifest lists it; only one in a file has such an entry."""
        raise NotImplementedError("Only a snapshot in a file can be listed.")

    def __repr__(self) -> str:
        size = sum(int(np.prod(shape)) for shape in self.shapes)
        return f"Snapshot(step={self.step}, learning_rate={self.learning_rate}, {size:,} weights)"


class StoredSnapshot(Snapshot):
    """A snapshot whose weights are in a file, and are read, and compared with their checksum, each time they are used.

    Arrays that it shares with its base are in the file of the base, and, once read, held in memory for all.

    Args:
        folder: The folder with the file.
        entry: What `to_entry` returned.
        verify: Whether to compare the file with its checksum. Default: True.
    """

    def __init__(self, folder: str | os.PathLike, entry: Mapping[str, Any], verify: bool = True):
        name = entry["file"]
        if os.path.basename(name) != name or name in ("", os.curdir, os.pardir):
            raise ValueError(f"{name!r} is not the name of a file in the folder.")
        self.path = os.path.join(folder, name)
        self.sha256 = entry["sha256"]
        self.size = entry.get("size")  # Version 0.1 wrote none.
        self._verify = verify
        self.shapes = [tuple(shape) for shape in entry["shapes"]]
        self.step = entry["step"]
        self.learning_rate = entry["learning_rate"]
        self.metrics = entry["metrics"]
        self.shared = frozenset(entry.get("shared", ()))
        self.base = _base(folder, entry["base"], self.shapes, verify) if self.shared else None
        self._held: dict[int, np.ndarray] = {}

    @classmethod
    def write(cls, snapshot: Snapshot, folder: str | os.PathLike, prefix: str) -> Self:
        """Writes a snapshot to a file of its own, named by its content, so that none is ever overwritten."""
        base = snapshot.base
        # A base that is not in this folder, any more, is of no use.
        if not (isinstance(base, StoredSnapshot) and os.path.exists(os.path.join(folder, os.path.basename(base.path)))):
            base = None
        shared = snapshot.shared if base else frozenset()
        arrays = {f"{index:06}": array for index, array in enumerate(snapshot.weights) if index not in shared}
        content = to_npz(arrays)
        checksum = hashlib.sha256(content).hexdigest()
        file = f"{prefix}-{checksum[:16]}.npz"
        write_atomically(os.path.join(folder, file), content)
        entry = {"file": file, "sha256": checksum, "size": len(content), "shapes": snapshot.shapes}
        if base:
            entry.update(shared=sorted(shared), base=base.file_entry())
        entry["step"] = snapshot.step
        return cls(folder, {**entry, "learning_rate": snapshot.learning_rate, "metrics": snapshot.metrics})

    def file_entry(self) -> dict[str, Any]:
        """The file, as JSON can hold it."""
        return {"file": os.path.basename(self.path), "sha256": self.sha256, "size": self.size}

    def to_entry(self) -> dict[str, Any]:
        """The snapshot without its weights, as a dictionary that JSON can hold."""
        entry = {
            **self.file_entry(),
            "shapes": self.shapes,
            "step": self.step,
            "learning_rate": self.learning_rate,
            "metrics": self.metrics,
        }
        if isinstance(self.base, StoredSnapshot):
            entry.update(shared=sorted(self.shared), base=self.base.file_entry())
        return entry

    @property
    def weights(self) -> list[np.ndarray]:
        try:
            content = read_bytes(self.path, *((self.size, self.sha256) if self._verify else ()))
        except FileNotFoundError:
            raise ValueError(f"The member '{self.path}' is missing.") from None
        own = iter(read_npz(content, self.path).values())
        held = self.base.arrays(self.shared) if self.base else {}
        return [held[index] if index in held else next(own) for index in range(len(self.shapes))]

    def arrays(self, indices: Iterable[int]) -> dict[int, np.ndarray]:
        indices = list(indices)
        if not set(indices) <= self._held.keys():
            weights = self.weights
            self._held.update({index: weights[index] for index in indices if index not in self._held})
        return {index: self._held[index] for index in indices}

    def check_file(self) -> None:
        """Raises a ValueError unless the file is there and as it was written."""
        _ = self.weights


_bases: weakref.WeakValueDictionary[tuple, StoredSnapshot] = weakref.WeakValueDictionary()


def _base(folder, entry, shapes, verify):
    """The base of members, one object for all of them, so that its arrays are in memory once."""
    path = os.path.join(os.path.abspath(folder), entry["file"])
    try:
        status = os.stat(path)
        present = status.st_ino, status.st_size, status.st_mtime_ns  # One that was read before may have changed.
    except OSError:
        present = None
    key = (path, entry["sha256"], verify, present)
    if (base := _bases.get(key)) is None:
        entry = {**entry, "shapes": shapes, "step": 0, "learning_rate": None, "metrics": {}}
        base = _bases[key] = StoredSnapshot(folder, entry, verify)
    return base
