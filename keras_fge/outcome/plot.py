"""The figure of a run, in the style of the paper. Only this file needs matplotlib."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from keras_fge.core.pages import COLORS, WIDTHS, new_figure, style, written
from keras_fge.run import Snapshot, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_run(
    steps: ArrayLike,
    learning_rates: ArrayLike,
    snapshots: Sequence[Snapshot],
    path: str | os.PathLike | None = None,
    columns: int | None = None,
) -> "Figure":
    """Learning rate, errors and distances against the iteration, below each other (paper, figure 4).

    Dotted lines are the snapshots, at which the validation data were measured.

    Args:
        steps: Iterations 1, 2, ...
        learning_rates: The learning rate of each.
        snapshots: List of `Snapshot` with metrics.
        path: File to write; matplotlib takes the format from its ending, such as .pdf or .svg. Default: none.
        columns: 1 or 2: for so many columns of a paper, 3.3 or 6.9 inches wide, with fonts of 7 and 8 points. Default:
            for a screen.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    panels: list[tuple[str, dict[str, tuple[str, int]]]] = [("learning rate", {})]
    for ending, label, scale in (("error", "error (%)", 100), ("mse", "mean squared error", 1)):
        if names := measured(snapshots, ending):
            panels.append((label, {name: (_short(name, ending), scale) for name in names}))
    distances = {name: (_short(name, "distance"), 1) for name in ("distance_from_start", "distance_from_last")}
    panels.append(("distance", distances))
    with style(columns):
        return _draw(panels, steps, learning_rates, snapshots, path, columns)


def _short(name, quantity):
    """A label beside an axis that says the quantity, narrow enough for one column of a paper."""
    return name.removesuffix(quantity).removeprefix(quantity).replace("_", " ").strip() or quantity


def _draw(panels, steps, learning_rates, snapshots, path, columns):
    taken = [snapshot.step for snapshot in snapshots]
    width, height = (6, 2.2) if columns is None else (WIDTHS[columns], 1.6)
    figure = new_figure(figsize=(width, height * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True)
    for axes, (label, series) in zip(all_axes, panels):
        axes.set_prop_cycle(color=COLORS)
        for step in taken:
            axes.axvline(step, color="0.6", linestyle=":", zorder=0)
        for name, (label_of_line, scale) in series.items():
            values = scale * measured(snapshots, name)[name]
            axes.plot(taken, values, "o-", markersize=4 if columns is None else 2.5, label=label_of_line)
        if series:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    all_axes[0].plot(steps, learning_rates, color=COLORS[1])
    all_axes[0].set_title("Dotted lines: snapshots", fontsize="medium")
    all_axes[-1].set_xlabel("iteration")
    return written(figure, path)
