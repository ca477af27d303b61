"""Tables made from the records of a folder alone."""

import dataclasses
import html
import re

import numpy as np
from rich.table import Table

from keras_fge.core.pages import COLORS
from report import reference
from report.comparisons import difference, equivalent, share
from study import presets
from study.presets import BUDGETS

QUANTITIES = (  # metric, label, scale, digits
    ("error", "test error %", 100, 2),
    ("nll", "test NLL", 1, 3),
    ("calibrated_nll", "test NLL, calibrated", 1, 3),
    ("brier", "test Brier score", 1, 3),
    ("ece", "test ECE %", 100, 2),
)
LEADING = (QUANTITIES[0], QUANTITIES[2])
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
        return f"<div class=table><table><tr>{head}</tr>{body}</table></div><p>{html.escape(self.note)}</p>"


def _for_markdown(text):
    """The text in one line, in which nothing ends a cell, or is a tag, a link or emphasis."""
    return re.sub(r"([\\`*<>|]|\](?=\())", r"\\\1", " ".join(text.split()))


def failure_tables(records):
    """The units that failed, and why; none, if all is well."""
    rows = [[name, error] for name, error in records.failures().items()]
    note = "The same command tries them again. What needs them is not done either."
    return [Grid("Units that failed", ["unit", "error"], rows, note)] if rows else []


def curve_tables(records):
    """Train loss, test error, barriers and length of each path, beside the authors' numbers if there are any."""
    paths = {name: record["metrics"] for name, record in by_name(records, "path").items()}
    if not paths:
        return []
    ends = next(iter(paths.values()))
    losses, errors = sorted(ends["train_loss_ends"]), sorted(ends["test_error_ends"])
    rows = {"endpoints": ["endpoints", span(*losses, 3), span(*errors, 2, 100), *[""] * 3]}
    rises = []
    for name, s in paths.items():
        rows[name] = [
            PATHS[name],
            span(s["train_loss_min"], s["train_loss_max"], 3),
            span(s["test_error_min"], s["test_error_max"], 2, 100),
            f"{s['train_loss_barrier']:.3f}",
            f"{s['train_loss_max'] - np.mean(losses):.3f}",
            f"{s['length_ratio']:.3f}",
        ]
        nats = [f"{s[f'{split}_nll_barrier']:+.3f}" for split in ("train", "test")]
        points = [f"{100 * s[f'{split}_error_barrier']:+.1f}" for split in ("train", "test")]
        rises.append([PATHS[name], nats[0], points[0], nats[1], points[1]])
    columns = ["path", "train loss", "test error %", "above the worse end", "above their mean", "length"]
    note = (
        "Least to largest value along the path; then the barrier, in nats: the largest train loss on the path minus "
        "that of the worse endpoint, or minus the mean of both. The train loss contains the weight decay, which falls "
        "along a curve. Length: of the path in weight space, over the straight distance."
    )
    theirs = compared(reference.CURVES, records)
    if theirs:
        columns += [f"authors, {theirs_name(records)}: loss", "error %"]
        note += " The authors measured the train loss on augmented images, we do not."
        for name, row in rows.items():
            row += [span(*theirs[name][:2], 2), span(*sorted(theirs[name][2:]), 2)] if name in theirs else ["", ""]
    return [
        Grid("Curves between two independently trained networks", columns, list(rows.values()), note),
        Grid(
            "How far they rise above the worse end, without the weight decay",
            ["path", "train NLL", "train error, points", "test NLL", "test error, points"],
            rises,
            "The largest value on the path minus that of the worse endpoint; 0 if nothing lies higher.",
        ),
    ]


def passes_of(records, method):
    """The networks that one prediction takes, of one run of a method."""
    return records.of(method)[0]["metrics"]["members"]


def price_tables(records):
    """What each method makes of one training run, without and with a temperature, and what a prediction costs."""
    rows = []
    for method, (name, _) in {**METHODS, **SINGLE}.items():
        runs = [record["metrics"]["test"] for record in records.of(method)]
        for prefix, label in (("", name), ("calibrated_", f"{name} + temperature")) if runs else ():
            cells = [
                spread([run[metric if metric == "error" else f"{prefix}{metric}"] for run in runs], scale, digits)
                for metric, scale, digits in (("error", 100, 2), ("nll", 1, 3), ("brier", 1, 3), ("ece", 100, 2))
            ]
            rows.append([label, str(passes_of(records, method)), str(len(runs)), *cells])
    columns = ["", "passes", "n", "test error %", "NLL", "Brier score", "ECE %"]
    note = (
        f"Mean ± standard deviation over n runs of B = {records.configuration['epochs']} epochs. Ind is one network. "
        "Passes: networks that a prediction takes. The temperature is cross-validated on the test images."
    )
    return [Grid("The price of one training run", columns, rows, note)] if rows else []


def ensemble_tables(records):
    groups = pooled(records)
    if not groups:
        return []
    theirs = compared(reference.ENSEMBLES, records)
    budgets = [budget for budget in BUDGETS if any(budget == key[1] for key in groups)]
    tables = []
    for metric, label, scale, digits in LEADING:
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
        note = (
            "Mean ± standard deviation (n) over groups of 1, 2 or 3 pooled runs. A prediction takes as many passes as "
            "there are members in these runs."
        )
        if metric == "error":
            note += f" B = {records.configuration['epochs']} epochs."
        if metric == "calibrated_nll":
            note += " With a temperature, cross-validated on the test images."
        tables.append(Grid(f"Ensembles at equal budgets: {label}", columns, rows, note))
    return tables


def comparison_tables(records):
    """Each method beside independent networks of the same seeds and cost."""
    rows, worths = [], []
    for method, (name, _) in {**METHODS, **SINGLE}.items():
        for budget in BUDGETS:
            if method == "ind" or not (error := difference(records, method, budget, "error")):
                continue
            passes = f"{budget * passes_of(records, method)} for {budget}"
            row = [f"{name}, {budget}B", passes, str(error.count), error.text(100, 2)]
            rows.append(
                row + [difference(records, method, budget, metric).text() for metric in ("calibrated_nll", "nll")]
            )
            shares = [share(records, method, metric) if budget == 1 else None for metric in ("error", "calibrated_nll")]
            number, is_bound = equivalent(records, method, budget) or (None, False)
            bound = "" if not is_bound else "at most " if number == 1 else "at least "
            worth = "" if number is None else f"{bound}{number:.1f}"
            worths.append([*row[:2], worth, *(value.text(1, 2, "") if value else "" for value in shares)])
    if not rows:
        return []
    columns = ["", "passes", "n", "error, points", "NLL, calibrated", "NLL, without"]
    note = (
        "Method minus Ind of the same seeds and budget on test data: the mean over n runs or groups, from 6 with its "
        "95 % interval by Student's t. Calibrated, and without: both sides with a temperature, or without one. Passes: "
        "networks that a prediction takes, for those of Ind."
    )
    note_of_worth = (
        "Worth: the number of independent networks whose ensemble has that calibrated NLL (deep ensemble equivalent). "
        "Share s: of what a second network brings, (Ind 1B - method 1B) / (Ind 1B - Ind 2B), of the groups of 2B."
    )
    theirs = compared(reference.ENSEMBLES, records)
    if {"ind", "sse", "fge"} <= set(theirs):
        gain = theirs["ind"][0] - theirs["ind"][1]
        shares = [
            f"{(theirs['ind'][0] - theirs[method][0]) / gain:.2f} ({method.upper()})" for method in ("sse", "fge")
        ]
        note_of_worth += f" The paper's share s in error: {', '.join(shares)}."
    return [
        Grid("What a method brings, beside independent networks", columns, rows, note),
        Grid(
            "How many independent networks that is worth",
            ["", "passes", "worth", "share s, error", "share s, calibrated NLL"],
            worths,
            note_of_worth,
        ),
    ]


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


def spread(values, scale, digits):
    """Mean ± standard deviation."""
    deviation = f" ± {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * np.mean(values):.{digits}f}{deviation}"


def mean_and_std(values, scale, digits):
    """Mean ± standard deviation (n)."""
    return f"{spread(values, scale, digits)} ({len(values)})"


def span(least, largest, digits, scale=1):
    return f"{scale * least:.{digits}f} to {scale * largest:.{digits}f}"
