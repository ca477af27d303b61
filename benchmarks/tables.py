"""Tables made from the records of a folder alone."""

import dataclasses
import html

import numpy as np
from rich.table import Table

import presets
import reference

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

    def to_html(self):
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        title, note = html.escape(self.title), html.escape(self.note)
        return f"<h2>{title}</h2><table><tr>{head}</tr>{body}</table><p>{note}</p>"


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
    """The authors' numbers for this network and number of classes, if ours was trained for as long; else {}."""
    configuration = records.configuration
    ours = presets.PAPER_NETWORKS.get(configuration["network"], {}).get("epochs") == configuration["epochs"]
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
    """Mean and standard error of `method` minus `baseline`, over the runs that share a seed; None for fewer than 2."""
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
    """The standard error of the mean; None for a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def mean_and_std(values, scale, digits):
    spread = f" ± {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * np.mean(values):.{digits}f}{spread} ({len(values)})"


def span(least, largest, digits, scale=1):
    return f"{scale * least:.{digits}f} to {scale * largest:.{digits}f}"
