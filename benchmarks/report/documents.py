"""Puts the numbers of the committed records into README.md and docs/, and draws the figures that no folder has.

    cd benchmarks && python -m report.documents

Between the marks `<!-- NAME -->` and `<!-- end of NAME -->` of these files stands what this program made.
"""

import json
import pathlib
import re

import numpy as np

from report import (
    alignment,
    baselines,
    clusters,
    comparisons,
    connecting,
    decisions,
    finetuning,
    machines,
    opening,
    tables,
)
from report.tables import comparison_tables, curve_tables, ensemble_tables, price_tables, time_tables
from speed import tables as speed_tables
from study.look import save
from study.records import Records

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def pairs_of(folder, metric):
    """Test values of one network and of FGE from the same seeds, shape (runs, 2)."""
    records = Records(RESULTS / folder)
    one, fge = (comparisons.values(records, method, 1, metric) for method in ("ind", "fge"))
    return np.array([[one[seed], fge[seed]] for seed in fge])


def pairs_of_example(metric):
    """The same for the example of the README, whose ordinary network has the same cost."""
    runs = json.loads((RESULTS / "readme_example.json").read_text())["runs"]
    return np.array([[run["ordinary network"][metric], run["ensemble"][metric]] for run in runs])


def passes_of(folder):
    """The networks that one prediction of FGE takes."""
    return tables.passes_of(Records(RESULTS / folder), "fge")


def passes_of_example():
    return json.loads((RESULTS / "readme_example.json").read_text())["members"]


TASKS = (
    *(
        (name, lambda metric, folder=folder: pairs_of(folder, metric), lambda folder=folder: passes_of(folder))
        for folder, name in (
            ("vgg16_cifar10_jpeg", "CIFAR-10 (JPEG), VGG-16, preset of the paper"),
            ("fashion_subset", "Fashion-MNIST, 4,000 images, small CNN"),
            ("cifar10_jpeg", "CIFAR-10 (JPEG), 5,000 images of 16 x 16, small CNN"),
        )
    ),
    ("digits, 400 images, the README's example", pairs_of_example, passes_of_example),
)


def gain():
    """The table of the README: for each task, one network, the same with a temperature, and FGE with one."""
    columns = ["test data", "error %: one network → FGE", "NLL: one network → with a temperature → FGE with one"]
    columns += ["passes of FGE"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, pairs, passes in TASKS:
        error, before, after = (pairs(metric) for metric in ("error", "nll", "calibrated_nll"))
        errors = [f"{100 * value:.1f}" for value in error.mean(axis=0)]
        likelihoods = [f"{value:.3f}" for value in (before[:, 0].mean(), *after.mean(axis=0))]
        cells = [
            f"{' → '.join(errors)}: {_change(error, 100, 2)}",
            f"{' → '.join(likelihoods)}: {_change(after, 1, 3)}",
        ]
        lines.append(f"| {name}, {len(error)} seeds | {' | '.join(cells)} | {passes()} |")
    return "\n".join(lines)


def _change(pairs, scale, digits):
    """The mean difference of pairs, with its interval."""
    return comparisons.estimate(pairs[:, 1] - pairs[:, 0]).text(scale, digits)


def example():
    """The table of the README's example."""
    summary = json.loads((RESULTS / "readme_example.json").read_text())["summary"]
    lines = ["| | test error % | test NLL | with a temperature |", "|---|---|---|---|"]
    for name in ("ordinary network", "member", "ensemble", "averaged weights"):
        error, *likelihoods = (summary[name][metric] for metric in ("error", "nll", "calibrated_nll"))
        cells = [f"{100 * error['mean']:.2f} ± {100 * error['se']:.2f}"]
        cells += [f"{nll['mean']:.3f} ± {nll['se']:.3f}" for nll in likelihoods]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def printed():
    """What the README's example prints, with the first seed."""
    lines = json.loads((RESULTS / "readme_example.json").read_text())["printed"].rstrip().splitlines()
    return "\n".join(f"    {line}" for line in lines)


def of_readme(pattern, number=0):
    """A piece of the README, so that the start of the site says the same."""
    return re.findall(pattern, (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)[number]


def results(folder):
    """All tables of the report on one folder."""
    records = Records(RESULTS / folder)
    makers = (curve_tables, price_tables, ensemble_tables, comparison_tables, time_tables)
    return "\n\n".join(table.to_markdown() for make in makers for table in make(records))


def small_members():
    """Bytes of a member and time of a snapshot, before and after members share what is frozen."""
    record = json.loads((RESULTS / "small_members.json").read_text())
    lines = ["| | bytes per member | time of a snapshot, ms |", "|---|---|---|"]
    for place in ("in memory", "in a folder"):
        for name in ("before", "after"):
            size, seconds = record[name][place].values()
            lines.append(f"| {place}, {name} | {size:,.0f} | {1000 * seconds:.0f} |")
    return "\n".join(lines)


EXAMPLES = {
    "tabular": "breast cancer table, AdamW",
    "regression": "regression with predictive variance, diabetes table",
}
COLUMNS = (  # Metric, its label, scale, digits.
    ("members", "members", 1, 0),
    *[("error", "error %", 100, 1), ("rmse", "RMSE", 1, 3), ("nll", "NLL", 1, 3)],
    ("crps", "CRPS", 1, 3),
    *[("calibrated_nll", "calibrated NLL", 1, 3), ("inside 90 %", "inside the 90 % interval, %", 100, 1)],
)


def method_table(title, runs, methods):
    """A table of `methods` over runs `{method: {metric: value}}`, each method beside the first one."""
    columns = [column for column in COLUMNS if column[0] in runs[0][methods[0]]]
    nll = "calibrated_nll" if "calibrated_nll" in runs[0][methods[0]] else "nll"
    compared = f"{nll.replace('_', ' ').replace('nll', 'NLL')} minus {methods[0]}"
    header = [f"{title}, {len(runs)} seeds", *[label for _, label, _, _ in columns], compared]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for method in methods:
        cells = [method]
        for metric, _, scale, digits in columns:
            values = scale * np.array([run[method][metric] for run in runs])
            error = "" if metric == "members" else f" ± {comparisons.standard_error(values):.{digits}f}"
            cells.append(f"{values.mean():.{digits}f}{error}")
        change = [run[method][nll] - run[methods[0]][nll] for run in runs]
        text = comparisons.estimate(change).text(1, 3)
        lines.append("| " + " | ".join([*cells, "" if method == methods[0] else text]) + " |")
    return "\n".join(lines)


def example_table(name, title):
    runs = list(json.loads((RESULTS / "examples.json").read_text())["runs"][name].values())
    return method_table(title, runs, [method for method, values in runs[0].items() if "nll" in values])


def examples():
    """The tables of the examples of docs/fine_tuning.md."""
    return "\n\n".join(example_table(name, title) for name, title in EXAMPLES.items())


def subspaces():
    runs = list(json.loads((RESULTS / "subspaces.json").read_text())["runs"].values())
    methods = [name for name, values in runs[0].items() if isinstance(values, dict) and "nll" in values]
    temperatures = ", ".join(f"{run['temperature']:g}" for run in runs)
    table = method_table("Fashion-MNIST, small CNN with BatchNormalization", runs, methods)
    return f"{table}\n\nChosen temperatures: {temperatures}."


def intervals():
    """How often the intervals of each method hold the mean, by distribution and number of runs."""
    coverage = json.loads((RESULTS / "intervals.json").read_text())["coverage"]
    sizes = list(next(iter(coverage.values())))
    lines = ["| covers, % | " + " | ".join(f"{size} runs" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for method in ("Student's t", "bootstrap"):
        for name, shares in coverage.items():
            cells = [f"{100 * shares[size][method]:.1f}" for size in sizes]
            lines.append(f"| {method}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


FOLDERS = ("fashion_subset", "cifar10_jpeg", "vgg16_cifar10_jpeg")  # Of docs/results.md.
# Of docs/performance.md: ratios, and other tables.
RATIOS = ("curve", "short_epochs", "layout", "pipeline", "fge", "path", "plane", "ensemble", "side_by_side")
SPEED = ("profiles", "peers", "convolutions", "writing", "many_variables", "positions")
SPEED += ("memory", "slopes", "startup", "gpu_loops", "gpu_curves", "gpu_peers")
PARTS = {  # file, name of the part, what makes it
    "README.md": {"gain": gain, "printed": printed},
    "docs/index.md": {
        "install": lambda: of_readme("^    pip install [^\n]*"),
        "ensemble": lambda: of_readme("^```python.*?^```"),
        "printed": printed,
        "curve": lambda: of_readme("^```python.*?^```", 1),
    },
    "docs/fine_tuning.md": {
        "small members": small_members,
        "examples": examples,
        "finetuning overview": lambda: finetuning.overview(RESULTS),
        "finetuning by method": lambda: finetuning.by_method(RESULTS),
        "finetuning": lambda: finetuning.table(RESULTS),
    },
    "docs/benchmark.md": {"intervals": intervals, "machines": lambda: machines.table(RESULTS)},
    "docs/decisions.md": {
        n: lambda f=f: f(RESULTS) for n, f in (("decisions", decisions.table), ("members", decisions.members))
    },
    "docs/alignment.md": {
        n: lambda f=f: f(RESULTS) for n, f in (("alignment", alignment.barriers), ("means", alignment.means))
    },
    "docs/subspaces.md": {
        "learned line": lambda: example_table("learned_line", "Fashion-MNIST, 4,000 images, small CNN"),
        "subspaces": subspaces,
    },
    "docs/paper.md": {"objectives": lambda: connecting.objectives(RESULTS)},
    "docs/performance.md": {
        **{name: lambda name=name: speed_tables.ratios(name) for name in RATIOS},
        **{name: getattr(speed_tables, name) for name in SPEED},
    },
    "docs/guarantees.md": {"long runs": lambda: clusters.long_runs(RESULTS)},
    "docs/cluster.md": {
        "simulation": lambda: clusters.simulation(RESULTS),
        "faults": lambda: clusters.faults(RESULTS),
        "nodes": lambda: clusters.nodes(RESULTS),
        "engines": speed_tables.engines,
    },
    "docs/results.md": {
        **{name: lambda name=name: results(name) for name in FOLDERS},
        "example": example,
        **{f"connecting_{task}": lambda task=task: connecting.table(RESULTS, task) for task in ("fashion", "cifar10")},
        **{
            f"{part}{task}": lambda make=make, task=task: make(RESULTS / f"baselines{task}")
            for task in ("", "_cifar10")
            for part, make in (("baselines", baselines.table), ("crossed", baselines.crossed))
        },
    },
}


def filled(file):
    """The text of a file with its parts made anew."""
    text = (ROOT / file).read_text()
    for name, make in PARTS[file].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        assert len(pattern.findall(text)) == 1, f"{file} has no place for {name}"
        made = make().replace("\\", "\\\\")
        text = pattern.sub(rf"\g<1>\n{made}\n\g<2>", text)
    return text


if __name__ == "__main__":
    for name, is_dark in (("opening", False), ("opening_dark", True)):
        save(opening.draw(RESULTS, is_dark), ROOT / "docs" / f"{name}.png")
    save(speed_tables.draw_growth(), ROOT / "docs" / "growth.png")
    save(baselines.draw(RESULTS / "baselines"), RESULTS / "baselines.png")
    for file in PARTS:
        (ROOT / file).write_text(filled(file))
