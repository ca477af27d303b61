"""Units of work: each is done once, after the units it needs, and recorded; processes of one folder share them."""

import dataclasses
import os
import time
import types
from collections.abc import Callable

import numpy as np

from inputs.data import Dataset
from keras_fge.core.files import checksum, remove_leftovers
from study.progress import ProgressBars
from study.records import Records, holder, locked, unit_name

MOST_LETTERS = 120  # Of a name of a unit in that of a file.


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What all units of one folder share.

    Attributes:
        settings: An object with the flags of `cifar.py` as attributes.
        data: The images.
        records: The finished units, in the folder `settings.output_dir`.
        progress: Progress bars on the screen.
    """

    settings: types.SimpleNamespace
    data: Dataset
    records: Records
    progress: ProgressBars

    @property
    def steps(self):
        """Iterations of an epoch."""
        return -(-len(self.data.train[0]) // self.settings.batch_size)

    @property
    def fge_cycle_steps(self):
        """Iterations of an FGE cycle, an even number."""
        return max(2, 2 * round(self.settings.fge_cycle_epochs * self.steps / 2))

    @property
    def sse_cycle_steps(self):
        """Iterations of an SSE cycle: the last one ends with the budget, or some steps before, fewer than cycles."""
        return self.settings.epochs * self.steps // self.settings.sse_cycles

    @property
    def seeds(self):
        """The seeds of the runs of each method."""
        return range(self.settings.seed, self.settings.seed + self.settings.runs)

    def path(self, *parts):
        """A path in the output folder; creates the folder that it lies in."""
        path = os.path.join(self.settings.output_dir, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def checkpoint(self, experiment, key):
        """The folder from which one training resumes."""
        return self.path("checkpoints", f"{experiment}_{key}")

    def locked(self, name, wait=True):
        """Keeps other processes from the same work; yields False if one is doing it and this one is not to `wait`."""
        return locked(self._lock(name), wait)

    def holder(self, name):
        """Who is doing that work, as `records.holder` says; None: nobody."""
        return holder(self._lock(name))

    def _lock(self, name):
        file = name.replace(" ", "_")
        if len(file) > MOST_LETTERS:  # A unit of hundreds of runs has all their seeds in its name.
            file = f"{file[:MOST_LETTERS]}_{checksum(name)}"
        return self.path("checkpoints", f"{file}.lock")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of work.

    Attributes:
        experiment, key: Name of the unit: what is done, and with which seed, curve or runs.
        function: `function(study, *key)` does it, and returns metrics that JSON can hold.
        needs: Units that must be recorded before.
    """

    experiment: str
    key: tuple
    function: Callable
    needs: tuple["Unit", ...] = ()

    @property
    def name(self):
        return unit_name(self.experiment, self.key)


class UnitsFailed(Exception):
    """Some units ended with an error of their own; all others are done.

    Args:
        failures: The message of each, by name.
    """

    def __init__(self, failures):
        self.failures = failures
        text = "; ".join(f"{name}: {error}" for name, error in failures.items())
        super().__init__(f"{len(failures)} of the units failed, all others are done. {text}")


def run(study, units, when_done=lambda unit: None):
    """Does the units that are not recorded, each after the units that it needs, and calls `when_done` after each.

    The first pass skips units that another process is doing; the second one waits for them.

    Raises:
        UnitsFailed: in the end, if units ended with an error of their own; see `attempt`.
    """
    for folder, _, _ in os.walk(study.settings.output_dir):
        remove_leftovers(folder, lambda name: True)
    ordered, begin = in_order(units), time.time()
    for wait in (False, True):
        for number, unit in enumerate(ordered.values(), 1):
            if unit.name in study.records or unit.name in study.records.failures(begin):
                continue
            if (seconds := attempt(study, unit, wait)) is not None:
                left = seconds_left(study.records, ordered)
                study.progress.finished(number, len(ordered), unit.name, seconds, left)
                when_done(unit)
    raise_failures(study, ordered, begin)


def raise_failures(study, ordered, begin):
    """Raises `UnitsFailed` if some of the units failed since `begin`, and were not done since."""
    if failures := {name: error for name, error in study.records.failures(begin).items() if name in ordered}:
        raise UnitsFailed(failures)


def seconds_left(records, units):
    """How long the rest will take: each unit as long as those of its kind did, or as all others did, before the first.

    Pools of members ("... ensemble") take no time worth counting.
    """
    times = {}
    for record in records.units.values():
        times.setdefault(record["experiment"], []).append(record["wall_seconds"])
    work = [unit for unit in units.values() if not unit.experiment.endswith("ensemble")]
    overall = [seconds for unit in work for seconds in times.get(unit.experiment, [])]
    left = [unit for unit in work if unit.name not in records]
    return sum(float(np.mean(times.get(unit.experiment, overall or [0.0]))) for unit in left)


def in_order(units):
    """The units and what they need, by name, each after those that it needs."""
    ordered = {}
    for unit in units:
        ordered |= {name: need for name, need in in_order(unit.needs).items() if name not in ordered}
        ordered.setdefault(unit.name, unit)
    return ordered


def attempt(study, unit, wait):
    """Does one unit as `do`; an error of its own is noted, and returns None, so that the others go on.

    What the machine lacks, as packages or space on the disk, would fail the others too, and is an error here.
    """
    try:
        return do(study, unit, wait)
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if study.settings.debug:
            raise
        study.records.add_failure(unit.name, error)
        study.progress.failed(unit.name, error)
        return None


def do(study, unit, wait):
    """Does one unit, unless it is done already, or its turn has not come; returns the seconds that it took."""
    with study.locked(unit.name, wait) as is_free:
        study.records.read()
        is_ready = all(need.name in study.records for need in unit.needs)
        if is_free and is_ready and unit.name not in study.records:
            begin = time.perf_counter()
            metrics = unit.function(study, *unit.key)
            seconds = time.perf_counter() - begin
            study.records.append(unit.experiment, list(unit.key), metrics, seconds, dict(vars(study.settings)))
            return seconds
    return None
