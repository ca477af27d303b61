"""The tables of docs/performance.md, from the records of `speed.py`."""

import json
import math
import pathlib

import numpy as np

from inputs.networks import make_network
from keras_fge.core.pages import COLORS
from study.look import new_figure, styled

FOLDER = pathlib.Path(__file__).parents[1] / "results" / "speed"
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


def _milliseconds(values, case, part="median"):
    """Of a step."""
    return 1000 * values["seconds"][case][part] / values["steps"]


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
            by_hand = f"{_milliseconds(values, ratio['to']):.0f} ms, {ratio['to'].partition('by hand, ')[2]}"
            others = [found[name]["networks"].get(network) if name in found else None for name in BACKENDS.values()]
            cells = [_cell(other and other["ratios"][case]) for other in others]
            rows.append([f"{network}, {case}", by_hand, *cells])
    return markdown(rows)


def profiles():
    """Milliseconds of a step by part, of the plain step and of steps on curves."""
    rows = []
    for network, result in records("profile")["TensorFlow"]["networks"].items():
        cases = result["milliseconds"]
        for part in next(iter(cases.values())):
            rows.append([f"{network}: {part}", *[f"{parts[part]:.1f}" for parts in cases.values()]])
    return markdown([["milliseconds of a step", *cases], *rows])


def writing():
    """Milliseconds that FGE takes at the end of an epoch for what it writes, and of the begin of a fit."""
    rows = []
    for backend, record in records("fge").items():
        for network, result in record["networks"].items():
            cells = {case: f"{1000 * values['median']:.0f}" for case, values in result["single"].items()}
            rows.append([f"{network}, {backend}", *cells.values()])
    return markdown([["milliseconds", *cells], *rows])


def many_variables():
    """`ratios` of `fit` with FGE for a deep network."""
    return ratios("fge", FOLDER / "many_variables")


def positions():
    """What a position more takes, by the difference between 13 and 61 of them."""
    values = records("path")["TensorFlow"]["networks"]["small_cnn_bn"]["seconds"]
    loop, ours = (
        (values[f"{way}, 61 points"]["median"] - values[f"{way}, 13 points"]["median"]) / (61 - 13)
        for way in ("loop", "evaluate_path")
    )
    return (
        f"On TensorFlow, each position more takes {1000 * loop:.0f} ms by the loop and {1000 * ours:.0f} ms by "
        f"`evaluate_path`, {ours / loop:.2f} of it (`small_cnn_bn`, the difference between 13 and 61 positions)."
    )


def startup():
    found = records("startup")
    beyond = {name: record["networks"]["any"]["beyond_keras"] for name, record in found.items()}
    cases = list(next(iter(beyond.values())))
    rows = [["seconds, more than keras alone", *found]]
    rows += [[case.removeprefix("keras, "), *[_cell(values[case]) for values in beyond.values()]] for case in cases]
    helps = [_cell(record["networks"]["any"]["seconds"]["cifar.py --help"]) for record in found.values()]
    return markdown([*rows, ["cifar.py --help, in all", *helps]])


def memory():
    """Megabytes at the peak of a process, above one that only imports."""
    found = records("memory")
    cases = list(next(iter(next(iter(found.values()))["networks"].values()))["megabytes"])
    rows = [["megabytes", *cases]]
    for backend, record in found.items():
        for network, values in record["networks"].items():
            rows.append([f"{network}, {backend}", *[f"{values['megabytes'][case]:.0f}" for case in cases]])
    return markdown(rows)


def growth():
    """(title, label of x, {label: (x, milliseconds)}) for bends, points, members and weights."""
    record = records("growth")["TensorFlow"]
    ((network, values),) = record["networks"].items()
    steps = record["flags"]["steps"] or 4

    def medians(part, scale):
        return {name: scale * value["median"] for name, value in values["parts"][part]["seconds"].items()}

    panels = []
    for part, scale in (("bends", 1000 / steps), ("points", 1000), ("members", 1000)):
        least = 3 if part == "bends" else 1  # A curve of two trains its ends, and 1 is the plain network.
        points = {int(name): value for name, value in medians(part, scale).items() if int(name) >= least}
        panels.append((f"{network}: cost against {part}", part, {"": (list(points), list(points.values()))}))
    sizes = {"plain": {}, "curve": {}}
    for name, value in medians("weights", 1000 / 4).items():
        kind, weights = name.split()
        sizes[kind][int(weights)] = value
    series = {kind: (list(values), list(values.values())) for kind, values in sizes.items()}
    return [*panels, ("a step of small CNN, 8 x 8 pixels", "weights", series)]


def slopes():
    """What one bend, point or member more costs, by least squares, and the powers below and above 3 million weights."""
    rows = [["", "fit"]]
    for title, label, series in growth():
        for name, (x, y) in series.items():
            if label == "weights":
                small, large = (
                    np.polyfit(np.log(x[part]), np.log(y[part]), 1)[0] for part in (slice(3), slice(2, None))
                )
                rows.append([f"{title}, {name} step", f"ms ~ weights^{small:.2f}, then weights^{large:.2f}"])
            else:
                slope, start = np.polyfit(x, y, 1)
                rows.append([title, f"{start:.1f} ms + {slope:.2f} ms for each of the {label}"])
    return markdown(rows)


@styled
def draw_growth():
    figure = new_figure(2.8)
    for axes, (title, label, series) in zip(figure.subplots(1, 4), growth()):
        for color, (name, (x, y)) in zip(COLORS, series.items()):
            axes.plot(x, y, "o-", markersize=4, label=name, color=color)
        if label == "weights":
            axes.set(xscale="log", yscale="log")
            axes.minorticks_off()
            axes.legend()
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=label, ylabel="ms")
    return figure


def convolutions():
    """What `evidence/convolutions_on_cpu.py` printed."""
    lines = (FOLDER.parent / "convolutions_on_cpu.txt").read_text().splitlines()
    return "\n".join(f"    {line}" for line in lines)


def engines():
    """Seconds of a study by each engine, of one that is almost done, and of a unit more."""
    values = records("engines")["TensorFlow"]["networks"]["any"]
    rows = [["", "seconds of the study", "ratio to one process", "seconds where two pools are left", "of a pool more"]]
    for engine, each in values["seconds_per_unit"].items():
        study, rest = (values["seconds"][name]["median"] for name in (engine, f"{engine}, few left"))
        ratio = _cell(values["ratios"].get(engine))
        rows.append([engine, f"{study:.0f}", ratio, f"{rest:.0f}", f"{each['median']:.2f}"])
    return markdown(rows)


GPU = FOLDER / "h200"  # A folder for each network and dtype.
PEAKS = {"float32": 495, "mixed_bfloat16": 989}  # 10^12 dense operations a second of an H200, by its data sheet.


def operations(name, batch_size):
    """Floating-point operations of a training step, in 10^12: forward, and backward to weights and inputs."""
    layers = [layer for layer in make_network(name, (32, 32, 3), 10, 0.0).layers if hasattr(layer, "kernel")]
    products = [math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1]) for layer in layers]
    return 2 * batch_size * (3 * sum(products) - products[0]) / 1e12  # The images need no gradient.


def _share(work, milliseconds, dtype):
    """Of the peak of the card, in which a step of so many operations takes so long."""
    return f"{100 * work / (milliseconds / 1000) / PEAKS[dtype]:.0f} %"


def gpu_loops():
    """Milliseconds of a step of VGG-16 on an H200, by the loop around it, and its share of what the card can do."""
    found = {dtype: records("loop", GPU / f"vgg16_{dtype}")["JAX"] for dtype in PEAKS}
    work = {dtype: operations("vgg16", record["flags"]["batch_size"]) for dtype, record in found.items()}
    rows = [["VGG-16, JAX, one H200", *found]]
    for case in next(iter(found.values()))["networks"]["vgg16"]["seconds"]:
        cells = []
        for dtype, record in found.items():
            values = record["networks"]["vgg16"]
            median, low, high = (_milliseconds(values, case, part) for part in ("median", "low", "high"))
            cells.append(f"{median:.2f} ms ({low:.2f} to {high:.2f}), {_share(work[dtype], median, dtype)}")
        rows.append([case, *cells])
    return markdown(rows)


def gpu_curves():
    """`ratios` of the step on curves of VGG-16 in bfloat16 on an H200."""
    return ratios("curve", GPU / "vgg16_mixed_bfloat16")


def gpu_peers():
    """Milliseconds of a step in bfloat16 on an H200, ours and by hand in PyTorch."""
    rows = [["bfloat16, one H200", "ms a step", "share of the peak", "ours to it"]]
    for network in ("vgg16", "wrn28x10"):
        record = records("peer", GPU / f"{network}_mixed_bfloat16")["JAX"]
        values = record["networks"][network]
        work = operations(network, record["flags"]["batch_size"])
        for case in values["seconds"]:
            milliseconds = _milliseconds(values, case)
            share = _share(work, milliseconds, "mixed_bfloat16")
            ours = next((_cell(ratio) for ratio in values["ratios"].values() if ratio["to"] == case), "")
            name = case.replace("by hand", "by hand, PyTorch") if "by hand" in case else f"{case}, JAX"
            rows.append([f"{network}, {name}", f"{milliseconds:.1f}", share, ours])
    return markdown(rows)
