"""Figures made from the records of a folder and the results (.npz) beside them.

Each function takes the records and their folder, and returns None if there is nothing to draw.
"""

import os

import keras
import numpy as np

import curves
import keras_fge
from keras_fge.core.pages import COLORS
from report.comparisons import equivalent, standard_error, values
from report.tables import METHODS, PLANES, QUANTITIES, SINGLE, by_name, pooled
from study.look import new_figure, styled
from study.presets import BUDGETS


def with_legend(figure):
    """The figure with the legend of its last panel beside it, where it hides no data."""
    figure.legend(*figure.axes[-1].get_legend_handles_labels(), loc="outside right upper")
    return figure


def results(records, folder, experiment, result_class):
    """Measured paths or planes whose files exist, as a dictionary by the label to show."""
    files = {PLANES[name]: os.path.join(folder, f"{experiment}_{name}.npz") for name in by_name(records, experiment)}
    return {label: result_class.load(path) for label, path in files.items() if os.path.exists(path)}


def draw_paths(records, folder):
    paths = results(records, folder, "path", curves.PathResult)
    return curves.plot_paths(paths) if paths else None


def draw_planes(split, quantity):
    def draw(records, folder):
        planes = results(records, folder, "plane", curves.PlaneResult)
        return curves.plot_planes(planes, None, split, quantity) if planes else None

    return draw


@styled
def draw_fge(records, folder):
    """Draws the paper's three panels: learning rate, test error and distance from the start, against the iteration."""
    runs = [record["metrics"] for record in records.of("fge") if "trace" in record["metrics"]]
    if not runs:
        return None
    run, trace, flags = runs[0], runs[0]["trace"], records.configuration
    updates = np.arange(1, trace["iteration"][-1] + 1)
    rates = keras_fge.triangular(
        updates, flags["fge_max_learning_rate"], flags["fge_min_learning_rate"], trace["cycle_steps"]
    )
    figure = new_figure(6)
    panels = figure.subplots(3, 1, sharex=True)
    series = [
        (updates, keras.ops.convert_to_numpy(rates), "learning rate"),
        (trace["iteration"], 100 * np.array(trace["test_error"]), "test error (%)"),
        (trace["iteration"], trace["distance"], "distance from the start"),
    ]
    for axes, (x, y, label) in zip(panels, series):
        axes.plot(x, y, color=METHODS["fge"][1], linewidth=1.5)
        for step in trace["snapshots"]:
            axes.axvline(step, color="0.6", linestyle=":", zorder=0)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    ensemble = 100 * np.array(run["ensemble_error"])
    panels[1].plot(trace["snapshots"], ensemble, "d-", color=COLORS[3], label="ensemble of the snapshots so far")
    panels[1].legend()
    panels[0].set_title("One FGE run; dotted lines: snapshots")
    panels[-1].set_xlabel("iteration")
    return figure


@styled
def draw_budgets(records, folder):
    """Draws test error and NLL against the budget, with mean and standard error."""
    groups = pooled(records)
    if not groups:
        return None
    figure = new_figure(3.6)
    for axes, (metric, label, scale, _) in zip(figure.subplots(1, 3), QUANTITIES[:3]):
        for shift, (method, (name, color)) in zip((-0.04, -0.01, 0.01, 0.04), METHODS.items()):
            cells = {b: [g["test"][metric] for g in groups[method, b]] for b in BUDGETS if (method, b) in groups}
            if not cells:
                continue
            means = [scale * np.mean(values) for values in cells.values()]
            errors = [scale * (standard_error(values) or 0) for values in cells.values()]
            x = np.array(list(cells)) + shift
            axes.errorbar(x, means, errors, marker="o", capsize=3, color=color, label=name)
        axes.set(xlabel="budget (B)", ylabel=label, xticks=[1, 2, 3])
        axes.grid(alpha=0.3)
    return with_legend(figure)


@styled
def draw_members(records, folder):
    """Draws accuracy against the epochs spent, of the members one by one and of the ensemble of those so far.

    Up to 2B, if there are pairs of runs: the members of the second come after those of the first.
    """
    budget, drawn = records.configuration["epochs"], []
    for method in ("sse", "fge"):
        runs = [record["metrics"] for record in records.of(method)]
        pairs = [
            record["metrics"] for record in records.of(f"{method} ensemble") if "ensemble_error" in record["metrics"]
        ]
        if runs:
            drawn.append((method, np.array(runs[0]["epochs"]) / budget, runs, pairs))
    if not drawn:
        return None
    figure = new_figure(4)
    axes = figure.subplots()
    for method, epochs, runs, pairs in drawn:
        name, color = METHODS[method]
        members = 100 - 100 * np.mean([run["member_error"] for run in runs], axis=0)
        axes.plot(epochs, members, "x--", color=color, label=f"{name}, separate", linewidth=1)
        x = np.concatenate([epochs, 1 + epochs]) if pairs else epochs
        together = 100 - 100 * np.mean([group["ensemble_error"] for group in pairs or runs], axis=0)
        axes.plot(x, together, "d-", color=color, label=f"{name}, ensemble", linewidth=1)
    singles = [record["metrics"]["test"]["error"] for record in records.of("ind")]
    if singles:
        axes.axhline(
            100 - 100 * np.mean(singles), color=METHODS["ind"][1], linestyle=":", label="Ind, one network at 1B"
        )
    axes.set(xlabel="budget (B)", ylabel="test accuracy (%)", title="Means over runs, or pairs of runs", xlim=(0, None))
    axes.grid(alpha=0.3)
    return with_legend(figure)


@styled
def draw_worth(records, folder):
    """Draws the calibrated NLL of 1, 2, ... independent networks, and how many of them each method is worth at 1B."""
    groups = [record for record in records.of("ind ensemble")]
    if not groups:
        return None
    figure = new_figure(4)
    axes = figure.subplots()
    sizes = sorted({record["key"][0] for record in groups})
    means = [np.mean(list(values(records, "ind", k, "calibrated_nll").values())) for k in sizes]
    axes.plot(sizes, means, "o-", color=METHODS["ind"][1], label="Ind")
    for method, (name, color) in {**METHODS, **SINGLE}.items():
        if method != "ind" and (worth := equivalent(records, method, 1)):
            value = np.mean(list(values(records, method, 1, "calibrated_nll").values()))
            axes.plot(
                [1, worth[0]], [value, value], "x--", color=color, label=f"{name}, 1B: worth {worth[0]:.1f} networks"
            )
    axes.set(xlabel="independent networks in the ensemble", ylabel="test NLL, calibrated", xticks=sizes)
    axes.grid(alpha=0.3)
    return with_legend(figure)


@styled
def draw_time(records, folder):
    """Draws the test error against the time of training, of ensembles of 1, 2 and 3 budgets, and within one FGE run."""
    seconds = {
        method: [seconds for r in records.of(method) if np.isfinite(seconds := r["metrics"]["seconds_per_epoch"])]
        for method in ("ind", "sse", "fge")
    }
    if not all(seconds.values()):
        return None
    flags, seconds = records.configuration, {method: np.median(times) for method, times in seconds.items()}
    start, epochs = flags["fge_start_epoch"], flags["epochs"]
    cost = {method: epochs * seconds[method] / 60 for method in ("ind", "sse")}
    cost["fge"] = (start * seconds["ind"] + (epochs - start) * seconds["fge"]) / 60
    figure = new_figure(4)
    axes = figure.subplots()
    for method, minutes in cost.items():
        name, color = METHODS[method]
        errors = [list(values(records, method, budget, "error").values()) for budget in BUDGETS]
        points = [(budget * minutes, 100 * np.mean(error)) for budget, error in zip(BUDGETS, errors) if error]
        axes.plot(*zip(*points), "o-", color=color, label=name)
    runs = [record["metrics"] for record in records.of("fge")]
    minutes = (start * seconds["ind"] + (np.array(runs[0]["epochs"]) - start) * seconds["fge"]) / 60
    errors = 100 * np.mean([run["ensemble_error"] for run in runs], axis=0)
    axes.plot(minutes, errors, ".:", color=METHODS["fge"][1], label="FGE, after each member of a run")
    axes.set(xlabel="minutes of training (one process)", ylabel="test error (%)", title="Means over runs and groups")
    axes.grid(alpha=0.3)
    return with_legend(figure)


FIGURES = (
    ("paths.png", "Along the paths", draw_paths),
    ("planes_train_loss.png", "Train loss in planes of weight space", draw_planes("train", "loss")),
    ("planes_test_error.png", "Test error in the same planes", draw_planes("test", "error")),
    ("fge.png", "One FGE run", draw_fge),
    ("members.png", "Accuracy against budget: separate members, and ensembles of those so far", draw_members),
    ("budgets.png", "Ensembles at equal budgets, mean and standard error", draw_budgets),
    ("worth.png", "How many independent networks each method is worth", draw_worth),
    ("time.png", "Test error against the time of training", draw_time),
)
