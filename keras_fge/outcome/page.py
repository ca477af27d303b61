"""The page in a browser on which one looks at a run: where its members lie, how good they are, and the rate."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fge.core.pages import COLORS, Panel, layout, marker, write_page
from keras_fge.run import Snapshot, measured


def write_run_page(
    steps: np.ndarray,
    learning_rates: np.ndarray,
    snapshots: Sequence[Snapshot],
    distances: np.ndarray,
    sentences: Sequence[str],
    path: str | os.PathLike,
    title: str,
    others: Sequence[Panel] = (),
) -> None:
    """Writes the page; the slider goes from the start over the cycles.

    Args:
        steps, learning_rates: Iterations 1, 2, ..., and the learning rate of each.
        snapshots: The K members, with metrics.
        distances: ||w_j - w_k|| of the start and the members, shape `(K + 1, K + 1)`.
        sentences: What stands on top.
        path: File to write.
        title: The title.
        others: Further panels, the last ones. Default: none.
    """
    taken = np.array([0, *[snapshot.step for snapshot in snapshots]])
    places = ["start", *[f"member {k}, iteration {step}" for k, step in enumerate(taken[1:], 1)]]
    panels = [_trajectory(distances, places)]
    for ending, label, scale in (("error", "error (%)", 100), ("nll", "NLL", 1), ("mse", "mean squared error", 1)):
        series = {name.replace("_", " "): scale * values for name, values in measured(snapshots, ending).items()}
        if series:
            panels.append(_against_iterations("On validation data", label, taken[1:], series, taken))
    names = ["distance_from_start", "distance_from_last"]
    series = {n.replace("_", " "): np.array([s.metrics[n] for s in snapshots]) for n in names}
    panels.append(_against_iterations("In weight space", "distance", taken[1:], series, taken))
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 4000)).astype(int))
    rates = {"learning rate": learning_rates[chosen]}
    panels.append(_against_iterations("Learning rate", "learning rate", steps[chosen], rates, taken, mode="lines"))
    write_page(path, title, sentences, [*panels, *others], {}, ("member", places))


def principal_components(distances: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinates of points on their first two principal components, and the share of the variance these have.

    From the distances alone, by classical scaling: the centred products are B = -1/2 J D^2 J with J = I - 1 1^T / n,
    and the coordinates are eigenvectors of B times the square roots of their eigenvalues.

    Args:
        distances: Of n points, shape `(n, n)`.

    Returns:
        (coordinates, shape `(n, 2)`; share between 0 and 1)
    """
    squares = np.asarray(distances, "float64") ** 2
    centred = squares - squares.mean(axis=0)
    products = -0.5 * (centred - centred.mean(axis=1, keepdims=True))
    values, vectors = np.linalg.eigh(products)
    values = np.maximum(values, 0.0)
    first = np.argsort(values)[::-1][:2]
    return vectors[:, first] * np.sqrt(values[first]), float(values[first].sum() / max(values.sum(), 1e-300))


def _trajectory(distances, places):
    points, share = principal_components(distances)
    x, y = points.T
    path = {"type": "scatter", "mode": "lines+markers", "x": x, "y": y, "name": "members", "ink": True}
    path |= {"marker": {"size": 8}, "line": {"width": 1}, "text": places, "hovertemplate": "%{text}<extra></extra>"}
    start = {"type": "scatter", "mode": "markers", "x": x[:1], "y": y[:1], "name": "start"}
    start |= {"marker": {"size": 13, "symbol": "square", "color": COLORS[0]}, "hoverinfo": "skip"}
    dot = {"type": "scatter", "mode": "markers", "marker": {"size": 15, "color": COLORS[1]}}
    dot["hovertemplate"] = "%{text}<extra></extra>"
    axes = layout("first principal component", "second principal component")
    axes["yaxis"]["scaleanchor"] = "x"
    figure = {"data": [path, start], "layout": axes, "markers": [marker(dot, x=x, y=y, text=places)]}
    title = f"Start and members, on a plane that has {100 * share:.0f} % of their variance"
    return Panel(title, {"": figure})


def _against_iterations(title, label, x, series, taken, mode="lines+markers"):
    """A panel of values against the iteration, with a marker at each member; of the start nothing is known."""
    data: list[dict[str, Any]] = []
    markers = []
    for color, (name, values) in zip(COLORS, series.items()):
        look = {"type": "scatter", "mode": mode, "name": name, "line": {"color": color, "width": 2}}
        template = f"iteration %{{x}}<br>{name}: %{{y:.4g}}<extra></extra>"
        data.append({**look, "x": x, "y": values, "hovertemplate": template})
        dot = {"type": "scatter", "mode": "markers", "marker": {"size": 13, "color": color}, "hovertemplate": template}
        here = np.interp(taken, x, values)
        if mode != "lines":
            here[0] = np.nan
        markers.append(marker(dot, x=taken, y=here))
    figure = {"data": data, "layout": layout("iteration", label), "markers": markers}
    return Panel(title, {"": figure})
