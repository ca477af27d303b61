"""`align`: brings the hidden units of a network into the order of those of another; its function stays the same."""

from typing import Any

import keras
import numpy as np

from curves.alignment.activations import BATCH, inputs_of
from curves.alignment.graph import is_graph
from curves.alignment.lora import aligned_factors
from curves.alignment.matching import Matching
from keras_fge.core.architecture import check_same_architecture
from keras_fge.core.compile_as import compile_as
from keras_fge.core.keras_internals import all_layers
from keras_fge.core.networks import clone, locked, set_weights
from keras_fge.core.processes import check_alone

TOLERANCE = 1e-4  # Of the outputs before and after, relative to the largest one.
HALF_TOLERANCE = 2e-2  # In float16 and bfloat16. Of a wrong network, the error is around 1.


def align(
    network: keras.Model,
    reference: keras.Model,
    data: Any = None,
    method: str = "weights",
    *,
    rotate: bool = True,
    seed: int = 0,
    verbose: bool = True,
) -> keras.Model:
    """Permutes the hidden units of `network` so that they match those of `reference`.

    Hidden units can change places without changing what a network computes. So two networks that were trained apart
    may be near to each other but for the order of their units. Which units may move is read off the graph: Dense, Conv,
    depthwise and separable convolution, normalization, PReLU, Embedding, sums and concatenations of branches, Flatten,
    pooling and activations; heads of MultiHeadAttention and GroupQueryAttention, and the parts inside each. A layer of
    another kind keeps its inputs and outputs as they are, and frozen weights never change.

    Inside an attention head more than permutations change nothing: any orthogonal map R of its queries and keys, as
    (Q R) (K R)^T = Q K^T, and any of its values, if the output kernel turns back. `rotate` looks for the best ones, by
    the orthogonal Procrustes problem, together with the places of the heads. The factors of LoRA, of which only the
    product counts, are brought to those of the reference by invertible maps.

    "weights" maximizes sum_w <w_reference, P w_network> over all permutations P, which makes ||w_reference - P
    w_network|| the least: one group of units after the other, in random order, by the Hungarian method, until nothing
    gets better (Git Re-Basin, algorithm 1). "activations" maximizes the sum of the correlations of matched units on
    `data`, over the outputs of all layers with weights that show them; groups inside an attention layer are matched by
    weights.

    Args:
        network, reference: Built functional or Sequential networks of one architecture. They do not change.
        data: Inputs, as arrays that `predict` takes. Needed for "activations"; a few thousand samples are enough. If
            given, the check of the outputs is done on them. Default: none.
        method: "weights" or "activations". Default: "weights".
        rotate: Whether to turn queries and keys, and values, inside attention heads, and the factors of LoRA. Default:
            yes.
        seed: Seed of the order of groups, and of the inputs of the check. Default: 0.
        verbose: Whether to print which part of the weights could be matched, and the distance before and after.

    Returns:
        A `keras.Model` of its own, compiled as `network` is, that computes what `network` does. This is checked, on
        `data` or random inputs, to 1e-4 of the largest output (2e-2 in half precision).

    Raises:
        ValueError: if the architectures differ, a network is not built or is of a class of its own, `data` do not fit
            or are too few, or the network takes no random inputs and there are no `data`.
        RuntimeError: if the check fails: the order of units means something to a layer that `align` does not know.

    Example:
        aligned = curves.align(net_b, net_a, verbose=False)
        curves.connect(net_a, aligned)

    References:
        Ainsworth et al., Git Re-Basin, ICLR 2023, https://arxiv.org/abs/2209.04836; Li et al., Convergent Learning,
        ICLR 2016, https://arxiv.org/abs/1511.07543 (activations); Theus et al., Generalized Linear Mode Connectivity
        for Transformers, NeurIPS 2025, https://arxiv.org/abs/2506.22712 (attention heads)
    """
    if method not in ("weights", "activations"):
        raise ValueError(f"`method` must be 'weights' or 'activations'. Received: method={method!r}")
    check_can_be_aligned({"`network`": network, "`reference`": reference})
    if method == "activations" and data is None:
        raise ValueError("`data` is needed for method='activations': inputs as `predict` takes them.")
    with locked(network, reference):
        matching, rng = Matching(network, reference), np.random.default_rng(seed)
        groups = matching.groups
        if method == "activations":
            groups = matching.match_activations(network, reference, data)
        matching.match_weights(groups, rng)
        if rotate and any(group.can_turn for group in groups):
            matching.match_weights(groups, rng, rotate=True)
        aligned, weights = compile_as(clone(network), network), matching.moved_weights(network)
        factors = aligned_factors(network, reference) if rotate else {}
        set_weights(aligned, [factors.get(id(v), value) for v, value in zip(network.weights, weights)])
        _check_same_function(network, aligned, data, seed)
    if verbose:
        print(matching.report(network, reference, aligned))
    return aligned


def check_can_be_aligned(networks: dict[str, Any]) -> None:
    """Raises a ValueError unless these, by their names, are networks of one architecture with graphs."""
    for name, each in networks.items():
        if not isinstance(each, keras.Model):
            raise ValueError(f"{name} must be a keras.Model. Received: {each!r}")
    (first_name, first), *others = networks.items()
    for name, each in others:
        check_same_architecture(first, each, first_name, name)
    for name, each in networks.items():
        if not is_graph(each):
            raise ValueError(
                f"{name} must be a functional or Sequential network, whose graph shows which units may move. "
                f"Received: {type(each).__name__}, a class of its own."
            )


def change_of_outputs(network: keras.Model, aligned: keras.Model, data: Any, seed: int) -> float:
    """How far the outputs are from each other, relative to the largest one, in units of what is tolerated."""
    check_alone(network)
    if data is None:
        rng, arrays = np.random.default_rng(seed), []
        for tensor in network.inputs:
            shape = (16, *(size or 32 for size in tensor.shape[1:]))
            is_float = "float" in str(tensor.dtype)
            arrays.append(rng.standard_normal(shape).astype("float32") if is_float else rng.integers(0, 2, shape))
    else:
        arrays = [array[:BATCH] for array in inputs_of(data, network)]
    inputs = arrays[0] if len(arrays) == 1 else keras.tree.pack_sequence_as(network.input, arrays)
    try:
        outputs = [keras.tree.flatten(each.predict(inputs, verbose=0)) for each in (network, aligned)]
    except Exception as error:
        if data is not None:
            raise
        raise ValueError(
            f"`network` does not take random inputs: give `data`, for the check. It says: {error}"
        ) from error
    if not all(np.isfinite(array).all() for array in outputs[0]):
        raise ValueError("The outputs of `network` are not finite" + ("." if data is not None else ": give `data`."))
    is_half = any("16" in layer.compute_dtype for layer in all_layers(network))
    changes = [
        np.max(np.abs(np.asarray(after) - before)) / max(np.max(np.abs(before)), 1e-30)
        for before, after in zip(*outputs)
    ]
    return float(np.max(changes) / (HALF_TOLERANCE if is_half else TOLERANCE))  # NaN, if one is.


def _check_same_function(network, aligned, data, seed):
    """Raises a RuntimeError unless both compute the same: then a layer is not what its rule takes it for."""
    change = change_of_outputs(network, aligned, data, seed)
    if not change <= 1:
        raise RuntimeError(
            f"The aligned network would compute something else ({change:.2g} times what is tolerated): to a layer of "
            f"'{network.name}' the order of units means something that `align` does not know, or it computes in "
            "low precision, such as TF32, in which turned attention heads differ (`rotate=False`). Please report "
            "what is neither."
        )
