"""The paper's experiments by one command.

By default, on the real handwritten digits that ship with scikit-learn, in a few minutes on two CPU cores:

    python benchmarks/cifar.py                           # both halves
    python benchmarks/cifar.py --experiment=curves       # two networks, the line between them, and curves of low loss
    python benchmarks/cifar.py --experiment=ensembles    # Ind, SSE and FGE at budgets of 1B, 2B and 3B

The defaults were chosen on the validation split. Tables go to the terminal; record.json (all flags, seed, versions,
hardware, times, results), the measured paths (.npz) and the figures (.png) go to --output_dir.
KERAS_BACKEND=tensorflow, jax or torch selects the backend.
"""

import os
import sys
import tempfile
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

from data import load_digits, load_folder

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "dataset", "digits", ["digits", "folder"], "digits: 8 x 8 images, ships with scikit-learn. folder: see --data_dir."
)
flags.DEFINE_string("data_dir", None, "For --dataset=folder: images as train/<class>/*.jpg and test/<class>/*.jpg.")
flags.DEFINE_integer("image_size", None, "For folder: resize images to so many pixels. Default: as they are.")
flags.DEFINE_integer("train_size", None, "For folder: images to train on. Default: all but --validation_size.")
flags.DEFINE_integer("validation_size", 5000, "For folder: training images put aside for validation.", lower_bound=1)
flags.DEFINE_enum("network", "small_cnn", ["small_cnn", "small_cnn_bn"], "bn: with BatchNormalization.")
flags.DEFINE_integer("width", 16, "Filters of the first stage of the network.", lower_bound=1)
flags.DEFINE_enum("experiment", "all", ["all", "curves", "ensembles"], "Which half to run.")
flags.DEFINE_string("output_dir", "results/digits", "Folder for record, paths and figures; made if missing.")
flags.DEFINE_integer("seed", 0, "Seed of everything: initialization, order of the data, dropout, t.", lower_bound=0)

flags.DEFINE_integer("epochs", 40, "B: epochs of one ordinary training run, the unit of the budget.", lower_bound=1)
flags.DEFINE_integer("batch_size", 25, "Images per iteration.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.02, "Learning rate of ordinary training, before it decays.", lower_bound=0)
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("weight_decay", 2e-3, "wd of the loss term 0.5 wd ||w||^2 over all weights.", lower_bound=0)
flags.DEFINE_bool("jit_compile", None, "Compile with XLA. Default: what Keras chooses for backend and device.")

flags.DEFINE_integer("num_bends", 3, "Bends of the curves, both endpoints counted.", lower_bound=2)
flags.DEFINE_integer("curve_epochs", 60, "Epochs of training a curve.", lower_bound=1)
flags.DEFINE_float("curve_learning_rate", 0.02, "Learning rate of training a curve, before it decays.", lower_bound=0)
flags.DEFINE_bool("arc_length", False, "Train the curves on the arc-length objective, too.")
flags.DEFINE_integer("num_points", 61, "Points at which a path is evaluated.", lower_bound=2)
flags.DEFINE_integer("plane_points", 13, "Points of a plane in each direction. 0: no planes.", lower_bound=0)
flags.DEFINE_integer("train_samples", 0, "Training images that paths and planes measure on. 0: all.", lower_bound=0)
flags.DEFINE_integer("bn_samples", 0, "Those that re-estimate BatchNormalization statistics. 0: all.", lower_bound=0)
flags.DEFINE_integer("eval_batch_size", 500, "Images per batch in measurements.", lower_bound=1)

flags.DEFINE_integer("runs", 12, "Independent runs of each method; kB ensembles pool k of them.", lower_bound=3)
flags.DEFINE_float("fge_start", 0.6, "Part of the budget before FGE begins.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("fge_max_learning_rate", 0.04, "alpha_1 of FGE.", lower_bound=0)
flags.DEFINE_float("fge_min_learning_rate", 5e-4, "alpha_2 of FGE.", lower_bound=0)
flags.DEFINE_integer("fge_cycle_epochs", 1, "Epochs of one FGE cycle.", lower_bound=1)
flags.DEFINE_float("sse_max_learning_rate", 0.04, "Learning rate at the start of each SSE cycle.", lower_bound=0)
flags.DEFINE_integer("sse_cycles", 3, "Cycles, and so snapshots, of one SSE run.", lower_bound=1)


def check(condition, message):
    """Ends the program, before any training, with a message that a user can act on."""
    if not condition:
        sys.exit(f"error: {message}")


def load_data():
    if FLAGS.dataset == "digits":
        return load_digits()
    check(FLAGS.data_dir, "--dataset=folder needs --data_dir=<folder with train/<class>/*.jpg and test/<class>/*.jpg>.")
    try:
        return load_folder(FLAGS.data_dir, FLAGS.image_size, FLAGS.train_size, FLAGS.validation_size)
    except ValueError as error:
        sys.exit(f"error: --data_dir: {error}")


def settings_from_flags(data):
    """The flags as attributes of one object, checked against each other and the data before any training."""
    settings = types.SimpleNamespace(**{flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(__name__)})
    settings.jit_compile = "auto" if settings.jit_compile is None else settings.jit_compile
    if settings.experiment != "curves":
        check_ensembles(settings, -(-len(data.train[0]) // settings.batch_size))
    return settings


def check_ensembles(settings, steps):
    """`steps` is the number of iterations of one epoch."""
    check(
        settings.fge_min_learning_rate < settings.fge_max_learning_rate,
        f"--fge_min_learning_rate={settings.fge_min_learning_rate} must be below "
        f"--fge_max_learning_rate={settings.fge_max_learning_rate}.",
    )
    cycle = settings.fge_cycle_epochs * steps
    check(
        cycle % 2 == 0,
        f"--fge_cycle_epochs={settings.fge_cycle_epochs} epochs of {steps} iterations make an odd cycle of {cycle}, "
        "which has no middle: use an even number of epochs, or another --batch_size.",
    )
    fge_epochs = settings.epochs - round(settings.fge_start * settings.epochs)
    check(
        2 * fge_epochs >= settings.fge_cycle_epochs,
        f"--fge_start={settings.fge_start} leaves {fge_epochs} of {settings.epochs} epochs for FGE, less than half a "
        f"cycle of --fge_cycle_epochs={settings.fge_cycle_epochs}: there would be no snapshot.",
    )
    check(
        settings.sse_cycles <= settings.epochs,
        f"--sse_cycles={settings.sse_cycles} must not exceed --epochs={settings.epochs}.",
    )


def check_writable(folder):
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sys.exit(f"error: --output_dir={folder} cannot be written: {error}")


def main(arguments):
    check(len(arguments) == 1, f"Flags start with two dashes, as in --seed=1. Received: {' '.join(arguments[1:])}")
    data = load_data()
    settings = settings_from_flags(data)
    check_writable(settings.output_dir)

    # Keras and matplotlib take seconds to load: --help and a mistyped flag need not wait for them.
    import experiments
    import report

    record = report.new_record(settings)
    record["hyperparameters"] = "The defaults were chosen on the validation split; test data were only measured."
    report.console.print(
        f"{data.name}: {len(data.train[0])} training, {len(data.validation[0])} validation, {len(data.test[0])} test "
        f"images; backend {record['backend']}, {record['cpus']} CPUs"
    )
    with report.ProgressBars() as progress:
        if settings.experiment in ("all", "curves"):
            (paths, planes), seconds = experiments.timed(experiments.run_curves, settings, data, progress)
            record["curves"], record["planes"] = report.summaries(paths), report.summaries(planes)
            record["wall_seconds"]["curves"] = seconds
            report.save_results(paths, settings.output_dir)
            report.save_results(planes, settings.output_dir, prefix="plane_")
            report.draw_curves(paths, planes, settings.output_dir)
            report.write_json(record, os.path.join(settings.output_dir, "record.json"))
        if settings.experiment in ("all", "ensembles"):
            (groups, trace), seconds = experiments.timed(experiments.run_ensembles, settings, data, progress)
            record["ensembles"] = {"summary": experiments.summarize_groups(groups), "groups": groups, "trace": trace}
            record["ensembles"]["fge_minus_ind"] = {
                metric: experiments.paired_difference(groups, metric) for metric in ("error", "nll")
            }
            record["wall_seconds"]["ensembles"] = seconds
            report.draw_fge(trace, settings.output_dir)
            report.draw_budgets(groups, settings.output_dir)
            report.write_json(record, os.path.join(settings.output_dir, "record.json"))
    if "curves" in record:
        report.print_curves(paths)
    if "ensembles" in record:
        report.print_ensembles(groups, settings)
    seconds = sum(record["wall_seconds"].values())
    report.console.print(f"{seconds:.0f} s. Record, paths and figures are in [bold]{settings.output_dir}[/bold].")


if __name__ == "__main__":
    app.run(main)
