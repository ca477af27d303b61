"""An ensemble as one Keras model: the members side by side, with what they share in it once."""

import keras
import numpy as np

from keras_fge.core.compile_as import compile_as
from keras_fge.core.keras_internals import forget_optimizer, has_graph
from keras_fge.core.networks import clone, complete, inputs_and_outputs, set_weights
from keras_fge.core.output import at_least_float32
from keras_fge.core.tasks import output_names
from keras_fge.ensemble.members import Members
from keras_fge.ensemble.trunk import shared_layers


def one_model(members: Members, with_variance: bool = False) -> keras.Model:
    """See `Ensemble.to_model`.

    Args:
        members: Of a functional or Sequential network.
        with_variance: Whether to output [mean, variance over the members], of a network with one output of values.
            Default: the mean.

    Raises:
        ValueError: if it is of a class of its own.
    """
    if not has_graph(members.network):
        raise ValueError(
            f"`to_model` needs a functional or Sequential network. Received: {type(members.network).__name__}, which "
            "you can call inside a functional model: keras.Model(inputs, network(inputs))."
        )
    network, snapshots, outputs = members.network, members.snapshots, members.outputs
    structure, _ = inputs_and_outputs(network)
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), structure
    )
    shared = {id(layer): clone(layer) for layer in shared_layers(network, snapshots)}
    results: dict = {}
    predictions = []
    for index, snapshot in enumerate(snapshots):
        if shared:
            member = _with_shared_layers(network, inputs, shared, results, index + 1)
            set_weights(member, snapshot.weights)
            tensors = member.output
        else:
            member = clone(network)
            member.name = f"member_{index + 1}"
            set_weights(member, snapshot.weights)
            tensors = member(inputs)
        member.trainable = False
        predictions.append(tensors)
    shares = np.asarray(members.shares) / np.sum(members.shares)
    mean = outputs.mean_layers(predictions, shares)
    if with_variance:
        squares = [keras.ops.square(tensor - mean) for tensor in predictions]
        return keras.Model(inputs, [mean, outputs.mean_layers(squares, shares)], name=f"{network.name}_ensemble")
    mean = outputs.temperature_layers(network, mean, members.temperature)
    mean = _named(mean, inputs, _unique_output_names(network))
    model = keras.Model(inputs, mean, name=f"{network.name}_ensemble")
    model(inputs)  # Keras exports to ONNX only what was called.
    each = outputs.each(len(model.outputs))
    if any(output.task == "gaussian" for output in each):
        return model  # Its loss is one of the logarithm of the variance.
    takes_logits = any(output.from_logits for output in each)
    if compile_as(model, network, instead_of_logits=takes_logits).compiled:
        forget_optimizer(model)
    return model


def _unique_output_names(network):
    """The names of the outputs of `network`; none if one stands twice, as of a head that is called twice."""
    if isinstance(network, keras.Sequential):
        network = keras.Model(network.inputs, network.outputs)
    names = output_names(network)
    return names if len(set(names)) == len(names) else []


def _named(tensors, inputs, names):
    """The tensors by these names, which losses, metrics and clients know; a layer that has one of them gets another."""
    for layer in keras.Model(inputs, tensors).layers:
        if layer.name in names:
            layer.name = f"{layer.name}_inside"
    left = iter(names)

    def named(tensor):
        return keras.layers.Identity(dtype=at_least_float32(tensor.dtype), name=next(left, None))(tensor)

    return keras.tree.map_structure(named, tensors)


def _with_shared_layers(network, inputs, shared, results, number):
    """A copy of a network on `inputs` that has the layers `shared`, and their `results` of before."""
    if isinstance(network, keras.Sequential):
        network = keras.Model(*inputs_and_outputs(network))

    def copy(layer):
        if id(layer) in shared:
            return shared[id(layer)]
        config = layer.get_config()
        return type(layer).from_config({**config, "name": f"{config['name']}_of_member_{number}"})

    copies = {id(layer) for layer in shared.values()}

    def call(layer, *args, **kwargs):
        if id(layer) not in copies:
            return layer(*args, **kwargs)
        # What stands before the first layer that differs between members gives the same tensors again.
        key = (id(layer), *(id(tensor) for tensor in keras.tree.flatten((args, kwargs))))
        if key not in results:
            results[key] = layer(*args, **kwargs)
        return results[key]

    member = keras.models.clone_model(network, inputs, clone_function=copy, call_function=call)
    complete(network, member)
    return member
