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
