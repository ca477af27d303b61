"""The folder of an ensemble: its network, a file for each member, and a manifest."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.architecture import check_same_architecture
from keras_fge.core.files import (
    always_right,
    check_keras_file,
    checksum,
    local_path,
    read_bytes,
    remove_leftovers,
    replace,
    temporary_name,
    write_atomically,
)
from keras_fge.core.keras_internals import (
    all_layers,
    has_lora,
    lora_factors,
    random_states_kept,
    sum_with_lora,
)
from keras_fge.core.networks import clone, locked, read, tell, untold
from keras_fge.core.processes import is_chief, on_this_process, together
from keras_fge.run.schema import Manifest, check
from keras_fge.run.snapshots import StoredSnapshot

FORMAT = 3  # Those of version 0.1 and 0.2 were never published.
OURS = re.compile(r"network|manifest\.json|(member|start)-[0-9a-f]{16}\.npz")


class Folder:
    """Reads and writes the files. The manifest comes last: what it lists is there, whenever a process ends.

    manifest.json     members with steps, learning rates, metrics; checksums of all, and of itself
    member-*.npz      the weights of one member; the name is made of the content
    network.keras     the network
    README.md         for people: what it is, and how to load it; of an ensemble that was saved

    Args:
        path: The folder.
        check: Called before a file takes its place: raises an error if `path` is another folder by now.
    """

    def __init__(self, path: str | os.PathLike, check: Callable[[], None] = always_right):
        self.path = local_path(path)
        self.check = check

    def _in(self, name):
        return os.path.join(self.path, name)

    def exists(self) -> bool:
        """Whether the folder holds an ensemble."""
        return os.path.exists(self._in("manifest.json"))

    def create(self, network: keras.Model) -> dict[str, Any] | None:
        """Makes the folder and saves the network.

        Returns:
            The file of the network as the manifest lists it; None if Keras cannot save it, and in other processes.

        Raises:
            ValueError: if it holds an ensemble, or members of one.
            OSError: if it cannot be written.
        """
        with together():  # What another process finds here is not what the first one writes.
            return self._create(network)

    def _create(self, network):
        if self.exists():
            raise ValueError(f"`directory`: '{self.path}' holds an ensemble already. Give another one.")
        names = os.listdir(self.path) if os.path.isdir(self.path) else []
        if members := [name for name in names if name.startswith("member-")]:
            raise ValueError(
                f"`directory`: '{self.path}' holds members, such as {min(members)}, but no manifest.json of a run. "
                "Give another folder."
            )
        if is_chief():
            os.makedirs(self.path, exist_ok=True)
        entry = None
        try:
            # A folder is not to change the training: nothing is drawn, nor done that other processes do not do.
            with locked(network), random_states_kept(), on_this_process():
                copy = clone(network)  # Without the optimizer, and whatever it takes to compile the network.
                copy.set_weights(network.get_weights())
                if is_chief():
                    self._save(copy)
                    content = read_bytes(self._in("network.keras"))
                    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                    loaded = self.load_network(entry)  # What fails is to be known before the training, not after it.
                    if found := untold(copy, loaded):
                        entry["untold"] = found
                        tell(loaded, found)
                    _check_same_values(loaded, copy)
        except (ValueError, TypeError, NotImplementedError) as error:
            warnings.warn(
                f"'{network.name}' cannot be saved and loaded again; `Ensemble.load('{self.path}', network=...)` will "
                f"need one that you build. {error}",
                stacklevel=2,
            )
        return entry

    def _save(self, network):
        path = self._in("network.keras")
        with temporary_name(self._in("network"), ".keras") as temporary:
            try:
                network.save(temporary)
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror or error}, writing the network", path) from error
            self.check()
            replace(temporary, path)

    def remove_leftovers(self) -> None:
        """Removes what a killed process had not finished writing."""
        if is_chief():
            remove_leftovers(self.path, lambda name: bool(OURS.fullmatch(name)))

    def load_network(self, entry: dict[str, Any] | None, verify: bool = True) -> keras.Model:
        """Loads the network, not compiled.

        Args:
            entry: As `create` returned it.
            verify: Whether to compare the file with it.

        Raises:
            ValueError: if it is not the file that was written, would unfold to more than its size, or Keras cannot load
                it.
        """
        path = self._in("network.keras")
        try:
            written = (entry["size"], entry["sha256"]) if entry and verify else ()
            check_keras_file(read_bytes(path, *written, follows=False), path)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"The network cannot be loaded: give `network`, or load what is there with `verify=False`. {error}"
            ) from error
        try:
            network = keras.saving.load_model(path, compile=False)
            tell(network, entry.get("untold", {}) if entry else {})
            return network
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"The network '{path}' cannot be loaded: give `network`, or import the module that registers its "
                f"classes. Keras says: {error}"
            ) from error

    def write_card(self, text: str) -> None:
        """Writes README.md, unless there is one, which is the user's."""
        if not os.path.exists(self._in("README.md")):
            write_atomically(self._in("README.md"), text.encode(), self.check)

    def write_manifest(self, members: Sequence[Any], about: Mapping[str, Any]) -> None:
        """Replaces the list of members, and what there is to say `about` them, as JSON can hold it."""
        head, lines = {"format": FORMAT, **about}, [member.line for member in members]
        text = json.dumps({**head, "checksum": checksum_of_manifest(head, lines)}, indent=1).removesuffix("\n}")
        text += ',\n "members": [\n' + ",\n".join(lines) + "\n ]\n}"
        write_atomically(self._in("manifest.json"), text.encode(), self.check)

    def read_manifest(self, verify: bool = True) -> tuple[list[StoredSnapshot], dict[str, Any]]:
        """Reads the manifest: the members, and what `write_manifest` was told about them.

        Args:
            verify: Whether to compare it with its checksum, and members, each time they are read, with theirs.

        Raises:
            ValueError: if there is none, or it is damaged or of another format.
        """
        path = self._in("manifest.json")
        try:
            manifest = json.loads(read_bytes(path, follows=False))
            if (found := manifest.pop("format")) != FORMAT:
                raise ValueError(
                    f"It has format {found}, of {'a newer version' if found > FORMAT else 'version 0.1 or 0.2'} of "
                    f"keras-fge; this one reads format {FORMAT}."
                )
            head = {name: value for name, value in manifest.items() if name not in ("members", "checksum")}
            lines = [json.dumps(entry) for entry in manifest["members"]]
            if manifest.pop("checksum") != checksum_of_manifest({"format": found, **head}, lines) and verify:
                raise ValueError("It was changed: it does not have its checksum. `verify=False` would load it.")
            check(manifest, Manifest)
            members = [StoredSnapshot(self.path, entry, verify) for entry in manifest.pop("members")]
            if len(manifest["weights"] or members) != len(members):
                raise ValueError(f"It has {len(manifest['weights'])} weights for {len(members)} members.")
        except FileNotFoundError:
            raise ValueError(f"`directory`: there is no ensemble in '{self.path}'; it has no manifest.json.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = error if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"'{path}' is no manifest of an ensemble, or a damaged one. {reason}") from error
        return members, manifest


def checksum_of_manifest(head, lines):
    """That of a manifest: of what it says about the members, and of the line of each."""
    return hashlib.sha256("\n".join([checksum(head), *lines]).encode()).hexdigest()[:16]


def _check_same_values(loaded, network):
    """Raises a ValueError unless what was loaded is what was saved."""
    check_same_architecture(loaded, network, "the network as it is loaded", "as it was saved")
    summed = set()  # Of LoRA, the file has the sum with the frozen weight.
    for ours, theirs in zip(all_layers(loaded), all_layers(network)):
        if has_lora(theirs) and (factors := lora_factors(theirs)):
            sums = [ops.convert_to_numpy(sum_with_lora(layer)) for layer in (ours, theirs)]
            if not np.allclose(*sums, rtol=1e-5, atol=1e-6, equal_nan=True):
                raise ValueError(f"Once loaded, layer '{theirs.name}' with LoRA has another weight.")
            summed |= {id(factor) for factor in factors}
            summed |= {id(weight) for weight in theirs.weights if tuple(weight.shape) == sums[1].shape}
    pairs = zip(loaded.weights, network.weights)
    if not all(np.array_equal(read(a), read(b), equal_nan=True) for a, b in pairs if id(b) not in summed):
        raise ValueError("Once loaded, it has other weights.")
