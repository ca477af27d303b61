"""Arrays as batches that a seed and the epoch shuffle, so that a resumed `fit` has the same ones."""

import math
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_fge.core.arguments import as_integer
from keras_fge.core.files import checksum_of_arrays
from keras_fge.core.keras_internals import is_in_a_fit

_announced = threading.local()


def announce_epoch(epoch: int | None, check: Callable[["Batches"], None] | None = None) -> None:
    """Tells the `Batches` of the `fit` in this thread which epoch begins. None: it has begun.

    `fit` hands a data set no number of the epoch. But it begins the epoch of the data set after `on_epoch_begin` of the
    callbacks, which call this, and before the first `on_train_batch_begin`, where they take it back.

    Args:
        epoch: The epoch.
        check: What the batches are to be given to before they are read; it raises an error if they are the wrong ones.
    """
    _announced.epoch = epoch if epoch is None else (epoch, check)


class Batches(keras.utils.PyDataset):
    """Arrays as a data set for `fit`, shuffled anew in each epoch.

    In a `fit` with `Checkpoint`, `FGE` or `SnapshotEnsemble`, also a resumed one, the batches of epoch e are the rows

        numpy.random.default_rng((seed, e)).permutation(N)

    from first to last. Unless it is told `shuffle=False`, `fit` takes these batches in an order of its own, by Python's
    generator, which the state of a run has in it. Without such a callback, as in `predict`, the order stays as it is.
    Give `fit` no `steps_per_epoch`, and keep `workers` at 1.

    Args:
        x, y: Arrays, or structures of arrays, of one length N.
        batch_size: Samples per batch; the last batch may be shorter. Default: 32.
        seed: Seed of the order. Default: 0.
        sample_weight: Weights of the samples in the loss, an array of N. Default: none.

    Raises:
        ValueError: if lengths differ or are 0, or `batch_size` or `seed` is no integer, or too small.

    Example:
        checkpoint = keras_fge.Checkpoint("training")
        model.fit(keras_fge.Batches(x, y, batch_size=128), epochs=2, verbose=0, callbacks=[checkpoint])
    """

    def __init__(self, x: Any, y: Any, batch_size: int = 32, seed: int = 0, sample_weight: Any = None):
        super().__init__()
        self.data = _with_tuples((x, y) if sample_weight is None else (x, y, sample_weight))
        if not all(np.ndim(array) for array in keras.tree.flatten(self.data)):
            raise ValueError("`x`, `y` and `sample_weight` must hold arrays, not lists of numbers: use numpy.array.")
        self.batch_size, self.seed = as_integer("batch_size", batch_size), as_integer("seed", seed, least=0)
        lengths = {len(array) for array in keras.tree.flatten(self.data)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"`x` and `y` must hold arrays of one length. Received: lengths {sorted(lengths)}")
        self.samples = lengths.pop()
        self._shuffle(0)

    def _shuffle(self, epoch):
        self._order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    def on_epoch_begin(self) -> None:
        """Keras calls this before it reads the batches of an epoch."""
        announced = vars(_announced).pop("epoch", None)
        # A fit that broke off may have left its announcement behind.
        if announced is not None and is_in_a_fit():
            epoch, check = announced
            if check:
                check(self)
            self._shuffle(epoch)

    def about(self) -> dict[str, Any]:
        """What the batches of an epoch are made of: {"data": checksum of the arrays, "batch_size", "seed"}."""
        data = checksum_of_arrays(keras.tree.flatten(self.data))
        return {"data": data, "batch_size": self.batch_size, "seed": self.seed}

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.data)


def _with_tuples(structure):
    """The structure with tuples in place of lists, which TensorFlow takes for arrays."""
    if isinstance(structure, dict):
        return {name: _with_tuples(part) for name, part in structure.items()}
    return tuple(map(_with_tuples, structure)) if isinstance(structure, (list, tuple)) else structure
