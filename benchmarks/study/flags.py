"""The flags of `cifar.py`: what they are, how --help groups them, and which values are no study.

Keras takes seconds to load: nothing here needs it, so --help and a mistyped flag need not wait.
"""

import math
import os
import sys

from absl import flags

from study import presets

NETWORKS = ["vgg16", "vgg16-bn", "vgg19", "vgg19-bn", "preresnet20", "preresnet56", "preresnet110", "preresnet164"]
NETWORKS += ["wrn28x10", "wrn16x4", "convfc", *presets.SMALL_NETWORKS]
CURVES = ["bezier", "chain", "bezier_by_length", "chain_by_length"]
COMMITTED = ["fashion_subset", "digits"]
EXPERIMENTS = {  # The module of each experiment's function.
    **dict.fromkeys(["endpoint", "curve", "path", "plane"], "connectivity"),
    **dict.fromkeys(["ind", "sse", "fge", "swa", "paired"], "ensembles"),
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
flags.DEFINE_integer("width", 16, "small networks: filters of the first stage.", lower_bound=1)

flags.DEFINE_integer("epochs", 40, "B: epochs of one ordinary training run, the unit of the budget.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Images per iteration.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.05, "Learning rate of ordinary training, before it decays.", lower_bound=0)
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("weight_decay", 3e-4, "wd of the loss term 0.5 wd ||w||^2 over all weights.", lower_bound=0)

flags.DEFINE_integer("num_bends", 3, "Bends of the curves, both endpoints counted.", lower_bound=3)
flags.DEFINE_integer("curve_epochs", 80, "Epochs of training a curve.", lower_bound=1)
flags.DEFINE_float("curve_learning_rate", 0.05, "Learning rate of training a curve, before it decays.", lower_bound=0)
flags.DEFINE_list("curves", ["bezier", "chain"], f"Curves to train: {', '.join(CURVES)}; by_length: by arc length.")
flags.DEFINE_integer("num_points", 21, "Points at which a path is evaluated.", lower_bound=2)
flags.DEFINE_integer("plane_points", 7, "Points of a plane in each direction. 0: no planes.", lower_bound=0)
flags.DEFINE_integer("train_samples", 0, "Training images that paths and planes measure on. 0: all.", lower_bound=0)
flags.DEFINE_integer("bn_samples", 0, "Those that re-estimate BatchNormalization statistics. 0: all.", lower_bound=0)
flags.DEFINE_integer("eval_batch_size", 500, "Images per batch in measurements.", lower_bound=1)

flags.DEFINE_integer("runs", 6, "Independent runs of each method; kB ensembles pool k of them.", lower_bound=1)
flags.DEFINE_integer("fge_start_epoch", 28, "Epochs of ordinary training before FGE begins.", lower_bound=1)
flags.DEFINE_float("fge_max_learning_rate", 0.05, "alpha_1 of FGE.", lower_bound=0)
flags.DEFINE_float("fge_min_learning_rate", 5e-4, "alpha_2 of FGE.", lower_bound=0)
flags.DEFINE_float("fge_cycle_epochs", 1, "Epochs of one FGE cycle, rounded to an even number of iterations.")
flags.DEFINE_bool("trace", True, "Measure the first FGE run every few iterations, for the figure of the paper.")
flags.DEFINE_float("sse_max_learning_rate", 0.05, "Learning rate at the start of each SSE cycle.", lower_bound=0)
flags.DEFINE_integer("sse_cycles", 3, "Cycles, and so snapshots, of one SSE run.", lower_bound=1)

flags.DEFINE_enum("dtype_policy", "float32", ["float32", "mixed_bfloat16"], "Arithmetic of the layers.")
flags.DEFINE_bool("jit_compile", None, "Compile with XLA. Default: as Keras chooses; on TensorFlow on a CPU, no.")
flags.DEFINE_integer(
    "steps_per_execution",
    None,
    "Iterations in one call of the compiled function. Default: 1; with a GPU as many as may be, but on torch.",
    lower_bound=1,
)

flags.DEFINE_bool("images_on_device", False, "Keep the training images there; steps get row numbers. On a GPU.")

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
    "Curves": ["num_bends", "curve_epochs", "curve_learning_rate", "curves"],
    "Measurements of paths and planes": [
        "num_points",
        "plane_points",
        "train_samples",
        "bn_samples",
        "eval_batch_size",
    ],
    "FGE and SSE": [
        *["fge_start_epoch", "fge_max_learning_rate", "fge_min_learning_rate", "fge_cycle_epochs", "trace"],
        *["sse_max_learning_rate", "sse_cycles"],
    ],
    "How it computes": ["dtype_policy", "jit_compile", "steps_per_execution", "images_on_device"],
    "Who computes": ["engine", "workers", "ray_address", "cpus_per_unit", "gpus_per_unit"],
}

# Results do not depend on these flags, or only on the data that they point to; or the flags only select units. All
# other flags must be the same for all records of a folder.
FREE = {"preset", "experiment", "sweep", "output_dir", "data_dir", "runs", "steps_per_execution", "debug"}
FREE |= {"images_on_device", "trace", "curves", *GROUPS["Who computes"]}


def own_flags():
    """All flags of this file, in their order, without those of absl."""
    return FLAGS.get_key_flags_for_module(__name__)


def print_flags():
    """The flags in their groups, a line for each."""
    for group, names in GROUPS.items():
        print(f"{group}:")
        for name in names:
            flag = FLAGS[name]
            default = "" if flag.default in (None, False, ["all"]) else f" [{flag.default}]"
            print(f"  --{name}: {flag.help}{default}")


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
    for flag in own_flags():
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
        ("width", FLAGS.network in presets.SMALL_NETWORKS, f"--network={', '.join(presets.SMALL_NETWORKS)}"),
        ("validation_size", not FLAGS.use_test, "runs without --use_test"),
    ):
        check(is_used or not FLAGS[name].present, f"--{name}={FLAGS[name].value} is only for {where}.")
    unknown = [name for name in FLAGS.curves if name not in CURVES]
    check(not unknown and FLAGS.curves, f"--curves={','.join(FLAGS.curves)} must be some of {', '.join(CURVES)}.")
    check(FLAGS.plane_points != 1, "--plane_points=1 must be 0, for no planes, or at least 2.")
    check(FLAGS.sse_max_learning_rate > 0, "--sse_max_learning_rate must be more than 0.")
    is_photograph = FLAGS.dataset not in ("digits", "fashion_subset", "fashion_mnist")
    check(is_photograph or FLAGS.transform == "none", f"--transform is for photographs, not for {FLAGS.dataset}.")
