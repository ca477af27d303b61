"""`Collector`: takes the snapshots of a run, measures them, and keeps them in memory or in the folder."""

import contextlib
import secrets
import warnings
from typing import Any

import keras

from keras_fge.core.architecture import architecture
from keras_fge.core.compile_as import compile_config
from keras_fge.core.compiled import AS_COMPILED, compiled_outputs
from keras_fge.core.keras_internals import averaged_weights, averages_weights, inner_optimizer
from keras_fge.core.networks import borrowed, check_finite, distance
from keras_fge.core.processes import is_chief, together
from keras_fge.run.folder import Folder
from keras_fge.run.lock import FolderLock
from keras_fge.run.snapshots import Snapshot, StoredSnapshot, check_fits
from keras_fge.run.state import State
from keras_fge.run.validation import Validation


class Collector:
    """The snapshots of a callback, those of its present run at the end.

    Args:
        lock: That of the folder of the run; None: snapshots stay in memory.

    Attributes:
        snapshots: All snapshots.
        earlier: How many of them are of runs before.
        start: The weights with which the cycles of this run began.
        last_step: The step of the last snapshot of this run; 0 before the first.
        folder: The folder, or None.
        about: What the manifest says beside the members.
    """

    def __init__(self, lock: FolderLock | None):
        self.snapshots: list[Snapshot] = []
        self.earlier = 0
        self.start: Any = None
        self.last_step = 0
        self.folder: Any = None if lock is None else Folder(lock.directory, lock.check)
        self.about: dict[str, Any] = {}
        self._architecture: str | None = None  # Of the network of the snapshots, once a `fit` has begun.

    @property
    def of_run(self) -> list[Snapshot]:
        """The snapshots of the present run."""
        return self.snapshots[self.earlier :]

    def begin(self, model: keras.Model) -> None:
        """Begins a run of `model`, whose snapshots come after those that are there.

        Raises:
            ValueError: if those are of another architecture.
        """
        ours = architecture(model)
        if self.snapshots:
            check_fits(self.snapshots[0], model, 0)
            if self._architecture not in (None, ours):
                raise ValueError(
                    "The snapshots of this callback are of a network of another architecture: make a new callback for "
                    f"'{model.name}'."
                )
        self._architecture = ours
        self.earlier, self.start, self.last_step = len(self.snapshots), None, 0

    def create(self, model: keras.Model, from_logits: Any, task: Any) -> None:
        """Makes the folder of a new run; the manifest, by which it can be found, is written by `write_manifest`."""
        network = self.folder.create(model)
        identity = secrets.token_hex(8)  # Files of two runs with the same settings are not to be mixed up.
        said = {"compiled": compile_config(model), **_said_of(model, from_logits, task)}
        self.about = {"run": identity, "network": network, "weights": None, **said}

    def read(self, model: keras.Model, stored: State, from_logits: Any, task: Any) -> None:
        """Takes over the run in the folder, as far as its state goes.

        Raises:
            ValueError: if a file is damaged, missing, or of another run or network.
        """
        counters = stored.counters
        members, self.about = self.folder.read_manifest()
        if counters["run"] != self.about.get("run"):
            raise ValueError(f"`directory`: in '{self.folder.path}', state.npz is not of the run in manifest.json.")
        files, count = [member.file for member in members], len(counters["members"])
        last = members[count - 1].step if 0 < count <= len(members) else 0
        if files[:count] != counters["members"] or last != counters["last_snapshot_step"]:
            raise ValueError(
                f"`directory`: '{self.folder.path}' has state.npz and manifest.json of two moments of a run, as a copy "
                f"that was made while it was training: they list {count} and {len(files)} members. "
                "Copy the folder again, once no `fit` writes into it."
            )
        if (from_logits, task) != (AS_COMPILED, None):
            self.about |= _said_of(model, from_logits, task)
        # Members that came after the state will be made again, the same, and then replace those.
        self.snapshots = list(members[:count])
        self.earlier, self.last_step = 0, counters["last_snapshot_step"]
        self.start = None
        if counters["start_snapshot"]:
            self.start = StoredSnapshot(self.folder.path, counters["start_snapshot"])
        for index, member in enumerate(self.snapshots):
            check_fits(member, model, index)
        for snapshot in (*self.snapshots, *filter(None, [self.start])):
            _ = snapshot.weights  # It raises an error if the file is damaged.
        self.folder.remove_leftovers()

    def counters(self) -> dict[str, Any]:
        """What the state of the run holds of this."""
        return {
            "run": self.about["run"],
            "members": [member.file for member in self.snapshots if isinstance(member, StoredSnapshot)],
            "last_snapshot_step": self.last_step,
            "start_snapshot": self.start.entry if isinstance(self.start, StoredSnapshot) else None,
        }

    def write_manifest(self) -> None:
        """Lists the members, with their metrics."""
        if self.folder and is_chief():
            self.folder.write_manifest(self.snapshots, self.about)

    def _kept(self, snapshot, prefix):
        """The snapshot, in a file and without its weights if there is a folder and this process writes."""
        if not self.folder:
            return snapshot
        with together():
            if is_chief():
                return StoredSnapshot.write(snapshot, self.folder.path, prefix, self.folder.check)
        return snapshot

    def take_start(self, model: keras.Model) -> None:
        """Keeps the weights with which the cycles begin."""
        like = self.snapshots[-1] if self.snapshots else None
        with _weights_of_optimizer(model):
            self.start = self._kept(Snapshot.of(model, like=like), "start")

    def take(self, model: keras.Model, step: int, rate: float, when: str, validation: Validation | None) -> None:
        """Takes a snapshot after `step`, whose update had the learning rate `rate`, and measures it.

        Raises:
            FloatingPointError: if a weight is not finite; it says `when`.
        """
        with _weights_of_optimizer(model):
            self._take(model, step, rate, when, validation)

    def _take(self, model, step, rate, when, validation):
        snapshot = Snapshot.of(model, step, rate, self.start)
        check_finite(model.weights, snapshot.weights, when)
        before = self.snapshots[-1] if self.snapshots else self.start
        last = before if self.last_step else self.start
        self.snapshots.append(snapshot)  # Before anything that may fail.
        self.last_step = step
        try:
            self.snapshots[-1] = self._kept(snapshot, "member")
            from_last = distance(model, snapshot.weights, last.weights)
            distances = {
                "distance_from_start": distance(model, snapshot.weights, self.start.weights),
                "distance_from_last": from_last,
            }
            if (from_last if last is before else distance(model, snapshot.weights, before.weights)) == 0:
                warnings.warn(
                    f"Snapshot {len(self.snapshots)} has the same weights as the one before. If it is of another `fit` "
                    "from the same start, that took the same batches, as TensorFlow does after "
                    "`keras.utils.set_random_seed`: use `keras_fge.Batches` with another seed.",
                    stacklevel=2,
                )
            measured = validation.measure(model) if validation else {}
            self.snapshots[-1].metrics = {**distances, **measured}
        finally:
            if isinstance(self.snapshots[-1], StoredSnapshot):
                self.write_manifest()


@contextlib.contextmanager
def _weights_of_optimizer(model):
    """Inside, `model` has the weights that its optimizer means, if those are not the ones it trains."""
    optimizer = inner_optimizer(model.optimizer)
    if not averages_weights(optimizer):
        yield
        return
    with borrowed(model):
        for variable, value in averaged_weights(optimizer):
            variable.assign(value)
        yield


def _said_of(model, from_logits, task):
    """What the manifest says of the outputs of `model`."""
    try:
        outputs = compiled_outputs(model, None, from_logits, task)
    except ValueError:  # The losses do not tell.
        return {"from_logits": "unknown", "task": task}
    return {"from_logits": outputs.from_logits, "task": outputs.task}
