"""The tables of docs/decisions.md."""

import json

import numpy as np

from report.comparisons import estimate

TASKS = {
    "fashion": "Fashion-MNIST (subset), small CNN",
    "cifar10": "CIFAR-10 (JPEG), 5,000 images, small CNN",
    "vgg16": "CIFAR-10 (JPEG), VGG-16",
    "breast_cancer": "breast cancer table",
    "diabetes": "diabetes table, mean and variance",
}
ROWS = (  # Metric, its label, scale, digits.
    *[("error", "error %", 100, 2), ("nll", "NLL, no temperature", 1, 4)],
    *[("calibrated_nll", "NLL", 1, 4), ("calibrated_crps", "CRPS", 1, 4), ("calibrated_ece", "ECE %", 100, 2)],
    *[
        ("aurc", "AURC", 1, 4),
        ("lac_size", "classes in a set, LAC", 1, 3),
        ("lac_coverage", "coverage, LAC, %", 100, 1),
    ],
    *[("scaled_size", "width of an interval", 1, 3), ("scaled_coverage", "coverage of intervals, %", 100, 1)],
)


def table(folder):
    """One network and FGE, both with a temperature, on each task, with Student's intervals of paired differences."""
    tables = []
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("decisions*.json"))]
    for task, runs in [item for record in records for item in record["runs"].items()]:
        pairs = [(run["one network"], run["FGE"]) for run in runs.values()]
        title = f"{TASKS[task]}, {len(pairs)} seeds"
        lines = [f"| {title} | one network | FGE | FGE minus one network |", "|---|---|---|---|"]
        for metric, label, scale, digits in ROWS:
            if metric in pairs[0][0]:
                values = scale * np.array([[one[metric], fge[metric]] for one, fge in pairs])
                cells = [f"{mean:.{digits}f}" for mean in values.mean(axis=0)]
                change = estimate(np.diff(values)[:, 0]).text(1, digits)
                lines.append(f"| {label} | {cells[0]} | {cells[1]} | {change} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


WAYS = {"predict": "`predict`", "each member": "the whole network for each member", "to_model": "`to_model()`"}


def members(folder):
    """Times of prediction with K members, in those of one network."""
    lines = ["| | members | backend | " + " | ".join(WAYS.values()) + " |", "|---" * (len(WAYS) + 3) + "|"]
    for backend in ("tensorflow", "jax", "torch"):
        for name, times in json.loads((folder / f"members_{backend}.json").read_text())["seconds"].items():
            kind, size = name.split()
            title = {"heads": "heads on a frozen CNN", "dense": "64-64-64-10"}[kind]
            cells = [f"{times[way] / times['one network']:.1f}" if way in times else "" for way in WAYS]
            lines.append(f"| {title} | {size} | {backend} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
