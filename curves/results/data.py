"""What was measured along a curve or on a plane: frozen data, their summaries, and their files."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from keras_fge.core.files import read_npz, to_npz, write_atomically


class _Stored:
    """Data that a .npz file can hold."""

    def save(self, path: str | os.PathLike) -> None:
        """Writes the result to `path`, a .npz file, atomically: the file is never incomplete."""
        write_atomically(path, to_npz(_to_arrays(self)))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads a result that `save`, or the function that measured it, wrote."""
        return _from_arrays(cls, read_npz(path, path), path)


@dataclasses.dataclass(frozen=True, repr=False)
class PathData(_Stored):
    """The fields of `PathResult`, which see."""

    t: np.ndarray
    distance: np.ndarray
    straight_distance: float
    train: dict
    test: dict
    ensemble: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)
    line: Any = None

    @property
    def arc_length(self) -> float:
        """sum_j ||w(t_{j+1}) - w(t_j)|| over the n positions."""
        return float(self.distance[-1])

    def barrier(self, split: str = "train", quantity: str = "loss") -> float:
        """The largest value along the path minus the larger one of the two endpoints; 0 if no point lies higher.

        Use it for quantities of which less is better.
        """
        values = getattr(self, split)[quantity]
        return float(np.max(values) - max(values[0], values[-1]))

    def mean(self, split: str = "train", quantity: str = "loss", over: str = "t") -> float:
        """The mean over the path: an integral, by the trapezoidal rule, over t or over arc length (`over="length"`)."""
        axis = {"t": self.t, "length": self.distance if self.arc_length else self.t}[over]
        return float(np.trapezoid(getattr(self, split)[quantity], axis) / (axis[-1] - axis[0]))

    def summary(self) -> dict[str, float]:
        """The lengths, and minimum, maximum, barrier and both means of each quantity: a flat dictionary of floats.

        Those of `line`, if there is one, have names that begin with "line_".
        """
        summary = {}
        for split in ("train", "test", "ensemble"):
            for quantity, values in getattr(self, split).items():
                summary[f"{split}_{quantity}_min"] = float(np.min(values))
                summary[f"{split}_{quantity}_max"] = float(np.max(values))
                summary[f"{split}_{quantity}_mean"] = self.mean(split, quantity)
                summary[f"{split}_{quantity}_length_mean"] = self.mean(split, quantity, over="length")
                summary[f"{split}_{quantity}_barrier"] = self.barrier(split, quantity)
        return {
            **summary,
            "arc_length": self.arc_length,
            "straight_distance": self.straight_distance,
            "length_ratio": self.arc_length / self.straight_distance if self.straight_distance else 1.0,
            "num_points": len(self.t),
            **({f"line_{name}": value for name, value in self.line.summary().items()} if self.line else {}),
        }


@dataclasses.dataclass(frozen=True, repr=False)
class PlaneData(_Stored):
    """The fields of `PlaneResult`, which see."""

    x: np.ndarray
    y: np.ndarray
    vertices: np.ndarray
    path: np.ndarray
    path_distance: np.ndarray
    train: dict
    test: dict
    settings: dict = dataclasses.field(default_factory=dict)
    others: dict = dataclasses.field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """The distances between the three points, and minimum and maximum of each quantity: a dictionary of floats."""
        summary = {}
        for split in ("train", "test"):
            for quantity, values in getattr(self, split).items():
                summary[f"{split}_{quantity}_min"] = float(np.min(values))
                summary[f"{split}_{quantity}_max"] = float(np.max(values))
        sides = {f"distance_{i}{k}": self.vertices[i] - self.vertices[k] for i, k in ((0, 1), (0, 2), (1, 2))}
        return {
            **summary,
            **{name: float(np.linalg.norm(side)) for name, side in sides.items()},
            "largest_distance_of_the_path": float(np.max(self.path_distance, initial=0.0)),
            "num_points": self.x.size * self.y.size,
        }


def _to_arrays(result):
    arrays = {"kind": type(result).__name__}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if field.name == "line":
            arrays.update({f"line_{name}": array for name, array in (_to_arrays(value) if value else {}).items()})
        elif field.name == "settings":
            arrays[field.name] = json.dumps(value)
        elif field.type is dict:
            arrays.update({f"{field.name}_{name}": array for name, array in value.items()})
        else:
            arrays[field.name] = value
    return arrays


def _from_arrays(cls, arrays, path):
    kind = str(arrays.get("kind"))
    if kind == "unfinished":
        done = len(next(iter(part(arrays, "row").values()), ()))
        raise ValueError(
            f"'{path}' holds {done} of {arrays['num_points']} points. Call the function that began it again, with the "
            "same `file`, to finish it."
        )
    if kind != cls.__name__:
        raise ValueError(f"`path` must be a file of a {cls.__name__}. Received: '{path}', which holds: {kind}")
    values = {}
    for field in dataclasses.fields(cls):
        if field.name == "line":
            line = part(arrays, "line")
            values[field.name] = _from_arrays(cls, line, path) if line else None
        elif field.name == "settings":
            values[field.name] = json.loads(str(arrays[field.name]))
        elif field.type is dict:
            values[field.name] = part(arrays, field.name)
        else:
            values[field.name] = float(arrays[field.name]) if field.type is float else arrays[field.name]
    return cls(**values)


def part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with `prefix`, as a dictionary by the rest of their names."""
    return {k.removeprefix(f"{prefix}_"): array for k, array in arrays.items() if k.startswith(f"{prefix}_")}
