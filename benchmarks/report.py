"""What a person gets to see: progress bars, tables, figures, and the record of a run."""

import contextlib
import datetime
import json
import os
import platform
import sys

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import curves
from experiments import paired_difference, summarize_groups

console = Console()
QUANTITIES = (
    ("error", "test error %", 100, 2),
    ("nll", "test NLL", 1, 3),
    ("calibrated_nll", "test NLL, calibrated", 1, 3),
)
METHODS = {"Ind": "tab:blue", "SSE": "tab:orange", "FGE": "tab:green"}


class Ticker(keras.callbacks.Callback):
    """Moves a progress bar by one at each epoch, or when told to."""

    def __init__(self, advance):
        super().__init__()
        self.advance = advance

    def on_epoch_end(self, epoch, logs=None):
        self.advance()


class ProgressBars:
    """One bar for each task of a run; `task` gives a `Ticker`."""

    def __init__(self):
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )

    @contextlib.contextmanager
    def task(self, description, total):
        task = self._bars.add_task(description, total=total)
        yield Ticker(lambda: self._bars.advance(task))
        if total is None:
            self._bars.update(task, total=1, completed=1)

    def __enter__(self):
        self._bars.start()
        return self

    def __exit__(self, *_):
        self._bars.stop()


# --- Tables -----------------------------------------------------------------------------------------------------------


def print_curves(results):
    table = Table(title="Curves between two independently trained networks")
    table.add_column("path", no_wrap=True)
    for name in ("train loss", "mean", "error %", "barrier", "length"):
        table.add_column(name, justify="right", no_wrap=True)
    line = next(iter(results.values()))
    rows = {"endpoints": (line.train["loss"][[0, -1]], "", line.test["error"][[0, -1]], "", "")}
    for name, result in results.items():
        mean = f"{result.mean():.3f} {result.mean(over='length'):.3f}"
        length = f"{result.summary()['length_ratio']:.3f}"
        rows[name] = (result.train["loss"], mean, result.test["error"], f"{result.barrier():.3f}", length)
    for name, (loss, mean, error, barrier, length) in rows.items():
        loss = f"{np.min(loss):.3f}-{np.max(loss):.3f}"
        error = f"{100 * np.min(error):.2f}-{100 * np.max(error):.2f}"
        table.add_row(name, loss, mean, error, barrier, length)
    console.print(table)
    console.print(
        "Minimum to maximum along the path, of train loss and test error; mean of the train loss over t, and over arc "
        "length. Barrier, in nats: the largest train loss (with weight decay) on the path minus that of the worse "
        "endpoint. Length: of the path in weight space, over the straight distance.\n"
    )


def print_ensembles(groups, settings):
    summary = summarize_groups(groups)
    table = Table(title=f"Ensembles at equal budgets, B = {settings.epochs} epochs")
    table.add_column("", no_wrap=True)
    for budget in (1, 2, 3):
        table.add_column(f"{budget}B (n = {summary['Ind'][budget]['n']})", justify="right", no_wrap=True)
    for metric, label, scale, digits in QUANTITIES:
        table.add_row(f"[bold]{label}")
        for method, budgets in summary.items():
            cells = [_plus_minus(cell[metric], cell[f"{metric}_se"], scale, digits) for cell in budgets.values()]
            table.add_row(f"  {method}, {budgets[1]['members']} per run", *cells)
    console.print(table)
    console.print("Mean ± standard error over n groups of 1, 2 or 3 pooled runs.")
    error, nll = (paired_difference(groups, metric) for metric in ("error", "nll"))
    console.print(
        f"FGE minus the single network of the same seed and cost, over {error['n']} runs: test error "
        f"{_plus_minus(error['mean'], error['se'], 100, 2)} points, "
        f"NLL {_plus_minus(nll['mean'], nll['se'], 1, 3)}.\n"
    )


def _plus_minus(value, error, scale, digits):
    return f"{scale * value:.{digits}f}" + ("" if error is None else f" ± {scale * error:.{digits}f}")


# --- Figures ----------------------------------------------------------------------------------------------------------


def draw_curves(paths, planes, folder):
    curves.plot_paths(paths, os.path.join(folder, "curves.png"))
    if planes:
        curves.plot_planes(planes, os.path.join(folder, "planes_train_loss.png"))
        curves.plot_planes(planes, os.path.join(folder, "planes_test_error.png"), "test", "error")


def draw_fge(trace, folder):
    """The paper's three panels: learning rate, test error and distance from the start, against the iteration."""
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    updates = range(1, len(trace["learning_rate"]) + 1)
    series = [
        (updates, trace["learning_rate"], "learning rate"),
        (trace["iteration"], 100 * np.array(trace["test_error"]), "test error (%)"),
        (trace["iteration"], trace["distance"], "distance from the start"),
    ]
    for axes, (x, y, label) in zip(panels, series):
        axes.plot(x, y, color="tab:red", linewidth=1.5)
        for step in trace["snapshots"]:
            axes.axvline(step, color="0.6", linestyle=":", zorder=0)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_title("One FGE run; dotted lines: snapshots")
    panels[-1].set_xlabel("iteration")
    figure.savefig(os.path.join(folder, "fge.png"), dpi=150)


def draw_budgets(groups, folder):
    """Test error and NLL against the budget, mean and standard error."""
    summary = summarize_groups(groups)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    quantities = [("error", 100, "test error (%)"), ("nll", 1, "test NLL")]
    for axes, (metric, scale, label) in zip(figure.subplots(1, 2), quantities):
        for shift, (method, budgets) in zip((-0.03, 0, 0.03), summary.items()):
            means = [scale * cell[metric] for cell in budgets.values()]
            errors = [scale * (cell[f"{metric}_se"] or 0) for cell in budgets.values()]
            x = np.array(list(budgets)) + shift
            axes.errorbar(x, means, errors, marker="o", capsize=3, color=METHODS[method], label=method)
        axes.set(xlabel="budget (B)", ylabel=label, xticks=[1, 2, 3])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(os.path.join(folder, "budgets.png"), dpi=150)


# --- Record -----------------------------------------------------------------------------------------------------------


def environment():
    """Versions and hardware, as far as they matter for numbers and times."""
    import importlib.metadata as metadata

    packages = ("keras-fge", "keras", keras.backend.backend(), "numpy", "scikit-learn")
    return {
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
    }


def _processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def new_record(settings):
    return {
        "command": " ".join(["python", *sys.argv]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        "flags": dict(vars(settings)),
        **environment(),
        "wall_seconds": {},
    }


def summaries(results):
    return {name: result.summary() for name, result in results.items()}


def save_results(results, folder, prefix=""):
    for name, result in results.items():
        result.save(os.path.join(folder, prefix + name.replace(" ", "_") + ".npz"))


def write_json(record, path):
    """Replaces `path` by the record in one step: a reader finds the old file or the new one, whole."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w") as file:
        json.dump(record, file, indent=2, allow_nan=False)
        file.write("\n")
    os.replace(temporary, path)
