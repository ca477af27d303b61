"""Figures in the style of the paper. Only this file needs matplotlib."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from keras_fge.core.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from curves.results import PathResult, PlaneResult

LINE_STYLE = {"linestyle": "--", "color": "0.35"}


def plot_paths(results: Mapping[str, "PathResult"], path: str | os.PathLike | None = None) -> "Figure":
    """Plots train loss, test error and ensemble error along one or more paths against t; circles mark the endpoints.

    The third panel, the test error (of values: mean squared error) of the ensemble of phi(0) and phi(t), is left out if
    that was not measured.

    Args:
        results: Dictionary of label to `PathResult`. Paths with "line" in their label are dashed and grey.
        path: File to write. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:
        line = curves.connect(net_a, net_b, curve=curves.Bezier(2))
        line.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        result = curves.evaluate_path(line, (x, y), (x_test, y_test), num_points=5)
        curves.plot_paths({"straight line": result}, "paths.png")
    """
    has_error = all("error" in result.test for result in results.values())
    panels = [
        ("train", "loss", 1, "train loss", "the network φ(t)"),
        ("test", *(("error", 100, "test error (%)") if has_error else ("loss", 1, "test loss")), "the network φ(t)"),
    ]
    title = "the ensemble of φ(0) and φ(t)"
    if all("with_start_error" in result.ensemble for result in results.values()):
        panels.append(("ensemble", "with_start_error", 100, "test error (%)", title))
    elif all("with_start_mse" in result.ensemble for result in results.values()):
        panels.append(("ensemble", "with_start_mse", 1, "mean squared test error", title))
    figure = new_figure(figsize=(5 * len(panels), 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels))
    for axes, (split, quantity, scale, label, title) in zip(all_axes, panels):
        for name, result in results.items():
            values = scale * getattr(result, split)[quantity]
            style = LINE_STYLE if "line" in name else {}
            axes.plot(result.t, values, label=name, linewidth=2, **style)
            axes.plot(result.t[[0, -1]], values[[0, -1]], "o", color="black", clip_on=False)
        axes.set(xlabel="t", ylabel=label, title=title, xlim=(0, 1))
        low, high = (f([f(getattr(r, split)[quantity]) for r in results.values()]) for f in (np.min, np.max))
        if quantity == "loss" and 0 < 10 * low < high:  # Or all that is low would be one line at the bottom.
            axes.set_yscale("log")
        elif split != "ensemble":  # Ensembles differ too little for an axis from 0.
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(alpha=0.3)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(results))
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def plot_planes(
    results: Mapping[str, "PlaneResult"],
    path: str | os.PathLike | None = None,
    split: str = "train",
    quantity: str = "loss",
) -> "Figure":
    """Plots contours of one quantity on one or more planes through three points of weight space.

    The levels are spaced evenly in the logarithm of the excess over the minimum; all values above the last level have
    one colour, labelled ">". Circles are trained networks, a diamond is a bend, the solid line is the curve, projected
    on the plane if it does not lie in it, and the dashed line is the straight line. Further paths of the result
    (`evaluate_plane(paths=...)`) have colours; those with "line" in their name are dashed.

    Args:
        results: Dictionary of title to `PlaneResult`, one panel for each.
        path: File to write. Default: none.
        split, quantity: What to draw: "train" or "test", and a key of that dictionary. Default: the train loss.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=1, verbose=0)
        plane = curves.evaluate_plane(curve, (x, y), (x_test, y_test), num_points=3)
        curves.plot_planes({"Bezier curve": plane}, "planes.png", split="test", quantity="error")
    """
    figure = new_figure(figsize=(6.4 * len(results), 5), layout="constrained")
    for axes, (title, result) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items()):
        _draw_plane(figure, axes, result, split, quantity)
        axes.set_title(title)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw_plane(figure, axes, result, split, quantity):
    from matplotlib.colors import BoundaryNorm

    scale, unit = (100, " (%)") if quantity == "error" else (1, "")
    values = np.ma.masked_invalid(scale * getattr(result, split)[quantity])
    levels = color_levels(values.compressed())
    norm = BoundaryNorm(levels, ncolors=256, extend="max")
    contours = axes.contourf(result.x, result.y, values, levels, norm=norm, cmap="viridis_r", extend="max")
    axes.contour(result.x, result.y, values, levels, colors="white", linewidths=0.6)
    bar = figure.colorbar(contours, ax=axes, ticks=levels, label=f"{split} {quantity}{unit}")
    bar.ax.set_yticklabels([*(f"{level:.3g}" for level in levels[:-1]), f"> {levels[-1]:.3g}"])

    marker = {"markeredgecolor": "white", "color": "black", "linestyle": "none", "markersize": 9}
    ends = np.ones(3, dtype=bool)
    if len(result.path):
        axes.plot(*result.path.T, color="black", linewidth=2, label="curve")
        ends = np.isin(result.settings.get("bends", (0, 1, 2)), (0, result.settings.get("num_bends", 3) - 1))
        axes.plot(*result.vertices[~ends].T, "D", **marker, label="bend" if sum(~ends) == 1 else "bends")
    axes.plot(*result.vertices[ends].T, "o", **marker, label="endpoints" if len(result.path) else "networks")
    for (name, points), color in zip(result.paths.items(), ("tab:red", "tab:orange", "tab:purple", "tab:pink") * 8):
        axes.plot(*points[:, :2].T, color=color, linestyle="--" if "line" in name else "-", linewidth=2, label=name)
    if ends[0] and ends[2]:
        axes.plot(*result.vertices[[0, 2]].T, **LINE_STYLE, label="straight line", zorder=1)
    axes.set(xlabel="distance in weight space, along the straight line", ylabel="distance in weight space")
    if 0.25 < np.ptp(result.y) / np.ptp(result.x) < 4:
        axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize="small", framealpha=0.8)


def color_levels(values, number=8):
    """Levels evenly spaced in the logarithm of the excess over the minimum, from its 2 % to its 90 % quantile."""
    excess = values - np.min(values)
    low, high = np.quantile(excess, [0.02, 0.9])
    if not low < high:  # Nearly constant.
        low, high = 0.0, max(float(np.max(excess)), 1e-6)
    low = max(low, 1e-3 * high)
    return np.min(values) + np.concatenate([[0.0], np.geomspace(low, high, number)])
