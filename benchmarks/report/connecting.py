"""The table of curves between pairs of networks: how far they rise, against bends, epochs and width."""

import json
import re

import numpy as np

NAMES = {"line": "straight line", "bezier": "Bezier curve", "chain": "polygonal chain"}
NAMES |= {"aligned_line": "line after alignment", "aligned_bezier": "Bezier curve after alignment"}
QUANTITIES = (  # Quantity, label, scale, digits.
    *[("train_nll", "train NLL", 1, 3), ("train_error", "train error, points", 100, 1)],
    *[("test_nll", "test NLL", 1, 3), ("test_error", "test error, points", 100, 1)],
)


def table(folder, task):
    """The rise of each quantity above its worse end: mean over pairs, and the largest."""
    record = json.loads((folder / f"connecting_{task}.json").read_text())
    groups = {}
    for key, curve in record["curves"].items():
        width, kind, bends, times = re.match(r"width (\d+), pair \d+, (\w+), (\d+) bends, (\d+)x", key).groups()
        groups.setdefault((int(width), kind, int(bends), int(times)), []).append(curve)
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


def rise(values):
    """How far the values rise above the worse of the first and the last; 0 if they do not."""
    return max(values) - max(values[0], values[-1])
