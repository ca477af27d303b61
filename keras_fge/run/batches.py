"""Arrays as batches that a seed and the epoch shuffle, so that a resumed `fit` has the same ones."""

import weakref
from typing import Any, Protocol

import keras
import numpy as np

from keras_fge.core.arguments import as_integer
from keras_fge.core.data import ArrayBatches, as_arrays, is_in_memory, to_tell_apart
from keras_fge.core.files import checksum_of_arrays


class Followed(Protocol):
    """A callback that knows the epoch of its `fit`."""

    def epoch_for(self, batches: "Batches") -> int: ...


class Batches(ArrayBatches):
    """Arrays as a data set for `fit`, shuffled anew in each epoch.

    The batches of epoch e are the rows

        numpy.random.default_rng((seed, e)).permutation(N)

    from first to last. `follow` says which epoch that is: with a callback that resumes, it is the epoch that `fit` is
    in, also after a resume. `fge.batches(x, y)` and `checkpoint.batches(x, y)` make such a data set. Without `follow`,
    e counts the whole passes over these data, from 0.

    Arrays may be larger than memory: memory maps, HDF5 data sets, or any object without `__array__` that has `shape`,
    `dtype`, `ndim`, `len()` and rows by `array[positions]`, in increasing order, such as one that decodes images. Then
    a thread reads the next batch while `fit` trains on the present one. Each `Batches` has one such thread, so an
    object that two of them share is asked by two. A run knows arrays of more than 1 GiB, HDF5 data sets and such
    objects by their shape and 1,000 of their rows.

    Unless it is told `shuffle=False`, `fit` takes these batches in an order of its own, by Python's generator, which
    the state of a run has in it. Give `fit` no `steps_per_epoch`, and keep `workers` at 1.

    Args:
        x, y: Arrays, or structures of arrays, of one length N.
        batch_size: Samples per batch; the last batch may be shorter. Default: 32.
        seed: Seed of the order. Default: 0.
        sample_weight: Weights of the samples in the loss, an array of N. Default: none.
        follow: The `FGE`, `SnapshotEnsemble` or `Checkpoint` in the same `fit`. Default: none.

    Raises:
        ValueError: if lengths differ or are 0, or `batch_size` or `seed` is no integer, or too small.

    Example:
        checkpoint = keras_fge.Checkpoint("training")
        batches = keras_fge.Batches(x, y, batch_size=128, follow=checkpoint)
        model.fit(batches, epochs=2, verbose=0, callbacks=[checkpoint])
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        batch_size: int = 32,
        seed: int = 0,
        *,
        sample_weight: Any = None,
        follow: Followed | None = None,
    ):
        given = {"x": x, "y": y} | ({} if sample_weight is None else {"sample_weight": sample_weight})
        data = tuple(_with_tuples(as_arrays(part, name)) for name, part in given.items())
        if not all(np.ndim(array) for array in keras.tree.flatten(data)):
            raise ValueError("`x`, `y` and `sample_weight` must hold arrays, not lists of numbers: use numpy.array.")
        batch_size, self.seed = as_integer("batch_size", batch_size), as_integer("seed", seed, least=0)
        lengths = {len(array) for array in keras.tree.flatten(data)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"`x` and `y` must hold arrays of one length. Received: lengths {sorted(lengths)}")
        if follow is not None and not callable(getattr(follow, "epoch_for", None)):
            raise ValueError(f"`follow` must be an FGE, a SnapshotEnsemble or a Checkpoint. Received: {follow!r}")
        super().__init__(data, batch_size)
        # TensorFlow keeps data sets that are read by generators for good: they are not to keep callbacks alive.
        self._follow = None if follow is None else weakref.ref(follow)
        self._passes = 0  # Whole ones, without `follow`.
        self._is_in_pass, self._read = False, 0  # Whether one has begun, and how many batches of it were read.
        self._shuffle(0)

    def _shuffle(self, epoch):
        self._order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    @property
    def follow(self) -> Followed | None:
        """The callback whose epochs these batches follow; None if there is none, or it is gone."""
        return None if self._follow is None else self._follow()

    def on_epoch_begin(self) -> None:
        """Keras calls this before it reads the batches of an epoch."""
        follow = self.follow
        self._shuffle(self._passes if follow is None else follow.epoch_for(self))
        self._is_in_pass, self._read = True, 0

    def on_epoch_end(self) -> None:
        """Keras calls this after an epoch; and before the first one, on JAX and torch after a look at one batch."""
        self._passes += self._is_in_pass and self._read >= len(self)
        self._is_in_pass = False

    def __getstate__(self):
        return {**vars(self), "_follow": None}  # A copy in another process counts its own passes.

    def about(self) -> dict[str, Any]:
        """What the batches of an epoch are made of: {"data": checksum of the arrays, "batch_size", "seed"}."""
        data = checksum_of_arrays(to_tell_apart(keras.tree.flatten(self.data)))
        return {"data": data, "batch_size": self.batch_size, "seed": self.seed}

    def __getitem__(self, index: int) -> Any:
        self._read += 1
        return super().__getitem__(index)

    def with_batch_size(self, batch_size: int) -> "Batches":
        """The same data in batches of another size, which follow no callback."""
        x, y, *weights = self.data
        return Batches(x, y, batch_size, self.seed, sample_weight=weights[0] if weights else None)

    def in_order(self) -> Any:
        """(x, y) or (x, y, sample_weight) in their own order: arrays, or a data set of batches if they are larger.

        Returns:
            A tuple of arrays in memory, or a `keras.utils.PyDataset`.
        """
        return self.data if is_in_memory(self.data) else ArrayBatches(self.data, self.batch_size)


def _with_tuples(structure):
    """The structure with tuples in place of lists, which TensorFlow takes for arrays."""
    if isinstance(structure, dict):
        return {name: _with_tuples(part) for name, part in structure.items()}
    return tuple(map(_with_tuples, structure)) if isinstance(structure, (list, tuple)) else structure


def arrays_of(data: Any) -> Any:
    """`Batches` in the order of their arrays; other data as they are."""
    return data.in_order() if isinstance(data, Batches) else data
