"""`Points`: a measurement that resumes from a file, which has one row for each point and is complete after each."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from curves.results import part
from keras_fge.core.files import local_path, read_npz, remove_leftovers, to_npz, write_atomically
from keras_fge.core.networks import restored


class Points:
    """The rows of a measurement, one for each point, in memory and in a file.

    Args:
        file: The file, or None to keep the rows in memory only. The measurement continues after the rows in it.
        kind: Name of the class of the result that will replace the rows in this file.
        settings: Dictionary that JSON can hold; it must be the same for the whole measurement.
        num_points: Number of rows of the finished measurement.

    Attributes:
        file: As given.
        rows: List of dictionaries of floats.
        carry: Dictionary of arrays that the next row depends on.
        is_finished: Whether the file holds the result.
    """

    def __init__(self, file: str | os.PathLike | None, kind: str, settings: dict[str, Any], num_points: int):
        self.file, self._settings, self._num_points = file, settings, num_points
        self.rows: list[dict[str, float]] = []
        self.carry: Mapping[str, Any] = {}
        self.is_finished = False
        if file is None:
            return
        name = os.path.basename(file)
        remove_leftovers(os.path.dirname(os.path.abspath(local_path(file))), lambda other: other == name)
        if not os.path.exists(file):
            self._write()  # Fails before the work begins if the file cannot be written.
            return
        arrays = read_npz(file, file)
        found, theirs = str(arrays.get("kind")), json.loads(str(arrays.get("settings", "{}")))
        if found not in (kind, "unfinished"):
            raise ValueError(f"`file` must be new or a file of this function. '{file}' holds something else: {found}.")
        for key, value in settings.items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"`file`: '{file}' holds another measurement: its {key} is {theirs.get(key)}, here it is {value}. "
                    "Remove the file, or give another one."
                )
        self.is_finished = found == kind
        if not self.is_finished:
            columns = part(arrays, "row")
            self.rows = [dict(zip(columns, map(float, row))) for row in zip(*columns.values())]
            self.carry = part(arrays, "carry")

    def measure(
        self, model: keras.Model, places: Sequence[Any] | np.ndarray, measure: Callable[[Any], tuple], verbose: bool
    ) -> None:
        """Adds (row, carry) = `measure(place)` for each place that has no row yet, and restores `model`."""
        progress = keras.utils.Progbar(len(places), verbose=int(verbose), unit_name="point")
        progress.update(len(self.rows))
        with restored(model):
            for place in places[len(self.rows) :]:
                self._add(*measure(place))
                progress.add(1)

    def _add(self, row, carry):
        if self.rows and set(row) != set(self.rows[0]):
            theirs = sorted(self.rows[0])
            raise ValueError(f"`file`: '{self.file}' holds {theirs}, but here {sorted(row)} are measured.")
        self.rows.append(row)
        self.carry = carry
        self._write()

    def columns(self, prefix: str, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The columns whose names begin with `prefix`, as a dictionary of arrays by the rest of their names."""
        names = [name for name in self.rows[0] if name.startswith(f"{prefix}_")]
        return {name.removeprefix(f"{prefix}_"): np.array([row[name] for row in self.rows[rows]]) for name in names}

    def _write(self):
        rows = {f"row_{name}": np.array([row[name] for row in self.rows]) for name in (self.rows or [{}])[0]}
        carry = {f"carry_{name}": array for name, array in self.carry.items()}
        arrays = {"kind": "unfinished", "num_points": self._num_points, "settings": json.dumps(self._settings)}
        if self.file is not None:
            write_atomically(self.file, to_npz({**arrays, **rows, **carry}))
