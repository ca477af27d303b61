"""The machine as a source of variance: the same seeds with another number of cores, or another backend."""

import numpy as np

from report.comparisons import difference, values
from study.records import Records

FOLDERS = {
    "machines/two_cores": "TensorFlow, 2 cores",
    "machines/one_core": "TensorFlow, 1 core of another machine",
    "machines/torch": "torch, 1 core of that machine",
}


def table(folder):
    """Means and deviations over the seeds, and how far a run is from that of the same seed in the first row."""
    columns = ["6 seeds", "Ind, error %", "FGE minus Ind, points", "FGE minus Ind, calibrated NLL"]
    columns += ["same seed elsewhere: Ind, error, points", "calibrated NLL"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    first = Records(folder / next(iter(FOLDERS)))
    for name, label in FOLDERS.items():
        records = Records(folder / name)
        error = 100 * np.array(list(values(records, "ind", 1, "error").values()))
        cells = [label, f"{error.mean():.2f} ± {error.std(ddof=1):.2f}"]
        cells += [_text(records, "error", 100, 2), _text(records, "calibrated_nll", 1, 4)]
        cells += [
            f"{scale * _distance(first, records, metric):.{digits}f}" if records.path != first.path else ""
            for metric, scale, digits in (("error", 100, 2), ("calibrated_nll", 1, 4))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _text(records, metric, scale, digits):
    return difference(records, "fge", 1, metric).text(scale, digits)


def _distance(first, second, metric):
    """The standard deviation between runs of one seed: root mean square of half the squared differences."""
    ours, theirs = (values(records, "ind", 1, metric) for records in (first, second))
    return float(np.sqrt(np.mean([(ours[seed] - theirs[seed]) ** 2 / 2 for seed in ours])))
