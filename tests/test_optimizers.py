"""Every optimizer of Keras under FGE: rates and members against a loop that sets each rate, and exact resumes."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import (
    IS_BEFORE_3_14,
    logits_loss,
    slow_but_on_torch,
    slow_elsewhere,
    slow_on_tensorflow,
    to_numpy,
    values,
)
from keras_fge.run.state import StateFile, build_optimizer
from test_schedule import fge_by_hand

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype("float32")
Y = RNG.integers(0, 3, 60)
kinds = keras.optimizers
OPTIMIZERS = {
    "SGD": lambda **o: kinds.SGD(0.01, momentum=0.9, **o),
    "SGD Nesterov": lambda **o: kinds.SGD(0.01, momentum=0.9, nesterov=True, **o),
    "RMSprop": lambda **o: kinds.RMSprop(0.003, **o),
    "RMSprop momentum": lambda **o: kinds.RMSprop(0.003, momentum=0.9, centered=True, **o),
    "Adam": lambda **o: kinds.Adam(0.003, **o),
    "Adam amsgrad": lambda **o: kinds.Adam(0.003, amsgrad=True, **o),
    "AdamW": lambda **o: kinds.AdamW(0.003, **{"weight_decay": 0.1, **o}),
    "Adamax": lambda **o: kinds.Adamax(0.003, **o),
    "Nadam": lambda **o: kinds.Nadam(0.003, **o),
    "Adafactor": lambda **o: kinds.Adafactor(0.003, **o),
    "Adagrad": lambda **o: kinds.Adagrad(0.003, initial_accumulator_value=1e-3, **o),
    "Adadelta": lambda **o: kinds.Adadelta(0.003, epsilon=1e-2, **o),
    "Ftrl": lambda **o: kinds.Ftrl(0.003, initial_accumulator_value=1e-3, **o),
    "Lion": lambda **o: kinds.Lion(0.0005, **{"weight_decay": 0.1, **o}),
    "Lamb": lambda **o: kinds.Lamb(0.003, **o),
    "Muon": lambda **o: kinds.Muon(0.01, adam_lr_ratio=0.3, exclude_layers=["head"], **o),
    "ScheduleFreeAdamW": lambda **o: kinds.ScheduleFreeAdamW(0.003, **o),
}
if IS_BEFORE_3_14:  # The step of Muon fails on TensorFlow there, and there is no ScheduleFreeAdamW.
    del OPTIMIZERS["Muon"], OPTIMIZERS["ScheduleFreeAdamW"]
VARIANTS = {
    "use_ema": {"use_ema": True, "ema_momentum": 0.8},
    "use_ema, overwrite": {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 4},
    "clipnorm": {"clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "weight_decay": {"weight_decay": 0.05},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss scale": {},
}
# One of each kind of state, few of them on TensorFlow and JAX, which compile each step. All others are slow.
FEW = ["SGD", "ScheduleFreeAdamW"]
KINDS = ["RMSprop momentum", "Adam", "AdamW", "Nadam", "Lion"]
ALL = [(name, "") for name in FEW if name in OPTIMIZERS] + [("Adam", "use_ema")]
ELSEWHERE = [(name, "") for name in KINDS]
ELSEWHERE += [("Adam", variant) for variant in ("global_clipnorm", "accumulation", "loss scale")]
OF_CHECKPOINT = [("Nadam", ""), ("Adam", "use_ema, overwrite"), ("RMSprop", "loss scale")]
rest = [(name, variant) for name in OPTIMIZERS for variant in ("", *VARIANTS)]
rest.remove(("Muon", "weight_decay")) if "Muon" in OPTIMIZERS else None  # It has one of its own kind.
ALL += [pytest.param(*case, marks=slow_but_on_torch) for case in ELSEWHERE]
ALL += [pytest.param(*case, marks=pytest.mark.slow) for case in rest if case not in ALL + ELSEWHERE]
OF_CHECKPOINT += [pytest.param(*case, marks=pytest.mark.slow) for case in rest if case not in OF_CHECKPOINT]
HIGH, LOW, CYCLE = 0.004, 0.0001, 8  # An epoch has 6 steps.


def network(name, variant="", **arguments):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(8, activation="tanh", name="hidden")
    model = keras.Sequential([keras.Input((6,)), hidden, layers.Dense(3, name="head")])
    optimizer = OPTIMIZERS[name](**VARIANTS.get(variant, {}))
    if variant == "loss scale":
        optimizer = kinds.LossScaleOptimizer(optimizer, initial_scale=64.0, dynamic_growth_steps=5)
    # Without it JAX compiles each operation by itself, until the process has no memory mappings left.
    model.compile(optimizer, logits_loss(), **{"jit_compile": keras.backend.backend() == "jax", **arguments})
    build_optimizer(model)  # In a step on TensorFlow, ScheduleFreeAdamW would begin with zeros.
    return model


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def fit(model, *callbacks):
    model.fit(X, Y, batch_size=10, epochs=4, shuffle=False, verbose=0, callbacks=list(callbacks))


def fge(**arguments):
    return keras_fge.FGE(HIGH, LOW, cycle_steps=CYCLE, **arguments)


def meant(model):
    """The weights that an optimizer means: of ScheduleFreeAdamW, x of y = (1 - beta) z + beta x (Defazio et al.)."""
    optimizer = model.optimizer
    optimizer = optimizer.inner_optimizer if isinstance(optimizer, kinds.LossScaleOptimizer) else optimizer
    weights = model.get_weights()
    if type(optimizer).__name__ == "ScheduleFreeAdamW":
        zs = [to_numpy(variable).astype("float64") for variable in optimizer._momentums]
        weights = [z + (y - z) / optimizer.beta_1 for y, z in zip(weights, zs, strict=True)]
    return weights


def run(name, variant, directory, *callbacks):
    """A model, and its FGE, which goes on where it was interrupted."""
    model = network(name, variant)
    ours = fge(directory=directory, resume=True, rescale_momentum=False)  # test_momentum has the paper's step.
    fit(model, ours, *callbacks)
    return model, ours


def assert_same_bits(model, other):
    assert all(np.array_equal(a, b) for a, b in zip(values(model.variables), values(other.variables), strict=True))
    moments = [values(m.optimizer.variables) for m in (model, other)]
    assert len(moments[0]) > 4
    assert all(np.array_equal(a, b) for a, b in zip(*moments, strict=True))


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_members_are_those_of_a_loop_that_sets_each_rate_and_a_resume_has_the_same_bits(
    name, variant, tmp_path, monkeypatch
):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)
    by_hand, expected = network(name, variant), []
    start, outer = by_hand.get_weights(), by_hand.optimizer
    optimizer = outer.inner_optimizer if variant == "loss scale" else outer
    for step in range(1, 25):
        optimizer.learning_rate = fge_by_hand(step, HIGH, LOW, CYCLE)
        rows = slice((step - 1) % 6 * 10, (step - 1) % 6 * 10 + 10)
        by_hand.train_on_batch(X[rows], Y[rows])
        if step % CYCLE == CYCLE // 2:
            expected.append(meant(by_hand))
    model, whole = run(name, variant, tmp_path / "whole")
    assert len(whole.snapshots) == len(expected) == 3
    for snapshot, weights in zip(whole.snapshots, expected):
        assert all(a == pytest.approx(b, abs=2e-6) for a, b in zip(snapshot.weights, weights, strict=True))
    moved = [np.abs(a - b).max() for a, b in zip(start, expected[-1])]
    assert min(moved[0], moved[2]) > 1e-4  # The kernels: far more than the tolerance.
    if name in ("Adam", "AdamW", "Lion", "Muon") and not variant:
        assert min(moved) > 1e-3
    outer = model.optimizer
    optimizer = outer.inner_optimizer if variant == "loss scale" else outer
    assert float(optimizer.learning_rate) == pytest.approx(float(OPTIMIZERS[name]().learning_rate))
    with pytest.raises(KeyboardInterrupt):
        run(name, variant, tmp_path / "parts", Interrupt())
    other, resumed = run(name, variant, tmp_path / "parts")
    assert other.history.epoch == [0, 1, 2, 3]
    assert_same_bits(model, other)
    for a, b in zip(whole.snapshots, resumed.snapshots, strict=True):
        assert all(np.array_equal(v, w) for v, w in zip(a.weights, b.weights, strict=True))


@slow_on_tensorflow
@pytest.mark.parametrize(("name", "variant"), OF_CHECKPOINT)
def test_a_checkpoint_has_the_same_bits(name, variant, tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)
    models = [network(name, variant) for _ in range(3)]
    fit(models[0])
    with pytest.raises(KeyboardInterrupt):
        fit(models[1], keras_fge.Checkpoint(tmp_path), Interrupt())
    fit(models[2], keras_fge.Checkpoint(tmp_path))
    assert models[2].history.epoch == [0, 1, 2, 3]
    assert_same_bits(models[0], models[2])


@pytest.mark.parametrize("name", ["Adam", "Lion"])
def test_rates_are_taken_from_the_optimizer(name):
    model = network(name)
    callback = keras_fge.FGE(cycle_steps=CYCLE)
    fit(model, callback)
    rate = float(OPTIMIZERS[name]().learning_rate)
    assert (callback.max_learning_rate, callback.min_learning_rate) == pytest.approx((rate, rate / 100))


def test_with_an_average_the_snapshot_has_the_weights_of_the_last_step():
    """`use_ema` holds its average aside until the end of `fit`; a snapshot is of the minimum of the rate, as always."""
    plain, averaged = network("Adam"), network("Adam", "use_ema")
    ours, theirs = fge(), fge()
    fit(plain, ours)
    fit(averaged, theirs)
    for a, b in zip(ours.snapshots, theirs.snapshots, strict=True):
        assert all(v == pytest.approx(w, abs=1e-6) for v, w in zip(a.weights, b.weights))
    assert np.abs(plain.get_weights()[0] - averaged.get_weights()[0]).max() > 1e-3


@pytest.mark.skipif(IS_BEFORE_3_14, reason="has no ScheduleFreeAdamW")
def test_schedule_free_training_goes_on_as_without_snapshots():
    model, other = network("ScheduleFreeAdamW"), network("ScheduleFreeAdamW")
    callback = fge(validation_data=(X, Y))
    fit(model, callback)
    fit(other, fge())
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights()))
    error = keras_fge.Ensemble(model, callback.snapshots[-1:], from_logits=True).evaluate(X, Y)["error"]
    assert callback.snapshots[-1].metrics["member_error"] == pytest.approx(error)


@pytest.mark.skipif(IS_BEFORE_3_14, reason="has no ScheduleFreeAdamW")
def test_schedule_free_training_begins_with_the_weights_of_the_network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    model.compile(kinds.ScheduleFreeAdamW(1e-6), logits_loss())
    before = model.get_weights()[0]
    own_fit = getattr(keras.Model.fit, "__wrapped__", keras.Model.fit)  # The tests have another.
    own_fit(model, X, Y, batch_size=10, epochs=4, verbose=0, callbacks=[keras_fge.FGE(1e-6, 1e-8, cycle_steps=CYCLE)])
    assert model.get_weights()[0] == pytest.approx(before, abs=1e-4)
    unbuilt = keras.Sequential([layers.Dense(3)])
    unbuilt.compile(kinds.ScheduleFreeAdamW(1e-6), logits_loss())
    if keras.backend.backend() == "tensorflow":  # Elsewhere, `fit` builds it.
        with pytest.raises(ValueError, match="ScheduleFreeAdamW needs a built network: call"):
            fit(unbuilt, fge())


@pytest.mark.skipif(IS_BEFORE_3_14, reason="has no ScheduleFreeAdamW")
def test_averaged_weights_have_no_statistics_of_batch_normalization():
    model = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(name="norm"), layers.Dense(3)])
    model.compile(kinds.ScheduleFreeAdamW(0.003), logits_loss())
    with pytest.raises(ValueError, match="means averaged weights, for which BatchNormalization 'norm'"):
        fit(model, fge())


def test_rates_that_adafactor_would_not_take():
    with pytest.raises(ValueError, match=r"takes 1 / sqrt\(i\) at most; .* 0.204 at the end.*Received: .*=0.3"):
        fit(network("Adafactor"), keras_fge.FGE(0.3, 0.001, cycle_steps=CYCLE))


@slow_elsewhere
def test_several_optimizers_have_no_rate_of_their_own():
    if not hasattr(kinds, "MultiOptimizer"):
        pytest.skip("this Keras has none")
    model = network("Adam")
    model.compile(kinds.MultiOptimizer(kinds.OptimizerMap(kinds.SGD(0.1))), logits_loss())
    with pytest.raises(ValueError, match=r"optimizer with one learning rate is needed.* MultiOptimizer"):
        fit(model, fge())
