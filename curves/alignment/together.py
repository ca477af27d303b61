"""`align_all`: brings the hidden units of several networks into one order."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from curves.alignment.align import align, change_of_outputs, check_can_be_aligned
from keras_fge.core.networks import as_plain, clone, distance, set_weights

LEAST_GAIN = 1e-6  # Of a distance: a network that would move by less stays.
MOST_ROUNDS = 20


def align_all(
    networks: Sequence[keras.Model], data: Any = None, *, rotate: bool = True, seed: int = 0, verbose: bool = True
) -> list[keras.Model]:
    """Permutes the hidden units of several networks so that they match each other, each as `align` does.

    First, each network is aligned to the first one. Then, in random order, each is aligned to the mean of the weights
    of all others, and stays so if it has come nearer to that mean, until none does (Git Re-Basin, algorithm 3). Each
    such step lowers

        sum over all pairs j < k of ||w_j - w_k||^2

    over the trainable weights. Afterwards the mean of the weights can be used as one network:
    `keras_fge.Ensemble.of(aligned).average_weights(train)`.

    Args:
        networks: Built functional or Sequential networks of one architecture, at least two. They do not change.
        data: Inputs for the check of the outputs, as arrays that `predict` takes. Default: random ones.
        rotate: As for `align`. Default: yes.
        seed: Seed of the orders, and of the inputs of the check. Default: 0.
        verbose: Whether to print the mean distance of two networks before and after. Default: yes.

    Returns:
        As many `keras.Model`s of their own, in the order of `networks`; each computes what its network does.

    Raises:
        ValueError: if there are fewer than two networks, their architectures differ, or one is not built or of a
            class of its own.
        RuntimeError: as for `align`.

    Example:
        net_1, net_2 = curves.align_all([net_a, net_b], verbose=False)
        curves.connect(net_1, net_2)

    References:
        Ainsworth et al., Git Re-Basin, ICLR 2023, https://arxiv.org/abs/2209.04836
    """
    if not isinstance(networks, Sequence) or len(networks) < 2:
        raise ValueError(f"`networks` must be a list of at least two networks. Received: {networks!r}")
    check_can_be_aligned({f"`networks[{k}]`": network for k, network in enumerate(networks)})
    rng = np.random.default_rng(seed)
    arguments: dict[str, Any] = {"data": data, "rotate": rotate, "seed": seed, "verbose": False}
    aligned = [align(network, networks[0], **arguments) for network in networks]
    mean = clone(networks[0])
    for _ in range(MOST_ROUNDS):
        has_moved = False
        for k in rng.permutation(len(aligned)):
            set_weights(mean, _mean([network.get_weights() for j, network in enumerate(aligned) if j != k]))
            moved = align(aligned[k], mean, **arguments)
            is_nearer = _distance(moved, mean) < (1 - LEAST_GAIN) * _distance(aligned[k], mean)
            # Rounding of heads that are turned again and again adds up: it is compared with the network given.
            if is_nearer and change_of_outputs(networks[k], moved, data, seed) <= 1:
                aligned[k], has_moved = moved, True
        if not has_moved:
            break
    if verbose:
        before, after = (_mean_distance(each) for each in (networks, aligned))
        print(f"Mean distance of two of {len(networks)} networks: {before:.4g} before, {after:.4g} after.")
    return aligned


def _mean(weights):
    """The mean of lists of arrays; of arrays that are no floats, the first."""
    plain = [[as_plain(array) for array in arrays] for arrays in zip(*weights)]
    return [np.mean(each, axis=0, dtype="float64") if each[0].dtype.kind == "f" else each[0] for each in plain]


def _distance(first, second):
    return distance(first, first.get_weights(), second.get_weights())


def _mean_distance(networks):
    return np.mean([_distance(a, b) for k, b in enumerate(networks) for a in networks[:k]])
