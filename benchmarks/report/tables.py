"""Tables made from the records of a folder alone."""

import dataclasses
import html
import re

import numpy as np
from rich.table import Table

from keras_fge.core.pages import COLORS
from report import reference
from report.comparisons import difference, equivalent, share, values
from study import presets
from study.presets import BUDGETS

QUANTITIES = (  # metric, label, scale, digits
    ("error", "test error %", 100, 2),
    ("nll", "test NLL", 1, 3),
    ("calibrated_nll", "test NLL, calibrated", 1, 3),
    ("brier", "test Brier score", 1, 3),
    ("ece", "test ECE %", 100, 2),
)
METHODS = {
    "ind": ("Ind", COLORS[0]),
    "sse": ("SSE", COLORS[4]),
    "fge": ("FGE", COLORS[2]),
    "fge_bn": ("FGE, BN re-estimated", COLORS[5]),
}
SINGLE = {"swa": ("SWA", COLORS[3])}  # One network, whatever the budget.
PATHS = {
    "line": "straight line",
    "bezier": "Bezier curve",
    "chain": "polygonal chain",
    "bezier_by_length": "Bezier by length",
    "chain_by_length": "chain by length",
}
PLANES = {"independent": "three independent networks", **PATHS}


@dataclasses.dataclass
class Grid:
    """A table: names of its columns, rows of texts, and a note that explains them."""

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

    def to_markdown(self):
        columns, *rows = [[_for_markdown(cell) for cell in row] for row in [self.columns, *self.rows]]
        lines = [f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows]]
        return "\n".join([f"**{_for_markdown(self.title)}**", "", *lines, "", self.note])

    def to_html(self):
        head = "".join(f"<th><button>{html.escape(column)}</button></th>" for column in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        title, note = html.escape(self.title), html.escape(self.note)
        return f"<h2>{title}</h2><div class=table><table><tr>{head}</tr>{body}</table></div><p>{note}</p>"


def _for_markdown(text):
    """The text in one line, in which nothing ends a cell, or is a tag, a link or emphasis."""
    return re.sub(r"([\\`*<>|]|\](?=\())", r"\\\1", " ".join(text.split()))


def sentences(records):
    """The two sentences that matter, of the wall and the way around it, and of what FGE brings, with their numbers."""
    said = []
    paths = {name: record["metrics"] for name, record in by_name(records, "path").items()}
    ways = [name for name in paths if name != "line"]
    if "line" in paths and ways:
        wall, error = paths["line"]["train_loss_barrier"], 100 * paths["line"]["test_error_max"]
        around = " and ".join(
            f"along the {PATHS[name]} it is {paths[name]['train_loss_barrier']:.3f} nat (up to "
            f"{100 * paths[name]['test_error_max']:.1f} %)"
            for name in ways
        )
        said.append(
            f"Between two trained networks, the straight line crosses a barrier of {wall:.2f} nat (up to {error:.1f} % "
            f"test error); {around}."
        )
    if change := difference(records, "fge", 1, "error"):
        one, ours = (100 * np.mean(list(values(records, method, 1, "error").values())) for method in ("ind", "fge"))
        nll = difference(records, "fge", 1, "nll")
        worth, is_bound = equivalent(records, "fge", 1) or (None, True)
        more = "" if is_bound else f"; it is worth {worth:.1f} independent networks"
        said.append(
            f"For the price of one network, FGE makes {ours:.2f} % test error instead of {one:.2f} %: "
            f"{_of(change, 100, 2)} points, and an NLL of {_of(nll, 1, 3)} (mean of {change.count} runs "
            f"[95 % interval]){more}."
        )
    return said


def _of(change, scale, digits):
    """The estimate without the number of its values."""
    return change.text(scale, digits).rpartition(" (")[0]


def failure_tables(records):
    """The units that failed, and why; none, if all is well."""
    rows = [[name, error] for name, error in records.failures().items()]
    note = "The same command tries them again. What needs them is not done either."
    return [Grid("Units that failed", ["unit", "error"], rows, note)] if rows else []


def curve_tables(records):
    """Train loss, test error, barrier and length of each path, beside the authors' numbers if there are any."""
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
    budgets = [budget for budget in BUDGETS if any(budget == key[1] for key in groups)]
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
                    row += [theirs_text(theirs[method], k) if method in theirs else "" for k in budgets]
                rows.append(row)
        for method, (name, _) in SINGLE.items():
            if runs := [record["metrics"]["test"][metric] for record in records.of(method)]:
                rows.append([f"{name}, 1 network", mean_and_std(runs, scale, digits), *[""] * (len(rows[0]) - 2)])
        columns = ["", *(f"{budget}B" for budget in budgets)]
        if theirs and metric == "error":
            columns += [f"paper, {theirs_name(records)}, {budget}B" for budget in budgets]
        note = "Mean ± standard deviation (n) over groups of 1, 2 or 3 pooled runs."
        if metric == "error":
            note += f" B = {records.configuration['epochs']} epochs."
        if metric == "calibrated_nll":
            note += " After temperature scaling, cross-validated on the test images."
        tables.append(Grid(f"Ensembles at equal budgets: {label}", columns, rows, note))
    return tables


def comparison_tables(records):
    """Each method beside independent networks of the same seeds and cost."""
    rows = []
    for method, (name, _) in {**METHODS, **SINGLE}.items():
        for budget in BUDGETS:
            if method == "ind" or not (error := difference(records, method, budget, "error")):
                continue
            row = [f"{name}, {budget}B", error.text(100, 2)]
            row += [difference(records, method, budget, metric).text() for metric in ("nll", "calibrated_nll")]
            shares = [share(records, method, metric) if budget == 1 else None for metric in ("error", "calibrated_nll")]
            row += [value.text(1, 2, "") if value else "" for value in shares]
            number, is_bound = equivalent(records, method, budget) or (None, False)
            bound = "" if not is_bound else "at most " if number == 1 else "at least "
            rows.append([*row, "" if number is None else f"{bound}{number:.1f}"])
    if not rows:
        return []
    columns = ["", "error, points", "NLL", "calibrated NLL", "share s, error", "share s, calibrated NLL", "worth"]
    note = (
        "Method minus Ind of the same seeds and budget on test data: mean [95 % bootstrap interval] (number of runs or "
        "groups). Share s: of what a second network brings, (Ind 1B - method 1B) / (Ind 1B - Ind 2B). Worth: the "
        "number of independent networks whose ensemble has that calibrated NLL (deep ensemble equivalent)."
    )
    theirs = compared(reference.ENSEMBLES, records)
    if {"ind", "sse", "fge"} <= set(theirs):
        gain = theirs["ind"][0] - theirs["ind"][1]
        shares = [
            f"{(theirs['ind'][0] - theirs[method][0]) / gain:.2f} ({method.upper()})" for method in ("sse", "fge")
        ]
        note += f" The paper's share s in error: {', '.join(shares)}."
    return [Grid("What a method brings, beside independent networks", columns, rows, note)]


def time_tables(records):
    """Wall times of the units of each kind, and the machines that they ran on."""
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
    """Published numbers for this network and number of classes, if ours was trained for as long; else {}."""
    configuration = records.configuration
    ours = presets.PAPER_NETWORKS.get(configuration["network"], {}).get("epochs") == configuration["epochs"]
    return numbers.get((configuration["network"], configuration["data"]["num_classes"]), {}) if ours else {}


def theirs_text(row, budget):
    """Table 1 of the paper has a standard deviation at 1B."""
    return f"{row[0]:.2f} ± {row[3]:.2f}" if budget == 1 else f"{row[budget - 1]:.2f}"


def theirs_name(records):
    return f"CIFAR-{records.configuration['data']['num_classes']}"


def pooled(records):
    """`{(method, budget): [metrics of each group of pooled runs]}`."""
    groups = {}
    for method in METHODS:
        for record in records.of(f"{method} ensemble"):
            groups.setdefault((method, record["key"][0]), []).append(record["metrics"])
    return groups


def mean(metrics, name):
    return float(np.mean([values[name] for values in metrics]))


def mean_and_std(values, scale, digits):
    spread = f" ± {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * np.mean(values):.{digits}f}{spread} ({len(values)})"


def span(least, largest, digits, scale=1):
    return f"{scale * least:.{digits}f} to {scale * largest:.{digits}f}"
