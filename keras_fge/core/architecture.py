"""What a network is: its layers and its graph, whatever they are called. Whether two are of one architecture."""

import base64
import itertools
import marshal
import re
import types
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.files import checksum, checksum_of_arrays
from keras_fge.core.keras_internals import all_layers, graph_of, has_graph
from keras_fge.core.own_state import checksum_of_state, own_state

# Options of Keras layers in which two networks of one architecture may differ.
ONLY_IN_TRAINING = re.compile(
    "^(trainable|seed|rate|stddev|momentum|unroll|initializer|regularizer)$"
    "|(^|_)(dropout|drop|drop_path|stochastic_depth)(_rate|_prob|_probability)?$"
    "|_(initializer|regularizer)$"
)


def check_same_architecture(
    start: keras.Model, end: keras.Model, start_name: str = "`start`", end_name: str = "`end`"
) -> None:
    """Raises a ValueError that names the first weight, option of a layer or call in which two networks differ.

    Weights are compared by order, shape and dtype, never by name: Keras numbers names as it goes.
    """
    for network, name in ((start, start_name), (end, end_name)):
        if not network.built or not network.weights:
            raise ValueError(f"{name} must be a built network with weights. Received: {network.name}, not built.")
    kinds = [
        (lambda network: network.trainable_variables, "trainable weight"),
        (lambda network: network.non_trainable_weights, "non-trainable weight"),
    ]
    for variables, kind in kinds:
        ours, theirs = variables(start), variables(end)
        for index, (a, b) in enumerate(zip(ours, theirs)):
            if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
                raise ValueError(
                    f"{start_name} and {end_name} must have the same architecture, but differ in {kind} {index}: "
                    f"'{a.path}' {tuple(a.shape)} {a.dtype} against '{b.path}' {tuple(b.shape)} {b.dtype}."
                )
        if len(ours) != len(theirs):
            longer, name = (ours, start_name) if len(ours) > len(theirs) else (theirs, end_name)
            raise ValueError(
                f"{start_name} and {end_name} must have the same architecture, but have {len(ours)} and {len(theirs)} "
                f"{kind}s. The first without a partner is '{longer[min(len(ours), len(theirs))].path}' of {name}."
            )
    check_same_function(start, end, start_name, end_name)


def check_same_function(start: keras.layers.Layer, end: keras.layers.Layer, start_name: str, end_name: str) -> None:
    """Raises a ValueError if equal weights would compute something else, as with another activation or stride.

    Unlike `check_same_architecture`, it takes layers, built or not, and does not look at their weights.
    """
    none: dict[str, Any] = {}
    for a, b in itertools.zip_longest(layer_signatures(start), layer_signatures(end), fillvalue=none):
        for key in a | b:
            if key != "name" and checksum(a.get(key)) != checksum(b.get(key)):  # By which NaN is NaN.
                raise ValueError(
                    f"{start_name} and {end_name} must have the same architecture, but differ in `{key}`: "
                    f"{a.get(key)} in layer '{a.get('name')}' against {b.get(key)} in layer '{b.get('name')}'."
                )
    graphs = graph_signature(start), graph_signature(end)
    for index, (ours, theirs) in enumerate(itertools.zip_longest(*graphs)):
        if ours != theirs:
            raise ValueError(
                f"{start_name} and {end_name} must have the same architecture, but differ in call {index} of their "
                f"graphs: {ours} against {theirs}. (Layers and calls are numbered in the order of the weights and of "
                "the computation.)"
            )


def layer_signatures(network: keras.layers.Layer) -> list[dict[str, Any]]:
    """What each layer computes: its class and configuration, less the options that matter only in training.

    A layer that is made of others stands beside them, with the options that are its own.
    """
    signatures = []
    for layer in _parts(network):
        config = _config(layer)
        hidden = getattr(layer, "_keras_fge_hidden_layers", ())
        for part in hidden:  # They speak for themselves, not by their names in this config.
            signatures.extend(layer_signatures(part))
        left_out = ("layer",) if hidden else ()
        kept = {key: config[key] for key in config if not ONLY_IN_TRAINING.search(key) and key not in left_out}
        signatures.append({"class": type(layer).__name__, **kept, "own_state": checksum_of_state(own_state(layer))})
    return signatures


def training_options(network: keras.Model) -> dict[str, Any]:
    """The options of layers in which a resume may differ: the dtype, and what matters only in training."""
    return {
        f"{key} of layer {index} ({type(layer).__name__})": value
        for index, layer in enumerate(_parts(network))
        for key, value in _config(layer).items()
        if key == "dtype" or (ONLY_IN_TRAINING.search(key) and not re.search("^(trainable|seed)$|_initializer$", key))
    }


def architecture(network: keras.Model) -> str:
    """A checksum of layers and graph, whatever layers are called, and in whatever precision they compute."""
    layers = [{**layer, "name": None, "dtype": None} for layer in layer_signatures(network)]
    return checksum([layers, graph_signature(network)])


def graph_signature(network: keras.layers.Layer) -> list[Any]:
    """Which operation takes which tensors, in the order of the computation; empty, if `network` has no graph.

    Each call is (operation, arguments, keyword arguments): a layer is its place among all, as `layer_signatures` has
    its configuration; a tensor is "call i, output j" of this list, or "input i". What stands in a network inside counts
    as if it stood in `network` itself.
    """
    places = {id(layer): index for index, layer in enumerate(_parts(network))}
    if has_graph(network):
        return _calls(network, places)
    inner = (part for part in all_layers(network, include_self=False) if has_graph(part))
    return [call for part in inner for call in _calls(part, places)]


def _calls(network, places):
    calls: list[Any] = []

    def walk(part, sources):
        """Adds the calls of a network whose inputs are `sources`, and returns the names of its outputs."""
        tensors = {id(tensor): source for tensor, source in zip(part.inputs, sources)}

        def named(value):
            if isinstance(value, keras.KerasTensor):
                return tensors.get(id(value), "a tensor of another graph")
            if _is_array(value):
                return _named_array(value)
            return value if value is None or isinstance(value, (str, int, float)) else repr(value)

        for operation, args, kwargs, outputs in graph_of(part):
            given = {key: value for key, value in kwargs.items() if value is not None}
            arguments = [keras.tree.map_structure(named, value) for value in (list(args), given)]
            if has_graph(operation):  # A network inside, whose calls are as good as those of this one.
                results = walk(operation, keras.tree.flatten(arguments))
            else:
                calls.append([_named_operation(operation, places), *arguments])
                results = [f"call {len(calls) - 1}, output {index}" for index in range(len(outputs))]
            tensors.update({id(output): result for output, result in zip(outputs, results)})
        return [named(tensor) for tensor in part.outputs]

    outputs = walk(network, [f"input {index}" for index in range(len(network.inputs))])
    return [*calls, ["outputs", outputs]]


def _named_operation(operation, places):
    if id(operation) in places:
        return f"layer {places[id(operation)]}"
    return [type(operation).__name__, {key: repr(v) for key, v in _config(operation).items() if key != "name"}]


def _parts(network):
    """The layers of a network at any depth, in the order of the weights; networks with a graph are what is in them."""
    return [
        layer
        for layer in all_layers(network)
        if not isinstance(layer, keras.layers.InputLayer) and not has_graph(layer)
    ]


def _config(operation):
    """The configuration, so that it can be compared."""
    try:
        config = operation.get_config()
    except NotImplementedError:  # A class of the user's own, of which only the name can be compared.
        return {"name": operation.name}
    policy = operation.dtype_policy if isinstance(operation, keras.layers.Layer) else None
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):  # By names, of which only one is that of this layer.
        policy = policy[operation.path] if operation.path else policy.default_policy
        config = {**config, "dtype": keras.saving.serialize_keras_object(policy)}
    if config.get("quantization_config"):
        usual = keras.saving.serialize_keras_object(keras.quantizers.Int8QuantizationConfig())
        if config["quantization_config"] == usual:  # Also that of a layer that has none, as one that Keras has loaded.
            config = {**config, "quantization_config": None}
    return {key: _comparable(value) for key, value in config.items()}


def _comparable(value):
    """A part of a configuration, as JSON can hold it.

    A layer inside is its class, as it says the rest for itself; an array is its checksum; an object that Keras cannot
    write is its class.
    """
    if isinstance(value, (list, tuple)):
        return [_comparable(part) for part in value]
    if _is_array(value):
        return _named_array(value)
    if not isinstance(value, (dict, str, int, float, type(None))):
        try:
            value = keras.saving.serialize_keras_object(value)
        except (TypeError, ValueError, NotImplementedError):
            return type(value).__name__
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__lambda__":
        code = _described_code(marshal.loads(base64.b64decode(value["config"]["code"])))
        value = {**value["config"], "code": code}  # With its defaults, and what it takes from around.
    inner = value.get("config")
    if isinstance(inner, dict) and "class_name" in value and "trainable" in inner:
        return value["class_name"]
    left_out = {"name", "trainable"} if "trainable" in value else set()  # The bare configuration of a layer.
    return {key: _comparable(part) for key, part in value.items() if key not in left_out}


def _is_array(value):
    return isinstance(value, np.ndarray) or ops.is_tensor(value)


def _named_array(value):
    return f"array {checksum_of_arrays([ops.convert_to_numpy(value)])}"  # Of large ones, `repr` shows a part.


def _described_code(code):
    """What a lambda does, less where it stands: once it was saved and loaded, its bytes are other ones."""
    constants = [_described_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_freevars), constants]
