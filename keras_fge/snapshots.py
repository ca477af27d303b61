"""Snapshots: copies of all weights of a network at one moment of a training run."""

import dataclasses

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """All weights of a network, BatchNormalization statistics included.

    Attributes:
        weights: numpy arrays in the order of `keras.Model.get_weights`.
        step: Updates since the start of the run. 0: unknown.
        learning_rate: The one of the last of these updates, or None.
    """

    weights: list
    step: int = 0
    learning_rate: float | None = None

    @classmethod
    def of(cls, network, step=0, learning_rate=None):
        """Copies the present weights of `network`."""
        return cls([ops.convert_to_numpy(v.value) for v in network.weights], step, learning_rate)

    def check(self, network, index):
        """Raises a ValueError unless these are weights of the architecture of `network`."""
        expected = [tuple(variable.shape) for variable in network.weights]
        received = [np.shape(array) for array in self.weights]
        if expected != received:
            where = next((i for i, (a, b) in enumerate(zip(expected, received)) if a != b), None)
            detail = (
                f"{len(received)} arrays instead of {len(expected)}"
                if where is None
                else f"shape {received[where]} instead of {expected[where]} for '{network.weights[where].path}'"
            )
            raise ValueError(f"`snapshots[{index}]` does not fit network '{network.name}': it has {detail}.")

    def __repr__(self):
        size = sum(array.size for array in self.weights)
        return f"Snapshot(step={self.step}, learning_rate={self.learning_rate}, {size:,} weights)"
