"""Figures in the style of the paper. Only this file needs matplotlib."""

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from curves.results.data import PathData, PlaneData
from keras_fge.core.pages import COLORS, GREY, WIDTHS, new_figure, style, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_STYLE = {"linestyle": "--", "color": GREY}


def path_colors(names: Iterable[str]) -> list[str]:
    """A colour for each path, by its name: grey for those with "line" in it, the others in turn."""
    colors = itertools.cycle(COLORS)
    return [GREY if "line" in name else next(colors) for name in names]


def plot_paths(
    results: Mapping[str, PathData], path: str | os.PathLike | None = None, columns: int | None = None
) -> "Figure":
    """Plots train loss, train error, test error and ensemble error along paths against t; circles mark the endpoints.

    Of values, train and test loss. The last panel, the test error (of values: mean squared error) of the ensemble of
    phi(0) and phi(t), is left out if that was not measured. Where the straight line goes far above the curves, the axis
    ends above the curves, and says so.

    Args:
        results: Dictionary of label to `PathResult`. Paths with "line" in their label are dashed and grey.
        path: File to write; matplotlib takes the format from its ending, such as .pdf or .svg. Default: none.
        columns: 1 or 2: for so many columns of a paper, 3.3 or 6.9 inches wide, with fonts of 7 and 8 points. Default:
            for a screen.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:
        line = curves.connect(net_a, net_b, curve=curves.Bezier(2))
        line.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        result = curves.evaluate_path(line, (x, y), (x_test, y_test), num_points=5)
        curves.plot_paths({"straight line": result}, "paths.png")
    """
    panels = [("train", "loss", "train loss")]
    if all("error" in result.train for result in results.values()):
        panels.append(("train", "error", "train error (%)"))
    has_error = all("error" in result.test for result in results.values())
    panels.append(("test", "error", "test error (%)") if has_error else ("test", "loss", "test loss"))
    for quantity, label in (("with_start_error", "test error (%)"), ("with_start_mse", "mean squared test error")):
        if all(quantity in result.ensemble for result in results.values()):
            panels.append(("ensemble", quantity, label))
    with style(columns):
        return _draw_paths(results, path, panels, columns)


TITLES = {"train": "{} of the network φ(t)", "test": "{} of the network φ(t)", "ensemble": "ensemble of φ(0) and φ(t)"}


def _draw_paths(results, path, panels, columns):
    rows, across = {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (2, 2)}[len(panels)]
    if columns == 1:
        rows, across = len(panels), 1
    sizes = {None: (4.4 * across, 3.4 * rows + 0.4), 1: (WIDTHS[1], 2.1 * rows + 0.4), 2: (WIDTHS[2], 2.1 * rows + 0.4)}
    figure = new_figure(figsize=sizes[columns], layout="constrained")
    all_axes = figure.subplots(rows, across, squeeze=False).ravel()
    for axes, (split, quantity, label) in zip(all_axes, panels):
        scale = 100 if quantity.endswith("error") else 1
        values = {name: scale * getattr(result, split)[quantity] for name, result in results.items()}
        for color, (name, result) in zip(path_colors(results), results.items()):
            dashes = "--" if "line" in name else "-"
            axes.plot(result.t, values[name], dashes, label=name, linewidth=2 if columns is None else 1.2, color=color)
            axes.plot(result.t[[0, -1]], values[name][[0, -1]], "o", color="black", clip_on=False, markersize=4)
        title = TITLES[split].format(label.partition(" (")[0])
        axes.set(xlabel="position t", ylabel=label, title=title, xlim=(0, 1))
        axes.grid(alpha=0.3)
        if split != "ensemble":
            _cut(axes, values)
    figure.legend(
        *all_axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(results), 2 if columns == 1 else 3),
    )
    return written(figure, path)


def _cut(axes, values):
    """Ends the axis a little above the curves, if a straight line goes far above them, and says so."""
    lines = [part for name, part in values.items() if "line" in name]
    others = [part for name, part in values.items() if "line" not in name]
    if not (lines and others) or not np.all(np.isfinite([*lines, *others])):
        return
    low, high, highest = np.min([*lines, *others]), np.max(others), np.max(lines)
    room = max(high - low, 0.02 * abs(high))
    if highest > high + 2 * room:
        axes.set_ylim(low - 0.1 * room, high + room)
        axes.text(0.5, 0.97, f"cut: the line goes up to {highest:.3g}", transform=axes.transAxes, ha="center", va="top")


def plot_planes(
    results: Mapping[str, PlaneData],
    path: str | os.PathLike | None = None,
    split: str = "train",
    quantity: str = "loss",
    columns: int | None = None,
) -> "Figure":
    """Plots contours of one quantity on one or more planes through three points of weight space.

    The levels, the same for all planes, are spaced evenly in the logarithm of the excess over the minimum; all values
    above the last level have one colour, labelled ">". Circles are trained networks, a diamond is a bend, the solid
    line is the curve, projected on the plane if it does not lie in it, and the dashed line is the straight line.
    Further curves (`evaluate_plane(others=...)`) have colours; those with "line" in their name are dashed. One plane
    has both axes on one scale; several planes have panels of equal size instead, as the paper's.

    Args:
        results: Dictionary of title to `PlaneResult`, one panel for each.
        path: File to write; matplotlib takes the format from its ending, such as .pdf or .svg. Default: none.
        split, quantity: What to draw: "train" or "test", and a key of that dictionary. Default: the train loss.
        columns: 1 or 2: for so many columns of a paper; see `plot_paths`. Default: for a screen.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=1, verbose=0)
        plane = curves.evaluate_plane(curve, (x, y), (x_test, y_test), num_points=3)
        curves.plot_planes({"Bezier curve": plane}, "planes.png", split="test", quantity="error")
    """
    with style(columns):
        return _draw_planes(results, path, split, quantity, columns)


def _draw_planes(results, path, split, quantity, columns):
    from matplotlib.colors import BoundaryNorm

    count, scale = len(results), 100 if quantity == "error" else 1
    if count > 1:
        size = {None: (3.7 * count, 3.4), 1: (WIDTHS[1], 3.0 * count), 2: (WIDTHS[2], 6.9 / count)}[columns]
    else:
        only = next(iter(results.values()))
        slimness = np.ptp(only.y) / np.ptp(only.x)
        is_to_scale = 0.25 < slimness < 4
        width = {None: 6.4, **WIDTHS}[columns]
        size = (width, 0.75 * width * (slimness if is_to_scale else 0.8) + (1.3 if columns is None else 0.9))
    figure = new_figure(figsize=size, layout="constrained")
    all_axes = figure.subplots(*((count, 1) if columns == 1 else (1, count)), squeeze=False).ravel()
    values = {title: scale * getattr(result, split)[quantity] for title, result in results.items()}
    everything = np.concatenate([part.ravel() for part in values.values()])
    levels = color_levels(everything[np.isfinite(everything)])
    norm = BoundaryNorm(levels, ncolors=256, extend="max")
    for axes, (title, result) in zip(all_axes, results.items()):
        contours = _draw_plane(axes, result, np.ma.masked_invalid(values[title]), levels, norm, columns is not None)
        axes.set_title(title)
        if count == 1 and is_to_scale:
            axes.set_aspect("equal")
    unit = " (%)" if quantity == "error" else ""
    place = {"ax": all_axes} if count > 1 else {"cax": all_axes[0].inset_axes((1.03, 0, 0.04, 1))}  # As high as it.
    bar = figure.colorbar(contours, **place, ticks=levels, label=f"{split} {quantity}{unit}")
    bar.ax.set_yticklabels([*(f"{level:.3g}" for level in levels[:-1]), f"> {levels[-1]:.3g}"])
    handles = {label: h for axes in all_axes for h, label in zip(*axes.get_legend_handles_labels())}
    rows = 3 if columns == 1 else 6
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), rows))
    return written(figure, path)


def _draw_plane(axes, result, values, levels, norm, is_small):
    contours = axes.contourf(result.x, result.y, values, levels, norm=norm, cmap="viridis_r", extend="max")
    axes.contour(result.x, result.y, values, levels, colors="white", linewidths=0.6)
    width = 1.2 if is_small else 2
    marker = {"markeredgecolor": "white", "color": "black", "linestyle": "none", "markersize": 5 if is_small else 9}
    ends = np.ones(3, dtype=bool)
    ends[1:] = "directions" not in result.settings  # Then the other two are the tips of the directions.
    if len(result.path):
        axes.plot(*result.path.T, color="black", linewidth=width, label="curve")
        ends = np.isin(result.settings.get("bends", (0, 1, 2)), (0, result.settings.get("num_bends", 3) - 1))
        axes.plot(*result.vertices[~ends].T, "D", **marker, label="bend" if sum(~ends) == 1 else "bends")
    label = "endpoints" if len(result.path) else "networks" if ends[1] else "network"
    axes.plot(*result.vertices[ends].T, "o", **marker, label=label)
    for (name, points), color in zip(result.others.items(), (*COLORS[1:2], *COLORS[3:]) * 9):
        axes.plot(*points[:, :2].T, "--" if "line" in name else "-", color=color, linewidth=width, label=name)
    if ends[0] and ends[2]:
        axes.plot(*result.vertices[[0, 2]].T, **LINE_STYLE, label="straight line", zorder=1)
    x, y = axes_of(result)
    axes.set(xlabel=x, ylabel=y)
    return contours


def axes_of(result: PlaneData) -> tuple[str, str]:
    """What stands beside the axes of a plane."""
    around = {
        "filter": ("distance in a random direction", "distance in another"),
        "hessian": ("distance along the largest curvature", "distance along the second"),
    }
    return around.get(str(result.settings.get("directions")), ("distance along the straight line", "distance from it"))


def color_levels(values, number=8):
    """Levels evenly spaced in the logarithm of the excess over the minimum, from its 2 % to its 90 % quantile."""
    excess = values - np.min(values)
    low, high = np.quantile(excess, [0.02, 0.9])
    if not low < high:  # Nearly constant.
        low, high = 0.0, max(float(np.max(excess)), 1e-6)
    low = max(low, 1e-3 * high)
    return np.min(values) + np.concatenate([[0.0], np.geomspace(low, high, number)])
