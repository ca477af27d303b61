"""`compile_as`: gives a network the losses, metrics and optimizer of another one, or of a file."""

import contextlib
import inspect
import json
import warnings
from typing import Any

import keras
import numpy as np

from keras_fge.core.compiled import said_by_loss
from keras_fge.core.keras_internals import compile_arguments


def compile_as(network: keras.Model, original: keras.Model, instead_of_logits: bool = False) -> keras.Model:
    """Compiles `network` as `original` is, and returns it; leaves it as it is, if that is not compiled.

    Optimizer and metrics hold values, so `network` gets copies; a loss holds none. What cannot be copied, for want of a
    `get_config` that works, is left out, with a warning. A class with a `compile` of its own is compiled only if it
    also has a `compile_from_config` of its own.

    Args:
        network: A network with the same outputs.
        original: What says how.
        instead_of_logits: Whether `network` outputs probabilities where `original` outputs logits: losses and metrics
            with `from_logits` become those of probabilities. If a loss does not tell what it takes, as a user's own may
            not, `network` stays as it is.
    """
    if not original.compiled:
        return network
    if type(original).compile is not keras.Model.compile:
        can_copy = type(original).compile_from_config is not keras.Model.compile_from_config
        if can_copy and type(network) is type(original):
            network.compile_from_config(original.get_compile_config())
        return network
    arguments = compile_arguments(original)
    losses = arguments["loss"]
    if instead_of_logits:
        if any(said_by_loss(loss, None) is None for loss in keras.tree.flatten(losses)):
            return network
        losses = keras.tree.map_structure(_of_probabilities, losses)
    copied = {
        name: _copied(name, arguments[name], instead_of_logits) for name in ("optimizer", "metrics", "weighted_metrics")
    }
    network.compile(**{**arguments, "loss": losses, **copied})
    return network


def compile_config(network: keras.Model) -> dict[str, Any] | None:
    """How `network` is compiled, as JSON can hold it; None if it is not, or Keras cannot say it so."""
    if network.compiled and type(network).compile is keras.Model.compile:
        with contextlib.suppress(Exception):  # As of a loss of a user's own without a `get_config` that works.
            return json.loads(json.dumps(network.get_compile_config()))
    return None


def compile_by_config(network: keras.Model, config: dict[str, Any] | None) -> keras.Model:
    """Compiles `network` as `compile_config` says, and returns it; leaves it if Keras does not know all names there."""
    if config is not None:
        with contextlib.suppress(Exception):  # Predicting needs none of it.
            network.compile(**keras.saving.deserialize_keras_object(config))
    return network


def _copied(name, structure, instead_of_logits):
    """Copies of the parts of an argument of `compile`; None, with a warning, if one cannot be copied."""
    try:
        return keras.tree.map_structure(lambda part: _copy(part, instead_of_logits), structure)
    except Exception as error:
        warnings.warn(
            f"A copy of the network is compiled without the `{name}` of the network, which would need a `get_config` "
            f"that returns the constructor arguments: {error}",
            stacklevel=4,
        )
        return None


def _of_probabilities(loss):
    takes_logits = isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits")
    return type(loss).from_config({**loss.get_config(), "from_logits": False}) if takes_logits else loss


def _copy(part, instead_of_logits):
    """A copy of an optimizer or a metric; a name or a function as it is."""
    if not isinstance(part, keras.optimizers.Optimizer | keras.metrics.Metric):
        return part
    config = part.get_config()
    if missing := _left_out(type(part), config):
        raise ValueError(f"that of {type(part).__name__} does not have {', '.join(missing)}.")
    return type(part).from_config(_config_of_probabilities(config) if instead_of_logits else config)


def _left_out(kind, config):
    """The arguments of a user's own class that its configuration does not have, so that a copy would have others."""
    if kind.__module__.split(".")[0] == "keras":
        return []
    parameters = inspect.signature(kind).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in named if name not in config]


def _config_of_probabilities(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a metric, or loss, of probabilities that measures what this one measures of logits."""
    if "from_logits" in config:
        return {**config, "from_logits": False}
    cuts = {name: config[name] for name in ("threshold", "thresholds") if config.get(name) is not None}
    return {**config, **{name: (1 / (1 + np.exp(-np.asarray(cut, "float64")))).tolist() for name, cut in cuts.items()}}
