"""Snapshots: copies of all weights of a network at one moment of a training run, in memory or in a file."""

import hashlib
import io
import os

import numpy as np
from keras import ops

from curves.files import read_npz, to_npz, write_atomically


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
    """

    def __init__(self, weights, step=0, learning_rate=None, metrics=None):
        self.weights = [np.asarray(array) for array in weights]
        self.shapes = [array.shape for array in self.weights]
        self.step = step
        self.learning_rate = learning_rate
        self.metrics = dict(metrics or {})

    @classmethod
    def of(cls, network, step=0, learning_rate=None):
        """Copies the present weights of `network`."""
        return cls([to_array(variable) for variable in network.weights], step, learning_rate)

    def check(self, network, index):
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

    def __repr__(self):
        size = sum(int(np.prod(shape)) for shape in self.shapes)
        return f"Snapshot(step={self.step}, learning_rate={self.learning_rate}, {size:,} weights)"


class StoredSnapshot(Snapshot):
    """A snapshot whose weights are in a file, and are read, and compared with their checksum, each time they are used.

    Args:
        folder: The folder with the file.
        entry: What `to_entry` returned.
    """

    def __init__(self, folder, entry):
        self.path = os.path.join(folder, entry["file"])
        self.sha256 = entry["sha256"]
        self.shapes = [tuple(shape) for shape in entry["shapes"]]
        self.step = entry["step"]
        self.learning_rate = entry["learning_rate"]
        self.metrics = entry["metrics"]

    @classmethod
    def write(cls, snapshot, folder, prefix):
        """Writes a snapshot to a file of its own, named by its content, so that none is ever overwritten."""
        content = to_npz({f"{index:06}": array for index, array in enumerate(snapshot.weights)})
        checksum = hashlib.sha256(content).hexdigest()
        file = f"{prefix}-{checksum[:16]}.npz"
        write_atomically(os.path.join(folder, file), content)
        entry = {"file": file, "sha256": checksum, "shapes": snapshot.shapes, "step": snapshot.step}
        return cls(folder, {**entry, "learning_rate": snapshot.learning_rate, "metrics": snapshot.metrics})

    def to_entry(self):
        """The snapshot without its weights, as a dictionary that JSON can hold."""
        entry = {"file": os.path.basename(self.path), "sha256": self.sha256, "shapes": self.shapes, "step": self.step}
        return {**entry, "learning_rate": self.learning_rate, "metrics": self.metrics}

    @property
    def weights(self):
        try:
            with open(self.path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            raise ValueError(f"The member '{self.path}' is missing.") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"The member '{self.path}' is damaged: it is not what was written (by its SHA-256).")
        return list(read_npz(io.BytesIO(content), self.path).values())


def to_array(variable):
    """The value of a Keras variable as a numpy array of a type that numpy itself knows: bfloat16 becomes float32."""
    array = ops.convert_to_numpy(variable.value)
    return array if array.dtype.isbuiltin == 1 else array.astype("float32")


def training_state(model):
    """The variables that a training goes on from: weights, statistics, seeds, optimizer."""
    return model.trainable_variables + model.non_trainable_variables + model.optimizer.variables


def distance(network, first, second):
    """||w - v|| of two lists of weights of `network`, over the trainable ones."""
    trainable = {id(variable) for variable in network.trainable_variables}
    pairs = [pair for variable, *pair in zip(network.weights, first, second) if id(variable) in trainable]
    return float(np.sqrt(sum(np.sum((np.asarray(a, "float64") - b) ** 2) for a, b in pairs)))
