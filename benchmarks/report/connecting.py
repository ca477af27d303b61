"""The table of curves between pairs of networks: how far they rise, against bends, epochs and width."""

import json
import re

import numpy as np

NAMES = {"line": "straight line", "bezier": "Bezier curve", "chain": "polygonal chain"}
NAMES |= {"aligned_line": "line after alignment", "aligned_bezier": "Bezier curve after alignment"}
NAMES |= {"bezier_by_length": "Bezier curve by arc length"}
QUANTITIES = (  # Quantity, label, scale, digits.
    *[("train_nll", "train NLL", 1, 3), ("train_error", "train error, points", 100, 1)],
    *[("test_nll", "test NLL", 1, 3), ("test_error", "test error, points", 100, 1)],
)


def table(folder, task):
    """The rise of each quantity above its worse end: mean over pairs, and the largest."""
    record, groups = read(folder, task)
    columns = [f"{record['task']['name']}, rise above the worse end", "width", "pairs"]
    columns += [label for _, label, _, _ in QUANTITIES] + ["length"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for width, kind, bends, times in sorted(
        groups, key=lambda group: (group[0] != 16, *group[:1], group[1] != "line", *group[1:])
    ):
        curves = groups[width, kind, bends, times]
        name = NAMES[kind] if kind.endswith("line") else f"{NAMES[kind]}, {bends} bends, {times} x the epochs"
        cells = [name, str(width), str(len(curves))]
        for quantity, _, scale, digits in QUANTITIES:
            rises = [scale * rise(curve[quantity]) for curve in curves]
            most = f" (at most {np.max(rises):.{digits}f})" if len(rises) > 1 else ""
            cells.append(f"{np.mean(rises):.{digits}f}{most}")
        lines.append("| " + " | ".join([*cells, f"{np.mean([curve['length_ratio'] for curve in curves]):.2f}"]) + " |")
    return "\n".join(lines)


def read(folder, task):
    """The record, and its curves by (width, kind, bends, times the epochs of a network)."""
    record, groups = json.loads((folder / f"connecting_{task}.json").read_text()), {}
    for key, curve in record["curves"].items():
        width, kind, bends, times = re.match(r"width (\d+), pair \d+, (\w+), (\d+) bends, (\d+)x", key).groups()
        groups.setdefault((int(width), kind, int(bends), int(times)), []).append(curve)
    return record, groups


def objectives(folder):
    """Curves trained for the mean loss over t, and over arc length, between the same networks, each by both means."""
    _, groups = read(folder, "fashion")
    over_length = groups[16, "bezier_by_length", 3, 3]
    over_t = groups[16, "bezier", 3, 3][: len(over_length)]  # The last curve of a pair is that by arc length.
    lines = [
        "| training minimizes the mean loss over | pairs | train NLL, mean over t | mean over length | rise | length |"
    ]
    lines.append("|---" * 6 + "|")
    for name, curves in (("t, uniform in [0, 1]", over_t), ("arc length", over_length)):
        means = [f"{np.mean([curve[f'{over}_mean'] for curve in curves]):.4f}" for over in ("t", "length")]
        rises, ratios = [rise(c["train_nll"]) for c in curves], [c["length_ratio"] for c in curves]
        cells = [name, str(len(curves)), *means, f"{np.mean(rises):.4f}", f"{np.mean(ratios):.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rise(values):
    """How far the values rise above the worse of the first and the last; 0 if they do not."""
    return max(values) - max(values[0], values[-1])
