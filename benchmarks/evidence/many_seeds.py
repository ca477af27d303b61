"""FGE beside one network for many seeds, which train side by side in one program, on JAX with a GPU.

    cd benchmarks && KERAS_BACKEND=jax python -m evidence.many_seeds --seeds=100 --at_a_time=50 --output=many_seeds.json

On the subset of Fashion-MNIST, with the best settings that `baselines.py` found for both, of its committed records.
Both take the same rate up to the epoch at which FGE begins, so FGE branches off there. The record, of errors and
calibrated NLL on test images, is written after each group of seeds, and the same command goes on. On a CPU this takes
longer than one network after the other.
"""

import ast
import copy
import pathlib
import types

import numpy as np
from absl import app, flags

import keras_fge
from evidence.baseline_methods import BATCH_SIZE, TASKS, new_network
from inputs import data
from report import baselines
from report.comparisons import estimate
from study.ensembles import all_metrics
from study.progress import console
from study.records import opened_record, refuse_another, write_json
from study.side_by_side import SideBySide

FLAGS = flags.FLAGS
TASK = TASKS["fashion"]
BASELINES = pathlib.Path(__file__).parents[1] / "results" / "baselines"


def train_both(images, seeds, one, cycles, x, task=TASK):
    """What the networks of these seeds, and the members of FGE that branch off them, predict for `x`.

    Args:
        one: Rate, decay and epochs of one network.
        cycles: Of FGE: rate, decay, start, cycle and largest; rate and decay are those of one network.

    Returns:
        Arrays (networks, samples, classes) and (members, networks, samples, classes).
    """
    networks = [new_network(task, images, seed, one["decay"]) for seed in seeds]
    batches = [keras_fge.Batches(*images.train, BATCH_SIZE, seed) for seed in seeds]
    steps, start = len(batches[0]), cycles["start"]
    rates = np.asarray(keras_fge.piecewise_linear(np.arange(1, one["epochs"] + 1), one["rate"], one["epochs"]))
    rates = np.repeat(rates, steps)
    run = SideBySide(networks)
    run.fit(batches, rates[: start * steps])
    branch, its_batches = run.branch(), [copy.copy(of) for of in batches]
    run.fit(batches, rates[start * steps :])

    length, members = 2 * round(cycles["cycle"] * steps / 2), []
    iterations = np.arange(1, (task.epochs - start) * steps + 1)
    rates = np.asarray(keras_fge.triangular(iterations, cycles["largest"], cycles["largest"] / 100, length))
    lowest = set(range(length // 2, len(rates) + 1, length))
    branch.fit(its_batches, rates, lowest, lambda: members.append(branch.predict(x)))
    return run.predict(x), np.stack(members)


def main(_):
    found = baselines.records(BASELINES)
    one, cycles = (ast.literal_eval(found[method][0]) for method in ("one network", "FGE"))
    if any(one[name] != cycles[name] for name in ("rate", "decay")):
        raise app.UsageError("The best settings of one network and FGE differ in rate or decay: FGE cannot branch off.")
    images = data.load(**TASK.data)
    flags_of_record = types.SimpleNamespace(output=FLAGS.output, seed=0, seeds=FLAGS.seeds, at_a_time=FLAGS.at_a_time)
    known = {"data": images.about(), "one": one, "cycles": cycles}
    record = opened_record(FLAGS.output, flags_of_record, **known, runs={})
    refuse_another(FLAGS.output, record, **known)
    x, y = images.test
    for first in range(0, FLAGS.seeds, FLAGS.at_a_time):
        seeds = range(first, min(first + FLAGS.at_a_time, FLAGS.seeds))
        if str(seeds[-1]) in record["runs"]:
            continue
        network, members = train_both(images, seeds, one, cycles, x)
        for number, seed in enumerate(seeds):
            found = {"one network": network[number], "FGE": members[:, number].mean(axis=0)}
            record["runs"][str(seed)] = {name: all_metrics(of, y) for name, of in found.items()}
        write_json(record, FLAGS.output)
    for metric in ("error", "calibrated_nll"):
        runs = record["runs"].values()
        found = estimate([run["FGE"][metric] - run["one network"][metric] for run in runs])
        console.print(f"FGE minus one network, {metric}, {len(runs)} seeds: {found.text(1, 4)}", markup=False)


if __name__ == "__main__":
    flags.DEFINE_string("output", "results/many_seeds.json", "Record to write.")
    flags.DEFINE_integer("seeds", 100, "Seeds: 0, 1, ...", lower_bound=2)
    flags.DEFINE_integer("at_a_time", 50, "Networks in one program.", lower_bound=1)
    app.run(main)
