"""What a layer saves that is none of its variables: vocabularies, and what a class of the user's own adds."""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_fge.core.files import checksum_of_arrays
from keras_fge.core.keras_internals import all_layers, has


def own_state(layer: keras.layers.Layer) -> dict[str, Any]:
    """What `layer` saves beside its variables: the content of its assets by file, and arrays by key."""
    state: dict[str, Any] = dict(_beside_variables(layer))
    if _has_assets(layer):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
            state |= {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return state


def checksum_of_state(state: Mapping[str, Any]) -> str | None:
    """A checksum of what `own_state` returned, by value: 3 is 3.0; None if that is nothing."""
    parts = [np.asarray(part) for item in sorted(state.items()) for part in item]
    return (
        checksum_of_arrays(part.astype("float64") if part.dtype.kind in "biuf" else part for part in parts)
        if parts
        else None
    )


def copy_own_state(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives `copy`, a layer of the same configuration, what `layer` saves beside its variables."""
    if arrays := _stored(layer):
        copy.load_own_variables(arrays)
    if _has_assets(layer):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)


def check_kept(network: keras.Model) -> None:
    """Raises a ValueError if a layer of a class of the user's own has a state that snapshots would not hold."""
    for layer in all_layers(network):
        arrays = {} if _is_of_keras(layer) else _beside_variables(layer)
        arrays = {key: array for key, array in arrays.items() if array.dtype.kind != "U" and "version" not in key}
        if arrays:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) saves {', '.join(map(repr, arrays))} beside its "
                "variables. Snapshots and states of a training hold variables only: make it one, with "
                "`self.add_weight(..., trainable=False)`."
            )


def _beside_variables(layer):
    """The arrays that `layer` stores, less those that are its variables."""
    stored = _stored(layer)  # Of nearly all layers nothing: their weights are not to be copied here.
    values = [keras.ops.convert_to_numpy(variable.value) for variable in layer.variables] if stored else []
    return {key: array for key, array in stored.items() if not any(_is_same(array, value) for value in values)}


def _is_same(array, value):
    return np.array_equal(array, value, equal_nan=array.dtype.kind == "f")


def _stored(layer):
    """What `save_own_variables` stores; nothing for a layer of Keras without assets, which keeps to its variables."""
    store: dict[str, Any] = {}
    if layer.built and (_has_assets(layer) or not _is_of_keras(layer)):
        layer.save_own_variables(store)
    return {key: keras.ops.convert_to_numpy(value) for key, value in store.items()}


def _has_assets(layer):
    return layer.built and has(layer, "save_assets", keras.layers.StringLookup)


def _is_of_keras(layer):
    return type(layer).save_own_variables.__module__.startswith(("keras.", "keras_hub."))
