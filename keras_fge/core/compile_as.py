"""`compile_as`: gives a network the losses, metrics and optimizer of another one, or of a file."""

import contextlib
import inspect
import json
import warnings
from typing import Any

import keras
import numpy as np

from keras_fge.core.compiled import said_by_loss
from keras_fge.core.keras_internals import belongs_to_backend, compile_arguments


def compile_as(network: keras.Model, original: keras.Model, instead_of_logits: bool = False) -> keras.Model:
    """Compiles `network` as `original` is, and returns it; leaves it as it is, if that is not compiled.

    Optimizer and metrics hold values, so `network` gets copies; a loss holds none. What cannot be copied, for want of a
    `get_config` that works, is left out, with a warning. A class with a `compile` of its own is compiled only if it
    also has a `compile_from_config` of its own.

    Args:
        network: A network with the same outputs.
        original: What says how.
        instead_of_logits: Whether `network` outputs probabilities where `original` outputs logits: Keras' losses and
            metrics with `from_logits` become those of probabilities, and thresholds of its metrics, if there is one
            output, their sigmoid. If a user's own loss takes logits, or does not tell, `network` stays as it is; own
            metrics are left out, with a warning.
    """
    if not original.compiled:
        return network
    if not _compiles_as_keras(original):
        can_copy = type(original).compile_from_config is not keras.Model.compile_from_config
        if can_copy and type(network) is type(original):
            with _said_if_it_fails("what its `compile` sets"):
                network.compile_from_config(original.get_compile_config())
        return network
    arguments = compile_arguments(original)
    losses = arguments["loss"]
    if instead_of_logits:
        if not all(map(_can_take_probabilities, keras.tree.flatten(losses))):
            return network
        losses = keras.tree.map_structure(_of_probabilities, losses)
    # That of `compile` may have been wrapped, to scale the loss.
    parts = {"optimizer": original.optimizer, **{n: arguments[n] for n in ("metrics", "weighted_metrics")}}
    has_one_output = instead_of_logits and len(network.outputs) == 1
    copied = {name: _copied(name, part, instead_of_logits, has_one_output) for name, part in parts.items()}
    network.compile(**{**arguments, "loss": losses, **copied, "auto_scale_loss": False})
    return network


def _compiles_as_keras(network):
    """Whether `compile` is that of Keras, or one of KerasHub that has only other defaults."""
    own, theirs = (inspect.signature(kind.compile).parameters for kind in (type(network), keras.Model))
    is_known = type(network).compile.__module__.startswith(("keras.", "keras_hub."))
    return is_known and "loss" in own and own.keys() - {"kwargs"} <= theirs.keys()


def compile_config(network: keras.Model) -> dict[str, Any] | None:
    """How `network` is compiled, as JSON can hold it; None if it is not, or Keras cannot say it so without code."""
    if not network.compiled or not _compiles_as_keras(network):
        return None
    parts = keras.tree.flatten(compile_arguments(network))
    if any(getattr(part, "__name__", "") == "<lambda>" for part in parts):
        return None
    with contextlib.suppress(Exception):  # As of a loss of a user's own without a `get_config` that works.
        return _portable(json.loads(json.dumps(network.get_compile_config())))
    return None


def _portable(config):
    """The configuration with the public names of optimizers: that of torch's own classes needs torch to be loaded."""
    if isinstance(config, list):
        return [_portable(part) for part in config]
    if not isinstance(config, dict):
        return config
    config = {name: _portable(part) for name, part in config.items()}
    if belongs_to_backend(config.get("module")) and config.get("class_name") in vars(keras.optimizers):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


def compile_by_config(network: keras.Model, config: dict[str, Any] | None) -> keras.Model:
    """Compiles `network` as `compile_config` says, and returns it; leaves it, with a warning, if Keras cannot."""
    if config is not None:
        with _said_if_it_fails("losses and metrics, as own ones must be registered"):
            network.compile(**keras.saving.deserialize_keras_object(config))
    return network


@contextlib.contextmanager
def _said_if_it_fails(what):
    """An error in the block is a warning: predicting needs nothing of it."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"The network is left without {what}: {error}", stacklevel=4)


def _copied(name, structure, instead_of_logits, has_one_output):
    """Copies of the parts of an argument of `compile`; None, with a warning, if one cannot be copied."""
    try:
        return keras.tree.map_structure(lambda part: _copy(part, instead_of_logits, has_one_output), structure)
    except Exception as error:
        warnings.warn(f"A copy of the network is compiled without its `{name}`: {error}", stacklevel=4)
        return None


def _can_take_probabilities(loss):
    """Whether a loss of logits can be made one of probabilities, or takes these, or values."""
    said = said_by_loss(loss, None)
    return said is not None and (not said[0] or _is_of_keras(loss))


def _of_probabilities(loss):
    takes_logits = isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits")
    return type(loss).from_config({**loss.get_config(), "from_logits": False}) if takes_logits else loss


def _is_of_keras(part):
    return type(part).__module__.split(".")[0] == "keras"


def _copy(part, instead_of_logits, has_one_output):
    """A copy of an optimizer or a metric; a name or a function as it is."""
    is_metric = isinstance(part, keras.metrics.Metric)
    if instead_of_logits and not isinstance(part, str | None | keras.optimizers.Optimizer) and not _is_of_keras(part):
        is_function_of_keras = vars(keras.metrics).get(getattr(part, "__name__", "")) is part
        if not is_function_of_keras:
            raise ValueError(f"{part.name if is_metric else part} is a metric of your own, of logits as it seems.")
    if not is_metric and not isinstance(part, keras.optimizers.Optimizer):
        return part
    config = part.get_config()
    if missing := _left_out(part, config):
        raise ValueError(f"the `get_config` of {type(part).__name__} does not have {', '.join(missing)}.")
    changes = instead_of_logits and is_metric
    return type(part).from_config(_config_of_probabilities(config, has_one_output) if changes else config)


def _left_out(part, config):
    """The arguments of a user's own class that its configuration does not have, so that a copy would have others."""
    if _is_of_keras(part):
        return []
    parameters = inspect.signature(type(part)).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in named if name not in config]


def _config_of_probabilities(config: dict[str, Any], has_one_output: bool) -> dict[str, Any]:
    """The configuration of a metric of Keras' own that measures of probabilities what this one measures of logits.

    A threshold of 1/2, the default, stays: it was meant for probabilities.
    """
    if "from_logits" in config:
        return {**config, "from_logits": False}
    names = [name for name in ("threshold", "thresholds") if has_one_output and config.get(name) not in (None, 0.5)]
    return {**config, **{name: (1 / (1 + np.exp(-np.asarray(config[name], "float64")))).tolist() for name in names}}
