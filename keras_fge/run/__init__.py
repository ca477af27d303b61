"""A training that resumes, in a folder or not: snapshots and their folder, state, lock, batches, and one base for all.

`Checkpoint`, `EMA` and `CyclicEnsemble` stand on `Resumable`; what they write is read by `keras_fge.ensemble`.
"""

from keras_fge.run.batches import Batches
from keras_fge.run.collector import Collector
from keras_fge.run.folder import Folder
from keras_fge.run.resumable import Resumable
from keras_fge.run.schema import CyclicCounters, EMACounters
from keras_fge.run.snapshots import Snapshot, StoredSnapshot, check_fits, distances_between, measured, sharing
from keras_fge.run.state import State
from keras_fge.run.validation import Validation

__all__ = [
    "Batches",
    "Collector",
    "CyclicCounters",
    "EMACounters",
    "Folder",
    "Resumable",
    "Snapshot",
    "State",
    "StoredSnapshot",
    "Validation",
    "check_fits",
    "distances_between",
    "measured",
    "sharing",
]
