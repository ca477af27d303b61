"""Numbers that users give, checked: the error names the argument, what was expected and what was received."""

import math
import numbers
from typing import Any


def as_integer(name: str, value: Any, least: int = 1, note: str = "") -> int:
    """An integer as an int, also one of numpy.

    Raises:
        ValueError: if it is no integer, or below `least`. `note` is to say why.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        kind = {0: "0 or a positive integer", 1: "a positive integer"}.get(least, f"an integer of at least {least}")
        raise ValueError(f"`{name}` must be {kind}{note}. Received: {name}={value!r}")
    return int(value)


def as_number(name: str, value: Any, least: float = -math.inf) -> float:
    """A number as a float, also one of numpy.

    Raises:
        ValueError: if it is no finite number, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least:g}. Received: {name}={value!r}")
    return float(value)


def check_data(name: str, data: Any, is_read_once: bool = False) -> None:
    """Raises a ValueError for data that `fit` would take for something else, or that end too early, or never."""
    if isinstance(data, list):
        raise ValueError(f"`{name}` is a list: give arrays as a tuple, (x, y). Received: {len(data)} elements")
    if hasattr(data, "__next__") and not is_read_once:
        raise ValueError(f"`{name}` is read many times: give arrays or a data set, not a generator.")
    if _is_endless(data):
        raise ValueError(f"`{name}` has no end: give a part of it, such as the first batches, by `take`.")
    if isinstance(data, tuple) and data and getattr(data[0], "shape", (1,))[:1] == (0,):
        raise ValueError(f"`{name}` has no samples. Received: x of shape {tuple(data[0].shape)}")


def _is_endless(data):
    """Whether a `tf.data.Dataset` or a Keras `PyDataset` says that it never ends."""
    if callable(cardinality := getattr(data, "cardinality", None)):
        return int(cardinality()) == -1
    return getattr(data, "num_batches", 0) is None
