"""How long the paper's whole Table 1 would take on 1 to 512 GPUs: a simulation, not a measurement.

    cd benchmarks && python -m evidence.simulation --output=results/cluster/simulation.json

Assumptions: the units of the six presets with 6 runs each, with curves, paths and planes, and what each needs, are
those of `cifar.py`; a unit takes one GPU, and the computed time of docs/benchmark.md (H200 at 40 % of its peak);
whoever is free takes the ready unit with the longest chain of units behind it; FGE branches off a network that is
done; the driver and the folder cost nothing. A failing GPU loses what it did since the last epoch, on average half an
epoch, and a minute to start again, and is then back.
"""

import heapq
import os
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags

from inputs.data import Dataset
from study import connectivity, ensembles, presets
from study.records import new_record, write_json
from study.units import Study, in_order

FLAGS = flags.FLAGS
MINUTES = {  # docs/benchmark.md, "Expected time".
    "vgg16": {"ind": 1, "curve": 3, "path": 0.1, "plane": 1},
    "preresnet164": {"ind": 4.3, "curve": 5.8, "path": 1.2, "plane": 9},
    "wrn28x10": {"ind": 19, "curve": 19, "path": 4.2, "plane": 30},
}
GPUS = (1, 8, 64, 512)
RESTART = 1.0  # Minutes.
SEEDS = range(100)  # Of the failures.


def minutes_of(unit, settings):
    """The time of a unit on one GPU."""
    times = MINUTES[settings.network]
    if unit.experiment == "fge":  # It branches off a network that is there.
        return times["ind"] * (settings.epochs - settings.fge_start_epoch) / settings.epochs
    if unit.experiment.endswith("ensemble"):
        return 0.0  # Predictions are there.
    return times.get({"sse": "ind", "swa": "path", "fge_bn": "path"}.get(unit.experiment, unit.experiment))


def graph():
    """`{name: (minutes, minutes of an epoch, names that it needs)}` of the whole table."""
    tasks = {}
    for network in MINUTES:
        for classes in (10, 100):
            preset = f"{network}_cifar{classes}"
            images = np.broadcast_to(np.uint8(0), (50000, 32, 32, 3))
            data = Dataset("cifar", (images, np.zeros(50000, int)), None, (images[:1], np.zeros(1, int)), classes, 255)
            defaults = {"seed": 0, "runs": 6, "curves": ["bezier", "chain"], "width": 16, "steps_per_execution": 1}
            settings = types.SimpleNamespace(
                **{**defaults, "jit_compile": False, "num_bends": 3, "momentum": 0.9, **presets.PRESETS[preset]}
            )
            study = Study(settings, data, None, None)
            experiments = [connectivity.path, connectivity.plane, ensembles.ind, ensembles.sse, ensembles.swa]
            units = in_order([unit for experiment in experiments for unit in experiment(study)])
            for name, unit in units.items():
                epoch = MINUTES[network]["ind"] / settings.epochs
                needs = [f"{preset} {need.name}" for need in unit.needs]
                if unit.experiment == "fge":  # It can train its start itself; here it waits for the network.
                    needs.append(f"{preset} ind {unit.key[0]}")
                tasks[f"{preset} {name}"] = (minutes_of(unit, settings), epoch, needs)
    return tasks


def behind(tasks):
    """The longest chain of minutes from the begin of each task to the end of all."""
    followers = {name: [] for name in tasks}
    for name, (_, _, needs) in tasks.items():
        for need in needs:
            followers[need].append(name)
    chain = {}
    for name in reversed(list(tasks)):  # Each stands after what it needs.
        chain[name] = tasks[name][0] + max((chain[other] for other in followers[name]), default=0.0)
    return chain, followers


def simulate(tasks, gpus, failures_per_hour=0.0, seed=0):
    """(minutes until all is done, minutes that GPUs worked, number of failures)."""
    rng = np.random.default_rng(seed)
    chain, followers = behind(tasks)
    missing = {name: len(needs) for name, (_, _, needs) in tasks.items()}
    ready = [(-chain[name], name) for name in tasks if not missing[name]]
    heapq.heapify(ready)
    running, now, free, worked, failed = [], 0.0, gpus, 0.0, 0
    while ready or running:
        while ready and free:
            _, name = heapq.heappop(ready)
            minutes, epoch, _ = tasks[name]
            count = rng.poisson(failures_per_hour * minutes / 60)
            minutes += count * (RESTART + epoch / 2)
            worked, failed, free = worked + minutes, failed + count, free - 1
            heapq.heappush(running, (now + minutes, name))
        now, name = heapq.heappop(running)
        free += 1
        for other in followers[name]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, (-chain[other], other))
    return now, worked, int(failed)


def main(_):
    tasks = graph()
    chain, _ = behind(tasks)
    record = {**new_record(types.SimpleNamespace(seed=0)), "assumptions": __doc__.split("Assumptions: ")[1].strip()}
    record |= {"units": len(tasks), "gpu_minutes": sum(task[0] for task in tasks.values())}
    record |= {"critical_path_minutes": max(chain.values()), "gpus": {}}
    for gpus in GPUS:
        minutes, worked, _ = simulate(tasks, gpus)
        disturbed = np.array([simulate(tasks, gpus, 0.01, seed) for seed in SEEDS])
        record["gpus"][str(gpus)] = {
            "minutes": minutes,
            "utilization": worked / (gpus * minutes),
            "with_1_percent_failures_per_gpu_hour": {
                "minutes": float(disturbed[:, 0].mean()),
                "largest_minutes": float(disturbed[:, 0].max()),
                "failures": float(disturbed[:, 2].mean()),
            },
        }
        print(gpus, record["gpus"][str(gpus)])
    os.makedirs(os.path.dirname(FLAGS.output) or ".", exist_ok=True)
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/simulation.json", "File of the record.")
    app.run(main)
