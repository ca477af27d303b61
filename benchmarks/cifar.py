"""Runs the paper's experiments with one command.

By default on a subset of Fashion-MNIST that is part of the project, in a few minutes on two CPU cores:

    python benchmarks/cifar.py                              # everything
    python benchmarks/cifar.py --experiment=path,plane      # two networks, the line between them, curves of low loss
    python benchmarks/cifar.py --experiment=ind,sse,fge     # ensembles at budgets of 1B, 2B and 3B
    python benchmarks/cifar.py --experiment=report          # tables, figures and report.html from the records alone
    python benchmarks/cifar.py --preset=vgg16_cifar10       # a row of the paper's table

The defaults were chosen on the validation split. The program writes to --output_dir: records.jsonl, a line for each
finished unit of work (seed, wall time, metrics), commands.jsonl (all flags, versions, hardware), the measured paths and
planes (.npz), figures (.png), report.html, which contains all of it, and explorer.html, on which one moves along the
paths. However the program was stopped, the same command continues where it stopped. KERAS_BACKEND=tensorflow, jax or
torch selects the backend. See docs/benchmark.md.
"""

import contextlib
import dataclasses
import functools
import importlib
import math
import os
import sys
import tempfile
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # Faster convolutions; on by default on some processors only.

import presets

INSTALL = (
    "pip install -e '.[tensorflow,benchmarks]', or [jax,benchmarks], [torch,benchmarks], in the folder of the project."
)
try:
    from absl import app, flags
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}. Install what is missing: {INSTALL}")

NETWORKS = ["vgg16", "vgg16-bn", "vgg19", "vgg19-bn", "preresnet20", "preresnet56", "preresnet110", "preresnet164"]
NETWORKS += ["wrn28x10", "wrn16x4", "convfc", "small_cnn", "small_cnn_bn"]
COMMITTED = ["fashion_subset", "digits"]
EXPERIMENTS = {  # The module of each experiment's function.
    **dict.fromkeys(["endpoint", "curve", "path", "plane"], "connectivity"),
    **dict.fromkeys(["ind", "sse", "fge", "swa"], "ensembles"),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("preset", None, f"A set of flags: {', '.join(presets.PRESETS)}.")
flags.DEFINE_list(
    "experiment",
    ["all"],
    f"What to run, with what it needs: {', '.join(EXPERIMENTS)}; all; report, which computes nothing; or status, which "
    "says how far the others are.",
)
flags.DEFINE_string("output_dir", None, "Folder for records, arrays, figures and checkpoints. Default: results/PRESET.")
flags.DEFINE_integer(
    "seed", 0, "The first seed. It decides initialization, order of the data, dropout, t.", lower_bound=0
)

DATASETS = ["fashion_subset", "fashion_mnist", "cifar10", "cifar100", "folder", "digits"]
flags.DEFINE_enum(
    "dataset", "fashion_subset", DATASETS, "fashion_subset and digits are here, CIFAR is read by tensorflow_datasets."
)
flags.DEFINE_string(
    "data_dir",
    None,
    "folder: with train/<class>/*.jpg and test/<class>/*.jpg. fashion_mnist: with the four original files. CIFAR, "
    "fashion_mnist: of data prepared by tensorflow_datasets.",
)
flags.DEFINE_integer(
    "image_size", None, "Resize images to so many pixels. Default: as they are; fashion_subset: 14.", lower_bound=1
)
flags.DEFINE_integer("train_size", None, "Images to train on. Default: all but those for validation.", lower_bound=1)
flags.DEFINE_integer(
    "validation_size",
    None,
    "Training images put aside for validation. Default: 5000; fashion_subset: 2000; digits: 500.",
    lower_bound=1,
)
flags.DEFINE_bool("use_test", False, "Train on all training images, as the paper's tables do; no validation.")
flags.DEFINE_enum(
    "transform", "none", ["none", "vgg", "resnet"], "Augmentation and normalization, as in the paper's code."
)
flags.DEFINE_enum("network", "small_cnn", NETWORKS, "Those of the paper, and small ones for a CPU.")
flags.DEFINE_integer("width", 16, "small_cnn: filters of the first stage.", lower_bound=1)

flags.DEFINE_integer("epochs", 40, "B: epochs of one ordinary training run, the unit of the budget.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Images per iteration.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.05, "Learning rate of ordinary training, before it decays.", lower_bound=0)
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("weight_decay", 3e-4, "wd of the loss term 0.5 wd ||w||^2 over all weights.", lower_bound=0)

flags.DEFINE_integer("num_bends", 3, "Bends of the curves, both endpoints counted.", lower_bound=3)
flags.DEFINE_integer("curve_epochs", 80, "Epochs of training a curve.", lower_bound=1)
flags.DEFINE_float("curve_learning_rate", 0.05, "Learning rate of training a curve, before it decays.", lower_bound=0)
flags.DEFINE_bool("arc_length", False, "Train the curves on the arc-length objective, too.")
flags.DEFINE_integer("num_points", 21, "Points at which a path is evaluated.", lower_bound=2)
flags.DEFINE_integer("plane_points", 7, "Points of a plane in each direction. 0: no planes.", lower_bound=0)
flags.DEFINE_integer("train_samples", 0, "Training images that paths and planes measure on. 0: all.", lower_bound=0)
flags.DEFINE_integer("bn_samples", 0, "Those that re-estimate BatchNormalization statistics. 0: all.", lower_bound=0)
flags.DEFINE_integer("eval_batch_size", 500, "Images per batch in measurements.", lower_bound=1)

flags.DEFINE_integer("runs", 6, "Independent runs of each method; kB ensembles pool k of them.", lower_bound=3)
flags.DEFINE_integer("fge_start_epoch", 28, "Epochs of ordinary training before FGE begins.", lower_bound=1)
flags.DEFINE_float("fge_max_learning_rate", 0.05, "alpha_1 of FGE.", lower_bound=0)
flags.DEFINE_float("fge_min_learning_rate", 5e-4, "alpha_2 of FGE.", lower_bound=0)
flags.DEFINE_float("fge_cycle_epochs", 1, "Epochs of one FGE cycle, rounded to an even number of iterations.")
flags.DEFINE_float("sse_max_learning_rate", 0.05, "Learning rate at the start of each SSE cycle.", lower_bound=0)
flags.DEFINE_integer("sse_cycles", 3, "Cycles, and so snapshots, of one SSE run.", lower_bound=1)

flags.DEFINE_enum("dtype_policy", "float32", ["float32", "mixed_bfloat16"], "Arithmetic of the layers.")
flags.DEFINE_bool("jit_compile", None, "Compile with XLA. Default: as Keras chooses; on TensorFlow on a CPU, no.")
flags.DEFINE_integer(
    "steps_per_execution",
    None,
    "Iterations in one call of the compiled function. Default: 1; with a GPU, at most 32, but on torch.",
    lower_bound=1,
)

flags.DEFINE_string(
    "sweep", None, "A file of settings, each a study in a folder of its own; docs/cluster.md says more."
)
flags.DEFINE_enum("engine", "local", ["local", "ray"], "Who does the units of work: this machine, or Ray.")
flags.DEFINE_integer("workers", 1, "local: processes, to which CPU cores and GPUs are shared out.", lower_bound=1)
flags.DEFINE_string("ray_address", None, "ray: address of the cluster, such as auto. Default: one on this machine.")
flags.DEFINE_float("cpus_per_unit", 1, "ray: CPU cores that a unit takes.", lower_bound=0)
flags.DEFINE_float("gpus_per_unit", 0, "ray: GPUs that a unit takes, such as 0.5.", lower_bound=0)

flags.DEFINE_bool("debug", False, "Show the traceback of an error.")

GROUPS = {  # For --help.
    "What to run": ["preset", "experiment", "sweep", "output_dir", "seed", "runs", "debug"],
    "Data": ["dataset", "data_dir", "image_size", "train_size", "validation_size", "use_test", "transform"],
    "Network and its training": [
        "network",
        "width",
        "epochs",
        "batch_size",
        "learning_rate",
        "momentum",
        "weight_decay",
    ],
    "Curves": ["num_bends", "curve_epochs", "curve_learning_rate", "arc_length"],
    "Measurements of paths and planes": [
        "num_points",
        "plane_points",
        "train_samples",
        "bn_samples",
        "eval_batch_size",
    ],
    "FGE and SSE": [
        *["fge_start_epoch", "fge_max_learning_rate", "fge_min_learning_rate", "fge_cycle_epochs"],
        *["sse_max_learning_rate", "sse_cycles"],
    ],
    "How it computes": ["dtype_policy", "jit_compile", "steps_per_execution"],
    "Who computes": ["engine", "workers", "ray_address", "cpus_per_unit", "gpus_per_unit"],
}
CURES = {
    FloatingPointError: " Lower the learning rate, and give another --output_dir.",
    ModuleNotFoundError: f". Install what is missing: {INSTALL}",
}

# Results do not depend on these flags, or only on the data that they point to; or the flags only select units. All
# other flags must be the same for all records of a folder.
FREE = {"preset", "experiment", "sweep", "output_dir", "data_dir", "runs", "steps_per_execution", "debug"}
FREE |= set(GROUPS["Who computes"])


def check(condition, message):
    """Ends the program, before any training, with a message that a user can act on."""
    if not condition:
        sys.exit(f"error: {message}")


def parse_experiments():
    known = ["all", "report", "status", *EXPERIMENTS]
    unknown = [name for name in FLAGS.experiment if name not in known]
    check(not unknown, f"--experiment={','.join(unknown)} is unknown. There are: {', '.join(known)}.")
    check(FLAGS.experiment, f"--experiment is empty. There are: {', '.join(known)}.")
    is_whole = {"all", "status"} & set(FLAGS.experiment)  # The status is that of all that the folder may hold.
    chosen = list(EXPERIMENTS) if is_whole else FLAGS.experiment
    return [name for name in chosen if name != "report"]


def check_flags():
    """Checks everything that can be known before the data are read."""
    for flag in FLAGS.get_key_flags_for_module(__name__):
        is_number = isinstance(flag.value, float)
        check(not is_number or math.isfinite(flag.value), f"--{flag.name}={flag.value} must be a finite number.")
    check(
        FLAGS.fge_min_learning_rate < FLAGS.fge_max_learning_rate,
        f"--fge_min_learning_rate={FLAGS.fge_min_learning_rate} must be below "
        f"--fge_max_learning_rate={FLAGS.fge_max_learning_rate}.",
    )
    check(
        FLAGS.fge_cycle_epochs > 0,
        f"--fge_cycle_epochs={FLAGS.fge_cycle_epochs} must be more than 0, such as 0.5 or 2.",
    )
    left = FLAGS.epochs - FLAGS.fge_start_epoch
    check(
        left > 0 and 2 * left >= FLAGS.fge_cycle_epochs,
        f"--fge_start_epoch={FLAGS.fge_start_epoch} leaves {left} of {FLAGS.epochs} epochs for FGE, less than half a "
        f"cycle of --fge_cycle_epochs={FLAGS.fge_cycle_epochs}: there would be no snapshot.",
    )
    check(
        FLAGS.dataset != "folder" or FLAGS.data_dir,
        "--dataset=folder needs --data_dir=<folder with train/<class>/*.jpg and test/<class>/*.jpg>.",
    )
    check(not FLAGS.data_dir or os.path.isdir(FLAGS.data_dir), f"--data_dir={FLAGS.data_dir} does not exist.")
    for name, is_used, where in (
        ("data_dir", FLAGS.dataset not in COMMITTED, "data that are not here"),
        ("image_size", FLAGS.dataset != "digits", "other data than digits"),
        ("width", FLAGS.network.startswith("small_cnn"), "--network=small_cnn or small_cnn_bn"),
        ("validation_size", not FLAGS.use_test, "runs without --use_test"),
    ):
        check(is_used or not FLAGS[name].present, f"--{name}={FLAGS[name].value} is only for {where}.")
    check(FLAGS.plane_points != 1, "--plane_points=1 must be 0, for no planes, or at least 2.")
    check(FLAGS.sse_max_learning_rate > 0, "--sse_max_learning_rate must be more than 0.")
    is_photograph = FLAGS.dataset not in ("digits", "fashion_subset", "fashion_mnist")
    check(is_photograph or FLAGS.transform == "none", f"--transform is for photographs, not for {FLAGS.dataset}.")


def settings_from_flags():
    """The flags as attributes of one object."""
    settings = types.SimpleNamespace(**{flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(__name__)})
    if settings.jit_compile is None:
        from training import default_jit_compile

        settings.jit_compile = default_jit_compile()
    return settings


def check_data(study):
    """Checks what depends on the size and number of images, and chooses the steps of one execution."""
    settings, (images, height, width, _) = study.settings, study.data.train[0].shape
    check(
        settings.network.startswith("small_cnn") or min(height, width) >= 32,
        f"--network={settings.network} is made for images of 32 x 32 pixels; these have {height} x {width}.",
    )
    for name in ("train_samples", "bn_samples"):
        count = getattr(settings, name)
        check(count <= images, f"--{name}={count} must not exceed the {images} training images.")
    check(
        study.sse_cycle_steps,
        f"--sse_cycles={settings.sse_cycles} are more than the steps of {settings.epochs} epochs.",
    )
    lengths = study.steps, study.fge_cycle_steps // 2, study.sse_cycle_steps
    if settings.steps_per_execution is None:
        settings.steps_per_execution = default_steps_per_execution(*lengths)
    check(
        math.gcd(*lengths) % settings.steps_per_execution == 0,
        f"--steps_per_execution={settings.steps_per_execution} must divide the {lengths[0]} iterations of an epoch, "
        f"the {lengths[1]} of half an FGE cycle and the {lengths[2]} of an SSE cycle.",
    )


def default_steps_per_execution(*lengths):
    """With a GPU, up to 32 that divide all `lengths`, else 1. (Keras has none on torch.)

    On TensorFlow each call waits for its result; on JAX it took a tenth to a fifth less (docs/performance.md).
    """
    import keras

    from records import accelerator

    if keras.backend.backend() == "torch" or accelerator() is None:
        return 1
    return max(count for count in range(1, 33) if math.gcd(*lengths) % count == 0)


def check_writable(folder):
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sys.exit(f"error: --output_dir={folder} cannot be written: {error}")


def main(arguments):
    check(len(arguments) == 1, f"Flags start with two dashes, as in --seed=1. Received: {' '.join(arguments[1:])}")
    try:
        if FLAGS.sweep:
            sweep_over_settings()
            return
        names, study = parsed()
    except ValueError as error:
        sys.exit(f"error: {error}")

    import report  # With all that it needs to draw, before any work is done.
    from progress import console

    failures = None
    if study:
        import engines

        units = units_of(study, names)
        if "status" in FLAGS.experiment:
            from status import Board

            Board(study, units).look(is_last=True)
            return
        console.print(f"The report, to look at in a browser, will be [bold]{report.url(FLAGS.output_dir)}[/bold]")
        failures = run_units(study, units)
        if engines.WORKER in os.environ:
            sys.exit(engines.FAILED if failures else 0)
    try:
        report.write_report(FLAGS.output_dir)
    except ValueError as error:
        sys.exit(f"error: {failures or error}")
    if failures:
        sys.exit(f"error: {failures}")


def sweep_over_settings():
    """Does a study for each setting of --sweep, and shows them in one table."""
    import sweep

    settings = sweep.read_sweep(FLAGS.sweep)
    unknown = {name for setting in settings.values() for name in setting} - set(FLAGS)
    check(not unknown, f"--sweep={FLAGS.sweep} has flags that are unknown: {', '.join(sorted(unknown))}.")
    folder = FLAGS.output_dir or os.path.join("results", os.path.splitext(os.path.basename(FLAGS.sweep))[0])
    given = [flag for flag in FLAGS.get_key_flags_for_module(__name__) if flag.present]
    arguments = [sys.argv[0], *(flag.serialize() for flag in given if flag.name not in ("sweep", "output_dir"))]
    failed = sweep.run_sweep(settings, folder, arguments)
    from progress import console

    table = sweep.sweep_table(settings, folder, arguments)
    console.print(table.to_rich())
    console.print(table.note, markup=False)
    check(not failed, f"{len(failed)} of {len(settings)} settings failed: {'; '.join(failed)}")


def parsed():
    """The experiments of the flags, and their `Study`; None, if there are no experiments but a report."""
    if FLAGS.preset:
        presets.apply_preset(FLAGS.preset, FLAGS, FREE)
    names = parse_experiments()
    FLAGS.output_dir = FLAGS.output_dir or os.path.join("results", FLAGS.preset or FLAGS.dataset)
    return names, prepare() if names else None


@functools.cache
def parsed_in_a_task(argv):
    """(study, units by name) of a command line, in a process that other units may come to, too."""
    FLAGS(list(argv))
    names, study = parsed()
    from units import in_order

    return study, in_order(units_of(study, names))


def do_unit(argv, name):
    """Does one unit of a command line, in a process of an engine; waits for another process that is doing it."""
    from units import attempt

    study, units = parsed_in_a_task(tuple(argv))
    attempt(study, units[name], wait=True)


@contextlib.contextmanager
def without_noise():
    """Keeps what TensorFlow writes as it is loaded, whatever it is told, off the screen. (Errors are exceptions.)"""
    sys.stderr.flush()
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


def prepare():
    """Makes the `Study` for the flags, and ends the program at any error that can be found before training."""
    check_flags()
    check_writable(FLAGS.output_dir)

    # Keras takes seconds to load: --help and a mistyped flag need not wait for it.
    with without_noise():
        importlib.import_module("keras_fge")  # It chooses the backend, if nobody has, and loads Keras.
    import keras

    import data
    from progress import ProgressBars, console
    from records import Records
    from units import Study

    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    dataset = data.load(
        FLAGS.dataset, FLAGS.data_dir, FLAGS.image_size, FLAGS.train_size, FLAGS.validation_size, FLAGS.use_test
    )
    names = [flag.name for flag in FLAGS.get_key_flags_for_module(__name__) if flag.name not in FREE]
    configuration = {name: FLAGS[name].value for name in names}
    configuration |= {"backend": keras.backend.backend(), "data": dataset.about(), "step": "PyTorch's"}
    study = Study(settings_from_flags(), dataset, None, ProgressBars())
    check_data(study)
    records = Records(FLAGS.output_dir, configuration)
    if FLAGS.num_bends != 3 and FLAGS.plane_points:
        console.print(f"--num_bends={FLAGS.num_bends}: no planes of the curves, as a plane goes through three bends.")
    counts = [f"{len(dataset.train[0])} training", *(f"{len(x)} {split}" for split, (x, _) in dataset.splits.items())]
    console.print(f"{dataset.name}: {', '.join(counts)} images; backend {keras.backend.backend()}")
    if records.units:
        console.print(f"{len(records.units)} units of work are recorded already: {records.path}")
    return dataclasses.replace(study, records=records)


def units_of(study, names):
    """The units of the experiments."""
    experiments = [getattr(importlib.import_module(EXPERIMENTS[name]), name) for name in names]
    return [unit for experiment in experiments for unit in experiment(study)]


def run_units(study, units):
    """Does the units that are not recorded yet, by the engine of the flags; returns the `UnitsFailed`, or None."""
    import engines
    from units import UnitsFailed, run

    try:
        if FLAGS.engine == "ray":
            engines.run_ray(study, units, FLAGS.ray_address, FLAGS.cpus_per_unit, FLAGS.gpus_per_unit)
        elif FLAGS.workers > 1:
            engines.run_workers(study, units, FLAGS.workers)
        else:
            with study.progress:
                run(study, units)
    except UnitsFailed as failures:
        return failures
    return None


def print_help():
    """The flags in their groups, a line for each; --helpfull has all that absl knows."""
    print(*(line for line in __doc__.splitlines()[:9] if line), "(docs/benchmark.md says more.)", sep="\n")
    for group, names in GROUPS.items():
        print(f"{group}:")
        for name in names:
            flag = FLAGS[name]
            default = "" if flag.default in (None, False, ["all"]) else f" [{flag.default}]"
            print(f"  --{name}: {flag.help}{default}")


def run():
    """Runs the program; whatever a user can cure ends with one line, and the exit status that it should have."""
    if "--help" in sys.argv[1:]:
        print_help()
        return
    try:
        app.run(main)
    except KeyboardInterrupt:
        if "--debug" in sys.argv:
            raise
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (FloatingPointError, OSError, ImportError) as error:
        if "--debug" in sys.argv:
            raise
        cure = CURES.get(type(error), "")
        sys.exit(f"error: {error}{cure}")


if __name__ == "__main__":
    run()
