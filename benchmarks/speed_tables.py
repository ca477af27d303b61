"""The tables and the figure of docs/performance.md, from the records of `speed.py`."""

import json
import pathlib

import numpy as np
from matplotlib.figure import Figure

FOLDER = pathlib.Path(__file__).parent / "results" / "speed"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}


def records(measure, folder=FOLDER):
    """`{name of a backend: record}` of one measurement."""
    paths = {name: folder / f"{measure}_{key}.json" for key, name in BACKENDS.items()}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def markdown(rows):
    """A table; the first row is its header."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _cell(values):
    if not values:
        return ""
    fastest = f"; {values['fastest']:.2f}" if "fastest" in values else ""
    return f"{values['median']:.2f} ({values['low']:.2f} to {values['high']:.2f}{fastest})"


def ratios(measure, folder=FOLDER):
    """A row for each network and backend, a column for each case: median ratio, quartiles, ratio of the fastest."""
    found = records(measure, folder)
    cases = dict.fromkeys(case for r in found.values() for n in r["networks"].values() for case in n["ratios"])
    networks = dict.fromkeys(network for r in found.values() for network in r["networks"])
    rows = [["network, backend", *cases]]
    for network in networks:
        for backend, record in found.items():
            if values := record["networks"].get(network):
                rows.append([f"{network}, {backend}", *[_cell(values["ratios"].get(case)) for case in cases]])
    return markdown(rows)


def peers():
    """Milliseconds of a step by hand, in the better layout, and the ratios of ours to it, from the same turns."""
    found, rows = records("peer"), [["network, step", "by hand, PyTorch", *BACKENDS.values()]]
    first = next(iter(found.values()))
    for network in first["networks"]:
        for case in ("plain", "curve"):
            values = first["networks"][network]
            ratio = values["ratios"][case]
            milliseconds = 1000 * values["seconds"][ratio["to"]]["median"] / values["steps"]
            by_hand = f"{milliseconds:.0f} ms, {ratio['to'].rpartition(', ')[2]}"
            others = [found[name]["networks"].get(network) if name in found else None for name in BACKENDS.values()]
            cells = [_cell(other and other["ratios"][case]) for other in others]
            rows.append([f"{network}, {case}", by_hand, *cells])
    return markdown(rows)


def writing():
    """Milliseconds of what FGE does at the end of an epoch, and of the begin of a fit."""
    found = records("fge")
    cases = list(next(iter(found["TensorFlow"]["networks"].values()))["single"])
    rows = [["milliseconds", *cases]]
    for network in found["TensorFlow"]["networks"]:
        for backend, record in found.items():
            values = record["networks"][network]["single"]
            rows.append([f"{network}, {backend}", *[f"{1000 * values[case]:.0f}" for case in cases]])
    return markdown(rows)


def memory():
    found = records("memory")
    cases = list(next(iter(found["TensorFlow"]["networks"].values()))["megabytes"])
    rows = [["megabytes", *cases]]
    for network in found["TensorFlow"]["networks"]:
        for backend, record in found.items():
            values = record["networks"][network]["megabytes"]
            rows.append([f"{network}, {backend}", *[f"{values[case]:.0f}" for case in cases]])
    return markdown(rows)


def startup():
    found = records("startup")
    beyond = {name: record["networks"]["any"]["beyond_keras"] for name, record in found.items()}
    cases = list(next(iter(beyond.values())))
    rows = [["seconds, more than keras alone", *found]]
    rows += [[case.removeprefix("keras, "), *[_cell(values[case]) for values in beyond.values()]] for case in cases]
    helps = [_cell(record["networks"]["any"]["seconds"]["cifar.py --help"]) for record in found.values()]
    return markdown([*rows, ["cifar.py --help, in all", *helps]])


def growth():
    """(title, label of x, {label: (x, milliseconds)}) of each panel."""
    record = records("growth")["TensorFlow"]
    ((network, values),) = record["networks"].items()
    steps = record["flags"]["steps"] or 4

    def medians(part, scale):
        return {name: scale * value["median"] for name, value in values["parts"][part]["seconds"].items()}

    panels = []
    for part, label, scale in (
        ("bends", "bends", 1000 / steps),
        ("points", "points", 1000),
        ("members", "members", 1000),
    ):
        points = {int(name): value for name, value in medians(part, scale).items()}
        points = {x: value for x, value in points.items() if part != "bends" or x > 2}  # Two have no fixed ends.
        panels.append((f"{network}: cost against {part}", label, {"": (list(points), list(points.values()))}))
    sizes = {"plain": {}, "curve": {}}
    for name, value in medians("weights", 1000 / 4).items():
        kind, weights = name.split()
        sizes[kind][int(weights)] = value
    panels.append(
        ("small CNN, 8 x 8 pixels, batch 32", "weights", {k: (list(v), list(v.values())) for k, v in sizes.items()})
    )
    return panels


def slopes():
    """What one bend, point or member more costs, by least squares, and the power of the weights."""
    lines = ["| | fit |", "|---|---|"]
    for title, label, series in growth():
        for name, (x, y) in series.items():
            if label == "weights":
                slope = np.polyfit(np.log(x), np.log(y), 1)[0]
                lines.append(f"| {title}, {name} step | ms ~ weights^{slope:.2f} |")
            else:
                slope, start = np.polyfit(x, y, 1)
                lines.append(f"| {title} | {start:.1f} ms + {slope:.2f} ms a {label[:-1]} |")
    return "\n".join(lines)


def draw_growth():
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axes, (title, label, series) in zip(figure.subplots(1, 4), growth()):
        for name, (x, y) in series.items():
            axes.plot(x, y, "o-", markersize=4, label=name)
        if label == "weights":
            axes.set(xscale="log", yscale="log")
            axes.legend()
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=label, ylabel="ms")
    return figure
