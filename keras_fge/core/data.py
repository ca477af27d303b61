"""What users hand over as data, arrays or a data set of batches: checked, counted, cut, read by rows, told apart."""

import concurrent.futures
import math
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_fge.core.arguments import as_integer
from keras_fge.core.files import checksum_of_arrays

LARGE, ROWS = 2**30, 1000  # Bytes from which on an array is told from others by so many of its rows.


def check_data(name: str, data: Any, is_read_once: bool = False) -> None:
    """Raises a ValueError for data that `fit` would take for something else, or that end too early, or never."""
    if isinstance(data, list):
        raise ValueError(f"`{name}` is a list: give arrays as a tuple, (x, y). Received: {len(data)} elements")
    if not is_read_once:
        check_can_be_read_again(name, data)
    if _is_endless(data):
        raise ValueError(f"`{name}` has no end: give a part of it, such as the first batches, by `take`.")
    if isinstance(data, tuple) and data and getattr(data[0], "shape", (1,))[:1] == (0,):
        raise ValueError(f"`{name}` has no samples. Received: x of shape {tuple(data[0].shape)}")


def check_can_be_read_again(name: str, data: Any) -> None:
    """Raises a ValueError for a generator, in which the next pass would read on."""
    if hasattr(data, "__next__"):
        raise ValueError(f"`{name}` is read many times: give arrays or a data set, not a generator.")


def _is_endless(data):
    """Whether a `tf.data.Dataset` or a Keras `PyDataset` says that it never ends."""
    if callable(cardinality := getattr(data, "cardinality", None)):
        return int(cardinality()) == -1
    return isinstance(data, keras.utils.PyDataset) and data.num_batches is None


def without_none(data: Any) -> Any:
    """The data without an empty place for sample weights: (x, y, None) becomes (x, y)."""
    return data[:2] if isinstance(data, tuple) and len(data) == 3 and data[2] is None else data


def number_of_samples(data: Any) -> int | None:
    """How many samples arrays hold; None for another data set."""
    return len(keras.tree.flatten(data)[0]) if isinstance(data, tuple) else None


def as_arrays(data: Any, name: str) -> Any:
    """The structure with arrays of which rows can be taken by position; `name` is the argument, for errors.

    pandas, and tensors of any library, become numpy arrays: `series[rows]` would go by the index. Numpy arrays, also
    memory maps, HDF5 data sets and objects without `__array__` stay what they are, and are read row by row.

    Raises:
        ValueError: on sparse matrices.
    """
    return keras.tree.map_structure(lambda array: _as_array(array, name), data)


def _as_array(array, name):
    if hasattr(array, "tocsr"):
        raise ValueError(f"`{name}` is a sparse matrix, whose rows are not taken: give {name}.toarray().")
    if keras.ops.is_tensor(array):
        return keras.ops.convert_to_numpy(array)
    is_kept = isinstance(array, np.ndarray) or type(array).__module__.startswith("h5py.")
    return np.asarray(array) if hasattr(array, "__array__") and not is_kept else array


def is_in_memory(data: Any) -> bool:
    """Whether all arrays in a structure are, so that their rows are there at once; memory maps are not."""
    return all(type(array) is np.ndarray for array in keras.tree.flatten(data))


def to_tell_apart(arrays: Iterable[Any]) -> Iterator[np.ndarray]:
    """What tells arrays from others: each as it is; of one that is large, or no array, the shape and some rows."""
    for array in arrays:
        if isinstance(array, np.ndarray) and array.nbytes <= LARGE:
            yield array
        else:
            yield np.array(array.shape)
            yield take_rows(array, np.unique(np.linspace(0, len(array) - 1, ROWS).astype(int)))


def take_rows(data: Any, rows: np.ndarray) -> Any:
    """These rows of all arrays in a structure that `as_arrays` has returned."""
    return keras.tree.map_structure(lambda array: _take_rows(array, rows), data)


def _take_rows(array, rows):
    if isinstance(array, np.ndarray):
        return array[rows]
    order = np.argsort(rows)  # HDF5 takes rows in increasing order only.
    taken = array[rows[order]]
    return taken[np.argsort(order)]


class RowReader:
    """Takes rows of arrays that are not in memory, by one thread: those of the next batch while the caller goes on."""

    def __init__(self, data: Any):
        self.data = data
        self._begin()

    def _begin(self):
        self._lock, self._process, self._pool = threading.Lock(), os.getpid(), None
        # The rows that come next, if they come in order, and what will have them.
        self._expected, self._ahead = None, None

    def __reduce__(self):
        return RowReader, (self.data,)

    def read(self, rows: np.ndarray, following: np.ndarray) -> Any:
        """These rows; `following` will be asked for next, if the order stays."""
        if self._process != os.getpid():  # A thread does not survive a fork.
            self._begin()
        with self._lock:
            self._pool = self._pool or concurrent.futures.ThreadPoolExecutor(1, "keras_fge_reader")
            is_expected = self._expected is not None and np.array_equal(rows, self._expected)
            found = self._ahead if is_expected and self._ahead else self._submit(rows)
            # Batches in an order of Keras' own are read when they are asked for.
            self._ahead = self._submit(following) if is_expected and len(following) else None
            self._expected = following
        return found.result()

    def _submit(self, rows):
        return self._pool.submit(take_rows, self.data, rows)


class ArrayBatches(keras.utils.PyDataset):
    """Arrays of one length as batches of their rows, from first to last; a subclass may set another `_order`."""

    def __init__(self, data: Any, batch_size: int):
        super().__init__()
        self.data, self.batch_size = data, batch_size
        self.samples = len(keras.tree.flatten(data)[0])
        self._order = np.arange(self.samples)
        self._reader = None if is_in_memory(data) else RowReader(data)

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        rows = self._rows(index)
        return take_rows(self.data, rows) if self._reader is None else self._reader.read(rows, self._rows(index + 1))

    def _rows(self, index):
        return self._order[index * self.batch_size : (index + 1) * self.batch_size]


def batches_of(data: Any) -> Iterable[Any]:
    """The batches of a data set, in one pass."""
    return (data[index] for index in range(len(data))) if isinstance(data, keras.utils.PyDataset) else data


def subset(data: Any, samples: int | None, name: str) -> Any:
    """`samples` of `data`, drawn at random with a fixed seed; None: all. `name` is the argument, for errors.

    Raises:
        ValueError: if `data` are no arrays, or there are fewer.
    """
    if samples is None:
        return data
    samples = as_integer(name, samples)
    if not isinstance(data, tuple):
        raise ValueError(f"`{name}` needs `train` as arrays (x, y); make another data set shorter itself.")
    data = as_arrays(data, "train")
    size = len(keras.tree.flatten(data[0])[0])
    if samples > size:
        raise ValueError(f"`{name}` must lie between 1 and the {size} samples of `train`. Received: {name}={samples}")
    chosen = np.sort(np.random.default_rng(0).choice(size, samples, replace=False))
    return take_rows(data, chosen)


def checksum_of_data(data: Any) -> str | None:
    """Checksum of arrays, None for None; for other data, which can be anything, only the name of the class."""
    data = data.data if isinstance(data, ArrayBatches) else data
    if not isinstance(data, tuple):
        return None if data is None else type(data).__name__
    try:
        arrays = as_arrays([part for part in data if part is not None], "data")
        return checksum_of_arrays(to_tell_apart(keras.tree.flatten(arrays)))
    except ValueError:  # Keras itself takes sparse matrices.
        return type(data[0]).__name__
