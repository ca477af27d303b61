"""`PathResult` and `PlaneResult`: measurements to read, print, draw and look at in a browser."""

import dataclasses
import os
from typing import TYPE_CHECKING

import numpy as np

from curves.results.data import PathData, PlaneData
from curves.results.diagnosis import name_of, of_path, of_plane
from curves.results.explorer import explore
from curves.results.plots import plot_paths, plot_planes
from keras_fge.core.pages import as_html, show

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


WORDS = (("train", "loss", 1, "train loss"), ("test", "error", 100, "test error %"))  # What is said in a line.


@dataclasses.dataclass(frozen=True, repr=False)
class PathResult(PathData):
    """Measurements along a curve, at n positions.

    Attributes:
        t: Positions in [0, 1], shape `(n,)`.
        distance: Arc length from phi(0) to phi(t), in the units of the weights, shape `(n,)`.
        straight_distance: ||phi(1) - phi(0)||.
        train, test: Dictionaries of arrays of shape `(n,)`: "loss" (the compiled loss with all regularizers), the same
            without weight regularizers and decay ("nll" if it is a cross-entropy, "mse" if it is the mean squared
            error, else "data_loss"), "error" (1 - accuracy, a fraction, if an accuracy was compiled) and every compiled
            metric under its own name.
        ensemble: Such a dictionary for ensembles (means of predicted probabilities, or values) on the test data:
            "with_start_error" and "with_start_nll" of {phi(0), phi(t)}, "so_far_error" and "so_far_nll" of all
            positions up to t; for values, "with_start_mse" and "so_far_mse". Empty if that was not measured.
        settings: Settings of the measurement: "num_points", "batch_size", "train_samples", "bn_samples" (None: all),
            checksums of the model and the data; "test_samples" and "batch_norm_samples", how many samples there were,
            if that is known; and "no_ensemble": why `ensemble` is empty.
        line: The same of the straight line between the endpoints, at these t; None if it was not measured.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        result = curves.evaluate_path(curve, (x, y), (x_test, y_test), num_points=3)
        print(result)  # Whether the networks are connected, and what to distrust.
        result.save("path.npz")
        curves.PathResult.load("path.npz").summary()["train_loss_barrier"]
    """

    line: "PathResult | None" = None

    def __str__(self) -> str:
        return "\n".join([*of_path(self), *self._rows()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(of_path(self), self._rows())

    def _rows(self):
        rows = [] if self.line is None else [self.line._in_words("straight line")]
        return [*rows, self._in_words(name_of(self))]

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
        explore({name_of(self): self}, path)

    def show(self) -> None:
        """Shows that page in the cell of a notebook, or else in a browser."""
        show(self.to_html, "path")

    def plot(
        self, path: str | os.PathLike | None = None, line: PathData | None = None, columns: int | None = None
    ) -> "Figure":
        """Plots train loss, test error and ensemble error along the curve, as the paper does; needs matplotlib.

        Args:
            path: File to write; matplotlib takes the format from its ending. Default: none.
            line: `PathResult` of the straight line, drawn dashed for comparison. Default: `self.line`.
            columns: 1 or 2, for so many columns of a paper; see `curves.plot_paths`. Default: for a screen.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        line = line or self.line
        return plot_paths({"curve": self, **({"straight line": line} if line else {})}, path, columns)


@dataclasses.dataclass(frozen=True, repr=False)
class PlaneResult(PlaneData):
    """Measurements on the plane through three points w_0, w_1, w_2 of weight space.

    A point of the plane is w_0 + x e_x + y e_y with e_x = (w_2 - w_0) / ||w_2 - w_0|| and e_y the normalized part of
    w_1 - w_0 orthogonal to e_x, so x and y are in the units of the weights (paper, section 3 and appendix A.1).

    Attributes:
        x, y: Coordinates of the grid, shapes `(nx,)` and `(ny,)`.
        vertices: (x, y) of w_0, w_1 and w_2, shape `(3, 2)`.
        path: (x, y) along the curve, projected on the plane, shape `(61, 2)`; or `(0, 2)` without a curve.
        path_distance: Distance of these points of the curve from the plane, shape `(61,)` or `(0,)`.
        train, test: Dictionaries of arrays of shape `(ny, nx)`, as in `PathResult`.
        settings: Settings of the measurement, as in `PathResult`.
        others: Further curves, by name: (x, y, distance from the plane), shape `(61, 3)`.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=1, verbose=0)
        curves.evaluate_plane(curve, (x, y), (x_test, y_test), num_points=2, file="plane.npz")
        curves.PlaneResult.load("plane.npz").summary()["distance_02"]
    """

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
        explore({"plane": self}, path)

    def show(self) -> None:
        """Shows that page in the cell of a notebook, or else in a browser."""
        show(self.to_html, "plane")

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
        return plot_planes({"": self}, path, split, quantity, columns)
