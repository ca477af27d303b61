"""Runs the examples over several seeds, unchanged, and writes their record.

    cd benchmarks && python -m evidence.run_examples --output=examples.json

The record is written after each run, and the same command goes on.
"""

import importlib
import os
import pathlib
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags

from study.progress import console
from study.records import opened_record, write_json

FLAGS = flags.FLAGS
FOLDER = pathlib.Path(__file__).parents[2] / "examples"
EXAMPLES = ("tabular", "regression", "learned_line")  # The others show their use on data of one's own.


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, seed=FLAGS.seed, runs=FLAGS.runs)
    record = opened_record(FLAGS.output, settings, runs={})
    sys.path.insert(0, str(FOLDER))
    for name in EXAMPLES:
        example, done = importlib.import_module(name), record["runs"].setdefault(name, {})
        for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.runs):
            if str(seed) not in done:
                results = example.run(seed)
                done[str(seed)] = {k: {m: float(v) for m, v in values.items()} for k, values in results.items()}
                write_json(record, FLAGS.output)
                console.print(f"{name} {seed}: {done[str(seed)]}")
    console.print(f"Written: {FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/examples.json", "Record to write.")
    flags.DEFINE_integer("seed", 0, "Seed of the first run; the next ones follow.")
    flags.DEFINE_integer("runs", 8, "Runs of each example.", lower_bound=1)
    app.run(main)
