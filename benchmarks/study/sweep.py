"""A sweep over settings: each is a study in a folder of its own. (`report.sweeps` compares them in the end.)"""

import itertools
import json
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Annotated, TypedDict

import msgspec
import numpy as np

Value = str | int | float | bool
Flags = dict[str, Value | list[Value]]


class Sweep(TypedDict, total=False):
    """What a file of settings holds."""

    flags: Flags
    settings: list[Flags]
    random: Annotated[int, msgspec.Meta(ge=1)]
    seed: Annotated[int, msgspec.Meta(ge=0)]


def read_sweep(path):
    """The settings of a file, JSON or YAML, as dictionaries of flags, by the name of their folder.

        flags:    a value for each flag, or a list of values: all combinations
        settings: a list of such dictionaries, each of which is combined with `flags`
        random:   so many of all these, drawn with `seed`. Default: all.

    Raises:
        ValueError: if it is no such file.
    """
    parse, errors = json.loads, (OSError, ValueError, RecursionError)
    if os.fspath(path).endswith((".yaml", ".yml")):
        import yaml

        parse, errors = yaml.safe_load, (*errors, yaml.YAMLError)
    try:
        content = parse(pathlib.Path(path).read_text())
        sweep = msgspec.convert(content, Sweep)
    except errors as error:
        raise ValueError(f"--sweep={path} cannot be read: {' '.join(str(error).split())}") from error
    unknown = set(content) - set(Sweep.__annotations__)
    if unknown or not sweep:
        raise ValueError(
            f"--sweep={path} must hold {', '.join(sorted(Sweep.__annotations__))}. "
            f"Received: {', '.join(content) or 'nothing'}"
        )
    combined = []
    for setting in content.get("settings", [{}]):
        lists = {k: v if isinstance(v, list) else [v] for k, v in {**content.get("flags", {}), **setting}.items()}
        combined += [dict(zip(lists, values)) for values in itertools.product(*lists.values())]
    if own := {"sweep", "output_dir"}.intersection(name for setting in combined for name in setting):
        raise ValueError(f"--sweep={path} sets {', '.join(sorted(own))}, which the sweep itself does.")
    if not combined:
        raise ValueError(f"--sweep={path} has no setting: a list of values is empty.")
    if count := content.get("random"):
        chosen = np.random.default_rng(content.get("seed", 0)).choice(len(combined), min(count, len(combined)), False)
        combined = [combined[index] for index in sorted(chosen)]
    named = {}
    for setting in combined:
        if named.setdefault(name := _name(setting, combined), setting) != setting:
            raise ValueError(f"--sweep={path} has two settings whose folder would be {name}.")
    return named


def _name(setting, settings):
    """The flags in which a setting differs from others: "learning_rate=0.1,weight_decay=0.001"."""
    differing = {k: v for k, v in setting.items() if any(other.get(k) != v for other in settings)}
    return ",".join(f"{name}={value}" for name, value in differing.items()).replace("/", "_") or "as_given"


def run_sweep(settings, folder, arguments):
    """Runs the program once for each setting, with its flags after `arguments`; returns the commands that failed."""
    failed = []
    for number, (name, setting) in enumerate(settings.items(), 1):
        command = command_of(name, setting, folder, arguments)
        print(f"setting {number} of {len(settings)}: {name}", flush=True)
        if subprocess.run([sys.executable, *command], check=False).returncode:
            failed.append(shlex.join(["python", *command]))
    return failed


def command_of(name, setting, folder, arguments):
    """The arguments of Python for the study of one setting."""
    flags = [f"--{flag}={value}" for flag, value in setting.items()]
    return [*arguments, *flags, f"--output_dir={os.path.join(folder, name)}"]
