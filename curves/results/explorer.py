"""The page in a browser on which one looks at paths and planes."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from curves.results.data import PathData, PlaneData
from curves.results.diagnosis import of_path, of_plane
from curves.results.plots import axes_of, color_levels, path_colors
from keras_fge.core.pages import COLORS, Panel, layout, marker, write_page

POSITIONS = np.linspace(0, 1, 61)  # The places of the slider; those at which results hold the shadow of a curve.
QUANTITIES = (  # label, split, name, scale
    ("train loss", "train", "loss", 1),
    ("test error (%)", "test", "error", 100),
    ("test NLL", "test", "nll", 1),
    ("test loss", "test", "loss", 1),
)
LIGHT = {"bgcolor": "white", "font": {"color": "black"}}  # Of a legend with black lines, also on a dark page.
TEXT = "%{text}<extra></extra>"  # What plotly shows under the pointer: the text of the point alone.
HERE = {"mode": "markers", "name": "t"}


def explore(results: Mapping[str, PathData | PlaneData], path: str | os.PathLike, title: str = "") -> None:
    """Writes a page on which one looks at paths and planes together: one HTML file, which needs no network.

    A slider moves t along all of them. On a plane one chooses the quantity, and contours or a surface; the colour (and
    the height) is the logarithm of the excess over the minimum, on one scale for all planes. Two sentences on top say
    what the results mean, and more are folded away. The page holds plotly's JavaScript, 5 MB, and needs plotly only
    when it is written.

    Args:
        results: Dictionary of label to `PathResult` or `PlaneResult`.
        path: File to write, such as "curve.html".
        title: What stands on top. Default: the labels.

    Raises:
        ValueError: if `results` is empty or holds something else.
        ImportError: if plotly is not installed.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        result = curves.evaluate_path(curve, (x, y), (x_test, y_test), num_points=5)
        curves.explore({"Bezier curve": result}, "curve.html")
    """
    if not results or not all(isinstance(result, (PathData, PlaneData)) for result in results.values()):
        raise ValueError(f"`results` must hold a PathResult or a PlaneResult for each label. Received: {results!r}")
    paths = {name: result for name, result in results.items() if isinstance(result, PathData)}
    planes = {name: result for name, result in results.items() if isinstance(result, PlaneData)}
    said = {
        name: of_path(result) if isinstance(result, PathData) else of_plane(result) for name, result in results.items()
    }
    sentences = [_about(name, sentences[0], results) for name, sentences in said.items()]
    sentences += [_about(name, sentence, results) for name, sentences in said.items() for sentence in sentences[1:]]
    quantities = [
        quantity
        for quantity in QUANTITIES
        if planes and all(_measured(result, quantity) is not None for result in planes.values())
    ]
    switches = {"colour": [label for label, *_ in quantities], "view": ["contours", "surface"]} if planes else {}
    panels = _plane_panels(planes, quantities)
    if paths:
        panels += _path_panels(paths)
    moves = any(figure["markers"] for panel in panels for figure in panel.figures.values())
    slider = ("t", [f"t = {t:.3f}".rstrip("0").rstrip(".") for t in POSITIONS] if moves else [""])
    write_page(path, title or ", ".join(results), sentences, panels, switches, slider)


def _about(name, sentence, results):
    """The sentence, after the name of what it is about, if the reader would not know."""
    return sentence if len(results) == 1 or sentence.startswith(f"The {name} ") else f"{name}: {sentence}"


def _measured(result, quantity):
    """The values of a quantity, as they are shown; None, if it was not measured."""
    _, split, name, scale = quantity
    values = getattr(result, split).get(name)
    return None if values is None else scale * np.asarray(values, "float64")


def _path_panels(paths):
    """Panels of train loss, test error and ensembles against t; the straight line of a result is dashed."""
    lines = {"straight line": next((r.line for r in paths.values() if r.line is not None), None), **paths}
    lines = {name: result for name, result in lines.items() if result is not None}
    together = ("error with φ(0) (%)", "ensemble", "with_start_error", 100)
    panels = []
    for quantity in (*QUANTITIES[:3], together):
        shown = {name: values for name, r in lines.items() if (values := _measured(r, quantity)) is not None}
        if not shown:
            continue
        data, markers = [], []
        for color, (name, values) in zip(path_colors(shown), shown.items()):
            t = lines[name].t
            style = {"color": color, "width": 2.5, "dash": "dash" if "line" in name else "solid"}
            template = f"t = %{{x:.3f}}<br>{name}: %{{y:.4g}}<extra></extra>"
            data.append({"type": "scatter", "mode": "lines", "name": name, "x": t, "y": values, "line": style})
            data[-1]["hovertemplate"] = template
            dot = {"type": "scatter", **HERE, "marker": {"size": 12, "color": color}, "hovertemplate": template}
            markers.append(marker(dot, x=POSITIONS, y=np.interp(POSITIONS, t, values)))
        everything = np.concatenate(list(shown.values()))
        everything = everything[np.isfinite(everything)]
        is_log = quantity[1] == "train" and everything.size and 0 < 10 * everything.min() < everything.max()
        axes = layout("t", quantity[0])
        axes["xaxis"] |= {"range": [-0.02, 1.02]}
        axes["yaxis"] |= {"type": "log" if is_log else "linear"}
        title = "Two networks together, φ(0) and φ(t)" if quantity is together else f"{quantity[0]} along the path"
        panels.append(Panel(title[0].upper() + title[1:], {"": {"data": data, "layout": axes, "markers": markers}}))
    return panels


def _plane_panels(planes, quantities):
    """A panel for each plane, with one scale of colours for all."""
    figures: dict[str, dict[str, Any]] = {title: {} for title in planes}
    for quantity in quantities:
        label = quantity[0]
        values = {title: _measured(result, quantity) for title, result in planes.items()}
        everything = np.concatenate([part.ravel() for part in values.values()])
        levels = color_levels(everything[np.isfinite(everything)])
        for title, result in planes.items():
            height, scale = _height(values[title], levels)
            for view, draw in (("contours", _contours), ("surface", _surface)):
                figures[title][f"{label} / {view}"] = draw(result, label, values[title], height, scale)
    return [Panel(title, figures[title], ("colour", "view")) for title in planes]


def _height(values, levels):
    """The logarithm of the excess over the minimum, cut off where the colours end, and the axis that says so."""
    excess = levels[1:] - levels[0]
    height = np.log10(np.clip(values - levels[0], excess[0] / 2, excess[-1]))
    texts = [*(f"{level:.3g}" for level in levels[1:-1]), f"> {levels[-1]:.3g}"]
    scale = {"tickvals": np.log10(excess), "ticktext": texts}
    return height, {**scale, "range": [np.log10(excess[0] / 2), np.log10(excess[-1])]}


def _plane(kind, result, label, values, height, scale):
    """The trace that contours and surface share: the colour is the height, the text under the pointer the value."""
    texts = [
        [f"x {x:.3g}, y {y:.3g}<br>{label}: {value:.4g}" for x, value in zip(result.x, row)]
        for y, row in zip(result.y, values)
    ]
    bar = {"title": {"text": label, "side": "right"}, "thickness": 14, **_ticks(scale)}
    return {
        **{"type": kind, "x": result.x, "y": result.y, "z": height, "text": texts, "hovertemplate": TEXT, "name": ""},
        **{"colorscale": "Viridis", "reversescale": True, "colorbar": bar},
    }


def _texts_along(result, label, values):
    """What the marker says at each place of the slider."""
    along = _interpolated(result, values, *result.path.T)
    return [f"t = {t:.3f}<br>{label}: {value:.4g}" for t, value in zip(POSITIONS, along)]


def _points(result):
    """(name, x, y, dash) of the paths, and (name, x, y, symbol) of the networks and bends."""
    if "directions" in result.settings:
        others = [(name, *points[:, :2].T, "solid") for name, points in result.others.items()]
        return others, [("network", [0.0], [0.0], "circle")]
    paths, line = [], ("straight line", *result.vertices[[0, 2]].T, "dash")
    vertices = [(f"w_{index}", [x], [y], "circle") for index, (x, y) in enumerate(result.vertices)]
    if len(result.path):
        paths.append(("curve", *result.path.T, "solid"))
        bends, last = result.settings.get("bends", (0, 1, 2)), result.settings.get("num_bends", 3) - 1
        names = [f"bend {k}" if 0 < k < last else f"φ({int(k > 0)})" for k in bends]
        vertices = [
            (name, x, y, "circle" if name[0] == "φ" else "diamond") for name, (_, x, y, _) in zip(names, vertices)
        ]
    if vertices[0][3] == vertices[2][3] == "circle":  # Both are ends, or there is no curve.
        paths.insert(0, line)
    for name, points in result.others.items():
        paths.append((name, *points[:, :2].T, "dash" if "line" in name else "solid"))
    return paths, vertices


def _colors_of(paths):
    return ["black" if name in ("straight line", "curve") else COLORS[1] for name, *_ in paths]


def _contours(result, label, values, height, scale):
    low, high = scale["tickvals"][0], scale["tickvals"][-1]
    plane = _plane("contour", result, label, values, height, scale)
    plane |= {"zmin": scale["range"][0], "zmax": high, "line": {"color": "white", "width": 0.5}, "connectgaps": False}
    plane |= {"contours": {"start": low, "end": high, "size": (high - low) / (len(scale["tickvals"]) - 1)}}
    paths, vertices = _points(result)
    data = [plane]
    for (name, x, y, dash), color in zip(paths, _colors_of(paths)):
        line = {"color": color, "width": 3, "dash": dash}
        data.append({"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": line})
        data[-1]["hoverinfo"] = "name"
    for name, x, y, symbol in vertices:
        look = {"size": 11, "color": "black", "symbol": symbol, "line": {"color": "white", "width": 1.5}}
        data.append({"type": "scatter", "mode": "markers+text", "name": name, "x": x, "y": y, "marker": look})
        font = {"color": "white", "shadow": "0 0 3px black, 0 0 3px black"}
        data[-1] |= {"text": [name], "textposition": "top center", "textfont": font}
        data[-1] |= {"showlegend": False, "hoverinfo": "skip"}
    markers = []
    if len(result.path):
        look = {"size": 15, "color": COLORS[1], "line": {"color": "white", "width": 2}}
        x, y = result.path.T
        dot = {"type": "scatter", **HERE, "marker": look, "hovertemplate": TEXT}
        markers.append(marker(dot, x=x, y=y, text=_texts_along(result, label, values)))
    axes = layout(*axes_of(result))
    axes["legend"] |= LIGHT
    for axis in (axes["xaxis"], axes["yaxis"]):
        axis |= {"showgrid": False, "zeroline": False, "constrain": "domain"}
    if 0.25 < np.ptp(result.y) / np.ptp(result.x) < 4:
        axes["yaxis"]["scaleanchor"] = "x"
    return {"data": data, "layout": axes, "markers": markers}


def _surface(result, label, values, height, scale):
    plane = _plane("surface", result, label, values, height, scale)
    plane |= {"cmin": scale["range"][0], "cmax": scale["range"][1], "opacity": 0.95}
    data, lift = [plane], 0.02 * np.ptp(scale["range"])
    paths, vertices = _points(result)
    for (name, x, y, dash), color in zip(paths, _colors_of(paths)):
        x, y = (np.interp(POSITIONS, np.linspace(0, 1, len(part)), part) for part in (x, y))
        z = _interpolated(result, height, x, y) + lift
        line = {"color": color, "width": 6, "dash": dash}
        data.append({"type": "scatter3d", "mode": "lines", "name": name, "x": x, "y": y, "z": z, "line": line})
        data[-1]["hoverinfo"] = "name"
    for name, x, y, symbol in vertices:
        z = _interpolated(result, height, np.array(x), np.array(y)) + lift
        look = {"size": 6, "color": "black", "symbol": symbol}
        data.append({"type": "scatter3d", "mode": "markers+text", "name": name, "x": x, "y": y, "z": z, "marker": look})
        data[-1] |= {"text": [name], "showlegend": False, "hoverinfo": "skip"}
    markers = []
    if len(result.path):
        x, y = result.path.T
        z = _interpolated(result, height, x, y) + lift
        dot = {"type": "scatter3d", **HERE, "marker": {"size": 9, "color": COLORS[1]}, "hovertemplate": TEXT}
        markers.append(marker(dot, x=x, y=y, z=z, text=_texts_along(result, label, values)))
    axis = {"showspikes": False, "nticks": 5}
    axes = {
        "scene": {
            "xaxis": {"title": {"text": "x"}, **axis},
            "yaxis": {"title": {"text": "y"}, **axis},
            "zaxis": {"title": {"text": label}, **_ticks(scale, step=2), "range": scale["range"]},
            "aspectratio": {"x": 1, "y": 1, "z": 0.6},
            "camera": {"eye": {"x": 0.9, "y": -1.4, "z": 1.1}},
        },
        "legend": {"orientation": "h", "y": -0.05, **LIGHT},
        "margin": {"l": 0, "r": 0, "t": 34, "b": 0},
        "uirevision": "kept",  # The view does not turn back when the quantity changes.
    }
    return {"data": data, "layout": axes, "markers": markers}


def _ticks(scale, step=1):
    return {name: scale[name][::-step][::-1] for name in ("tickvals", "ticktext")}  # The last one stays: ">".


def _interpolated(result, values, x, y):
    """Bilinear interpolation of values on the grid; beyond it, those at its edge."""
    column, a = _place(result.x, x)
    row, b = _place(result.y, y)
    left = (1 - b) * values[row, column] + b * values[row + 1, column]
    right = (1 - b) * values[row, column + 1] + b * values[row + 1, column + 1]
    return (1 - a) * left + a * right


def _place(grid, points):
    """The cell of each point, and where in it the point lies, from 0 to 1."""
    cell = np.clip(np.searchsorted(grid, points, side="right") - 1, 0, len(grid) - 2)
    return cell, np.clip((points - grid[cell]) / (grid[cell + 1] - grid[cell]), 0, 1)
