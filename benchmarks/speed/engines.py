"""What it costs to share a study: one process, two, and Ray, on this machine."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from speed.turns import compared, spread, take_turns

BENCHMARKS = pathlib.Path(__file__).parents[1]
STUDY = ["--dataset=digits", "--network=small_cnn", "--experiment=ind", "--runs=8", "--epochs=40"]
ENGINES = {"one process": [], "two processes": ["--workers=2"], "Ray": ["--engine=ray"]}
POOLS = "ind ensemble"  # Of predictions that are there already, so that a unit takes little time of its own.
LEFT = {"few": 2, "many": 20}


def engines(_, settings):
    """Seconds of a study by each engine, start included, and of each more unit.

    The latter from two studies of which only pools are left, few and many of them.
    """
    with tempfile.TemporaryDirectory() as root:
        done = f"{root}/done"
        _study(done)
        works = {
            **{engine: _new_study(root, flags) for engine, flags in ENGINES.items()},
            **{
                f"{engine}, {name} left": _rest_of_study(root, flags, done, count)
                for engine, flags in ENGINES.items()
                for name, count in LEFT.items()
            },
        }
        seconds = take_turns(settings.turns, works)
    more = LEFT["many"] - LEFT["few"]
    each = {
        engine: spread(np.subtract(seconds[f"{engine}, many left"], seconds[f"{engine}, few left"]) / more)
        for engine in ENGINES
    }
    references = {engine: "one process" for engine in list(ENGINES)[1:]}
    return {"seconds_per_unit": each, **compared(seconds, references)}


def _study(folder, flags=()):
    command = [sys.executable, BENCHMARKS / "cifar.py", *STUDY, f"--output_dir={folder}", *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _new_study(root, flags):
    return lambda: _study(tempfile.mkdtemp(dir=root), flags)


def _rest_of_study(root, flags, done, left):
    """A function that makes a copy of the study without the records of so many pools, and does them."""

    def rest():
        folder = pathlib.Path(tempfile.mkdtemp(dir=root), "study")
        shutil.copytree(done, folder)
        lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
        pools = [line for line in lines if json.loads(line)["unit"].startswith(POOLS)]
        assert len(pools) >= left
        (folder / "records.jsonl").write_text("".join(line for line in lines if line not in pools[:left]))
        _study(folder, flags)

    return rest
