"""The graph of a functional or Sequential network, followed call by call, also into the networks inside it."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_fge.core.keras_internals import graph_of, has_graph, is_functional


def walk(network: keras.Model, inputs: list[Any], visit: Callable[..., list[Any]]) -> list[Any]:
    """Follows the graph of a network, and of the networks in it, and returns what stands for its outputs.

    Args:
        network: A functional or Sequential network.
        inputs: What stands for its inputs.
        visit: Called as `visit(operation, tensors in, args, kwargs, tensors out)`, where args and kwargs hold what
            stands for the tensors; returns what stands for those that come out.
    """
    values = {id(tensor): value for tensor, value in zip(network.inputs, inputs)}
    for operation, args, kwargs, outputs in graph_of(network):
        if is_graph(operation):
            results = walk(operation, [values[id(tensor)] for tensor in _inputs_of(operation, args, kwargs)], visit)
        else:
            tensors = [leaf for leaf in arguments_of(operation, args, kwargs) if isinstance(leaf, keras.KerasTensor)]
            args, kwargs = keras.tree.map_structure(lambda leaf: values.get(id(leaf), leaf), (args, kwargs))
            results = visit(operation, tensors, args, kwargs, outputs)
        values.update(zip(map(id, outputs), results))
    return [values[id(tensor)] for tensor in network.outputs]


def arguments_of(operation: Any, args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """All arguments of a call but masks, which have no units, in the order of the signature."""
    bound = inspect.signature(operation.call).bind(*args, **kwargs).arguments
    return keras.tree.flatten([value for name, value in bound.items() if not name.endswith("mask")])


def _inputs_of(network, args, kwargs):
    """The tensors that a call gives to the inputs of a network, in their order."""
    given = args[0] if args else kwargs["inputs"]
    takes_dict = is_functional(network) and isinstance(network.input, dict)
    if isinstance(given, dict) and not takes_dict:  # Keras goes by the names.
        return [given[tensor.name] for tensor in network.inputs]
    return keras.tree.flatten(given)


def is_graph(network: Any) -> bool:
    """Whether a network is functional or Sequential, built, and has no `call` of its own."""
    if not has_graph(network):
        return False
    return type(network).call.__qualname__ in ("Functional.call", "Sequential.call")
