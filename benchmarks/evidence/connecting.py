"""How far train NLL and error rise on curves between two networks, against bends, epochs of the curve and width.

    cd benchmarks && python -m evidence.connecting --task=fashion --output=connecting_fashion.json
    cd benchmarks && python -m evidence.connecting --task=cifar10 --data_dir=DIR --output=connecting_cifar10.json
    cd benchmarks && python -m evidence.connecting --task=mobilenet --pairs=5 --data_dir=DIR --output=mobilenet.json

Four pairs of independent networks, each connected by a straight line, and by curves that are trained three times as
long as a network; on Fashion-MNIST also by one whose training minimizes the mean loss over arc length. The first pair
has further curves that are trained for less, and some between networks of other widths. Networks of later kinds
(mobilenet, efficientnet, cct) are also connected after alignment, by a line and by a curve. Measured at 61 points,
without the weight decay, on all training and test images. The record is written after each curve, and the same command
goes on; then it draws the figure beside it. docs/results.md has those that were run.
"""

import os
import pathlib
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from absl import app, flags

import curves
from inputs import data
from keras_fge.core.pages import COLORS, GREY
from report.connecting import NAMES, rise
from study.look import new_figure, save, styled
from study.presets import PRESETS
from study.progress import console
from study.records import opened_record, write_json
from study.training import compile_model, default_jit_compile, new_network, train

FLAGS = flags.FLAGS
BATCH_SIZE, POINTS, WIDTH = 64, 61, 16
SMALL = PRESETS["small"]
TASKS = {  # The settings of `cifar.py`, by default and with --preset=small.
    "fashion": {
        "name": "Fashion-MNIST (subset)",
        "data": {"dataset": "fashion_subset"},
        **{"network": "small_cnn", "epochs": 40, "rate": 0.05, "decay": 3e-4, "curve_rate": 0.05},
        "curves": [("bezier_by_length", 3, 3)],
    },
    "cifar10": {
        "name": "CIFAR-10 (JPEG), 5,000 images",
        "data": {"dataset": "folder", "image_size": SMALL["image_size"], "train_size": SMALL["train_size"]},
        **{"network": SMALL["network"], "epochs": SMALL["epochs"], "rate": SMALL["learning_rate"]},
        **{"decay": SMALL["weight_decay"], "curve_rate": SMALL["curve_learning_rate"]},
    },
}
LATER = {  # Networks that came after the paper, on the same images; a transformer is trained by AdamW.
    "mobilenet": {"epochs": 60, "rate": 0.05, "decay": 1e-3, "curve_rate": 0.05},
    "efficientnet": {"epochs": 60, "rate": 0.05, "decay": 1e-3, "curve_rate": 0.05},
    "cct": {"epochs": 60, "rate": 0.001, "decay": 0.0, "curve_rate": 0.001, "adamw_decay": 0.004},
}
TASKS |= {
    network: {**TASKS["cifar10"], "name": f"{network}, CIFAR-10 (JPEG)", "network": network, **own}
    for network, own in LATER.items()
}
KINDS = {"line": curves.PolygonalChain, "bezier": curves.Bezier, "chain": curves.PolygonalChain}
KINDS |= {f"aligned_{kind}": KINDS[kind] for kind in ("line", "bezier")}
KINDS["bezier_by_length"] = curves.Bezier
# Kind, bends, and epochs in those of a network, of the curves of all pairs; and what one pair has besides.
ALL_PAIRS = [("line", 2, 0), ("bezier", 3, 3), ("bezier", 5, 3), ("chain", 5, 3)]
OF_LATER = [("line", 2, 0), ("aligned_line", 2, 0), ("bezier", 3, 3), ("bezier", 5, 3), ("aligned_bezier", 3, 3)]
FIRST_PAIR = [("bezier", 3, 1), ("bezier", 3, 2), ("bezier", 5, 1), ("bezier", 5, 2), ("chain", 3, 3)]
OTHER_WIDTHS = {8: ALL_PAIRS[1:3], 32: ALL_PAIRS[1:3]}
MEASURED = (("train", "loss"), ("train", "nll"), ("train", "error"), ("test", "nll"), ("test", "error"))
TOGETHER = ("with_start_nll", "with_start_error")  # Of the ensemble of phi(0) and phi(t), on test images.


def curves_to_make(task, pairs):
    """(width, pair, kind, bends, times) of each curve, those of all pairs first."""
    if task in LATER:
        return [(WIDTH, pair, *curve) for pair in range(pairs) for curve in OF_LATER]
    of_pair = [*ALL_PAIRS, *TASKS[task].get("curves", ())]
    wanted = [(WIDTH, pair, *curve) for pair in range(pairs) for curve in of_pair]
    wanted += [(WIDTH, 0, *curve) for curve in FIRST_PAIR]
    return wanted + [(width, 0, *curve) for width, chosen in OTHER_WIDTHS.items() for curve in chosen]


def settings_of(task, width):
    """As `cifar.py` has them."""
    return types.SimpleNamespace(
        **{"network": task["network"], "width": width, "weight_decay": task["decay"], "transform": "none"},
        **{"learning_rate": task["rate"], "momentum": 0.9, "batch_size": BATCH_SIZE},
        **{"jit_compile": default_jit_compile(), "steps_per_execution": 1, "images_on_device": False},
    )


def compiled(model, task, settings, rate):
    compile_model(model, settings, rate)
    if "adamw_decay" in task:
        # Of a curve, it would decay the bends.
        decay = 0 if isinstance(model, curves.CurveModel) else task["adamw_decay"]
        optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
        model.compile(optimizer, model.loss, metrics=["accuracy"], jit_compile=settings.jit_compile)
    return model


def trained(task, settings, images, seed, folder):
    network = compiled(new_network(settings, images, seed), task, settings, task["rate"])
    place = folder / f"network_{settings.width}_{seed}"
    train(network, settings, images, task["epochs"], task["rate"], seed, place)
    return network


def measure(task, images, setting, seed, folder):
    """Values along one curve, as lists over its points, and its length."""
    width, pair, kind, bends, times = setting
    settings = settings_of(task, width)
    ends = [trained(task, settings, images, seed + 2 * pair + k, folder) for k in (0, 1)]
    if kind.startswith("aligned"):
        ends[1] = curves.align(ends[1], ends[0], verbose=False)
    name = "_".join(map(str, setting))
    keras.utils.set_random_seed(seed)
    objective = "arc_length" if kind.endswith("by_length") else "uniform"
    curve = curves.connect(*ends, KINDS[kind](bends), objective=objective, seed=seed)
    compiled(curve, task, settings, task["curve_rate"])
    if times:
        place = folder / f"curve_{name}"
        train(curve, settings, images, times * task["epochs"], task["curve_rate"], seed, place)
    path = curves.evaluate_path(
        curve,
        images.train,
        images.test,
        POINTS,
        batch_size=1000,
        bn_samples=min(2000, len(images.train[0])),
        file=folder / f"path_{name}.npz",
        verbose=False,
        line=False,
    )
    found = {f"{split}_{quantity}": getattr(path, split)[quantity] for split, quantity in MEASURED}
    found |= {quantity: path.ensemble[quantity] for quantity in TOGETHER}
    found = {quantity: [float(f"{value:.6g}") for value in values] for quantity, values in found.items()}
    means = {f"{over}_mean": path.mean("train", "nll", over=over) for over in ("t", "length")}
    return {**found, **means, "length_ratio": path.arc_length / path.straight_distance}


def key_of(width, pair, kind, bends, times):
    return f"width {width}, pair {pair}, {kind}, {bends} bends, {times}x"


PANELS = (("train_nll", "train NLL", 1), ("train_error", "train error (%)", 100))
PANELS += (("test_nll", "test NLL", 1), ("test_error", "test error (%)", 100))
DRAWN = {("bezier", 3, 3): COLORS[0], ("bezier", 5, 3): COLORS[2], ("chain", 5, 3): COLORS[3]}
DRAWN["aligned_bezier", 3, 3] = COLORS[1]


@styled
def draw(record):
    """Train and test NLL and error along the curves of all pairs, and those of the straight line where they fit."""
    figure, t = new_figure(6.2), np.linspace(0, 1, POINTS)
    looks = {curve: (color, "-", f"{NAMES[curve[0]]}, {curve[1]} bends") for curve, color in DRAWN.items()}
    looks |= {(kind, 2, 0): (color, ":", NAMES[kind]) for kind, color in (("line", GREY), ("aligned_line", COLORS[1]))}
    done = [pair for pair in range(record["flags"]["pairs"]) if key_of(WIDTH, pair, "line", 2, 0) in record["curves"]]
    for axes, (quantity, label, scale) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS):
        largest = 0
        for curve, (color, style, name) in looks.items():
            for pair in done:
                if found := record["curves"].get(key_of(WIDTH, pair, *curve)):
                    values = scale * np.array(found[quantity])
                    largest = max(largest, values.max()) if style == "-" else largest
                    axes.plot(t, values, style, color=color, linewidth=1, label=None if pair else name)
        lowest = min(axes.dataLim.y0, largest)
        axes.set(ylabel=label, ylim=(lowest - 0.05 * (largest - lowest), largest + 0.25 * (largest - lowest)))
        axes.grid(alpha=0.3)
    for axes in figure.axes[2:]:
        axes.set_xlabel("position t between two networks")
    figure.suptitle(f"{TASKS[record['flags']['task']]['name']}: {len(done)} pairs of networks")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, task=FLAGS.task, seed=FLAGS.seed, pairs=FLAGS.pairs)
    path, task = pathlib.Path(FLAGS.output), TASKS[FLAGS.task]
    folder = path.parent / "checkpoints" / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    images = data.load(**task["data"], data_dir=FLAGS.data_dir)
    record = opened_record(path, settings, data=images.about(), task=task, curves={})
    for setting in curves_to_make(FLAGS.task, FLAGS.pairs):
        if "t_mean" not in record["curves"].get(key := key_of(*setting), {}):
            record["curves"][key] = found = measure(task, images, setting, FLAGS.seed, folder)
            write_json(record, path)
            rises = {name: round(scale * rise(found[name]), 3) for name, _, scale in PANELS}
            console.print(f"{key}: rises: {rises}")
    save(draw(record), path.with_suffix(".png"))
    console.print(f"Written: {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/connecting_fashion.json", "Record to write.")
    flags.DEFINE_enum("task", "fashion", list(TASKS), "The data set, its network, and its settings.")
    flags.DEFINE_string("data_dir", None, "The folder of images, for cifar10.")
    flags.DEFINE_integer("pairs", 4, "Pairs of networks.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first network of the first pair; the next ones follow.")
    app.run(main)
