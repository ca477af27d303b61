"""A sweep over settings: each is a study in a folder of its own; in the end one table, by validation NLL."""

import itertools
import json
import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np

METHODS = ("ind", "sse", "fge", "swa")


def read_sweep(path):
    """The settings of a file, JSON or YAML, as a list of dictionaries of flags.

        flags:    a value for each flag, or a list of values: all combinations
        settings: a list of such dictionaries, each of which is combined with `flags`
        random:   so many of all these, drawn with `seed`. Default: all.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        text = pathlib.Path(path).read_text()
        if os.fspath(path).endswith((".yaml", ".yml")):
            import yaml

            content = yaml.safe_load(text)
        else:
            content = json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"--sweep={path} cannot be read: {error}") from error
    known = {"flags", "settings", "random", "seed"}
    if not isinstance(content, dict) or not content or set(content) - known:
        raise ValueError(f"--sweep={path} must hold {', '.join(sorted(known))}. Received: {content!r}")
    combined = []
    for setting in content.get("settings", [{}]):
        lists = {k: v if isinstance(v, list) else [v] for k, v in {**content.get("flags", {}), **setting}.items()}
        combined += [dict(zip(lists, values)) for values in itertools.product(*lists.values())]
    if count := content.get("random"):
        chosen = np.random.default_rng(content.get("seed", 0)).choice(len(combined), min(count, len(combined)), False)
        combined = [combined[index] for index in sorted(chosen)]
    return combined


def name_of(setting):
    """The folder of a setting: "learning_rate=0.1,weight_decay=0.001"."""
    return ",".join(f"{name}={value}" for name, value in setting.items()).replace("/", "_") or "as_given"


def run_sweep(settings, folder, arguments):
    """Runs the program once for each setting, with its flags after `arguments`; returns the commands that failed."""
    failed = []
    for number, setting in enumerate(settings, 1):
        command = command_of(setting, folder, arguments)
        print(f"setting {number} of {len(settings)}: {name_of(setting)}", flush=True)
        if subprocess.run([sys.executable, *command], check=False).returncode:
            failed.append(shlex.join(["python", *command]))
    return failed


def command_of(setting, folder, arguments):
    flags = [f"--{name}={value}" for name, value in setting.items()]
    return [*arguments, *flags, f"--output_dir={os.path.join(folder, name_of(setting))}"]


def sweep_table(settings, folder, arguments):
    """A row for each setting and method, by validation metrics, the least calibrated NLL first; and the best's command.

    Test metrics are not shown: they are for the setting that was chosen.
    """
    from records import Records
    from tables import Grid, mean, mean_and_std

    rows = []
    for setting in settings:
        place = os.path.join(folder, name_of(setting))
        records = Records(place) if os.path.exists(os.path.join(place, "records.jsonl")) else None
        for method in METHODS if records else ():
            runs = [r["metrics"]["validation"] for r in records.of(method) if "validation" in r["metrics"]]
            if runs:
                rows.append((mean(runs, "calibrated_nll"), method, setting, runs))
    rows.sort(key=lambda row: row[0])
    cells = [
        [
            name_of(setting),
            method,
            *(mean_and_std([run[m] for run in runs], s, d) for m, s, d in (("error", 100, 2), ("nll", 1, 3))),
            mean_and_std([run["calibrated_nll"] for run in runs], 1, 3),
        ]
        for _, method, setting, runs in rows
    ]
    note = "Validation images: mean ± standard deviation (n) over runs."
    if rows:
        note += f" The best: {shlex.join(['python', *command_of(rows[0][2], folder, arguments)])}"
    return Grid("Settings", ["setting", "method", "error %", "NLL", "calibrated NLL"], cells, note)
