"""Whether the simulation predicts how long a study takes: one process on one core, then two workers on two.

    cd benchmarks && KERAS_BACKEND=torch python -m evidence.predicted --output=results/cluster/predicted.json

The smoke preset. The units' times of the first run go into `simulation.simulate`. To that comes what its program takes
beside them, to start, load the data and report; and one start more, as a program of two workers starts these. Then the
second run says whether that was right. Nothing else should run on the machine.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types

from absl import app, flags

from evidence.simulation import simulate
from inputs import data
from study import connectivity, ensembles, presets
from study.progress import console
from study.records import Records, new_record, write_json
from study.units import Study, in_order

FLAGS = flags.FLAGS
BENCHMARKS = pathlib.Path(__file__).parents[1]
EXPERIMENTS = {"path": connectivity.path, "plane": connectivity.plane, "ind": ensembles.ind, "sse": ensembles.sse}
EXPERIMENTS |= {"swa": ensembles.swa}
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}


def needs():
    """`{name of a unit: names of what it needs}` of the study, in its order."""
    defaults = {"seed": 0, "curves": ["bezier", "chain"], "weight_decay": 3e-4, "transform": "none", "momentum": 0.9}
    defaults |= {"learning_rate": 0.05, "steps_per_execution": 1, "jit_compile": False, "images_on_device": False}
    settings = types.SimpleNamespace(**{**defaults, "num_bends": 3, **presets.PRESETS["smoke"]})
    study = Study(settings, data.load(dataset="digits"), None, None)
    units = in_order([unit for experiment in EXPERIMENTS.values() for unit in experiment(study)])
    return {name: [need.name for need in unit.needs] for name, unit in units.items()}


def seconds_of(folder, cores, *arguments):
    """The seconds of the program on these cores."""
    command = [sys.executable, BENCHMARKS / "cifar.py", "--preset=smoke", f"--output_dir={folder}", *arguments]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # Its processes have the same.
    begin = time.monotonic()
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD})
    finally:
        os.sched_setaffinity(0, before)
    return time.monotonic() - begin


def main(_):
    record, graph = {**new_record(types.SimpleNamespace(seed=0)), "turns": []}, needs()
    first, second = sorted(os.sched_getaffinity(0))[:2]
    experiments = f"--experiment={','.join(EXPERIMENTS)}"
    for _ in range(FLAGS.turns):
        with tempfile.TemporaryDirectory() as folder:
            alone = seconds_of(f"{folder}/one", {first}, experiments)
            start = seconds_of(f"{folder}/one", {first}, "--experiment=status")
            together = seconds_of(f"{folder}/two", {first, second}, experiments, "--workers=2")
            seconds = {name: of["wall_seconds"] for name, of in Records(f"{folder}/one").units.items()}
        beside = alone - sum(seconds.values())
        tasks = {name: (seconds[name], 0.0, of) for name, of in graph.items()}
        predicted = beside + start + float(simulate(tasks, 2, in_order=True)[0])
        turn = {
            "one_worker": alone,
            "beside_its_units": beside,
            "start": start,
            "predicted": predicted,
            "two_workers": together,
        }
        record["turns"].append({**turn, "ratio": together / predicted})
        console.print(record["turns"][-1])
    record["units"] = len(graph)
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("output", "results/cluster/predicted.json", "Record to write.")
    flags.DEFINE_integer("turns", 3, "How often both are run.", lower_bound=1)
    app.run(main)
