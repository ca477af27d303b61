"""`align` for LoRA: the same update by other factors comes back, and no other is changed."""

import keras
import numpy as np
import pytest
from keras import layers

import curves
from conftest import SLOW_BUT_ON_TORCH
from curves.alignment.lora import aligned_factors

pytestmark = SLOW_BUT_ON_TORCH

RNG = np.random.default_rng(0)


def network(rank=3):
    """Dense, EinsumDense, Embedding and Conv with LoRA, and a head."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 8)(inputs)
    h = layers.EinsumDense("btd,dhk->bthk", (5, 4, 6))(h)
    h = layers.Conv2D(7, 2)(h)
    h = layers.Dense(6, activation="relu")(layers.Flatten()(h))
    model = keras.Model(inputs, layers.Dense(3)(h))
    for layer in model.layers[1:-1]:
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(rank)
    return model


def factors(model):
    return [v for v in model.trainable_variables if "lora" in v.path]


def filled(model, seed):
    rng = np.random.default_rng(seed)
    for variable in factors(model):
        variable.assign(rng.normal(size=variable.shape))
    return model


@pytest.mark.parametrize("kind", ["orthogonal", "invertible", "of very different scales"])
def test_the_same_update_by_other_factors_comes_back(kind):
    reference, other = filled(network(), 0), filled(network(), 0)
    pairs = list(zip(factors(other)[::2], factors(other)[1::2]))
    assert len(pairs) == 4
    for a, b in pairs:
        turn = RNG.normal(size=(3, 3))
        if kind == "orthogonal":
            turn = np.linalg.qr(turn)[0]
        if kind == "of very different scales":
            turn = np.diag([1e-2, 1, 1e2])
        a.assign(keras.ops.convert_to_numpy(a.value) @ turn)
        b.assign(np.linalg.solve(turn, keras.ops.convert_to_numpy(b.value)))
    x = RNG.integers(0, 9, (20, 5))
    expected = reference.predict(x, verbose=0)
    back = curves.align(other, reference, verbose=False)
    assert back.predict(x, verbose=0) == pytest.approx(expected, abs=2e-4 * float(np.abs(expected).max()))
    for ours, theirs in zip(back.get_weights(), reference.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    curves.connect(reference, back)  # The frozen weights are the same.


def test_products_stay_and_distances_fall():
    reference, other = filled(network(), 0), filled(network(), 1)
    found = aligned_factors(other, reference)
    for a, b, goal_a, goal_b in zip(
        factors(other)[::2], factors(other)[1::2], factors(reference)[::2], factors(reference)[1::2]
    ):
        a, b, goal_a, goal_b, new_a, new_b = (
            np.asarray(keras.ops.convert_to_numpy(v.value) if hasattr(v, "value") else v, "float64")
            for v in (a, b, goal_a, goal_b, found[id(a)], found[id(b)])
        )
        np.testing.assert_allclose(new_a @ new_b, a @ b, rtol=1e-4, atol=1e-4)
        before, after = (np.sum((p - goal_a) ** 2) + np.sum((q - goal_b) ** 2) for p, q in ((a, b), (new_a, new_b)))
        assert after < before


def test_updates_without_full_rank():
    """As LoRA begins, B is 0: the factors are turned, or stay."""
    reference, other = network(), filled(network(), 1)
    assert not aligned_factors(reference, network())
    x = RNG.integers(0, 9, (20, 5))
    for first, second in ((reference, other), (other, reference)):
        aligned = curves.align(first, second, verbose=False)
        assert aligned.predict(x, verbose=0) == pytest.approx(first.predict(x, verbose=0), abs=1e-3)
    assert not aligned_factors(other, other)
