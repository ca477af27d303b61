"""From the flags to a `Study` and its units, in the program and in the processes of an engine.

What loads Keras is imported inside the functions: a mistyped flag ends the program before.
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

from study import presets
from study.flags import EXPERIMENTS, FLAGS, FREE, check, check_flags, own_flags, parse_experiments


def parsed():
    """The experiments of the flags, and their `Study`; None, if there are no experiments but a report."""
    if FLAGS.preset:
        presets.apply_preset(FLAGS.preset, FLAGS, FREE)
    names = parse_experiments()
    FLAGS.output_dir = FLAGS.output_dir or os.path.join("results", FLAGS.preset or FLAGS.dataset)
    return names, prepare() if names else None


def prepare():
    """Makes the `Study` for the flags, and ends the program at any error that can be found before training."""
    check_flags()
    check_writable(FLAGS.output_dir)

    # Keras takes seconds to load: --help and a mistyped flag need not wait for it.
    with without_noise():
        importlib.import_module("keras_fge")  # It chooses the backend, if nobody has, and loads Keras.
    import keras

    from inputs import data
    from study.progress import ProgressBars, console
    from study.records import Records
    from study.units import Study

    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    dataset = data.load(
        FLAGS.dataset, FLAGS.data_dir, FLAGS.image_size, FLAGS.train_size, FLAGS.validation_size, FLAGS.use_test
    )
    names = [flag.name for flag in own_flags() if flag.name not in FREE]
    configuration = {name: FLAGS[name].value for name in names}
    configuration |= {"backend": keras.backend.backend(), "data": dataset.about(), "step": "PyTorch's"}
    # The name that this has in folders that are there.
    configuration["arc_length"] = any(name.endswith("by_length") for name in FLAGS.curves)
    if FLAGS.images_on_device:  # Results do not depend on it, but a state is of one kind of network or of the other.
        configuration["images_on_device"] = True
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


def check_writable(folder):
    from keras_fge.core.files import local_path

    try:
        os.makedirs(local_path(folder), exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        sys.exit(f"error: --output_dir={folder} cannot be written: {error}")


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


def settings_from_flags():
    """The flags as attributes of one object."""
    settings = types.SimpleNamespace(**{flag.name: flag.value for flag in own_flags()})
    if settings.jit_compile is None:
        from study.training import default_jit_compile

        settings.jit_compile = default_jit_compile()
    return settings


def check_data(study):
    """Checks what depends on the size and number of images, and chooses the steps of one execution."""
    settings, (images, height, width, _) = study.settings, study.data.train[0].shape
    check(
        settings.network in presets.SMALL_NETWORKS or min(height, width) >= 32,
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
        batch = settings.batch_size * (4 if settings.images_on_device else study.data.train[0][0].nbytes)
        settings.steps_per_execution = default_steps_per_execution(*lengths, batch_bytes=batch)
    check(
        math.gcd(*lengths) % settings.steps_per_execution == 0,
        f"--steps_per_execution={settings.steps_per_execution} must divide the {lengths[0]} iterations of an epoch, "
        f"the {lengths[1]} of half an FGE cycle and the {lengths[2]} of an SSE cycle.",
    )


def default_steps_per_execution(*lengths, batch_bytes):
    """With a GPU, as many as divide all `lengths` and whose batches take at most 256 MiB, else 1. (torch has none.)

    On TensorFlow each call waits for its result; on JAX it took a tenth to a fifth less (docs/performance.md). At most
    32, unless Keras scans over the steps: the longer the program, the longer it compiles.
    """
    import keras

    from keras_fge.core.keras_internals import scans_over_steps
    from study.machine import accelerator

    if keras.backend.backend() == "torch" or accelerator() is None:
        return 1
    most = min(2**28 // batch_bytes, math.inf if scans_over_steps() else 32)
    whole = math.gcd(*lengths)
    return max(count for count in range(1, whole + 1) if whole % count == 0 and count <= max(most, 1))


def units_of(study, names):
    """The units of the experiments."""
    experiments = [getattr(importlib.import_module(f"study.{EXPERIMENTS[name]}"), name) for name in names]
    return [unit for experiment in experiments for unit in experiment(study)]


@functools.cache
def parsed_in_a_task(argv):
    """(study, units by name) of a command line, in a process that other units may come to, too."""
    FLAGS(list(argv))
    names, study = parsed()
    from study.units import in_order

    return study, in_order(units_of(study, names))


def do_unit(argv, name):
    """Does one unit of a command line, in a process of an engine; waits for another process that is doing it."""
    from study.units import attempt

    study, units = parsed_in_a_task(tuple(argv))
    attempt(study, units[name], wait=True)
