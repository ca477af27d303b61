"""Whether the simulation predicts how long a study takes: one process on one core, then two workers on two.

    cd benchmarks && KERAS_BACKEND=torch python -m evidence.predicted --output=results/cluster/predicted.json

The smoke preset. The units' times of the first run go into `simulation.simulate`. To that comes what its program takes
beside them, to start, load the data and report; and one start more, as a program of two workers starts these. Then the
second run says whether that was right. Nothing else should run on the machine.
"""

import os
import tempfile
import time
import types

from absl import app, flags

from evidence.faults import start
from evidence.simulation import EXPERIMENTS, simulate, units_of
from inputs import data
from study.progress import console
from study.records import Records, new_record, write_json

FLAGS = flags.FLAGS


def seconds_of(folder, cores, *arguments):
    """The seconds of the program on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # Its processes have the same.
    begin = time.monotonic()
    try:
        if status := start(folder, *arguments).wait():
            raise RuntimeError(f"cifar.py ended with status {status}.")
    finally:
        os.sched_setaffinity(0, before)
    return time.monotonic() - begin


def main(_):
    record = {**new_record(types.SimpleNamespace(seed=0)), "turns": []}
    _, units = units_of("smoke", data.load(dataset="digits"))
    graph = {name: [need.name for need in unit.needs] for name, unit in units.items()}
    first, second = sorted(os.sched_getaffinity(0))[:2]
    experiments = f"--experiment={','.join(EXPERIMENTS)}"
    for _ in range(FLAGS.turns):
        with tempfile.TemporaryDirectory() as folder:
            alone = seconds_of(f"{folder}/one", {first}, experiments)
            begin = seconds_of(f"{folder}/one", {first}, "--experiment=status")
            together = seconds_of(f"{folder}/two", {first, second}, experiments, "--workers=2")
            seconds = {name: of["wall_seconds"] for name, of in Records(f"{folder}/one").units.items()}
        beside = alone - sum(seconds.values())
        tasks = {name: (seconds[name], 0.0, of) for name, of in graph.items()}
        predicted = beside + begin + float(simulate(tasks, 2, in_order=True)[0])
        turn = {
            "one_worker": alone,
            "beside_its_units": beside,
            "start": begin,
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
