"""The members of an ensemble in a folder: writing them, and reading them again."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_fge.core.compile_as import compile_by_config, compile_config
from keras_fge.core.processes import is_chief, together
from keras_fge.core.tasks import Outputs
from keras_fge.ensemble.calibration import as_temperature
from keras_fge.ensemble.card import model_card
from keras_fge.ensemble.members import Members
from keras_fge.run import Folder, Snapshot, StoredSnapshot, sharing

AS_SAVED = "as saved"


def write(directory: str | os.PathLike, members: Members, about: str, others: Mapping[str, Any]) -> None:
    """See `Ensemble.save`.

    Args:
        directory, about: As there.
        members: The members.
        others: What else the manifest is to hold.
    """
    folder, card = Folder(directory), model_card(members, about)
    network = folder.create(members.network)
    with together():
        if is_chief():
            _write(folder, members, {"network": network, **others})
            folder.write_card(card)


def _write(folder, members, others):
    written: list[Snapshot] = []
    for snapshot in members.snapshots:  # What is frozen stands in the file of the first one.
        shared = sharing(snapshot, written[0] if written else None, members.network)
        written.append(StoredSnapshot.write(shared, folder.path, "member"))
    outputs = members.outputs
    known: dict[str, Any] = {
        "from_logits": outputs.from_logits,
        "task": outputs.task,
        "weights": members.weights,
    }
    known |= {"temperature": members.temperature, "compiled": compile_config(members.network)}
    folder.write_manifest(written, {**known, **others})


def read(
    directory: str | os.PathLike,
    network: keras.Model | None = None,
    from_logits: Any = AS_SAVED,
    task: Any = AS_SAVED,
    skip_damaged: bool = False,
    verify: bool = True,
) -> tuple[Members, dict[str, Any]]:
    """The members, and all that the manifest says; arguments and errors as for `Ensemble.load`."""
    folder = Folder(directory)
    members, about = folder.read_manifest(verify)
    kept: list[int] = []
    for index, snapshot in enumerate(members):
        try:
            _ = snapshot.weights
        except ValueError as error:
            if not skip_damaged:
                raise ValueError(f"{error} `skip_damaged=True` would leave it out.") from error
            warnings.warn(f"{error} It is left out.", stacklevel=3)
        else:
            kept.append(index)
    if not kept:
        raise ValueError(f"There is no member in '{directory}'.")
    from_logits = about["from_logits"] if from_logits == AS_SAVED else from_logits
    task = about["task"] if task == AS_SAVED else task
    if from_logits == "unknown":
        raise ValueError(f"Say `Ensemble.load('{directory}', from_logits=...)`: the losses of the run do not tell.")
    if network is None:
        network = folder.load_network(about["network"], verify)
        compile_by_config(network, about.get("compiled"))
    shares = about["weights"] and [about["weights"][index] for index in kept]
    temperature = as_temperature(about.get("temperature"))
    chosen = [members[index] for index in kept]
    return Members(network, chosen, Outputs(from_logits, task), shares, temperature), about
