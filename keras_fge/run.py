"""One run of `FGE` or `SnapshotEnsemble`: how far it is, and the folder from which it resumes."""

import dataclasses
import os
import secrets
from collections.abc import Sequence
from typing import Any

import keras

from keras_fge import state
from keras_fge.batches import Batches
from keras_fge.core.compiled import AS_COMPILED, compiled_outputs
from keras_fge.core.keras_internals import is_chief
from keras_fge.cycle import Cycle
from keras_fge.folder import Folder
from keras_fge.learning_rate import ScheduledStep, rate_of_last_update
from keras_fge.lock import FolderLock
from keras_fge.snapshots import Snapshot, StoredSnapshot


@dataclasses.dataclass
class Run:
    """What one `fit` is about, and how far it is.

    Attributes:
        cycle: Its cycle, in steps.
        optimizer: The optimizer that holds the learning rate.
        earlier: How many snapshots are of runs before.
        start: Calls of the optimizer before the first step of the first cycle; None until that begins.
        last_step: The step of the last snapshot; 0 before the first.
        start_snapshot: The weights with which the cycles began.
        rate_before: Learning rate of the last update before the cycles.
        largest_rate: The largest learning rate of the cycles, once they have begun.
        scheduled_step: The compiled step with the cyclical learning rate.
        latest: Metrics of the last snapshot.
        has_epochs: Whether an epoch has begun.
        epoch_start: Steps before this epoch.
        batch: The batch that `fit` announced last.
        takes_columns: Whether a CSVLogger follows, which takes its columns from the first epoch.
        changed: The learning rates that are not those with which the run in the folder began.
        about: What the manifest says beside the members, if there is a folder.
    """

    cycle: Cycle
    optimizer: keras.optimizers.Optimizer
    earlier: int
    start: int | None = None
    last_step: int = 0
    start_snapshot: Snapshot | None = None
    rate_before: float = 0.0
    largest_rate: float | None = None
    scheduled_step: ScheduledStep | None = None
    latest: dict[str, float] = dataclasses.field(default_factory=dict)
    has_epochs: bool = False
    epoch_start: int = 0
    batch: int = 0
    takes_columns: bool = False
    changed: Sequence[str] = ()
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


class RunFolder:
    """The folder of a run: that of an ensemble which grows, and the state of the training beside it.

    Args:
        directory: The folder.

    Attributes:
        directory: As given.
        lock: To be held while the methods below are called.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = os.fspath(directory)
        self.lock = FolderLock(directory)
        self._ensemble = Folder(directory)
        self._state = state.StateFile(directory)

    def exists(self) -> bool:
        """Whether there is a run, or an ensemble."""
        return self._ensemble.exists()

    def begin(self, run: Run, model: keras.Model, settings: dict[str, Any], given: tuple[Any, Any]) -> None:
        """Makes the folder of a new run.

        Args:
            run, model, settings: The run, what it trains, and what a resume must have in common with it.
            given: What the user says of the outputs: (from_logits, task).

        Raises:
            ValueError: if there is one already, or the state of another training.
        """
        state.prepare(model)
        if self.exists():
            raise ValueError(
                f"`directory`: '{self.directory}' holds a run already. Continue it with `resume=True`, or give another "
                "folder."
            )
        if self._state.exists() and self._state.read().counters["epoch"] > 0:
            raise ValueError(
                f"`directory`: '{self.directory}' holds the state of a training, but no manifest.json of a run. Give "
                "another folder."
            )
        names = os.listdir(self.directory) if os.path.isdir(self.directory) else []
        if members := [name for name in names if name.startswith("member-")]:
            raise ValueError(
                f"`directory`: '{self.directory}' holds members, such as {min(members)}, but no manifest.json of a "
                "run. Give another folder."
            )
        self._remove_leftovers()  # Of a process that was killed before there was a run.
        network = self._ensemble.create(model)
        identity = secrets.token_hex(8)  # Files of two runs with the same settings are not to be mixed up.
        run.about = {"run": identity, "settings": settings, **_said_of(model, given), "network": network}
        self.write_state(run, model, 0, [])
        self.write_manifest(run, [])

    def resume(
        self, run: Run, model: keras.Model, settings: dict[str, Any], given: tuple[Any, Any]
    ) -> tuple[list[Snapshot], state.State]:
        """Brings `run` to where the state was written, and returns the members, and the state to restore.

        The arguments are those of `begin`.

        Raises:
            ValueError: if the folder holds a run of another network or with other settings, or a file is damaged.
        """
        state.prepare(model)
        manifest = self._ensemble.read_manifest()
        stored = self._state.read()
        # Those of the state are the older ones, if a resume was killed soon. In version 0.1 it has none.
        theirs = {**manifest.get("settings", {}), **stored.counters.get("settings", {})}
        run.changed = state.check_settings(self.directory, theirs, settings)
        members = manifest.pop("members")
        network = manifest.get("network") or self._ensemble.network_entry()  # Version 0.1 listed none.
        run.about = {**manifest, "settings": settings, "network": network}
        if given != (AS_COMPILED, None):
            run.about.update(_said_of(model, given))
        stored.check(model)
        counters = stored.counters
        if counters.get("run") != manifest.get("run"):
            raise ValueError(f"`directory`: in '{self.directory}', state.npz is not of the run in manifest.json.")
        # Members that came after the state will be made again, the same, and then replace those.
        members = members[: counters["members"]]
        for index, member in enumerate(members):
            member.check(model, index)
            member.check_file()
        if counters["start_snapshot"]:
            run.start_snapshot = StoredSnapshot(self.directory, counters["start_snapshot"])
            run.start_snapshot.check_file()
        run.start, run.last_step, run.earlier = counters["start"], counters["last_snapshot_step"], 0
        run.rate_before = counters.get("rate_before", run.rate_before)  # Version 0.1 had none, and Keras' step.
        run.largest_rate = counters.get("largest_rate")
        run.latest = members[-1].metrics if members else {}
        self._remove_leftovers()
        return members, stored

    def _remove_leftovers(self):
        self._state.remove_leftovers()
        self._ensemble.remove_leftovers()

    def store(self, snapshot: Snapshot, prefix: str) -> Snapshot:
        """Writes a snapshot, and returns it without its weights; as it is, in a process that does not write."""
        return StoredSnapshot.write(snapshot, self.directory, prefix) if is_chief() else snapshot

    def add_member(self, run: Run, snapshots: Sequence[Snapshot]) -> Snapshot:
        """Writes the last snapshot, lists it in the manifest, and returns it as `store` does."""
        member = self.store(snapshots[-1], "member")
        self.write_manifest(run, [*snapshots[:-1], member])
        return member

    def write_manifest(self, run: Run, snapshots: Sequence[Snapshot]) -> None:
        """Lists the members, with their metrics."""
        if is_chief():
            self._ensemble.write_manifest(snapshots, **run.about)

    def check_batches(self, run: Run, batches: Batches, snapshots: Sequence[Snapshot]) -> None:
        """Notes the batches in the manifest, or compares them with those noted there; on JAX, in the first process."""
        if is_chief():
            theirs = run.about.get("batches")
            run.about["batches"] = state.check_batches(self.directory, theirs, batches)
            if not theirs:
                self.write_manifest(run, snapshots)

    def state_is_due(self) -> bool:
        """See `StateFile.is_due`."""
        return self._state.is_due()

    def write_state(self, run: Run, model: keras.Model, epoch: int, snapshots: Sequence[Snapshot]) -> None:
        """Writes the state with which the run goes on with `epoch`."""
        if not is_chief():
            return
        counters = {
            "epoch": epoch,
            "run": run.about.get("run"),
            "settings": run.about["settings"],
            "start": run.start,
            "last_snapshot_step": run.last_step,
            "rate_before": run.rate_before,
            "rate": rate_of_last_update(run.optimizer),
            "largest_rate": run.largest_rate,
            "members": len(snapshots),
            "start_snapshot": run.start_snapshot and run.start_snapshot.to_entry(),
        }
        self._state.write_training(counters, model)


def _said_of(model, given):
    """What the manifest says of the outputs of `model`."""
    try:
        outputs = compiled_outputs(model, None, *given)
    except ValueError:  # The losses do not tell.
        return {"from_logits": "unknown", "task": given[1]}
    return {"from_logits": outputs.from_logits, "task": outputs.task}
