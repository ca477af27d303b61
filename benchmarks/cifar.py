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

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # Faster convolutions; on by default on some processors only.

INSTALL = (
    "pip install -e '.[tensorflow,benchmarks]', or [jax,benchmarks], [torch,benchmarks], in the folder of the project."
)
try:
    from absl import app
    from absl.flags import adopt_module_key_flags

    from study import flags
    from study.flags import FLAGS, check
    from study.setup import parsed, units_of
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}. Install what is missing: {INSTALL}")

adopt_module_key_flags(flags)  # For --helpshort of absl, which shows those of the program alone.
CURES = {
    FloatingPointError: " Lower the learning rate, and give another --output_dir.",
    ModuleNotFoundError: f". Install what is missing: {INSTALL}",
}


def run():
    """Runs the program; whatever a user can cure ends with one line, and the exit status that it should have."""
    if "--help" in sys.argv[1:]:  # absl's own, --helpfull, has what absl knows, too.
        print(*(line for line in __doc__.splitlines()[:8] if line), "(docs/benchmark.md says more.)", sep="\n")
        flags.print_flags()
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


def main(arguments):
    check(len(arguments) == 1, f"Flags start with two dashes, as in --seed=1. Received: {' '.join(arguments[1:])}")
    try:
        if FLAGS.sweep:
            sweep_over_settings()
            return
        names, study = parsed()
    except ValueError as error:
        sys.exit(f"error: {error}")

    from report import report  # With all that it needs to draw, before any work is done.

    failures = None
    if study:
        from study import engines
        from study.progress import console
        from study.status import Board

        units = units_of(study, names)
        if "status" in FLAGS.experiment:
            Board(study, units).look(is_last=True)
            return
        console.print(f"The report, to look at in a browser, will be [bold]{report.url(FLAGS.output_dir)}[/bold]")
        failures = engines.run_units(study, units, lambda unit: report.draw_first_picture(FLAGS.output_dir, unit))
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
    from study import sweep

    settings = sweep.read_sweep(FLAGS.sweep)
    unknown = {name for setting in settings.values() for name in setting} - set(FLAGS)
    check(not unknown, f"--sweep={FLAGS.sweep} has flags that are unknown: {', '.join(sorted(unknown))}.")
    folder = FLAGS.output_dir or os.path.join("results", os.path.splitext(os.path.basename(FLAGS.sweep))[0])
    given = [flag for flag in flags.own_flags() if flag.present]
    arguments = [sys.argv[0], *(flag.serialize() for flag in given if flag.name not in ("sweep", "output_dir"))]
    failed = sweep.run_sweep(settings, folder, arguments)

    from report.sweeps import sweep_table  # Only now, with Keras, which the runs did not need here.
    from study.progress import console

    table = sweep_table(settings, folder, arguments)
    console.print(table.to_rich())
    console.print(table.note, markup=False)
    check(not failed, f"{len(failed)} of {len(settings)} settings failed: {'; '.join(failed)}")


if __name__ == "__main__":
    run()
