"""WiSE-FT against a plain loop in numpy, and with BatchNormalization."""

import keras
import numpy as np
import pytest
import sklearn.metrics
from keras import layers

import curves
from conftest import batch_norm_network, logits_loss, slow_but_on_torch, slow_on_tensorflow, values

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype("float32")


def linear(weights, loss="sparse_categorical_crossentropy", activation="softmax"):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=activation)])
    model.set_weights(weights)
    model.compile("sgd", loss)
    return model


def probabilities(weights):
    outputs = X @ weights[0] + weights[1]
    outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return outputs / outputs.sum(axis=1, keepdims=True)


def test_it_is_the_best_of_a_plain_loop():
    good, other = [RNG.normal(size=(4, 3)), RNG.normal(size=3)], [RNG.normal(size=(4, 3)), RNG.normal(size=3)]
    y = np.array([RNG.choice(3, p=p) for p in probabilities(good)])
    ends = [[0.6 * a + s * b for a, b in zip(good, other)] for s in (0.8, -1.4)]

    def at(t):
        return [(1 - t) * a + t * b for a, b in zip(*ends)]

    positions = np.linspace(0, 1, 11)
    best = min(positions, key=lambda t: sklearn.metrics.log_loss(y, probabilities(at(t))))
    assert 0 < best < 1
    start, end = map(linear, ends)
    before = values(start.weights + end.weights)
    network = curves.wise_ft(start, end, X, y)
    assert all(w == pytest.approx(v, abs=1e-6) for w, v in zip(network.get_weights(), at(best)))
    assert all(np.array_equal(a, b) for a, b in zip(before, values(start.weights + end.weights)))
    coarse = min((0.0, 0.5, 1.0), key=lambda t: sklearn.metrics.log_loss(y, probabilities(at(t))))
    network = curves.wise_ft(start, end, X, y, num_points=3)
    assert all(w == pytest.approx(v, abs=1e-6) for w, v in zip(network.get_weights(), at(coarse)))


def test_values_are_judged_by_their_squared_error():
    ends = [[np.full((4, 3), value), np.zeros(3)] for value in (0.0, 1.0)]
    start, end = (linear(weights, "mae", None) for weights in ends)
    network = curves.wise_ft(start, end, X, 0.7 * np.tile(X.sum(axis=1, keepdims=True), 3))
    assert network.get_weights()[0] == pytest.approx(0.7, abs=1e-6)


@slow_on_tensorflow
def test_statistics_are_those_of_the_position(trained):
    start, end, x, y = trained
    with pytest.raises(ValueError, match="`train` is needed"):
        curves.wise_ft(start, end, x, y)
    network = curves.wise_ft(start, end, x, y, train=(x, y), num_points=4)
    line = curves.connect(start, end, curves.Bezier(2))
    positions = np.linspace(0, 1, 4)
    t = min(positions, key=lambda t: np.abs(line.weights_at(t)[0] - network.get_weights()[0]).sum())
    again = line.network_at(t)
    if 0 < t < 1:
        curves.update_batch_norm(again, (x, y))
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in zip(again.get_weights(), network.get_weights()))


@slow_but_on_torch
def test_bad_input():
    start = batch_norm_network()
    end = keras.models.clone_model(start)
    x, y = np.zeros((4, 6, 6, 2), "float32"), np.zeros(4)
    with pytest.raises(ValueError, match="`finetuned` must be compiled"):
        curves.wise_ft(start, end, x, y, train=(x, y))
    end.compile("sgd", logits_loss())
    with pytest.raises(ValueError, match="`num_points` must be an integer of at least 2"):
        curves.wise_ft(start, end, x, y, train=(x, y), num_points=1)
    with pytest.raises(ValueError, match="must be a keras"):
        curves.wise_ft("pretrained", end, x, y)
    other_head = keras.Sequential([keras.Input((4,)), layers.Dense(5)])
    other_head.compile("sgd", logits_loss())
    with pytest.raises(ValueError, match="`start` and `end`"):
        curves.wise_ft(linear([np.zeros((4, 3)), np.zeros(3)]), other_head, X, np.zeros(90))
    lost = linear([np.full((4, 3), np.nan), np.zeros(3)])
    with pytest.raises(ValueError, match="not finite"):
        curves.wise_ft(lost, lost, X, np.zeros(90))
