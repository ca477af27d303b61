"""The folder of an ensemble: its network, a file for each member, and a manifest."""

import json
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_fge.core.files import read_bytes, remove_leftovers, replace, temporary_name, write_atomically
from keras_fge.core.keras_internals import is_chief
from keras_fge.core.networks import clone, locked
from keras_fge.snapshots import Snapshot, StoredSnapshot

FORMAT = 1
OURS = re.compile(r"network|manifest\.json|(member|start)-[0-9a-f]{16}\.npz")


class Folder:
    """Reads and writes the files. The manifest comes last: what it lists is there, whenever a process ends.

    manifest.json     members with steps, learning rates, metrics and SHA-256 checksums
    member-*.npz      the weights of one member; the name is made of the content
    network.keras     the network
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)

    def _in(self, name):
        return os.path.join(self.path, name)

    def exists(self) -> bool:
        """Whether the folder holds an ensemble."""
        return os.path.exists(self._in("manifest.json"))

    def create(self, network: keras.Model) -> None:
        """Makes the folder and saves the network. Where there are several processes, all of them call this.

        Raises:
            ValueError: if it holds an ensemble.
            OSError: if it cannot be written.
        """
        if self.exists():
            raise ValueError(f"`directory`: '{self.path}' holds an ensemble already. Give another one.")
        if is_chief():
            os.makedirs(self.path, exist_ok=True)
        try:
            with locked(network):  # On several processes, the two lines in it communicate.
                copy = clone(network)  # Without the optimizer, and whatever it takes to compile the network.
                copy.set_weights(network.get_weights())
            if is_chief():
                with temporary_name(self._in("network"), ".keras") as temporary:
                    copy.save(temporary)
                    with open(temporary, "rb+") as file:
                        os.fsync(file.fileno())
                    replace(temporary, self._in("network.keras"))
        except (ValueError, TypeError, NotImplementedError) as error:
            warnings.warn(
                f"'{network.name}' cannot be saved; `Ensemble.load('{self.path}', network=...)` will need one that you "
                f"build. {error}",
                stacklevel=2,
            )

    def remove_leftovers(self) -> None:
        """Removes what a killed process had not finished writing."""
        if is_chief():
            remove_leftovers(self.path, lambda name: bool(OURS.fullmatch(name)))

    def load_network(self) -> keras.Model:
        """Loads the network, not compiled.

        Raises:
            ValueError: if Keras cannot load it.
        """
        path = self._in("network.keras")
        try:
            return keras.saving.load_model(path, compile=False)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"The network '{path}' cannot be loaded: give `network`, or import the module that registers its "
                f"classes. Keras says: {error}"
            ) from error

    def write_manifest(self, members: Sequence[Snapshot], **about: Any) -> None:
        """Replaces the list of members, and what there is to say `about` them, as JSON can hold it."""
        entries = [member.to_entry() for member in members]
        text = json.dumps({"format": FORMAT, **about, "members": entries}, indent=1)
        write_atomically(self._in("manifest.json"), text.encode())

    def read_manifest(self) -> dict[str, Any]:
        """Reads the manifest, with a list of `StoredSnapshot` as "members".

        Raises:
            ValueError: if there is none, or it is damaged or of another format.
        """
        path = self._in("manifest.json")
        try:
            manifest = json.loads(read_bytes(path))
            if manifest["format"] != FORMAT:
                raise ValueError(f"It has format {manifest['format']}, but this version reads format {FORMAT}.")
            manifest["members"] = [StoredSnapshot(self.path, entry) for entry in manifest["members"]]
        except FileNotFoundError:
            raise ValueError(f"`directory`: there is no ensemble in '{self.path}'; it has no manifest.json.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"'{path}' is no manifest of an ensemble, or a damaged one: {error!r}") from error
        return manifest
