"""Presets: documented sets of flags, the rows of the paper's table and smaller ones. docs/benchmark.md lists them all.

Epochs, learning rates, weight decay, transforms and curves are those of the authors' code
(timgaripov/dnn-mode-connectivity). What stands behind the rest:

- FGE's learning rates, cycles and weight decay: confirmed by train/train_fge.sh of SamsungLabs/pytorch-ensembles, some
  of whose authors are the paper's. The README of the authors' code differs: 40 epochs from epoch 160, cycles of 2.
- The epochs from which FGE starts, and so the numbers of members: not confirmed by any text; they fit the budgets.
- The cycles and learning rates of SSE: not confirmed by any text, quoted from the paper from memory.
"""

# Networks for small images, whose first stage has `--width` filters.
SMALL_NETWORKS = ("small_cnn", "small_cnn_bn", "mobilenet", "efficientnet", "cct")
BUDGETS = (1, 2, 3)  # The columns of the paper's table, in units of B.
PAPER = {
    "batch_size": 128,
    "momentum": 0.9,
    "use_test": True,
    "num_bends": 3,
    "runs": 6,
    "num_points": 61,
    "plane_points": 21,
    "eval_batch_size": 1000,
    "fge_min_learning_rate": 5e-4,
}
PAPER_NETWORKS = {
    "vgg16": {
        "network": "vgg16",
        "transform": "vgg",
        "epochs": 200,
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
        "curve_epochs": 600,
        "curve_learning_rate": 0.015,
        "fge_start_epoch": 156,  # 22 members
        "fge_cycle_epochs": 2,
        "fge_max_learning_rate": 1e-2,
        "sse_cycles": 5,
        "sse_max_learning_rate": 0.05,
    },
    "preresnet164": {
        "network": "preresnet164",
        "transform": "resnet",
        "epochs": 150,
        "learning_rate": 0.1,
        "weight_decay": 3e-4,
        "curve_epochs": 200,
        "curve_learning_rate": 0.03,
        "fge_start_epoch": 126,  # 6 members
        "fge_cycle_epochs": 4,
        "fge_max_learning_rate": 5e-2,
        "sse_cycles": 4,
        "sse_max_learning_rate": 0.1,
    },
    "wrn28x10": {
        "network": "wrn28x10",
        "transform": "resnet",
        "epochs": 200,
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "curve_epochs": 200,
        "curve_learning_rate": 0.03,
        "fge_start_epoch": 152,  # 12 members
        "fge_cycle_epochs": 4,
        "fge_max_learning_rate": 5e-2,
        "sse_cycles": 5,
        "sse_max_learning_rate": 0.1,
    },
}
PRESETS = {
    f"{network}_{dataset}": {**PAPER, **flags, "dataset": dataset}
    for network, flags in PAPER_NETWORKS.items()
    for dataset in ("cifar10", "cifar100", "folder")  # A folder needs --data_dir.
} | {
    # All experiments at the scale of a CPU, on CIFAR-10 as images in a folder (needs --data_dir). A network has a train
    # error near 0, as in the paper. Chosen by a search, which sweeps/small.json does again: the least calibrated NLL on
    # validation images.
    "small": {
        "dataset": "folder",
        "image_size": 16,
        "train_size": 5000,
        "network": "small_cnn_bn",
        "width": 16,
        "epochs": 100,
        "batch_size": 64,
        "learning_rate": 0.05,
        "weight_decay": 4e-3,
        "curve_epochs": 100,
        "curve_learning_rate": 0.03,
        "num_points": 31,
        "plane_points": 13,
        "train_samples": 2000,
        "bn_samples": 2000,
        "eval_batch_size": 1000,
        "runs": 8,
        "fge_start_epoch": 40,  # 10 members
        "fge_cycle_epochs": 6,
        "fge_max_learning_rate": 0.05,
        "sse_cycles": 3,
        "sse_max_learning_rate": 0.05,
    },
    # Two networks, a curve, and FGE from each, in a minute and a half on 2 cores, by `make demo`. It has so few images
    # that a network is as sure of itself as large ones are.
    "demo": {
        "dataset": "fashion_subset",
        "train_size": 1000,
        "epochs": 40,
        "curve_epochs": 60,
        "curves": ["bezier"],
        "num_points": 11,
        "plane_points": 0,
        "runs": 2,
        "fge_start_epoch": 20,
        "fge_cycle_epochs": 2,
        "trace": False,
        "experiment": ["path", "paired"],
    },
    # Every experiment in less than 2 minutes on 2 cores, to check that all works: the numbers mean nothing.
    "smoke": {
        "dataset": "digits",
        "network": "small_cnn_bn",
        "width": 4,
        "epochs": 4,
        "batch_size": 50,
        "curve_epochs": 2,
        "num_points": 3,
        "plane_points": 2,
        "bn_samples": 100,
        "runs": 3,
        "fge_start_epoch": 2,
        "fge_cycle_epochs": 1,
        "sse_cycles": 2,
    },
}


def apply_preset(name, flags, free):
    """Sets the flags of a preset.

    Args:
        name: One of `PRESETS`.
        flags: `absl.flags.FLAGS`, parsed.
        free: Names of flags that may differ from the preset, because results do not depend on them.

    Raises:
        ValueError: if there is no such preset, or if a flag was given that contradicts it.
    """
    if name not in PRESETS:
        raise ValueError(f"--preset={name} is unknown. There are: {', '.join(PRESETS)}.")
    for flag, value in PRESETS[name].items():
        if not flags[flag].present:
            flags[flag].value = value
        elif flag not in free and flags[flag].value != value:
            raise ValueError(
                f"--{flag}={flags[flag].value} contradicts --preset={name}, which sets --{flag}={value}. For settings "
                "of your own, give flags without a preset: docs/benchmark.md lists those of each preset."
            )
