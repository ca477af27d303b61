"""FGE with Adam, AdamW, Lion and Muon: rates and members against a loop that sets each rate, and resume."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import IS_BEFORE_3_14, logits_loss, values
from keras_fge.run.state import StateFile
from test_schedule import fge_by_hand

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype("float32")
Y = RNG.integers(0, 3, 60)
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.003),
    "AdamW": lambda: keras.optimizers.AdamW(0.003, weight_decay=0.1),
    "Lion": lambda: keras.optimizers.Lion(0.0005, weight_decay=0.1),
    "Muon": lambda: keras.optimizers.Muon(0.01, adam_lr_ratio=0.3, exclude_layers=["head"]),
}
if IS_BEFORE_3_14:  # Its own step fails on TensorFlow there.
    del OPTIMIZERS["Muon"]
HIGH, LOW, CYCLE = 0.004, 0.0001, 6  # An epoch has 6 steps.


def network(name):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(8, activation="tanh", name="hidden")
    model = keras.Sequential([keras.Input((6,)), hidden, layers.Dense(3, name="head")])
    model.compile(OPTIMIZERS[name](), logits_loss(), jit_compile=False)
    return model


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def fit(model, fge, *callbacks):
    model.fit(X, Y, batch_size=10, epochs=4, shuffle=False, verbose=0, callbacks=[fge, *callbacks])
    return fge


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_are_those_of_a_loop_that_sets_each_rate(name):
    by_hand, expected = network(name), []
    for step in range(1, 25):
        by_hand.optimizer.learning_rate = fge_by_hand(step, HIGH, LOW, CYCLE)
        rows = slice((step - 1) % 6 * 10, (step - 1) % 6 * 10 + 10)
        by_hand.train_on_batch(X[rows], Y[rows])
        if step % CYCLE == CYCLE // 2:
            expected.append(by_hand.get_weights())
    model = network(name)
    start, rate = model.get_weights(), float(model.optimizer.learning_rate)
    fge = fit(model, keras_fge.FGE(HIGH, LOW, cycle_steps=CYCLE))
    assert len(fge.snapshots) == len(expected) == 4
    for snapshot, weights in zip(fge.snapshots, expected):
        assert all(a == pytest.approx(b, abs=2e-6) for a, b in zip(snapshot.weights, weights))
    moved = [np.abs(a - b).max() for a, b in zip(start, expected[-1])]
    assert min(moved) > 1e-3  # Far more than the tolerance.
    assert float(model.optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_was_interrupted_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self: True)
    model = network(name)
    whole = fit(model, keras_fge.FGE(HIGH, LOW, cycle_steps=CYCLE))
    arguments = {"cycle_steps": CYCLE, "directory": tmp_path, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        fit(network(name), keras_fge.FGE(HIGH, LOW, **arguments), Interrupt())
    other = network(name)
    resumed = fit(other, keras_fge.FGE(HIGH, LOW, **arguments))
    assert other.history.epoch == [0, 1, 2, 3]
    assert all(np.array_equal(a, b) for a, b in zip(values(model.variables), values(other.variables)))
    moments = [values(m.optimizer.variables) for m in (model, other)]
    assert len(moments[0]) > 4 and all(np.array_equal(a, b) for a, b in zip(*moments))
    for a, b in zip(whole.snapshots, resumed.snapshots, strict=True):
        assert all(np.array_equal(v, w) for v, w in zip(a.weights, b.weights))


@pytest.mark.parametrize("name", ["Adam", "Lion"])
def test_rates_are_taken_from_the_optimizer(name):
    model = network(name)
    fge = fit(model, keras_fge.FGE(cycle_steps=CYCLE))
    rate = float(OPTIMIZERS[name]().learning_rate)
    assert (fge.max_learning_rate, fge.min_learning_rate) == pytest.approx((rate, rate / 100))
