"""The paper's step with momentum, against a loop of PyTorch's update in numpy, and against torch.optim.SGD itself."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_fge
from conftest import batch_norm_network, images, logits_loss, slow_but_on_torch, to_numpy, values
from keras_fge.core.keras_internals import optimizer_calls
from keras_fge.learning_rate import LearningRateFunction
from keras_fge.run.state import StateFile

BACKEND = keras.backend.backend()
COMPILED = [{}] if BACKEND == "torch" else [{}, {"jit_compile": True}, {"steps_per_execution": 3}]
X = np.random.default_rng(2).normal(size=(24, 5)).astype("float32")
Y = np.random.default_rng(3).normal(size=(24, 1)).astype("float32")


def triangle(step, high, low, cycle):
    t = ((step - 1) % cycle + 1) / cycle
    return (1 - 2 * t) * high + 2 * t * low if t <= 0.5 else (2 - 2 * t) * low + (2 * t - 1) * high


def half_cosine(step, high, cycle):
    return high / 2 * (math.cos(math.pi * ((step - 1) % cycle) / cycle) + 1)


def regression(nesterov=False, rate=0.01, momentum=0.9, **arguments):
    """A linear network, whose gradients numpy knows."""
    optimizer = arguments.pop("optimizer", None) or keras.optimizers.SGD(rate, momentum=momentum, nesterov=nesterov)
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    network.compile(optimizer, "mse", **arguments)
    network.set_weights([np.full((5, 1), 0.5, "float32")])
    return network


def torch_sgd(rates, w=None, velocity=0.0, momentum=0.9, nesterov=False, batch=4):
    """PyTorch's SGD on `regression`, in float64: v = m v + g; w -= rate v, or w -= rate (g + m v). Yields (w, v)."""
    w = np.full((5, 1), 0.5) if w is None else w
    for index, rate in enumerate(rates):
        rows = slice(batch * index % len(X), batch * index % len(X) + batch)
        gradient = 2 / batch * X[rows].T.astype("float64") @ (X[rows] @ w - Y[rows])
        velocity = momentum * velocity + gradient
        w = w - rate * (gradient + momentum * velocity if nesterov else velocity)
        yield w, velocity


def assert_close(ours, expected):
    """To 1e-5 of the length of the vector."""
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


def fit(network, epochs, *callbacks, batch=4, **arguments):
    return network.fit(
        X, Y, batch_size=batch, shuffle=False, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments
    )


@pytest.mark.parametrize("arguments", COMPILED, ids=str)
@pytest.mark.parametrize("nesterov", [False, True])
def test_members_are_those_of_the_papers_step(nesterov, arguments):
    network = regression(nesterov, **arguments)
    fit(network, 2)  # The velocity of an ordinary training is taken over, in the first step too.
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=12)
    fit(network, 4, fge)
    rates = [0.01] * 12 + [triangle(step, 0.05, 0.0005, 12) for step in range(1, 25)]
    ws = [w for w, _ in torch_sgd(rates, nesterov=nesterov)]
    assert [snapshot.step for snapshot in fge.snapshots] == [6, 18]
    for snapshot in fge.snapshots:
        assert_close(snapshot.weights[0], ws[12 + snapshot.step - 1])
    assert_close(to_numpy(network.weights[0]), ws[-1])
    keras_step = keras_fge.FGE(0.05, 0.0005, cycle_steps=12, rescale_momentum=False)
    other = regression(nesterov, **arguments)
    fit(other, 2)
    fit(other, 4, keras_step)
    assert keras_step.snapshots[1].weights[0] != pytest.approx(ws[29], rel=1e-3)


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_with_momentum_takes_the_step_of_torch(centered):
    """v = rho v + (1 - rho) g^2; b = m b + g / sqrt(v - mean^2); w -= rate b. Keras has the rate in b, as in SGD."""
    optimizer = keras.optimizers.RMSprop(0.001, rho=0.9, momentum=0.8, epsilon=1e-10, centered=centered)
    network = regression(optimizer=optimizer)
    fge = keras_fge.FGE(0.005, 0.0, cycle_steps=12)
    fit(network, 4, fge)
    w, v, mean, b, ws = np.full((5, 1), 0.5), 0.0, 0.0, 0.0, []
    for step in range(1, 25):
        rows = slice(4 * (step - 1) % 24, 4 * (step - 1) % 24 + 4)
        gradient = 0.5 * X[rows].T.astype("float64") @ (X[rows] @ w - Y[rows])
        v, mean = 0.9 * v + 0.1 * gradient**2, 0.9 * mean + 0.1 * gradient
        b = 0.8 * b + gradient / np.sqrt(v - mean**2 if centered else v)
        w = w - triangle(step, 0.005, 0.0, 12) * b
        ws.append(w)
    assert [snapshot.step for snapshot in fge.snapshots] == [6, 18]
    for snapshot in fge.snapshots:
        assert_close(snapshot.weights[0], ws[snapshot.step - 1])
    assert_close(to_numpy(network.weights[0]), ws[-1])


@pytest.mark.parametrize("kind", ["FGE to 0", "SSE"])
def test_rates_that_reach_zero(kind):
    network = regression()
    if kind == "SSE":
        callback = keras_fge.SnapshotEnsemble(0.05, cycle_steps=6)
        rates = [half_cosine(step, 0.05, 6) for step in range(1, 25)]
    else:
        callback = keras_fge.FGE(0.05, 0.0, cycle_steps=6)
        rates = [triangle(step, 0.05, 0.0, 6) for step in range(1, 25)]
    fit(network, 4, callback)
    ws = [w for w, _ in torch_sgd(rates)]
    assert len(callback.snapshots) == 4
    for snapshot in callback.snapshots:
        assert_close(snapshot.weights[0], ws[snapshot.step - 1])
    assert_close(to_numpy(network.weights[0]), ws[-1])


@pytest.mark.parametrize("before", ["number", "schedule", "callback"])
def test_after_ordinary_training_in_one_fit(before):
    rate = keras.optimizers.schedules.PolynomialDecay(0.02, 12, 0.004) if before == "schedule" else 0.01
    ordinary = [0.01] * 12
    others = []
    if before == "schedule":
        ordinary = [float(to_numpy(rate(step))) for step in range(12)]
    if before == "callback":
        others = [keras.callbacks.LearningRateScheduler(lambda epoch: [0.02, 0.005, 0.3, 0.3, 0.3, 0.3][epoch])]
        ordinary = [0.02] * 6 + [0.005] * 6
    network = regression(rate=rate)
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=12, start_epoch=2)
    fit(network, 6, *others, fge)
    w, u = np.full((5, 1), 0.5), 0.0
    for index, alpha in enumerate(ordinary):  # Keras' own step, where FGE does not act yet.
        rows = slice(4 * index % 24, 4 * index % 24 + 4)
        u = 0.9 * u - alpha * 0.5 * X[rows].T.astype("float64") @ (X[rows] @ w - Y[rows])
        w = w + u
    rates = [triangle(step, 0.05, 0.0005, 12) for step in range(1, 25)]
    ws = [w for w, _ in torch_sgd(rates, w, -u / ordinary[-1])]
    for snapshot in fge.snapshots:
        assert_close(snapshot.weights[0], ws[snapshot.step - 1])


@pytest.mark.parametrize("again", ["the same", "another"])
def test_a_second_run_goes_on_with_the_velocity_of_the_first(again):
    network = regression()
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=8)
    fit(network, 2, fge)  # One and a half cycles.
    snapshots = list(fge.snapshots)
    fge = fge if again == "the same" else keras_fge.FGE(0.05, 0.0005, cycle_steps=8)
    fit(network, 2, fge)
    snapshots += fge.snapshots[-2:]
    rates = [triangle(step, 0.05, 0.0005, 8) for step in range(1, 13)]
    ws = [w for w, _ in torch_sgd(rates + rates)]
    assert [snapshot.step for snapshot in snapshots] == [4, 12, 4, 12]
    for index, snapshot in enumerate(snapshots):
        assert_close(snapshot.weights[0], ws[12 * (index // 2) + snapshot.step - 1])


class Break(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


@slow_but_on_torch
@pytest.mark.parametrize("between", ["nothing", "ordinary training"])
def test_after_a_run_that_was_interrupted(between):
    """A user stops the cell of a notebook in the middle of an epoch, and runs it again."""
    network = regression(rate=1e-4)  # Of the end of the training before.
    with pytest.raises(KeyboardInterrupt):
        fit(network, 2, keras_fge.FGE(0.05, 0.0005, cycle_steps=8), Break())
    done = optimizer_calls(network.optimizer)  # On JAX, those of the last epoch that was finished.
    last = triangle(done, 0.05, 0.0005, 8) if done else 1e-4
    if between == "ordinary training":
        fit(network, 1)
        last = 1e-4
    w, u = values(network.weights)[0], values(network.optimizer.momentums)[0]
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=8)
    fit(network, 2, fge)
    ws = [w for w, _ in torch_sgd([triangle(step, 0.05, 0.0005, 8) for step in range(1, 13)], w, -u / last)]
    for snapshot in fge.snapshots:
        assert_close(snapshot.weights[0], ws[snapshot.step - 1])


def test_afterwards_the_optimizer_is_keras_own():
    network, plain = regression(), regression()
    attributes = set(vars(network.optimizer))
    fit(network, 2, keras_fge.FGE(0.05, 0.0005, cycle_steps=12))
    assert not {"update_step", "_backend_update_step"} & set(vars(network.optimizer))
    added = set(vars(network.optimizer)) - attributes - set(vars(plain.optimizer))
    assert added <= {"momentums", "_trainable_variables_indices", "_weight_decay_by_var_key"}  # All by `build`.
    fit(plain, 1)
    for ours, theirs in zip(network.optimizer.variables, plain.optimizer.variables):
        theirs.assign(to_numpy(ours))
    plain.set_weights(network.get_weights())
    fit(network, 2)
    fit(plain, 2)
    assert np.array_equal(to_numpy(network.weights[0]), to_numpy(plain.weights[0]))


@pytest.mark.parametrize("nesterov", [False, True])
def test_gradient_accumulation(nesterov):
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=nesterov, gradient_accumulation_steps=2)
    network = regression(optimizer=optimizer)
    fit(network, 1, batch=2)
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=16)
    fit(network, 4, fge, batch=2)  # Batches of 2, two of them an update: those of one of 4.
    rates = [0.01] * 6 + [triangle(2 * update, 0.05, 0.0005, 16) for update in range(1, 25)]
    ws = [w for w, _ in torch_sgd(rates, nesterov=nesterov)]
    assert [snapshot.step for snapshot in fge.snapshots] == [8, 24, 40]
    for snapshot in fge.snapshots:
        assert_close(snapshot.weights[0], ws[6 + snapshot.step // 2 - 1])


def test_updates_that_loss_scaling_skips():
    inner = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127, dynamic_growth_steps=1000)
    network = regression(optimizer=optimizer)
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=4)
    x, y = X[:4], Y[:4]  # The same batch each time: skipped ones leave no trace.
    network.fit(x, y, batch_size=4, epochs=24, shuffle=False, verbose=0, callbacks=[fge])
    done = int(to_numpy(inner.iterations))
    assert 8 <= done < 24
    w, v, ws = np.full((5, 1), 0.5), 0.0, []
    for step in range(1, done + 1):
        v = 0.9 * v + 0.5 * x.T.astype("float64") @ (x @ w - y)
        w = w - triangle(step, 0.05, 0.0005, 4) * v
        ws.append(w)
    assert fge.snapshots
    for snapshot in fge.snapshots:
        assert_close(snapshot.weights[0], ws[snapshot.step - 1])


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


@slow_but_on_torch
def test_resume_in_the_middle_of_a_cycle(tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)
    x, y = images()

    def run(folder, *callbacks):
        keras.utils.set_random_seed(1)
        network = batch_norm_network()
        network.compile(keras.optimizers.SGD(0.01, momentum=0.9), logits_loss())
        fge = keras_fge.FGE(0.05, 0.0, cycle_steps=10, start_epoch=1, directory=tmp_path / folder, resume=True)
        network.fit(x, y, batch_size=10, shuffle=False, epochs=6, verbose=0, callbacks=[fge, *callbacks])
        return network, fge

    whole, expected = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", Interrupt())
    network, fge = run("parts")
    assert network.history.epoch == [0, 1, 2, 3, 4, 5] and len(fge.snapshots) == len(expected.snapshots) == 3
    for ours, theirs in zip(values(network.variables), values(whole.variables)):
        assert np.array_equal(ours, theirs)
    with pytest.raises(ValueError, match="its rescale_momentum is True, here it is False"):
        fge = keras_fge.FGE(0.05, 0.0, cycle_steps=10, start_epoch=1, directory=tmp_path / "parts", resume=True)
        fge.rescale_momentum = False
        network.fit(x, y, batch_size=10, shuffle=False, epochs=6, verbose=0, callbacks=[fge])


def test_a_resume_with_lower_rates(tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)

    def run(epochs, high):
        network = regression()
        fge = keras_fge.FGE(high, 0.001, cycle_steps=10, directory=tmp_path, resume=True)
        fit(network, epochs, fge)
        return network, fge

    run(2, 0.02)  # 12 steps.
    with pytest.warns(UserWarning, match=r"began with max_learning_rate=0.02, and goes on with 0.005\."):
        network, fge = run(4, 0.005)
    rates = [triangle(step, 0.02 if step <= 12 else 0.005, 0.001, 10) for step in range(1, 25)]
    *_, (w, _) = torch_sgd(rates)
    assert_close(network.get_weights()[0], w)
    assert [snapshot.step for snapshot in fge.snapshots] == [5, 15]
    run(5, 0.005)  # These are its rates now.


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_optimizers_without_a_velocity_need_nothing(optimizer):
    networks = [regression(optimizer=keras.optimizers.get(optimizer)) for _ in range(2)]
    for network, rescales in zip(networks, (True, False)):
        fit(network, 2, keras_fge.FGE(0.05, 0.0, cycle_steps=4, rescale_momentum=rescales))
    assert np.array_equal(*(to_numpy(network.weights[0]) for network in networks))


@pytest.mark.parametrize("nesterov", [False, True])
def test_members_are_those_of_torch(nesterov):
    """A small network with BatchNormalization, and torch.optim.SGD, with its learning rate set before each step."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)).astype("float32"), rng.integers(0, 3, 40)
    network = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            keras.layers.ReLU(),
            keras.layers.Dense(3),
        ]
    )
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=nesterov), logits_loss())
    theirs = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8, eps=1e-5, momentum=0.1), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )

    def parameters():
        return [theirs[0].weight, theirs[0].bias, theirs[1].weight, theirs[1].bias, theirs[3].weight, theirs[3].bias]

    with torch.no_grad():
        for parameter, variable in zip(parameters(), network.trainable_variables):
            parameter.copy_(torch.tensor(np.array(to_numpy(variable).T)))
    sgd = torch.optim.SGD(theirs.parameters(), 0.01, momentum=0.9, nesterov=nesterov)
    members = []
    for step in range(1, 29):
        rate = 0.01 if step <= 4 else triangle(step - 4, 0.1, 0.001, 8)
        sgd.param_groups[0]["lr"] = rate
        rows = slice(10 * (step - 1) % 40, 10 * (step - 1) % 40 + 10)
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.tensor(x[rows])), torch.tensor(y[rows])).backward()
        sgd.step()
        if step > 4 and (step - 4) % 8 == 4:
            members.append([parameter.detach().numpy().T.copy() for parameter in parameters()])
    fge = keras_fge.FGE(0.1, 0.001, cycle_steps=8, start_epoch=1)
    network.fit(x, y, batch_size=10, shuffle=False, epochs=7, verbose=0, callbacks=[fge])
    trainable = [index for index, variable in enumerate(network.weights) if variable.trainable]
    assert len(fge.snapshots) == len(members) == 3
    for snapshot, member in zip(fge.snapshots, members):
        ours = np.concatenate([snapshot.weights[index].ravel() for index in trainable])
        expected = np.concatenate([array.ravel() for array in member])
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_factor_is_that_of_the_formula():
    rate = LearningRateFunction(lambda step: keras_fge.triangular(step, 0.1, 0.0, 4), start=7, least=1e-8)
    for iterations in range(7, 20):
        step = iterations - 6
        before = 0.3 if step == 1 else max(triangle(step - 1, 0.1, 0.0, 4), 1e-8)
        ratio = float(to_numpy(rate.ratio(ops.convert_to_tensor(iterations), 1, 0.3)))
        assert ratio == pytest.approx(max(triangle(step, 0.1, 0.0, 4), 1e-8) / before, rel=1e-5)
