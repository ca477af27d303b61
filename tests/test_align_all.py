"""`align_all`: permuted copies of a network become one; by brute force, none could come nearer to the others."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, batch_norm_network, images, values
from test_align import permuted, randomized

pytestmark = SLOW_BUT_ON_TORCH


def dense_network(seed):
    return randomized(keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(2)]), seed)


def pairs(networks):
    """sum over pairs of ||w_j - w_k||^2."""
    weights = [np.concatenate([w.ravel() for w in values(network.trainable_variables)]) for network in networks]
    return sum(np.sum((a - b) ** 2, dtype="float64") for a, b in itertools.combinations(weights, 2))


def test_permuted_copies_become_one_network(capsys):
    network = randomized(batch_norm_network())
    copies = [network, *(permuted(network, seed)[0] for seed in (1, 2, 3))]
    aligned = curves.align_all(copies)
    assert pairs(aligned) < 1e-9 and pairs(copies) > 1
    assert "Mean distance of two of 4 networks" in capsys.readouterr().out
    x, y = images()
    for before, after in zip(copies, aligned):
        assert after is not before
        assert after.predict(x, verbose=0) == pytest.approx(before.predict(x, verbose=0), abs=1e-4)
    mean = keras_fge.Ensemble.of(aligned, from_logits=True).average_weights((x, y))
    fresh = keras.models.clone_model(network)
    fresh.set_weights(network.get_weights())
    curves.update_batch_norm(fresh, (x, y))
    assert mean.predict(x, verbose=0) == pytest.approx(fresh.predict(x, verbose=0), abs=1e-3)


def test_no_order_of_one_network_brings_it_nearer_to_the_others():
    """Of 4 hidden units there are 24 orders: all are tried, for each network."""
    networks = [dense_network(seed) for seed in range(4)]
    aligned = curves.align_all(networks, seed=3, verbose=False)
    to_the_first = [curves.align(network, networks[0], verbose=False) for network in networks]
    assert pairs(aligned) <= pairs(to_the_first) < pairs(networks)
    for k, network in enumerate(aligned):
        kernel, bias, output, output_bias = network.get_weights()
        others = [other for j, other in enumerate(aligned) if j != k]
        for order in map(list, itertools.permutations(range(4))):
            other = dense_network(0)
            other.set_weights([kernel[:, order], bias[order], output[order], output_bias])
            assert pairs([*others, other]) >= pairs(aligned) * (1 - 1e-6)


def attention_network(seed, dtype="float32", rank=None):
    x = inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3, dtype=dtype)(x, x)
    hidden = layers.Dense(5, "tanh", dtype=dtype)
    network = keras.Model(inputs, layers.Dense(2, dtype=dtype)(hidden(x)))
    if rank:
        randomized(network)  # Of one backbone.
        hidden.trainable = True
        hidden.enable_lora(rank)
        rng = np.random.default_rng(seed)
        for factor in (v for v in network.trainable_variables if "lora" in v.path):
            factor.assign(rng.normal(size=factor.shape))
        return network
    return randomized(network, seed)


@pytest.mark.parametrize(("dtype", "rank"), [("float32", None), ("bfloat16", None), ("float32", 2)])
def test_turned_heads_factors_of_lora_and_half_precision(dtype, rank):
    """After all moves, each computes what the network given does; no pair is farther apart than before."""
    networks = [attention_network(seed, dtype, rank) for seed in range(3)]
    aligned = curves.align_all(networks, rotate=dtype == "float32", verbose=False)
    assert pairs(aligned) < pairs(networks)
    x = np.random.default_rng(0).normal(size=(16, 4, 6)).astype("float32")
    for before, after in zip(networks, aligned):
        expected = np.asarray(before.predict(x, verbose=0), "float64")
        change = np.abs(after.predict(x, verbose=0) - expected).max() / np.abs(expected).max()
        assert change < (3e-2 if dtype == "bfloat16" else 2e-4)


def test_errors_come_first():
    networks = [dense_network(0), dense_network(1)]
    for wrong, message in (
        (networks[:1], r"`networks` must be a list of at least two networks. Received: \["),
        (networks[0], "`networks` must be a list of at least two networks. Received: <Sequential"),
        ([*networks, None], r"`networks\[2\]` must be a keras.Model. Received: None"),
        ([*networks, keras.Sequential([keras.Input((3,)), layers.Dense(2)])], r"`networks\[2\]`"),
    ):
        with pytest.raises(ValueError, match=message):
            curves.align_all(wrong)
