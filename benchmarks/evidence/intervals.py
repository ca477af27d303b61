"""How often 95 % intervals of a mean hold it, over few runs: Student's t, and the percentile bootstrap.

    cd benchmarks && python -m evidence.intervals --output=intervals.json

A simulation: samples of 4 to 20 values are drawn from distributions whose mean is 0. "ours" are the paired differences
in calibrated NLL of FGE and one network, of the committed records, around their mean and with normal noise of a fifth
of their spread. docs/benchmark.md has the table.
"""

import pathlib
import types

import numpy as np
import scipy.stats
from absl import app, flags

from report.comparisons import difference, values
from study.progress import console
from study.records import Records, new_record, write_json

FLAGS = flags.FLAGS
SIZES = (4, 6, 8, 10, 20)
RESAMPLES = 1000
RESULTS = pathlib.Path(__file__).parents[1] / "results"


def ours():
    """The paired differences of all folders, each in units of its standard deviation."""
    parts = []
    for folder in ("fashion_subset", "cifar10_jpeg"):
        records = Records(RESULTS / folder)
        assert difference(records, "fge", 1, "calibrated_nll").count
        one, fge = (values(records, method, 1, "calibrated_nll") for method in ("ind", "fge"))
        change = np.array([fge[seed] - one[seed] for seed in fge])
        parts.append((change - change.mean()) / change.std())
    return np.concatenate(parts)


def draws(rng, trials, size):
    """Samples of shape (trials, size) of each distribution, whose mean is 0."""
    pooled = ours()
    return {
        "normal": rng.normal(size=(trials, size)),
        "heavy tails (t of 3 degrees)": rng.standard_t(3, size=(trials, size)),
        "skewed (exponential)": rng.exponential(size=(trials, size)) - 1,
        "ours": rng.choice(pooled, (trials, size)) + 0.2 * rng.normal(size=(trials, size)),
    }


def covered(samples, rng):
    """The share of samples whose interval holds 0, by method."""
    size = samples.shape[1]
    half = scipy.stats.t.ppf(0.975, size - 1) * samples.std(axis=1, ddof=1) / np.sqrt(size)
    student = np.abs(samples.mean(axis=1)) <= half
    inside = 0
    for sample in samples:
        means = sample[rng.integers(size, size=(RESAMPLES, size))].mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        inside += low <= 0 <= high
    return {"Student's t": float(student.mean()), "bootstrap": float(inside / len(samples))}


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, seed=FLAGS.seed, trials=FLAGS.trials)
    rng, record = np.random.default_rng(FLAGS.seed), new_record(settings)
    record["coverage"] = {}
    for size in SIZES:
        for name, samples in draws(rng, FLAGS.trials, size).items():
            record["coverage"].setdefault(name, {})[str(size)] = covered(samples, rng)
        console.print(f"{size} runs: {[(name, sizes[str(size)]) for name, sizes in record['coverage'].items()]}")
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/intervals.json", "Record to write.")
    flags.DEFINE_integer("seed", 0, "Seed of the simulation.")
    flags.DEFINE_integer("trials", 10_000, "Samples of each distribution and size.", lower_bound=1)
    app.run(main)
