"""The table that a sweep ends with: its settings, and the command of the best, chosen on validation images."""

import os
import shlex

from report.tables import METHODS, SINGLE, Grid, mean, mean_and_std
from study.records import Records
from study.sweep import command_of


def sweep_table(settings, folder, arguments):
    """A row for each setting and method, by validation metrics, the least calibrated NLL first; and the best's command.

    Test metrics are not shown: they are for the setting that was chosen.
    """
    rows = []
    for name in settings:
        place = os.path.join(folder, name)
        records = Records(place) if os.path.exists(os.path.join(place, "records.jsonl")) else None
        for method in {**METHODS, **SINGLE} if records else ():
            runs = [r["metrics"]["validation"] for r in records.of(method) if "validation" in r["metrics"]]
            if runs:
                rows.append((mean(runs, "calibrated_nll"), name, method, runs))
    rows.sort(key=lambda row: row[0])
    quantities = (("error", 100, 2), ("nll", 1, 3), ("calibrated_nll", 1, 3))
    cells = [
        [name, method, *(mean_and_std([run[m] for run in runs], scale, digits) for m, scale, digits in quantities)]
        for _, name, method, runs in rows
    ]
    note = "Validation images: mean ± standard deviation (n) over runs."
    if rows:
        best = rows[0][1]
        note += f" The best: {shlex.join(['python', *command_of(best, settings[best], folder, arguments)])}"
    return Grid("Settings", ["setting", "method", "error %", "NLL", "calibrated NLL"], cells, note)
