"""Any Keras network: copies of it and of its values, locks, distances."""

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.architecture import check_same_function
from keras_fge.core.keras_internals import all_layers, has, has_lora
from keras_fge.core.own_state import copy_own_state


def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Makes a layer or network of the same architecture, not compiled, with weights of its own.

    Raises:
        ValueError: if Keras cannot make one, as for a class without a working `get_config`, or makes another one.
    """
    compiled = isinstance(layer, keras.Model) and layer.compiled
    try:
        if not isinstance(layer, keras.Model):
            return type(layer).from_config(layer.get_config())
        layer.compiled = False  # Or Keras would clone optimizer and loss too, and fail where these are the user's own.
        copy = keras.models.clone_model(layer)
    except Exception as error:
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) could not be rebuilt from its configuration. A class of your own "
            f"needs a `get_config` that returns its constructor arguments. Keras says: {error}"
        ) from error
    finally:
        if compiled:
            layer.compiled = True
    ours, theirs = ([len(part.layers) for part in _sequential_parts(network)] for network in (layer, copy))
    if ours != theirs:
        raise ValueError(
            f"A part of '{layer.name}' is a Sequential model in which one layer stands twice. Keras copies (and saves) "
            "it only once: share the layer in a functional model instead."
        )
    complete(layer, copy)
    return copy


def complete(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives `copy`, made of the configuration of `layer`, what that does not tell of layers inside a layer.

    That is what is frozen, int8, LoRA, and vocabularies.

    Raises:
        ValueError: if it is not the same then.
    """
    if len(_parts(layer)) == len(_parts(copy)):
        tell(copy, untold(layer, copy))
        for ours, theirs in zip(_parts(layer), _parts(copy)):
            copy_own_state(ours, theirs)
    check_same_function(layer, copy, f"'{layer.name}'", "what Keras makes of its configuration")


def _parts(network):
    """All layers, less inputs, of which a copy may have others. A layer is known by its place in this list."""
    return [part for part in all_layers(network) if not isinstance(part, keras.layers.InputLayer)]


def untold(network: keras.layers.Layer, copy: keras.layers.Layer) -> dict[str, list[Any]]:
    """What Keras left out in `copy`, made of the configuration of `network`, as JSON can hold it.

    Returns:
        {"frozen": places of all layers that are not trainable, unless `copy` has the same ones,
        "int8": places of the layers so quantized that `copy` has in full precision,
        "lora": [place, rank, alpha] of each LoRA that `copy` lacks}
    """
    pairs = list(zip(_parts(network), _parts(copy)))
    found: dict[str, list[Any]] = {}
    modes = [(ours.quantization_mode, theirs.quantization_mode) for ours, theirs in pairs]
    if int8 := [place for place, mode in enumerate(modes) if mode == ("int8", None) and pairs[place][1].built]:
        found["int8"] = int8
    if any(ours.trainable != theirs.trainable for ours, theirs in pairs):
        found["frozen"] = [place for place, (ours, _) in enumerate(pairs) if not ours.trainable]
    adapted = [(place, ours) for place, (ours, theirs) in enumerate(pairs) if has_lora(ours) and not has_lora(theirs)]
    if lora := [[place, ours.lora_rank, ours.lora_alpha] for place, ours in adapted if pairs[place][1].built]:
        found["lora"] = lora
    return found


def tell(copy: keras.layers.Layer, found: Mapping[str, Sequence[Any]]) -> None:
    """Gives `copy` what `untold` found. The product of the factors of new LoRA is 0.

    Raises:
        ValueError: if it has no such layer.
    """
    parts = _parts(copy)
    for place in found.get("int8", ()):  # Before LoRA, which stands beside what is quantized.
        if not (place < len(parts) and has(parts[place], "quantize", keras.layers.Dense)):
            raise ValueError(f"'{copy.name}' has no layer at place {place} that can be quantized.")
        parts[place].quantize("int8")
    if "frozen" in found:  # Before LoRA, as it would make all variables of a layer trainable, or none.
        for place, part in enumerate(parts):
            if part.trainable == (place in found["frozen"]):
                part.trainable = not part.trainable
    for place, rank, alpha in found.get("lora", ()):
        if not (place < len(parts) and has(parts[place], "enable_lora", keras.layers.Dense)):
            raise ValueError(f"'{copy.name}' has no layer at place {place} that can have LoRA.")
        parts[place].enable_lora(rank, lora_alpha=alpha)


def _sequential_parts(network):
    return [part for part in all_layers(network) if isinstance(part, keras.Sequential)]


def inputs_and_outputs(network: keras.Model) -> tuple[Any, Any]:
    """The structures of symbolic tensors that a functional or Sequential network takes and returns."""
    if isinstance(network, keras.Sequential):
        return network.inputs[0], network.outputs[0]
    return network.input, network.output


def set_weights(network: keras.Model, weights: Sequence[np.ndarray]) -> None:
    """Sets all weights of `network`, and recomputes what depends on them; recurrent layers begin anew."""
    network.set_weights(weights)
    recompute_constants(network)
    reset_states(network)


def recompute_constants(network: keras.layers.Layer) -> None:
    """Recomputes the constants that a few layers derive from their weights (`Normalization`)."""
    for layer in all_layers(network):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def recurrent_states(network: keras.Model) -> list[keras.Variable]:
    """The states of stateful recurrent layers, which Keras does not count among the variables of a network."""
    layers = [layer for layer in all_layers(network) if isinstance(layer, keras.layers.RNN) and layer.stateful]
    return [state for layer in layers for state in keras.tree.flatten(layer.states) if state is not None]


def reset_states(network: keras.Model) -> None:
    """Has stateful recurrent layers begin anew."""
    for state in recurrent_states(network):
        state.assign(ops.zeros_like(state.value))


def regularization(network: keras.Model) -> float:
    """The sum of the weight regularizers of `network`; layers that `network` hides are not part of it."""
    with keras.StatelessScope([(v, v.value) for v in network.variables], collect_losses=True):
        terms = network.losses  # No call has been made in this scope: there are no activity regularizers among them.
    return float(sum(ops.convert_to_numpy(term) for term in terms))


_locks: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()
_lock_of_locks = threading.Lock()


def _after_fork():
    """Threads that hold a lock are not in a process that was forked: nobody will ever put those weights back."""
    global _lock_of_locks
    _lock_of_locks = threading.Lock()
    for network, lock in list(_locks.items()):
        if lock is not None and lock.acquire(blocking=False):
            lock.release()
        else:
            _locks[network] = None


if os.name == "posix":
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def locked(*networks: keras.Model) -> Iterator[None]:
    """Keeps other threads out of `networks` while weights that are not theirs may stand in them; can be entered again.

    (`fit` and `predict` of the networks themselves know nothing of it.)

    Raises:
        RuntimeError: in a process that was forked while another thread was inside: its weights may still stand there.
    """
    in_order = sorted(networks, key=id)  # The same in all threads, so that two do not wait for each other.
    with _lock_of_locks:
        locks = [_locks.setdefault(network, threading.RLock()) for network in in_order]
    if None in locks:
        raise RuntimeError(
            f"Another thread used '{in_order[locks.index(None)].name}' when this process was forked: its weights may "
            "be those of another member. Fork before, or load the network again in this process."
        )
    with contextlib.ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield


@contextlib.contextmanager
def restored(network: keras.Model, only_on_error: bool = False) -> Iterator[None]:
    """Puts the values of all variables of `network` back after the block, or only if it fails or is interrupted.

    The states of recurrent layers come back in any case: to predict changes them. One thread at a time can be inside,
    for one network; it can enter again. On JAX, `predict` and `evaluate` take the values out of the model and, if they
    break off, do not bring them back.
    """
    with locked(network):
        values = [(variable, read(variable)) for variable in network.variables]
        states = [(state, read(state)) for state in recurrent_states(network)]
        try:
            yield
        except BaseException:
            only_on_error = False
            raise
        finally:
            for variable, value in states if only_on_error else values + states:
                variable.assign(value)


@contextlib.contextmanager
def borrowed(network: keras.Model) -> Iterator[None]:
    """Inside, other weights may stand in `network`; afterwards, also after an error, its own do."""
    with locked(network):
        try:
            with restored(network):
                yield
        finally:
            recompute_constants(network)


def read(variable: keras.Variable) -> np.ndarray:
    """The value of a Keras variable as a numpy array of its own.

    Also the way to copy a variable into another: on JAX, `a.assign(b)` shares the buffer, and the next `fit` donates it
    twice.
    """
    return ops.convert_to_numpy(variable.value)


def to_array(variable: keras.Variable) -> np.ndarray:
    """As `read`, in a type that numpy itself knows; see `as_plain`."""
    return as_plain(read(variable))


def as_plain(array: Any) -> np.ndarray:
    """The array in a type that numpy itself knows, to be averaged and written: bfloat16 becomes float32."""
    array = np.asarray(array)
    return array if array.dtype.isbuiltin == 1 else array.astype("float32")


def check_finite(variables: Sequence[keras.Variable], values: Sequence[np.ndarray], when: str) -> None:
    """Raises a FloatingPointError that says `when`, if a value is NaN, or one that is trained is infinite.

    (A constant, such as a mask, may be infinite.)
    """
    for variable, value in zip(variables, values):
        if value.dtype.kind == "f" and not np.all(np.isfinite(value) if variable.trainable else ~np.isnan(value)):
            raise FloatingPointError(f"The training has diverged: '{variable.path}' is not finite {when}")


def distance(network: keras.Model, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """||w - v|| of two lists of weights of `network`, over the trainable ones."""
    trainable = {id(variable) for variable in network.trainable_variables}
    pairs = [pair for variable, *pair in zip(network.weights, first, second) if id(variable) in trainable]
    return float(np.sqrt(sum(np.sum((np.asarray(a, "float64") - b) ** 2) for a, b in pairs)))
