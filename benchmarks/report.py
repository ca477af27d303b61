"""What a person gets to see: progress bars, and tables and figures, made of the records of a folder alone."""

import base64
import contextlib
import dataclasses
import html
import os
import pathlib
import sys
import time

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import curves
import keras_fge
import presets
import reference
from curves.files import write_atomically
from records import Records

console = Console(width=None if sys.stdout.isatty() else 110)
QUANTITIES = (  # metric, label, scale, digits
    ("error", "test error %", 100, 2),
    ("nll", "test NLL", 1, 3),
    ("calibrated_nll", "test NLL, calibrated", 1, 3),
)
METHODS = {"ind": ("Ind", "tab:blue"), "sse": ("SSE", "tab:orange"), "fge": ("FGE", "tab:green")}
PATHS = {
    "line": "straight line",
    "bezier": "Bezier curve",
    "chain": "polygonal chain",
    "bezier_by_length": "Bezier by length",
    "chain_by_length": "chain by length",
}
PLANES = {"independent": "three independent networks", **PATHS}


class Ticker(keras.callbacks.Callback):
    """Moves a progress bar, by one at each epoch if it is among the callbacks of `fit`."""

    def __init__(self, advance):
        super().__init__()
        self.advance = advance

    def on_epoch_end(self, epoch, logs=None):
        self.advance(1)


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
            disable=not console.is_terminal,
        )

    @contextlib.contextmanager
    def task(self, description, total=None):
        task = self._bars.add_task(description, total=total)
        begin = time.perf_counter()
        yield Ticker(lambda count: self._bars.advance(task, count))
        if total is None:
            self._bars.update(task, total=1, completed=1)
        if not console.is_terminal:  # A log file gets a line, as it does not show the bars.
            console.print(f"{description}: {time.perf_counter() - begin:.0f} s")

    def __enter__(self):
        self._bars.start()
        return self

    def __exit__(self, *_):
        self._bars.stop()


def print_start(data, records):
    counts = [f"{len(data.train[0])} training", *(f"{len(x)} {split}" for split, (x, _) in data.splits.items())]
    console.print(f"{data.name}: {', '.join(counts)} images; backend {keras.backend.backend()}")
    if records.units:
        console.print(f"{len(records.units)} units of work are recorded already: {records.path}")


def write_report(folder):
    """Prints the tables, and writes the figures (.png) and one page with everything (report.html).

    Raises:
        ValueError: if there are no records, or damaged ones.
    """
    records = Records(folder)
    tables = [*curve_tables(records), *ensemble_tables(records), *time_tables(records)]
    for table in tables:
        console.print(table.to_rich())
        console.print(table.note + "\n")
    figures = {}
    for name, title, draw in FIGURES:
        if figure := draw(records, folder):
            path = os.path.join(folder, name)
            figure.savefig(path, dpi=120)
            figures[title] = path
    page = os.path.join(folder, "report.html")
    write_atomically(page, to_html(records, tables, figures).encode())
    console.print(f"Records, arrays and figures are in [bold]{folder}[/bold], all of it in [bold]{page}[/bold].")


# --- Tables -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Grid:
    """A table: names of its columns, rows of texts, and what must be known to read it."""

    title: str
    columns: list
    rows: list
    note: str

    def to_rich(self):
        table = Table(title=self.title)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_html(self):
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        title, note = html.escape(self.title), html.escape(self.note)
        return f"<h2>{title}</h2><table><tr>{head}</tr>{body}</table><p>{note}</p>"


def curve_tables(records):
    """Along each path: train loss, test error, barrier, length; beside them those of the authors, if there are any."""
    paths = {name: record["metrics"] for name, record in by_name(records, "path").items()}
    if not paths:
        return []
    ends = next(iter(paths.values()))
    losses, errors = sorted(ends["train_loss_ends"]), sorted(ends["test_error_ends"])
    rows = {"endpoints": ["endpoints", span(*losses, 3), "", span(*errors, 2, 100), "", ""]}
    for name, s in paths.items():
        loss = span(s["train_loss_min"], s["train_loss_max"], 3)
        error = span(s["test_error_min"], s["test_error_max"], 2, 100)
        mean = f"{s['train_loss_mean']:.3f}, {s['train_loss_length_mean']:.3f}"
        rows[name] = [PATHS[name], loss, mean, error, f"{s['train_loss_barrier']:.3f}", f"{s['length_ratio']:.3f}"]
    columns = ["path", "train loss", "mean", "test error %", "barrier", "length"]
    note = (
        "Least to largest value along the path; mean of the train loss over t, and over arc length. The train loss "
        "contains the weight decay. Barrier, in nats: the largest train loss on the path minus that of the worse "
        "endpoint. Length: of the path in weight space, over the straight distance."
    )
    theirs = compared(reference.CURVES, records)
    if theirs:
        columns += [f"authors, {theirs_name(records)}: loss", "error %"]
        note += " The authors measured the train loss on augmented images, we do not."
        for name, row in rows.items():
            row += [span(*theirs[name][:2], 2), span(*sorted(theirs[name][2:]), 2)] if name in theirs else ["", ""]
    return [Grid("Curves between two independently trained networks", columns, list(rows.values()), note)]


def ensemble_tables(records):
    groups = pooled(records)
    if not groups:
        return []
    theirs = compared(reference.ENSEMBLES, records)
    budgets = sorted({budget for _, budget in groups})
    tables = []
    for metric, label, scale, digits in QUANTITIES:
        rows = []
        for method, (name, _) in METHODS.items():
            cells = [groups.get((method, budget)) for budget in budgets]
            if any(cells):
                row = [f"{name}, {cells[0][0]['members']} a run"]
                row += [
                    mean_and_std([group["test"][metric] for group in cell], scale, digits) if cell else ""
                    for cell in cells
                ]
                if theirs and metric == "error":
                    row += [f"{theirs[method][k - 1]:.2f}" if method in theirs else "" for k in budgets]
                rows.append(row)
        swa = [record["metrics"]["test"][metric] for record in records.of("swa")]
        if swa:
            rows.append(["SWA, 1 network", mean_and_std(swa, scale, digits), *[""] * (len(rows[0]) - 2)])
        columns = ["", *(f"{budget}B" for budget in budgets)]
        if theirs and metric == "error":
            columns += [f"authors, {theirs_name(records)}, {budget}B" for budget in budgets]
        note = "Mean ± standard deviation (n) over groups of 1, 2 or 3 pooled runs."
        if metric == "error":
            note += f" B = {records.configuration['epochs']} epochs. {paired_text(records)}"
        if metric == "calibrated_nll":
            note += " After temperature scaling, cross-validated on the test images."
        tables.append(Grid(f"Ensembles at equal budgets: {label}", columns, rows, note))
    return tables


def time_tables(records):
    """How long units of each kind took, and on what."""
    kinds = {}
    for record in records.units.values():
        kinds.setdefault(record["experiment"], []).append(record)
    rows = []
    for kind, units in kinds.items():
        seconds = [unit["wall_seconds"] for unit in units]
        machines = sorted({f"{unit['backend']} on {unit['device']}, {unit['cpus']} CPUs" for unit in units})
        rows.append([kind, str(len(units)), f"{np.mean(seconds):.0f}", f"{np.sum(seconds):.0f}", "; ".join(machines)])
    note = "Wall time in the process that finished a unit: without what an interrupted one had done before."
    return [Grid("Time", ["unit", "n", "mean s", "sum s", "machine"], rows, note)]


def by_name(records, experiment):
    """The records of paths or planes by name, in the order of `PLANES`."""
    found = {record["key"][0]: record for record in records.of(experiment)}
    return {name: found[name] for name in PLANES if name in found}


def compared(numbers, records):
    """Those of the authors for this network and number of classes, if it was trained for as long; else nothing."""
    configuration = records.configuration
    ours = presets.NETWORKS.get(configuration["network"], {}).get("epochs") == configuration["epochs"]
    return numbers.get((configuration["network"], configuration["data"]["num_classes"]), {}) if ours else {}


def theirs_name(records):
    return f"CIFAR-{records.configuration['data']['num_classes']}"


def pooled(records):
    """`{(method, budget): [metrics of each group of pooled runs]}`."""
    groups = {}
    for method in METHODS:
        for record in records.of(f"{method} ensemble"):
            groups.setdefault((method, record["key"][0]), []).append(record["metrics"])
    return groups


def paired_difference(records, metric, method="fge", baseline="ind"):
    """Mean and standard error of `method` minus `baseline`, over single runs that share a seed; None without such."""
    values = [
        {record["key"][0]: record["metrics"]["test"][metric] for record in records.of(name)}
        for name in (method, baseline)
    ]
    seeds = [seed for seed in values[0] if seed in values[1]]
    if len(seeds) < 2:
        return None
    differences = np.array([values[0][seed] - values[1][seed] for seed in seeds])
    return {"mean": float(differences.mean()), "se": standard_error(differences), "n": len(seeds)}


def paired_text(records):
    error, nll = (paired_difference(records, metric) for metric in ("error", "nll"))
    if error is None:
        return ""
    return (
        f"FGE minus the single network of the same seed and cost, mean ± standard error over {error['n']} runs: test "
        f"error {100 * error['mean']:+.2f} ± {100 * error['se']:.2f} points, NLL {nll['mean']:+.3f} ± {nll['se']:.3f}."
    )


def standard_error(values):
    """Of the mean; None for a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def mean_and_std(values, scale, digits):
    spread = f" ± {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * np.mean(values):.{digits}f}{spread} ({len(values)})"


def span(least, largest, digits, scale=1):
    return f"{scale * least:.{digits}f} to {scale * largest:.{digits}f}"


# --- Figures: functions of the records and their folder, None if there is nothing to draw -----------------------------


def results(records, folder, experiment, result_class):
    """Measured paths or planes by the label that people read, as far as their files are there."""
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


def draw_fge(records, folder):
    """The paper's three panels: learning rate, test error and distance from the start, against the iteration."""
    traces = [record["metrics"]["trace"] for record in records.of("fge") if "trace" in record["metrics"]]
    if not traces:
        return None
    trace, flags = traces[0], records.configuration
    updates = np.arange(1, trace["iteration"][-1] + 1)
    rates = keras_fge.triangular(
        updates, flags["fge_max_learning_rate"], flags["fge_min_learning_rate"], trace["cycle_steps"]
    )
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    series = [
        (updates, keras.ops.convert_to_numpy(rates), "learning rate"),
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
    return figure


def draw_budgets(records, folder):
    """Test error and NLL against the budget, mean and standard error."""
    groups = pooled(records)
    if not groups:
        return None
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (metric, label, scale, _) in zip(figure.subplots(1, 3), QUANTITIES):
        for shift, (method, (name, color)) in zip((-0.03, 0, 0.03), METHODS.items()):
            cells = {b: [g["test"][metric] for g in values] for (m, b), values in groups.items() if m == method}
            means = [scale * np.mean(values) for values in cells.values()]
            errors = [scale * (standard_error(values) or 0) for values in cells.values()]
            x = np.array(list(cells)) + shift
            axes.errorbar(x, means, errors, marker="o", capsize=3, color=color, label=name)
        axes.set(xlabel="budget (B)", ylabel=label, xticks=[1, 2, 3])
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_members(records, folder):
    """Accuracy against the epochs spent: of the members one by one, and of the ensemble of those so far."""
    runs = {method: [record["metrics"] for record in records.of(method)] for method in ("sse", "fge")}
    if not any(runs.values()):
        return None
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    budget = records.configuration["epochs"]
    for method, metrics in runs.items():
        for quantity, marker in (("member_error", "x--"), ("ensemble_error", "d-")) if metrics else ():
            x = np.array(metrics[0]["epochs"]) / budget
            accuracy = 100 - 100 * np.mean([run[quantity] for run in metrics], axis=0)
            name, color = METHODS[method]
            label = f"{name}, {'separate' if quantity == 'member_error' else 'ensemble'}"
            axes.plot(x, accuracy, marker, color=color, label=label, linewidth=1)
    singles = [record["metrics"]["test"]["error"] for record in records.of("ind")]
    if singles:
        axes.axhline(
            100 - 100 * np.mean(singles), color=METHODS["ind"][1], linestyle=":", label="Ind, one network at 1B"
        )
    axes.set(xlabel="budget (B)", ylabel="test accuracy (%)", title="Means over runs")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


FIGURES = (
    ("paths.png", "Along the paths", draw_paths),
    ("planes_train_loss.png", "Train loss in planes of weight space", draw_planes("train", "loss")),
    ("planes_test_error.png", "Test error in the same planes", draw_planes("test", "error")),
    ("fge.png", "One FGE run", draw_fge),
    ("members.png", "Accuracy against budget: separate members, and ensembles of those so far", draw_members),
    ("budgets.png", "Ensembles at equal budgets, mean and standard error", draw_budgets),
)


# --- The page ---------------------------------------------------------------------------------------------------------

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right } th:first-child, td:first-child
{ text-align: left } img { max-width: 100% } code, pre { font-size: .85em; white-space: pre-wrap }
"""


def to_html(records, tables, figures):
    """One page with tables, figures and settings, which needs no other file."""
    settings = dict(records.configuration)
    data = settings.pop("data")
    title = f"{settings['network']} on {data['name']}"
    parts = [f"<h1>{html.escape(title)}</h1>", *(table.to_html() for table in tables)]
    for caption, path in figures.items():
        image = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
        parts.append(
            f'<h2>{html.escape(caption)}</h2><img alt="{html.escape(caption)}" src="data:image/png;base64,{image}">'
        )
    commands = dict.fromkeys(record["command"] for record in records.units.values())
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record["packages"].items())
        for record in records.units.values()
    )
    for caption, text in (
        ("Commands", "\n".join(commands)),
        ("Data", ", ".join(f"{name}: {value}" for name, value in data.items())),
        ("Versions", "\n".join(versions)),
        ("Settings", "\n".join(f"{name}={value}" for name, value in settings.items())),
    ):
        parts.append(f"<h2>{caption}</h2><pre>{html.escape(text)}</pre>")
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
