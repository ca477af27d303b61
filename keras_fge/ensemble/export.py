"""An ensemble as one Keras model: the members side by side, with what they share in it once."""

from collections.abc import Sequence

import keras

from keras_fge.core.compile_as import compile_as
from keras_fge.core.networks import clone, set_weights
from keras_fge.core.tasks import Outputs, at_least_float32, output_names
from keras_fge.run import Snapshot, sharing


def one_model(
    network: keras.Model, snapshots: Sequence[Snapshot], outputs: Outputs, weights: Sequence[float] | None
) -> keras.Model:
    """See `Ensemble.to_model`.

    Args:
        network: A functional or Sequential network.
        snapshots: The members.
        outputs: What the network outputs.
        weights: Shares of the members; None: equal ones.
    """
    structure = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), structure
    )
    shared = _shared_layers(network, snapshots)
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
        share = 1 if weights is None else weights[index] * len(snapshots)
        predictions.append(_scaled(outputs.layers(tensors), share))
    names = iter(output_names(network))  # Losses and metrics may be given by name, and clients may ask by it.
    mean = keras.tree.map_structure(lambda *tensors: _mean_layer(next(names, None), *tensors), *predictions)
    model = keras.Model(inputs, mean, name=f"{network.name}_ensemble")
    model(inputs)  # Keras exports to ONNX only what was called.
    takes_logits = any(output.from_logits for output in outputs.each(len(model.outputs)))
    return compile_as(model, network, instead_of_logits=takes_logits)


def _shared_layers(network, snapshots):
    """{id of layer: copy} of the layers of `network` whose weights all snapshots share."""
    first, *others = snapshots
    shared = [sharing(snapshot, first, network).shared for snapshot in others]
    indices = frozenset.intersection(*shared, *([first.shared] if first.base else [])) if shared else frozenset()
    fixed = {id(network.weights[index]) for index in indices}
    layers = [layer for layer in network.layers if layer.weights and all(id(v) in fixed for v in layer.weights)]
    copies = {id(layer): clone(layer) for layer in layers}
    for copy in copies.values():  # The names of the network's outputs are those of the means.
        copy.name = f"{copy.name}_shared"
    return copies


def _with_shared_layers(network, inputs, shared, results, number):
    """A copy of a network on `inputs` that has the layers `shared`, and their `results` of before."""
    if isinstance(network, keras.Sequential):
        network = keras.Model(network.inputs[0], network.outputs[0])

    def copy(layer):
        if id(layer) in shared:
            return shared[id(layer)]
        config = layer.get_config()
        return type(layer).from_config({**config, "name": f"{config['name']}_{number}"})

    copies = {id(layer) for layer in shared.values()}

    def call(layer, *args, **kwargs):
        if id(layer) not in copies:
            return layer(*args, **kwargs)
        # What stands before the first layer that differs between members gives the same tensors again.
        key = (id(layer), *(id(tensor) for tensor in keras.tree.flatten((args, kwargs))))
        if key not in results:
            results[key] = layer(*args, **kwargs)
        return results[key]

    return keras.models.clone_model(network, inputs, clone_function=copy, call_function=call)


def _scaled(tensors, factor):
    if factor == 1:
        return tensors

    def scaled(tensor):
        return keras.layers.Rescaling(factor, dtype=at_least_float32(tensor.dtype))(tensor)

    return keras.tree.map_structure(scaled, tensors)


def _mean_layer(name, *tensors):
    dtype = at_least_float32(tensors[0].dtype)
    if len(tensors) > 1:
        return keras.layers.Average(dtype=dtype, name=name)(tensors)
    return keras.layers.Identity(dtype=dtype, name=name)(tensors[0])
