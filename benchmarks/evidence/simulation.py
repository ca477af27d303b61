"""How long the paper's whole Table 1 would take on 1 to 512 GPUs, and what it would cost: a simulation.

    cd benchmarks && python -m evidence.simulation --output=results/cluster/simulation.json

Assumptions: the units of the six presets with 6 runs each, with curves, paths and planes, and what each needs, are
those of `cifar.py`. A unit takes one GPU, and the time of docs/benchmark.md; that of VGG-16 and WRN-28-10 is scaled to
the milliseconds of a step that were measured on an H200 in bfloat16: 1.7 for VGG-16, of which three at a time took 5.2
each, and 13.3 for WRN-28-10. That of PreResNet-164 is computed (40 % of the peak). Whoever is free takes the ready
unit with the longest chain of units behind it. FGE branches off a network that is done; the driver and the folder cost
nothing. With stragglers, each unit takes exp(0.2 z) times as long, z normal. On spot GPUs, one is taken away every 20
hours; that costs half an epoch, and 10 minutes, paid for, until another one has started. A GPU hour costs 3 dollars, on
spot GPUs 1.20: say yours with --price and --spot_price. A GPU is paid for until there is nothing left for it to do.
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
from study.units import Study, Unit, in_order

FLAGS = flags.FLAGS
MINUTES = {  # docs/benchmark.md, "Expected time".
    "vgg16": {"ind": 1, "curve": 3, "path": 0.1, "plane": 1},
    "preresnet164": {"ind": 4.3, "curve": 5.8, "path": 1.2, "plane": 9},
    "wrn28x10": {"ind": 19, "curve": 19, "path": 4.2, "plane": 30},
}
MEASURED = {"vgg16": 1.7, "wrn28x10": 13.3}  # Milliseconds of a step on an H200; docs/performance.md, docs/gpu.md.
STEPS = 200 * 391  # Of one network.
EXPERIMENTS = {"path": connectivity.path, "plane": connectivity.plane, "ind": ensembles.ind, "sse": ensembles.sse}
EXPERIMENTS |= {"swa": ensembles.swa}
GPUS = (1, 8, 64, 512)
RESTART, PREEMPTIONS, STRAGGLERS = 10.0, 0.05, 0.2  # Minutes; a GPU hour; deviation of the logarithm of the time.
SEEDS = range(100)  # Of the disturbances.


def minutes_of(unit, settings):
    """The time of a unit on one GPU."""
    times = dict(MINUTES[settings.network])
    if settings.network in MEASURED:
        factor = MEASURED[settings.network] / 1000 * STEPS / 60 / times["ind"]
        times = {name: factor * minutes for name, minutes in times.items()}
    if unit.experiment == "fge":  # It branches off a network that is there.
        return times["ind"] * (settings.epochs - settings.fge_start_epoch) / settings.epochs
    if unit.experiment.endswith("ensemble"):
        return 0.0  # Predictions are there.
    return times.get({"sse": "ind", "swa": "path", "fge_bn": "path"}.get(unit.experiment, unit.experiment))


def units_of(preset, data):
    """The settings of a preset, and the units of its whole study, by name, in their order."""
    defaults = {"seed": 0, "runs": 6, "curves": ["bezier", "chain"], "num_bends": 3, "width": 16, "transform": "none"}
    defaults |= {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 3e-4, "steps_per_execution": 1}
    defaults |= {"jit_compile": False, "images_on_device": False}
    settings = types.SimpleNamespace(**{**defaults, **presets.PRESETS[preset]})
    study = Study(settings, data, None, None)
    return settings, in_order([unit for experiment in EXPERIMENTS.values() for unit in experiment(study)])


def graph():
    """`{name: (minutes, minutes of an epoch, names that it needs)}` of the whole table."""
    tasks = {}
    for network in MINUTES:
        for classes in (10, 100):
            preset = f"{network}_cifar{classes}"
            images = np.broadcast_to(np.uint8(0), (50000, 32, 32, 3))
            data = Dataset("cifar", (images, np.zeros(50000, int)), None, (images[:1], np.zeros(1, int)), classes, 255)
            settings, units = units_of(preset, data)
            for name, unit in units.items():
                epoch = minutes_of(Unit("ind", (), None), settings) / settings.epochs
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


def simulate(tasks, gpus, preemptions=0.0, stragglers=0.0, seed=0, in_order=False):
    """(minutes until all is done, minutes that GPUs are paid for, minutes that they work, number of preemptions).

    Args:
        tasks: As `graph` returns them.
        gpus: How many work at a time.
        preemptions: In a GPU hour.
        stragglers: Standard deviation of the logarithm of a task's time.
        seed: Of these.
        in_order: Whether the ready task that stands first is taken, as workers of one machine do. Default: the one with
            the longest chain behind it, as by Ray's priorities at best.
    """
    rng = np.random.default_rng(seed)
    chain, followers = behind(tasks)
    if in_order:
        chain = {name: -number for number, name in enumerate(tasks)}
    missing = {name: len(needs) for name, (_, _, needs) in tasks.items()}
    ready = [(-chain[name], name) for name in tasks if not missing[name]]
    heapq.heapify(ready)
    running, now, free, worked, failed, ends = [], 0.0, list(range(gpus)), 0.0, 0, {}
    while ready or running:
        while ready and free:
            _, name = heapq.heappop(ready)
            minutes, epoch, _ = tasks[name]
            minutes *= np.exp(stragglers * rng.normal())
            count = rng.poisson(preemptions * minutes / 60)
            minutes += count * (RESTART + epoch / 2)
            worked, failed = worked + minutes, failed + count
            heapq.heappush(running, (now + minutes, name, heapq.heappop(free)))
        now, name, gpu = heapq.heappop(running)
        heapq.heappush(free, gpu)
        if tasks[name][0]:  # What takes no time is not paid for.
            ends[gpu] = now
        for other in followers[name]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, (-chain[other], other))
    return now, sum(ends.values()), worked, int(failed)


def main(_):
    tasks = graph()
    chain, _ = behind(tasks)
    record = {
        **new_record(types.SimpleNamespace(seed=0, price=FLAGS.price, spot_price=FLAGS.spot_price)),
        "assumptions": __doc__.split("Assumptions: ")[1].strip(),
    }
    record |= {"units": len(tasks), "gpu_minutes": sum(task[0] for task in tasks.values())}
    record |= {"critical_path_minutes": max(chain.values()), "gpus": {}}
    price = {"quiet": FLAGS.price, "stragglers": FLAGS.price, "stragglers, spot": FLAGS.spot_price}
    for gpus in GPUS:
        found = {"quiet": [simulate(tasks, gpus)]}
        found["stragglers"] = [simulate(tasks, gpus, 0.0, STRAGGLERS, seed) for seed in SEEDS]
        found["stragglers, spot"] = [simulate(tasks, gpus, PREEMPTIONS, STRAGGLERS, seed) for seed in SEEDS]
        record["gpus"][str(gpus)] = {
            name: {
                "minutes": float(np.mean([run[0] for run in runs])),
                "largest_minutes": float(max(run[0] for run in runs)),
                "utilization": float(np.mean([run[2] / run[1] for run in runs])),
                "preemptions": float(np.mean([run[3] for run in runs])),
                "dollars": float(np.mean([run[1] for run in runs])) / 60 * price[name],
            }
            for name, runs in found.items()
        }
        print(gpus, record["gpus"][str(gpus)])
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/simulation.json", "File of the record.")
    flags.DEFINE_float("price", 3.0, "Dollars of a GPU hour.", lower_bound=0.0)
    flags.DEFINE_float("spot_price", 1.2, "Dollars of one that can be taken away.", lower_bound=0.0)
    app.run(main)
