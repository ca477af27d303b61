"""The figure of a run, in the style of the paper. Only this file needs matplotlib."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from keras_fge.core.figures import new_figure
from keras_fge.snapshots import Snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_run(
    steps: ArrayLike, learning_rates: ArrayLike, snapshots: Sequence[Snapshot], path: str | os.PathLike | None = None
) -> "Figure":
    """Learning rate, errors and distances against the iteration, below each other (paper, figure 4).

    Args:
        steps: Iterations 1, 2, ...
        learning_rates: The learning rate of each.
        snapshots: List of `Snapshot` with metrics.
        path: File to write. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    taken = [snapshot.step for snapshot in snapshots]
    panels: list[tuple[str, dict[str, int]]] = [("learning rate", {})]
    for ending, label, scale in (("error", "error (%)", 100), ("mse", "mean squared error", 1)):
        if measured := {name: scale for name in snapshots[0].metrics if name.endswith(ending)}:
            panels.append((label, measured))
    panels.append(("distance", {"distance_from_start": 1, "distance_from_last": 1}))
    figure = new_figure(figsize=(6, 2.2 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True)
    for axes, (label, series) in zip(all_axes, panels):
        for step in taken:
            axes.axvline(step, color="0.6", linestyle=":", zorder=0)
        for name, scale in series.items():
            values = [scale * snapshot.metrics[name] for snapshot in snapshots]
            axes.plot(taken, values, "o-", markersize=4, label=name.replace("_", " "))
        if series:
            axes.legend(fontsize="small")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    all_axes[0].plot(steps, learning_rates, color="tab:red")
    all_axes[0].set_title("Dotted lines: snapshots, at which validation data are measured", fontsize="medium")
    all_axes[-1].set_xlabel("iteration")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
