"""Which layers and networks can lie on a curve, and which two on the same one."""

import warnings

import keras
import numpy as np

from keras_fge.core.batch_norm import batch_norm_statistics
from keras_fge.core.keras_internals import all_layers, has, has_lora
from keras_fge.core.networks import read


def check_can_lie_on_a_curve(network: keras.layers.Layer) -> None:
    """Raises a ValueError that names the first layer or weight for which a network at w(t) would make no sense."""
    for variable in network.trainable_variables:
        if variable.constraint is not None:
            raise ValueError(
                f"'{variable.path}' has the constraint {type(variable.constraint).__name__}, which w(t) need not obey "
                "between the bends. Remove it."
            )
    for layer in all_layers(network):
        reason = None
        # Under LoRA, what is quantized is frozen.
        if layer.quantization_mode and not has_lora(layer):
            reason = f"is quantized to {layer.quantization_mode}: use the network before quantization, or LoRA"
        elif has(layer, "save_assets", keras.layers.TextVectorization):
            reason = "keeps state outside of its weights: apply it to the data instead"
        if reason:
            raise ValueError(f"Layer '{layer.name}' ({type(layer).__name__}) cannot lie on a curve. It {reason}.")


def warn_of_own_training(network: keras.Model) -> None:
    """A curve is trained by its own step, so what a network does in its own is not part of it."""
    if type(network).train_step is not keras.Model.train_step:
        warnings.warn(
            f"'{network.name}' has its own `train_step`, which a curve does not use: it minimizes the loss that you "
            "compile it with, at w(t), and the regularizers of the network. A `compute_loss` of its own would be used.",
            stacklevel=3,
        )


def check_same_lora(start: keras.Model, end: keras.Model, start_name: str, end_name: str) -> None:
    """Raises a ValueError if LoRA is enabled in one network only: its weights would have no partners."""
    for ours, theirs in zip(all_layers(start), all_layers(end)):
        enabled = [has_lora(layer) for layer in (ours, theirs)]
        if enabled[0] != enabled[1]:
            name, layer = (start_name, ours) if enabled[0] else (end_name, theirs)
            raise ValueError(
                f"LoRA is enabled in {name} only: layer '{layer.name}'. Enable it in both networks, on the same frozen "
                "weights, or in none (saving and loading a network merges it)."
            )


def check_same_constants(start: keras.Model, end: keras.Model, start_name: str, end_name: str) -> None:
    """Raises a ValueError if weights differ that are neither trained nor estimated: a curve has one copy of them."""
    statistics = {id(variable) for variable in batch_norm_statistics(start)}
    for a, b in zip(start.non_trainable_weights, end.non_trainable_weights):
        if id(a) not in statistics and not np.array_equal(read(a), read(b)):
            raise ValueError(
                f"{start_name} and {end_name} differ in '{a.path}', which is frozen and so has one "
                "value for all. Make it trainable in both networks, or give both the same values."
            )
