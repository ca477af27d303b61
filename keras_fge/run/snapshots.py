"""Snapshots: copies of all weights of a network at one moment of a training run, in memory or in a file."""

import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_fge.core.files import always_right, read_bytes, read_npz, to_npz, write_atomically
from keras_fge.core.networks import as_plain, distance, locked, to_array


class Snapshot:
    """All weights of a network, BatchNormalization statistics included.

    Snapshots share frozen weights, so a member costs only what was trained.

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
        self._weights = [as_plain(array) for array in weights]
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
        return snapshot if like is None else sharing(snapshot, like, network)

    def _arrays(self, indices: Iterable[int]) -> dict[int, np.ndarray]:
        """Some of the weights, by index; always the same arrays."""
        return {index: self._weights[index] for index in indices}

    def __repr__(self) -> str:
        size = sum(int(np.prod(shape)) for shape in self.shapes)
        return f"Snapshot(step={self.step}, learning_rate={self.learning_rate}, {size:,} weights)"


def sharing(snapshot: Snapshot, other: Snapshot | None, network: keras.Model) -> Snapshot:
    """The same snapshot of `network`, sharing frozen arrays that are equal with `other`, or with the base of that.

    With `other=None` it shares nothing.
    """
    mine, base = list(snapshot.weights), other and (other.base or other)
    shared: list[int] = []
    if base is not None and base.shapes == snapshot.shapes:
        frozen = [index for index, variable in enumerate(network.weights) if not variable.trainable]
        try:
            theirs = base._arrays(frozen)
        except ValueError:  # Its file is missing or damaged: this one is not to be lost.
            theirs = {}
        shared = [index for index in theirs if np.array_equal(mine[index], theirs[index])]
        for index in shared:
            mine[index] = theirs[index]
    result = Snapshot(mine, snapshot.step, snapshot.learning_rate, snapshot.metrics)
    result.base, result.shared = (base, frozenset(shared)) if shared else (None, frozenset())
    return result


def check_fits(snapshot: Snapshot, network: keras.Model, index: int) -> None:
    """Raises a ValueError unless `snapshots[index]` has weights of the architecture of `network`."""
    expected = [tuple(variable.shape) for variable in network.weights]
    received = snapshot.shapes
    if expected != received:
        where = next((i for i, (a, b) in enumerate(zip(expected, received)) if a != b), None)
        detail = (
            f"{len(received)} arrays instead of {len(expected)}"
            if where is None
            else f"shape {received[where]} instead of {expected[where]} for '{network.weights[where].path}'"
        )
        raise ValueError(f"`snapshots[{index}]` does not fit network '{network.name}': it has {detail}.")


class StoredSnapshot(Snapshot):
    """A snapshot whose weights are in a file, and are read, and compared with their checksum, each time they are used.

    Arrays that it shares with its base are in the file of the base, and, once read, held in memory for all.

    Args:
        folder: The folder with the file.
        entry: What the attribute `entry` was.
        verify: Whether to compare the file with its checksum. Default: True.

    Attributes:
        file: The name of the file.
        entry: The snapshot without its weights, as JSON can hold it.
        line: That as JSON. It is made once for the same `metrics`: a manifest of thousands is written for each more.
    """

    def __init__(self, folder: str | os.PathLike, entry: Mapping[str, Any], verify: bool = True):
        name = entry["file"]
        if os.path.basename(name) != name or name in ("", os.curdir, os.pardir):
            raise ValueError(f"{name!r} is not the name of a file in the folder.")
        self.path = os.path.join(folder, name)
        self._file = {key: entry[key] for key in ("file", "sha256", "size")}
        self._verify = verify
        self.shapes = [tuple(shape) for shape in entry["shapes"]]
        self.step = entry["step"]
        self.learning_rate = entry["learning_rate"]
        self.metrics = entry["metrics"]
        self.shared = frozenset(entry.get("shared", ()))
        if not self.shared <= set(range(len(self.shapes))):
            raise ValueError(f"{name!r} shares weights that it does not have: {max(self.shared)}.")
        self.base = _base(folder, entry["base"], self.shapes, verify) if self.shared else None
        self._held: dict[int, np.ndarray] = {}
        self._line: tuple[Any, str] | None = None

    @classmethod
    def write(
        cls, snapshot: Snapshot, folder: str | os.PathLike, prefix: str, check: Callable[[], None] = always_right
    ) -> Self:
        """Writes a snapshot to a file of its own, named by its content, so that none is ever overwritten.

        `check` raises an error if `folder` is another one by now.
        """
        base = snapshot.base
        # A base that is not in this folder, any more, is of no use.
        if not (isinstance(base, StoredSnapshot) and os.path.exists(os.path.join(folder, os.path.basename(base.path)))):
            base = None
        shared = snapshot.shared if base else frozenset()
        arrays = {f"{index:06}": array for index, array in enumerate(snapshot.weights) if index not in shared}
        content = to_npz(arrays)
        checksum = hashlib.sha256(content).hexdigest()
        file = f"{prefix}-{checksum[:16]}.npz"
        write_atomically(os.path.join(folder, file), content, check)
        entry = {"file": file, "sha256": checksum, "size": len(content), "shapes": snapshot.shapes}
        if base:
            entry.update(shared=sorted(shared), base=base._file)
        entry["step"] = snapshot.step
        return cls(folder, {**entry, "learning_rate": snapshot.learning_rate, "metrics": snapshot.metrics})

    @property
    def file(self) -> str:
        return self._file["file"]

    @property
    def entry(self) -> dict[str, Any]:
        entry = {**self._file, "shapes": self.shapes, "step": self.step}
        entry |= {"learning_rate": self.learning_rate, "metrics": self.metrics}
        if isinstance(self.base, StoredSnapshot):
            entry.update(shared=sorted(self.shared), base=self.base._file)
        return entry

    @property
    def line(self) -> str:
        if self._line is None or self._line[0] is not self.metrics:
            self._line = self.metrics, json.dumps(self.entry)
        return self._line[1]

    @property
    def weights(self) -> list[np.ndarray]:
        """The weights, from the file.

        Raises:
            ValueError: if it is missing, or not as it was written.
        """
        try:
            written = (self._file["size"], self._file["sha256"]) if self._verify else ()
            content = read_bytes(self.path, *written, follows=False)
        except FileNotFoundError:
            raise ValueError(f"The member '{self.path}' is missing.") from None
        arrays = read_npz(content, self.path)
        held = self.base._arrays(self.shared) if self.base else {}
        expected = {f"{index:06}": shape for index, shape in enumerate(self.shapes) if index not in held}
        if {name: array.shape for name, array in arrays.items()} != expected:
            raise ValueError(f"The member '{self.path}' has other arrays than manifest.json says: their shapes differ.")
        return [held[index] if index in held else arrays[f"{index:06}"] for index in range(len(self.shapes))]

    def _arrays(self, indices: Iterable[int]) -> dict[int, np.ndarray]:
        indices = list(indices)
        if not set(indices) <= self._held.keys():
            weights = self.weights
            self._held.update({index: weights[index] for index in indices if index not in self._held})
        return {index: self._held[index] for index in indices}


_bases: weakref.WeakValueDictionary[tuple, StoredSnapshot] = weakref.WeakValueDictionary()


def _base(folder, file, shapes, verify):
    """The base of members, one object for all of them, so that its arrays are in memory once."""
    path = os.path.join(os.path.abspath(folder), file["file"])
    try:
        status = os.stat(path)
        present = status.st_ino, status.st_size, status.st_mtime_ns  # One that was read before may have changed.
    except OSError:
        present = None
    key = (path, file["sha256"], verify, present)
    if (base := _bases.get(key)) is None:
        entry = {**file, "shapes": shapes, "step": 0, "learning_rate": None, "metrics": {}}
        base = _bases[key] = StoredSnapshot(folder, entry, verify)
    return base


def distances_between(snapshots: Sequence[Snapshot], network: keras.Model) -> np.ndarray:
    """||w_j - w_k|| over the trainable weights of `network`: array of shape `(K, K)`, in the units of the weights."""
    matrix = np.zeros((len(snapshots), len(snapshots)))
    for j, snapshot in enumerate(snapshots):
        weights = snapshot.weights
        for k in range(j):
            matrix[j, k] = matrix[k, j] = distance(network, weights, snapshots[k].weights)
    return matrix


def measured(snapshots: Sequence[Snapshot], ending: str) -> dict[str, np.ndarray]:
    """The metrics whose names end so, by name, an array over `snapshots`; NaN for one that was not measured so."""
    names = dict.fromkeys(name for snapshot in snapshots for name in snapshot.metrics if name.endswith(ending))
    return {name: np.array([snapshot.metrics.get(name, np.nan) for snapshot in snapshots]) for name in names}
