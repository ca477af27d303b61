"""Arrays as batches that a seed and the epoch shuffle, so that a resumed `fit` has the same ones."""

import concurrent.futures
import math
import weakref
from typing import Any, Protocol

import keras
import numpy as np

from keras_fge.core.arguments import as_integer
from keras_fge.core.data import as_arrays, is_for_keras, is_in_memory, take_rows, to_tell_apart
from keras_fge.core.files import checksum_of_arrays


class Followed(Protocol):
    """A callback that knows the epoch of its `fit`, and how many batches of it were done before that `fit` began."""

    def place_for(self, batches: "Batches") -> tuple[int, int]: ...


class Batches(keras.utils.PyDataset):
    """Arrays as a data set for `fit`, shuffled anew in each epoch.

    The batches of epoch e are the rows

        numpy.random.default_rng((seed, e)).permutation(N)

    from first to last. `follow` says which epoch that is: with a callback that resumes, it is the epoch that `fit` is
    in, also after a resume. `fge.batches(x, y)` and `checkpoint.batches(x, y)` make such a data set. Without `follow`,
    e counts the whole passes over these data, from 0.

    Arrays may be larger than memory: memory maps, HDF5 data sets, or any object with `shape`, `dtype`, `ndim`, `len()`
    and rows by `array[positions]`, in increasing order, such as one that decodes images. Then a thread reads the next
    batch while `fit` trains on the present one. (A run knows arrays of more than 1 GiB, and such objects, by their
    shape and 1,000 of their rows.)

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
        super().__init__()
        given = {"x": x, "y": y} | ({} if sample_weight is None else {"sample_weight": sample_weight})
        self.data = tuple(_with_tuples(as_arrays(part, name)) for name, part in given.items())
        if not all(np.ndim(array) for array in keras.tree.flatten(self.data)):
            raise ValueError("`x`, `y` and `sample_weight` must hold arrays, not lists of numbers: use numpy.array.")
        self.batch_size, self.seed = as_integer("batch_size", batch_size), as_integer("seed", seed, least=0)
        lengths = {len(array) for array in keras.tree.flatten(self.data)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"`x` and `y` must hold arrays of one length. Received: lengths {sorted(lengths)}")
        if follow is not None and not callable(getattr(follow, "place_for", None)):
            raise ValueError(f"`follow` must be an FGE, a SnapshotEnsemble or a Checkpoint. Received: {follow!r}")
        self.samples = lengths.pop()
        # TensorFlow keeps data sets that are read by generators for good: they are not to keep callbacks alive.
        self._follow = None if follow is None else weakref.ref(follow)
        self._passes = 0  # Whole ones, without `follow`.
        self._is_in_pass, self._read = False, 0  # Whether one has begun, and how many batches of it were read.
        self._done = 0  # Batches of this epoch that a `fit` before has done. `fit` asks for so many less.
        self._reader = None if is_in_memory(self.data) else _Reader(self.data)
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
        epoch, self._done = (self._passes, 0) if follow is None else follow.place_for(self)
        self._shuffle(epoch)
        self._is_in_pass, self._read = True, 0

    def on_epoch_end(self) -> None:
        """Keras calls this after an epoch; and before the first one, on JAX and torch after a look at one batch."""
        self._passes += self._is_in_pass and self._read >= len(self)
        self._is_in_pass = False

    def __getstate__(self):
        # A copy in another process counts its own passes.
        return {**vars(self), "_follow": None, "_reader": self._reader and _Reader(self.data)}

    def about(self) -> dict[str, Any]:
        """What the batches of an epoch are made of: {"data": checksum of the arrays, "batch_size", "seed"}."""
        data = checksum_of_arrays(to_tell_apart(keras.tree.flatten(self.data)))
        return {"data": data, "batch_size": self.batch_size, "seed": self.seed}

    @property
    def is_read_in_part(self) -> bool:
        """Whether a `fit` reads the rest of an epoch now, which it had begun before."""
        return self._is_in_pass and self._done > 0

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        self._read += 1
        rows = self._rows(index)
        return take_rows(self.data, rows) if self._reader is None else self._reader.read(rows, self._rows(index + 1))

    def _rows(self, index):
        first = (self._done + index) * self.batch_size
        return self._order[first : first + self.batch_size]

    def in_order(self) -> Any:
        """(x, y) or (x, y, sample_weight) in their own order: arrays, or batches if Keras does not take them as arrays.

        Returns:
            A tuple, or a `keras.utils.PyDataset`.
        """
        return self.data if is_for_keras(self.data) else InOrder(self.data, self.batch_size)


class InOrder(keras.utils.PyDataset):
    """Arrays as batches in their own order; see `Batches.in_order`."""

    def __init__(self, data: Any, batch_size: int):
        super().__init__()
        self.data, self.batch_size = data, batch_size
        self.samples = len(keras.tree.flatten(data)[0])
        self._reader = _Reader(data)

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        return self._reader.read(self._rows(index), self._rows(index + 1))

    def _rows(self, index):
        return np.arange(index * self.batch_size, min((index + 1) * self.batch_size, self.samples))


class _Reader:
    """Takes rows of arrays that are not in memory; those of the next batch by a thread, while the caller goes on."""

    def __init__(self, data):
        self.data = data
        self._pool: Any = None
        self._expected, self._ahead = None, None

    def read(self, rows, following):
        is_expected = self._expected is not None and np.array_equal(rows, self._expected)
        found = self._ahead.result() if is_expected and self._ahead else take_rows(self.data, rows)
        # Batches in an order of Keras' own are read when they are asked for.
        self._ahead = self._submit(following) if is_expected and len(following) else None
        self._expected = following
        return found

    def _submit(self, rows):
        self._pool = self._pool or concurrent.futures.ThreadPoolExecutor(1, "keras_fge_reader")
        return self._pool.submit(take_rows, self.data, rows)


def _with_tuples(structure):
    """The structure with tuples in place of lists, which TensorFlow takes for arrays."""
    if isinstance(structure, dict):
        return {name: _with_tuples(part) for name, part in structure.items()}
    return tuple(map(_with_tuples, structure)) if isinstance(structure, (list, tuple)) else structure


def arrays_of(data: Any) -> Any:
    """`Batches` in the order of their arrays; other data as they are."""
    return data.in_order() if isinstance(data, Batches) else data
