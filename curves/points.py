"""`Points`: a measurement that resumes from a file, which has one row for each point and is complete after each."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import keras
import numpy as np

from curves.results import part
from keras_fge.core.files import read_npz, remove_leftovers, to_npz, write_atomically
from keras_fge.core.networks import restored

Result = TypeVar("Result")


def measure_points(
    model: keras.Model,
    points: "Points",
    places: Sequence[Any] | np.ndarray,
    measure: Callable[[Any], tuple],
    verbose: bool,
) -> None:
    """Adds (row, carry) = `measure(place)` for each place that is not in `points` yet, and restores `model`."""
    progress = keras.utils.Progbar(len(places), verbose=int(verbose), unit_name="point")
    progress.update(len(points.rows))
    with restored(model):
        for place in places[len(points.rows) :]:
            points.add(*measure(place))
            progress.add(1)


class Points(Generic[Result]):
    """The rows of a measurement, one for each point, in memory and in a file.

    Args:
        path: File, or None to keep the rows in memory only. The measurement continues after the rows in the file.
        result_class: Class of the result that will replace the rows in this file.
        settings: Dictionary that JSON can hold; it must be the same for the whole measurement.
        num_points: Number of rows of the finished measurement.

    Attributes:
        rows: List of dictionaries of floats.
        carry: Dictionary of arrays that the next row depends on.
        result: The finished result, if `path` holds one.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        result_class: type[Result],
        settings: dict[str, Any],
        num_points: int,
    ):
        self.path, self.settings, self.num_points = path, settings, num_points
        self.rows: list[dict[str, float]] = []
        self.carry: Mapping[str, Any] = {}
        self.result: Result | None = None
        if path is None:
            return
        file = os.path.basename(path)
        remove_leftovers(os.path.dirname(os.path.abspath(path)), lambda name: name == file)
        if not os.path.exists(path):
            self._write()  # Fails before the work begins if the file cannot be written.
            return
        arrays = read_npz(path, path)
        kind, theirs = str(arrays.get("kind")), json.loads(str(arrays.get("settings", "{}")))
        theirs.setdefault("line", False)  # Version 0.1 measured none.
        if kind not in (result_class.__name__, "unfinished"):
            raise ValueError(f"`path` must be new or a file of this function. '{path}' holds something else: {kind}.")
        for key, value in settings.items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"`path`: '{path}' holds another measurement: its {key} is {theirs.get(key)}, here it is {value}. "
                    "Remove the file, or give another one."
                )
        if kind == result_class.__name__:
            self.result = result_class.load(path)  # type: ignore[attr-defined]
            return
        columns = part(arrays, "row")
        self.rows = [dict(zip(columns, map(float, row))) for row in zip(*columns.values())]
        self.carry = part(arrays, "carry")

    def add(self, row: dict[str, float], carry: Mapping[str, Any] | None = None) -> None:
        """Adds a row, and writes the file."""
        if self.rows and set(row) != set(self.rows[0]):
            theirs = sorted(self.rows[0])
            raise ValueError(f"`path`: '{self.path}' holds {theirs}, but here {sorted(row)} are measured.")
        self.rows.append(row)
        self.carry = carry or {}
        self._write()

    def columns(self, prefix: str, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The columns whose names begin with `prefix`, as a dictionary of arrays by the rest of their names."""
        names = [name for name in self.rows[0] if name.startswith(f"{prefix}_")]
        return {name.removeprefix(f"{prefix}_"): np.array([row[name] for row in self.rows[rows]]) for name in names}

    def _write(self):
        rows = {f"row_{name}": np.array([row[name] for row in self.rows]) for name in (self.rows or [{}])[0]}
        carry = {f"carry_{name}": array for name, array in self.carry.items()}
        arrays = {"kind": "unfinished", "num_points": self.num_points, "settings": json.dumps(self.settings)}
        if self.path is not None:
            write_atomically(self.path, to_npz({**arrays, **rows, **carry}))
