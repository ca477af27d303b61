"""`Once`: a way to predict with all members in one pass over the data, taken only if it predicts the same."""

import abc
from typing import Any

import keras
import numpy as np

from keras_fge.core.data import batches_of

OF_ALL = 2**30  # Bytes of what one pass leaves, for all samples.


class Once(abc.ABC):
    """One pass of `before` over the data, from which what each member outputs follows.

    Attributes:
        before: A Keras model.
        is_exact: Whether the members' outputs are those of the network; None: not known yet.
    """

    before: keras.Model
    is_exact: bool | None = None

    @abc.abstractmethod
    def outputs_of(self, index: int, results: Any, batch_size: int | None) -> Any:
        """What a member outputs, from what `before` predicts."""

    @abc.abstractmethod
    def fits(self, samples: int | None) -> bool:
        """Whether what `before` predicts may be held for so many samples; None: nobody knows how many."""

    @abc.abstractmethod
    def is_right_for(self, rows: Any) -> bool:
        """Whether members output for these inputs what the network does with their weights."""

    def serves(self, x: Any, is_data_set: bool) -> bool:
        """Whether to take it for these data; that it is exact is seen on the first rows, once.

        Args:
            x: Arrays, or a data set of batches, which may be a list of them.
            is_data_set: Which of these.
        """
        if not self.fits(None if is_data_set else len(keras.tree.flatten(x)[0])):
            return False
        if self.is_exact is None:
            rows = _first_batch(x) if is_data_set else keras.tree.map_structure(lambda part: part[:32], x)
            rows = rows if rows is not None and len(keras.tree.flatten(rows)[0]) else None
            self.is_exact = rows is not None and self.is_right_for(rows)
        return self.is_exact


def runs_as(part: keras.Model, network: keras.Model) -> None:
    """Has `part` run as `network` does: eagerly or not, and compiled by XLA or not."""
    part.run_eagerly, part.jit_compile = network.run_eagerly, network.jit_compile


def are_alike(first: Any, second: Any) -> bool:
    """Whether two predictions are the same, but for rounding."""
    pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True)
    arrays = [[np.asarray(array, "float64") for array in pair] for pair in pairs]
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(a)), equal_nan=True) for a, b in arrays)


def _first_batch(data):
    """The inputs of the first batch of a data set; None if there is none."""
    batch = next(iter(batches_of(data)), None)
    return keras.tree.map_structure(np.asarray, batch[0] if isinstance(batch, tuple | list) else batch)
