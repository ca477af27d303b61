"""The folder of an ensemble: its network, a file for each member, a manifest, and the state of a run that may go on."""

import hashlib
import json
import math
import os
import random
import time
import warnings

import keras
import numpy as np

from curves.files import read_npz, replace, to_npz, write_atomically
from curves.networks import clone
from keras_fge.snapshots import StoredSnapshot

FORMAT = 1


class Folder:
    """Reads and writes the files. The manifest comes last: what it lists is there, whenever a process ends.

    manifest.json     members with steps, learning rates, metrics and SHA-256 checksums
    member-*.npz      the weights of one member; the name is made of the content
    network.keras     the network
    state.npz         of a run: everything that is needed to go on at the end of an epoch
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self._state_written_at, self._seconds_to_write_state = -math.inf, 0.0

    def _in(self, name):
        return os.path.join(self.path, name)

    def exists(self):
        return os.path.exists(self._in("manifest.json"))

    def create(self, network):
        """Makes the folder and saves the network. To be called by all processes, where there are several.

        Raises:
            ValueError: if it holds an ensemble.
            OSError: if it cannot be written.
        """
        if self.exists():
            raise ValueError(f"`directory`: '{self.path}' holds an ensemble already. Give another one.")
        if is_chief():
            os.makedirs(self.path, exist_ok=True)
        temporary = self._in(f"network.{os.getpid()}.tmp.keras")
        try:
            copy = clone(network)  # Without the optimizer, and whatever it takes to compile the network.
            copy.set_weights(network.get_weights())  # On several processes, these two lines communicate.
            if is_chief():
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
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    def remove_leftovers(self):
        """Removes what a process that was killed had not finished writing."""
        for name in os.listdir(self.path) if is_chief() else ():
            if ".tmp" in name:
                os.unlink(self._in(name))

    def load_network(self):
        path = self._in("network.keras")
        try:
            return keras.saving.load_model(path, compile=False)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"The network '{path}' cannot be loaded: give `network`, or import the module that registers its "
                f"classes. Keras says: {error}"
            ) from error

    def write_manifest(self, members, **about):
        entries = [member.to_entry() for member in members]
        text = json.dumps({"format": FORMAT, **about, "members": entries}, indent=1)
        write_atomically(self._in("manifest.json"), text.encode())

    def read_manifest(self):
        """The manifest, with `StoredSnapshot`s as "members"."""
        path = self._in("manifest.json")
        try:
            with open(path, encoding="utf-8") as file:
                manifest = json.load(file)
            if manifest["format"] != FORMAT:
                raise ValueError(f"'{path}' has format {manifest['format']}, but this version reads format {FORMAT}.")
            manifest["members"] = [StoredSnapshot(self.path, entry) for entry in manifest["members"]]
        except FileNotFoundError:
            raise ValueError(f"`directory`: there is no ensemble in '{self.path}'; it has no manifest.json.") from None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' is no manifest of an ensemble, or a damaged one: {error!r}") from error
        return manifest

    def write_member(self, snapshot):
        return StoredSnapshot.write(snapshot, self.path, "member")

    def write_state(self, counters, values):
        """Replaces the state: integers by name, and a list of arrays; the generators of random numbers are added."""
        begin = time.monotonic()
        arrays = {f"value_{index:06}": value for index, value in enumerate(values)}
        counters = json.dumps({**counters, "random": _random_states()})
        write_atomically(self._in("state.npz"), to_npz({**arrays, "counters": counters}))
        self._state_written_at = time.monotonic()
        self._seconds_to_write_state = self._state_written_at - begin

    def state_is_due(self):
        """Whether the state can be written again, so that writing takes at most a tenth of the time of training."""
        return time.monotonic() - self._state_written_at >= 9 * self._seconds_to_write_state

    def read_state(self):
        """(counters, values); `set_random_states(counters["random"])` brings the generators to where they were."""
        path = self._in("state.npz")
        if not os.path.exists(path):
            raise ValueError(f"`directory`: '{self.path}' holds an ensemble, but no state of a run to resume.")
        arrays = read_npz(path, path)
        counters = json.loads(str(arrays.pop("counters")))
        return counters, list(arrays.values())


def checksum(description):
    """Of what JSON can hold, or anything that has a text."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _random_states():
    """The states of the global generators of Python, numpy and torch, which shuffle Keras' arrays on JAX and torch."""
    name, keys, *rest = np.random.get_state()
    states = {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}
    if keras.backend.backend() == "torch":
        import torch

        states["torch"] = torch.get_rng_state().tolist()
        if torch.cuda.is_available():
            states["cuda"] = [state.tolist() for state in torch.cuda.get_rng_state_all()]
    return states


def set_random_states(states):
    """Brings the global generators to where they were."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))
    if keras.backend.backend() == "torch" and "torch" in states:
        import torch

        torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([torch.tensor(state, dtype=torch.uint8) for state in states["cuda"]])


def is_chief():
    """Whether this process writes: the first one, where JAX runs on several."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0
