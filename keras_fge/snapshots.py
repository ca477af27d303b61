"""Snapshots: copies of all weights of a network at one moment of a training run, in memory or in a file."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_fge.core.files import read_bytes, read_npz, to_npz, write_atomically
from keras_fge.core.networks import locked, to_array


class Snapshot:
    """All weights of a network, BatchNormalization statistics included.

    Args:
        weights: numpy arrays in the order of `keras.Model.get_weights`.
        step: Updates since the start of the run. Default: 0, unknown.
        learning_rate: The one of the last of these updates, or None.
        metrics: What was measured when the snapshot was taken: a dictionary of floats. Default: nothing.

    Attributes:
        weights, step, learning_rate, metrics: As given.
        shapes: Shapes of the weights.

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

    @property
    def weights(self) -> list[np.ndarray]:
        return self._weights

    @classmethod
    def of(cls, network: keras.Model, step: int = 0, learning_rate: float | None = None) -> "Snapshot":
        """Copies the present weights of `network`."""
        with locked(network):
            return Snapshot([to_array(variable) for variable in network.weights], step, learning_rate)

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

    @classmethod
    def write(cls, snapshot: Snapshot, folder: str | os.PathLike, prefix: str) -> Self:
        """Writes a snapshot to a file of its own, named by its content, so that none is ever overwritten."""
        content = to_npz({f"{index:06}": array for index, array in enumerate(snapshot.weights)})
        checksum = hashlib.sha256(content).hexdigest()
        file = f"{prefix}-{checksum[:16]}.npz"
        write_atomically(os.path.join(folder, file), content)
        entry = {"file": file, "sha256": checksum, "size": len(content), "shapes": snapshot.shapes}
        entry["step"] = snapshot.step
        return cls(folder, {**entry, "learning_rate": snapshot.learning_rate, "metrics": snapshot.metrics})

    def to_entry(self) -> dict[str, Any]:
        """The snapshot without its weights, as a dictionary that JSON can hold."""
        return {
            "file": os.path.basename(self.path),
            "sha256": self.sha256,
            "size": self.size,
            "shapes": self.shapes,
            "step": self.step,
            "learning_rate": self.learning_rate,
            "metrics": self.metrics,
        }

    @property
    def weights(self) -> list[np.ndarray]:
        try:
            content = read_bytes(self.path, *((self.size, self.sha256) if self._verify else ()))
        except FileNotFoundError:
            raise ValueError(f"The member '{self.path}' is missing.") from None
        return list(read_npz(content, self.path).values())

    def check_file(self) -> None:
        """Raises a ValueError unless the file is there and as it was written."""
        _ = self.weights
