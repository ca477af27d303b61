"""`PathResult` and `PlaneResult`: measurements along a curve and on a plane, to read, save, load and draw."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from curves.diagnosis import name_of, of_path, of_plane
from keras_fge.core.figures import as_html
from keras_fge.core.files import read_npz, to_npz, write_atomically

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


WORDS = (("train", "loss", 1, "train loss"), ("test", "error", 100, "test error %"))  # What is said in a line.


@dataclasses.dataclass(frozen=True, repr=False)
class PathResult:
    """Measurements along a curve, at n positions.

    Attributes:
        t: Positions in [0, 1], shape `(n,)`.
        distance: Arc length from phi(0) to phi(t), in the units of the weights, shape `(n,)`.
        straight_distance: ||phi(1) - phi(0)||.
        train, test: Dictionaries of arrays of shape `(n,)`: "loss" (the compiled loss with all regularizers), the same
            without weight regularizers and decay ("nll" where it is a cross-entropy, "mse" where it is the mean squared
            error, else "data_loss"), "error" (1 - accuracy, a fraction, if an accuracy was compiled) and every compiled
            metric under its own name.
        ensemble: Such a dictionary for ensembles (means of predicted probabilities, or values) on the test data:
            "with_start_error" and "with_start_nll" of {phi(0), phi(t)}, "so_far_error" and "so_far_nll" of all
            positions up to t; for values, "with_start_mse" and "so_far_mse". Empty where that was not measured.
        settings: Settings of the measurement: "num_points", "batch_size", "train_samples", "bn_samples" (None: all),
            checksums of the model and the data; "test_samples" and "batch_norm_samples", how many samples there were,
            where that is known; and "no_ensemble": why `ensemble` is empty.
        line: The same of the straight line between the endpoints, at these t; None if it was not measured.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        result = curves.evaluate_path(curve, (x, y), (x_test, y_test), num_points=3)
        print(result)  # Whether the networks are connected, and what to distrust.
        result.save("path.npz")
        curves.PathResult.load("path.npz").summary()["train_loss_barrier"]
    """

    t: np.ndarray
    distance: np.ndarray
    straight_distance: float
    train: dict
    test: dict
    ensemble: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)
    line: "PathResult | None" = None

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

    def __str__(self) -> str:
        return "\n".join([*of_path(self), *self._rows()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(of_path(self), self._rows())

    def _rows(self):
        rows = [] if self.line is None else [self.line._in_words("straight line")]
        return [*rows, self._in_words(self.settings.get("curve", ["path"])[0].partition(",")[0])]

    def _in_words(self, name):
        texts = [
            f"{label} {scale * np.min(values):.3g} to {scale * np.max(values):.3g}, barrier "
            f"{scale * self.barrier(split, quantity):.3g} at t = {self.t[np.argmax(values)]:.2f}"
            for split, quantity, scale, label in WORDS
            if (values := getattr(self, split).get(quantity)) is not None
        ]
        return f"{name}: {'; '.join(texts)}; length {self.summary()['length_ratio']:.3f}"

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each position, of the line too: "path", "t", "distance", "train_loss", ..."""
        import pandas

        frames = [] if self.line is None else [self.line.to_frame().assign(path="straight line")]
        columns = {"path": name_of(self), "t": self.t, "distance": self.distance}
        parts = ("train", "test", "ensemble")
        columns |= {f"{part}_{name}": values for part in parts for name, values in getattr(self, part).items()}
        return pandas.concat([pandas.DataFrame(columns), *frames], ignore_index=True)

    def to_html(self, path: str | os.PathLike) -> None:
        """Writes a page to look at in a browser, with a slider for t; see `curves.explore`, for several together."""
        from curves.explorer import explore

        explore({name_of(self): self}, path)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the result to `path`, a .npz file, atomically: the file is never incomplete."""
        _save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads a result that `save` or `curves.evaluate_path` wrote."""
        return _load(cls, path)

    def plot(
        self, path: str | os.PathLike | None = None, line: "PathResult | None" = None, columns: int | None = None
    ) -> "Figure":
        """Plots train loss, test error and ensemble error along the curve, as the paper does; needs matplotlib.

        Args:
            path: File to write; matplotlib takes the format from its ending. Default: none.
            line: `PathResult` of the straight line, drawn dashed for comparison. Default: `self.line`.
            columns: 1 or 2, for so many columns of a paper; see `curves.plot_paths`. Default: for a screen.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        from curves.plots import plot_paths

        line = line or self.line
        return plot_paths({"curve": self, **({"straight line": line} if line else {})}, path, columns)


@dataclasses.dataclass(frozen=True, repr=False)
class PlaneResult:
    """Measurements on the plane through three points w_0, w_1, w_2 of weight space.

    A point of the plane is w_0 + x e_x + y e_y with e_x = (w_2 - w_0) / ||w_2 - w_0|| and e_y the normalized part of
    w_1 - w_0 orthogonal to e_x, so x and y are in the units of the weights (paper, section 3 and appendix A.1).

    Attributes:
        x, y: Coordinates of the grid, shapes `(nx,)` and `(ny,)`.
        vertices: (x, y) of w_0, w_1 and w_2, shape `(3, 2)`.
        path: (x, y) of the curve, projected on the plane, shape `(61, 2)`; or `(0, 2)` without a curve.
        path_distance: Distance of these points of the curve from the plane, shape `(61,)` or `(0,)`.
        train, test: Dictionaries of arrays of shape `(ny, nx)`, as in `PathResult`.
        settings: Settings of the measurement, as in `PathResult`.
        paths: Further paths, by name: (x, y, distance from the plane), shape `(61, 3)`.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=1, verbose=0)
        curves.evaluate_plane(curve, (x, y), (x_test, y_test), num_points=2, path="plane.npz")
        curves.PlaneResult.load("plane.npz").summary()["distance_02"]
    """

    x: np.ndarray
    y: np.ndarray
    vertices: np.ndarray
    path: np.ndarray
    path_distance: np.ndarray
    train: dict
    test: dict
    settings: dict = dataclasses.field(default_factory=dict)
    paths: dict = dataclasses.field(default_factory=dict)

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

    def __str__(self) -> str:
        return "\n".join(of_plane(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(of_plane(self))

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each point of the grid: "x", "y", "train_loss", "test_error", ..."""
        import pandas

        x, y = np.meshgrid(self.x, self.y)
        parts = {f"{part}_{name}": v.ravel() for part in ("train", "test") for name, v in getattr(self, part).items()}
        return pandas.DataFrame({"x": x.ravel(), "y": y.ravel(), **parts})

    def to_html(self, path: str | os.PathLike) -> None:
        """Writes a page to look at in a browser, with contours, a surface, and a slider for t; see `curves.explore`."""
        from curves.explorer import explore

        explore({"plane": self}, path)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the result to `path`, a .npz file, atomically: the file is never incomplete."""
        _save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads a result that `save` or `curves.evaluate_plane` wrote."""
        return _load(cls, path)

    def plot(
        self,
        path: str | os.PathLike | None = None,
        split: str = "train",
        quantity: str = "loss",
        columns: int | None = None,
    ) -> "Figure":
        """Plots contours as the paper does; needs matplotlib. `curves.plot_planes` draws several planes in one figure.

        Args:
            path: File to write; matplotlib takes the format from its ending. Default: none.
            split, quantity: What to draw: "train" or "test", and a key of that dictionary. Default: the train loss.
            columns: 1 or 2, for so many columns of a paper; see `curves.plot_paths`. Default: for a screen.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        from curves.plots import plot_planes

        return plot_planes({"": self}, path, split, quantity, columns)


def _save(result, path):
    write_atomically(path, to_npz(_to_arrays(result)))


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


def _load(cls, path):
    return _from_arrays(cls, read_npz(path, path), path)


def _from_arrays(cls, arrays, path):
    kind = str(arrays.get("kind"))
    if kind == "unfinished":
        done = len(next(iter(part(arrays, "row").values()), ()))
        raise ValueError(
            f"'{path}' holds {done} of {arrays['num_points']} points. Call the function that began it again, with the "
            "same `path`, to finish it."
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
