"""Training a curve: the step against the same step in numpy, and what `connect` promises."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import stats

import curves
import processes
from conftest import (
    batch_norm_network,
    images,
    logits_loss,
    slow_but_on_torch,
    slow_on_tensorflow,
    to_numpy,
    values,
)
from curves.geometry import relative_speed, segment_lengths

BACKEND = keras.backend.backend()


def linear_network(weights=None):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    if weights is not None:
        network.set_weights(weights)
    return network


def positions_by_hand(seed, count):
    """The sequence of t in float64 and Python integers."""
    state = np.random.default_rng(seed).integers(1, (30269, 30307, 30323))
    for _ in range(count):
        state = [171 * state[0] % 30269, 172 * state[1] % 30307, 170 * state[2] % 30323]
        yield (state[0] / 30269 + state[1] / 30307 + state[2] / 30323) % 1


def random_weights(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(4, 2)).astype("float32"), rng.normal(size=2).astype("float32")]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("curve", [curves.Bezier(3), curves.Bezier(5), curves.PolygonalChain(4)], ids=repr)
def test_training_steps_against_numpy(curve, jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("Keras does not compile on torch")
    rate, momentum, decay = 0.1, 0.9, 0.02
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(24, 4)).astype("float32"), rng.normal(size=(24, 2)).astype("float32")
    start, end = random_weights(0), random_weights(1)
    model = curves.connect(linear_network(start), linear_network(end), curve, weight_decay=decay, seed=11)
    model.compile(keras.optimizers.SGD(rate, momentum=momentum), "mse", jit_compile=jit_compile)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)

    shares = np.linspace(0, 1, curve.num_bends)
    bends = [[(1 - s) * a.astype("float64") + s * b for a, b in zip(start, end)] for s in shares]
    velocity = [[np.zeros_like(w) for w in bend] for bend in bends]
    for step, t in enumerate(positions_by_hand(11, 6)):
        batch = slice(8 * (step % 3), 8 * (step % 3) + 8)
        c = to_numpy(curve.coefficients(t)).astype("float64")
        kernel, bias = (sum(c[i] * bend[k] for i, bend in enumerate(bends)) for k in (0, 1))
        residual = 2 * (x[batch] @ kernel + bias - y[batch]) / (8 * 2)
        gradients = [x[batch].T @ residual + decay * kernel, residual.sum(axis=0) + decay * bias]
        for i in range(1, curve.num_bends - 1):
            for k in (0, 1):
                velocity[i][k] = momentum * velocity[i][k] - rate * c[i] * gradients[k]
                bends[i][k] = bends[i][k] + velocity[i][k]
    for ours, expected in zip(model.body.bends, bends):
        for a, b in zip(values(ours), expected):
            assert a == pytest.approx(b, abs=2e-6)


@slow_on_tensorflow
def test_relative_speed_against_numerical_differentiation():
    for curve in (curves.Bezier(4), curves.PolygonalChain(4)):
        model = curves.connect(linear_network(random_weights(0)), linear_network(random_weights(1)), curve)
        model.set_bend(1, linear_network(random_weights(2)))

        def point(t):
            return np.concatenate([weight.astype("float64").ravel() for weight in model.weights_at(t)])  # noqa: B023

        positions = (np.arange(60) + 0.5) / 60
        speeds = np.array([np.linalg.norm(point(t + 5e-3) - point(t - 5e-3)) / 1e-2 for t in positions])
        for t, speed in zip(positions[::7], speeds[::7]):
            model.t = t
            assert float(to_numpy(relative_speed(model.curve_layers(), model.t))) == pytest.approx(
                speed / speeds.mean(), rel=2e-3
            )


@slow_on_tensorflow
@pytest.mark.parametrize("objective", ["uniform", "arc_length"])
def test_mean_gradient_is_that_of_the_objective(objective, monkeypatch):
    """Steps at the nodes of a quadrature in t, against finite differences of the numerically integrated objective."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))
    start, bend, end = (
        np.concatenate([w.ravel() for w in random_weights(seed)]).astype("float64") for seed in (0, 1, 2)
    )
    nodes, shares = np.polynomial.legendre.leggauss(24)
    nodes, shares = (nodes + 1) / 2, shares / 2

    def network(vector):
        return linear_network([vector[:8].reshape(4, 2), vector[8:]])

    def integrated(theta):
        t = np.linspace(0, 1, 4001)[:, None]
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * theta + t**2 * end
        speeds = np.linalg.norm(2 * (1 - t) * (theta - start) + 2 * t * (end - theta), axis=1)
        residuals = np.einsum("ni,jio->jno", x, points[:, :8].reshape(-1, 4, 2)) + points[:, None, 8:] - y
        losses = np.mean(residuals**2, axis=(1, 2))
        density = speeds / np.trapezoid(speeds, t[:, 0]) if objective == "arc_length" else np.ones_like(speeds)
        return np.trapezoid(losses * density, t[:, 0])

    expected = [(integrated(bend + h) - integrated(bend - h)) / 2e-4 for h in 1e-4 * np.eye(10)]
    model = curves.connect(network(start), network(end), objective=objective)
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    gradient = 0
    for t, share in zip(nodes, shares):
        monkeypatch.setattr(model, "_sample_position", lambda t=t: keras.ops.convert_to_tensor(t, "float32"))
        model.set_bend(1, network(bend))
        model.fit(x, y, batch_size=6, verbose=0)
        after = np.concatenate([to_numpy(variable).ravel() for variable in model.body.bends[1]])
        gradient = gradient + share * (bend - after)
    assert gradient == pytest.approx(np.array(expected), abs=2e-5)


@pytest.mark.parametrize("jit_compile", [pytest.param(False, marks=slow_on_tensorflow), True])
def test_arc_length_steps_compiled_as_by_hand(jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("Keras does not compile on torch")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    results = []
    for eager in (False, True):
        ends = [linear_network(random_weights(seed)) for seed in (0, 1)]
        model = curves.connect(*ends, curves.PolygonalChain(4), objective="arc_length", weight_decay=0.01, seed=2)
        model.set_bend(1, linear_network(random_weights(2)))
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager, jit_compile=jit_compile and not eager)
        model.fit(x, x[:, :2], batch_size=4, epochs=2, shuffle=False, verbose=0)
        results.append(values(model.trainable_variables))
    for compiled, by_hand in zip(*results):
        assert compiled == pytest.approx(by_hand, abs=1e-5)


def test_curve_without_length_trains():
    network = linear_network(random_weights(0))
    model = curves.connect(network, network, objective="arc_length", seed=0)
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    assert all(np.all(np.isfinite(value)) for value in values(model.trainable_variables))


@slow_but_on_torch
@pytest.mark.parametrize("good_epochs", [0, 2])
def test_loss_that_is_not_finite_ends_fit_with_the_last_good_weights(trained, good_epochs):
    start, end, x, y = trained
    model = curves.connect(start, end, seed=0)
    explosion = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 if epoch < good_epochs else 1e25)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), logits_loss())
    record = {}
    recorder = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: record.update({epoch: values(model.trainable_variables)})
    )
    record[-1] = values(model.trainable_variables)
    when = f"the end of epoch {good_epochs}" if good_epochs else "the beginning"
    with pytest.raises(FloatingPointError, match=f"After epoch .* put back to those of {when}"):
        model.fit(x, y, epochs=9, verbose=0, callbacks=[explosion, recorder])
    assert max(record) == good_epochs - 1
    for ours, expected in zip(values(model.trainable_variables), record[good_epochs - 1]):
        assert np.array_equal(ours, expected)
    assert int(to_numpy(model.optimizer.iterations)) == 2 * good_epochs
    model.fit(x, y, verbose=0, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.01)])


def test_line_with_fixed_ends_has_nothing_to_train():
    model = curves.connect(linear_network(random_weights(0)), linear_network(random_weights(1)), curves.Bezier(2))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="There is nothing to train"):
        model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)


def test_bad_objective():
    with pytest.raises(ValueError, match=r"`objective` must be one of .* Received: objective='length'"):
        curves.connect(linear_network(), linear_network(), objective="length")


def test_fit_draws_one_t_per_batch_and_leaves_the_position_alone():
    x = np.ones((32, 4), "float32")
    model = curves.connect(linear_network(random_weights(0)), linear_network(random_weights(1)), seed=3)
    model.t.assign(0.25)
    model.compile("sgd", "mse")
    history = model.fit(x, x[:, :2], batch_size=8, epochs=2, validation_data=(x, x[:, :2]), verbose=0)
    assert float(to_numpy(model.t)) == 0.25
    expected = model.evaluate(x, x[:, :2], verbose=0)
    assert history.history["val_loss"][-1] == pytest.approx(expected, rel=1e-6)


def test_positions_are_uniform():
    model = curves.connect(linear_network(), linear_network(), seed=0)
    drawn = [float(to_numpy(model._sample_position())) for _ in range(10)]
    assert drawn == pytest.approx(list(positions_by_hand(0, 10)), abs=1e-6)
    positions = np.array(list(positions_by_hand(0, 20000)))
    assert stats.kstest(positions, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(positions[1:], positions[:-1])[0, 1]) < 0.02


def test_a_failing_step_leaves_the_position_alone():
    model = curves.connect(linear_network(random_weights(0)), linear_network(random_weights(1)), seed=3)
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(Exception):  # noqa: B017 - the backends disagree on what a shape mismatch is
        model.fit(np.ones((8, 4), "float32"), np.ones((8, 7), "float32"), verbose=0)
    assert float(to_numpy(model.t)) == 0.5


@pytest.mark.parametrize("fix_start", [True, pytest.param(False, marks=slow_but_on_torch)])
@pytest.mark.parametrize("fix_end", [True, pytest.param(False, marks=slow_but_on_torch)])
def test_fixed_endpoints_are_the_networks_bit_for_bit_after_training(trained, fix_start, fix_end):
    start, end, x, y = trained
    model = curves.connect(start, end, fix_start=fix_start, fix_end=fix_end, seed=0)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), logits_loss())
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    for t, network, fixed in ((0.0, start, fix_start), (1.0, end, fix_end)):
        weights = zip(model.weights_at(t), network.get_weights())
        assert all(np.array_equal(a, b) for a, b in weights) == fixed
        if fixed:
            model.t.assign(t)
            expected = network.predict(x, verbose=0)
            assert model.predict(x, verbose=0) == pytest.approx(expected, abs=1e-6)
            assert model.network_at(t).predict(x, verbose=0) == pytest.approx(expected, abs=1e-6)
    assert start.compiled and start.trainable


@pytest.mark.parametrize("curve", [curves.Bezier(5), curves.PolygonalChain(4)], ids=repr)
def test_linear_initialization_in_order(curve):
    start, end = random_weights(0), random_weights(1)
    model = curves.connect(linear_network(start), linear_network(end), curve)
    for i, bend in enumerate(model.body.bends):
        s = i / (curve.num_bends - 1)
        for variable, a, b in zip(bend, start, end):
            assert to_numpy(variable) == pytest.approx((1 - s) * a + s * b, abs=1e-6)
    for t in (0.0, 0.2, 0.9):
        for weight, a, b in zip(model.weights_at(t), start, end):
            assert weight == pytest.approx((1 - t) * a + t * b, abs=1e-6)


def test_network_at_is_independent_and_predicts_what_the_curve_predicts(trained):
    start, end, x, _ = trained
    model = curves.connect(start, end)
    model.t.assign(0.4)
    expected = model.predict(x, verbose=0)
    network = model.network_at(0.4)
    assert network.predict(x, verbose=0) == pytest.approx(expected, abs=1e-5)
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    assert np.array_equal(model.predict(x, verbose=0), expected)


def test_arc_length_of_a_line_and_of_a_parabola():
    start, end = random_weights(0), random_weights(1)
    straight = np.sqrt(sum(np.sum((a.astype("float64") - b) ** 2) for a, b in zip(start, end)))
    model = curves.connect(linear_network(start), linear_network(end), curves.PolygonalChain(4))
    assert model.arc_length() == pytest.approx(straight, rel=1e-6)
    assert model.arc_length(num_points=2) == pytest.approx(straight, rel=1e-6)

    # In one plane: bends (0, 0), (1/2, 1), (1, 0), that is x = t, y = 2 t (1 - t).
    zero, one = [np.zeros((4, 2)), np.zeros(2)], [np.zeros((4, 2)), np.array([1.0, 0.0])]
    parabola = curves.connect(linear_network(zero), linear_network(one), curves.Bezier(3))
    parabola.set_bend(1, linear_network([np.zeros((4, 2)), np.array([0.5, 1.0])]))
    expected = np.sqrt(5) / 2 + np.arcsinh(2) / 4  # integral of sqrt(1 + (2 - 4 t)^2)
    assert parabola.arc_length(num_points=2001) == pytest.approx(expected, rel=1e-5)
    segments = segment_lengths(parabola.curve_layers(), np.array([0.0, 0.5, 1.0]))
    assert segments == pytest.approx([np.sqrt(0.5)] * 2, rel=1e-6)


def test_penalty_is_the_regularization_of_the_network_at_t(trained):
    start, end, _, _ = trained
    model = curves.connect(start, end, weight_decay=0.3)
    network = model.network_at(0.7)
    squares = sum(np.sum(v.astype("float64") ** 2) for v in values(network.trainable_variables))
    regularizer = 1e-2 * np.sum(to_numpy(network.layers[1].kernel).astype("float64") ** 2)
    assert model.penalty(0.7) == pytest.approx(0.5 * 0.3 * squares + regularizer, rel=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Body(keras.Model):
    """A plain layer below layers on a curve."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.backbone = layers.Dense(8, activation="relu", kernel_regularizer="l2")
        self.norm = curves.CurveBatchNormalization(fix_start=False, fix_end=False)
        self.head = curves.CurveDense(2, fix_start=False, fix_end=False)

    def call(self, x, t, training=None):
        return self.head(self.norm(self.backbone(x), t=t, training=training), t=t)


@slow_but_on_torch
def test_body_of_the_users_own(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(32, 4)).astype("float32"), np.zeros(32)
    model = curves.CurveModel(Body(), seed=0)
    model.compile("sgd", logits_loss())
    model.fit(x, y, epochs=1, verbose=0)
    assert len(model.trainable_variables) == 2 + 3 * 2 + 3 * 2
    assert model.arc_length() > 0
    kernel = to_numpy(model.body.backbone.kernel)
    assert model.penalty(0.5) == pytest.approx(0.01 * np.sum(kernel**2), rel=1e-5)
    with pytest.raises(ValueError, match=r"`network_at` needs a body that is one `curves.Curve"):
        model.network_at(0.5)
    model.t = 0.8
    model.save(tmp_path / "body.keras")
    copy = keras.saving.load_model(tmp_path / "body.keras")
    assert len(copy.variables) == len(model.variables)
    assert np.array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))
    copy.fit(x, y, verbose=0)


def test_loss_that_is_not_finite_in_the_first_epoch_of_an_unbuilt_body():
    model = curves.CurveModel(Body(), seed=0)
    model.compile(keras.optimizers.SGD(1e25), logits_loss())
    x = np.ones((32, 4), "float32")
    with pytest.raises(FloatingPointError, match=r"After epoch 1 .*(No earlier values|those of the beginning)"):
        model.fit(x, np.zeros(32), epochs=3, batch_size=4, verbose=0)


@slow_on_tensorflow
@pytest.mark.parametrize("structure", ["first", "last", "dictionary"])
def test_functional_body_with_t_among_its_inputs(structure, tmp_path):
    x, t = keras.Input((6, 6, 2), name="x"), keras.Input(batch_shape=(), name="t")
    h = layers.Conv2D(3, 3, activation="relu")(x)
    h = curves.CurveConv2D(4, 3, curve=curves.PolygonalChain(4))(h, t=t)
    h = curves.CurveBatchNormalization(fix_end=False)(h, t=t)
    h = layers.GlobalAveragePooling2D()(layers.ReLU()(h))
    h = curves.Curve(layers.LayerNormalization())(h, t=t)
    inputs = {"first": [t, x], "last": [x, t], "dictionary": {"x": x, "t": t}}[structure]
    body = keras.Model(inputs, curves.CurveDense(3)(h, t=t))
    model = curves.CurveModel(body, seed=0)
    model.compile("sgd", logits_loss(), metrics=["accuracy"])
    data = images()
    model.fit(*data, verbose=0)
    assert len(model.trainable_variables) == 2 + 2 * 2 + 2 * 2 + 2 + 2
    model.t = 0.3
    layer = body.layers[-1]
    features = keras.Model(inputs, h)
    call = {"first": [0.3, data[0]], "last": [data[0], 0.3], "dictionary": {"x": data[0], "t": 0.3}}[structure]
    hidden = to_numpy(features(keras.tree.map_structure(keras.ops.convert_to_tensor, call)))
    kernel, bias = layer.weights_at(0.3)
    assert model.predict(data[0], verbose=0) == pytest.approx(hidden @ kernel + bias, abs=1e-5)
    model.save(tmp_path / "body.keras")
    copy = keras.saving.load_model(tmp_path / "body.keras")
    assert np.array_equal(copy.predict(data[0], verbose=0), model.predict(data[0], verbose=0))


@slow_but_on_torch
def test_interrupted_training_resumes_to_the_same_result(trained, tmp_path):
    start, end, x, y = trained

    def train(folder, seed, interrupted_in=None):
        def interrupt(epoch, logs):
            if epoch == interrupted_in:
                raise KeyboardInterrupt

        keras.utils.set_random_seed(seed)
        model = curves.connect(start, end, fix_end=False, seed=4)  # With dropout and BatchNormalization.
        model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
        callbacks = [
            keras.callbacks.BackupAndRestore(tmp_path / folder, delete_checkpoint=False),
            keras.callbacks.LambdaCallback(on_epoch_begin=interrupt),
        ]
        model.fit(x, y, batch_size=16, epochs=4, shuffle=False, callbacks=callbacks, verbose=0)
        return values(model.variables + model.optimizer.variables)

    whole = train("whole", seed=1)
    with pytest.raises(KeyboardInterrupt):
        train("parts", seed=1, interrupted_in=2)
    for ours, expected in zip(train("parts", seed=2), whole):
        assert np.array_equal(ours, expected)


@slow_but_on_torch
def test_round_trip_in_a_new_process(trained, tmp_path):
    start, end, x, y = trained
    model = curves.connect(start, end, curves.PolygonalChain(3), weight_decay=1e-3, seed=5)
    model.compile(keras.optimizers.SGD(0.05), logits_loss())
    model.fit(x, y, epochs=1, verbose=0)
    model.t.assign(0.3)
    curves.update_batch_norm(model, (x, y))
    model.save(tmp_path / "curve.keras")
    np.savez(tmp_path / "expected.npz", x=x, y=model.predict(x, verbose=0), length=model.arc_length())
    code = f"""
import numpy as np, keras, curves
model = keras.saving.load_model(r"{tmp_path}/curve.keras")
expected = np.load(r"{tmp_path}/expected.npz")
np.testing.assert_allclose(model.predict(expected["x"], verbose=0), expected["y"], atol=1e-6)
np.testing.assert_allclose(model.arc_length(), expected["length"], rtol=1e-6)
assert model.optimizer.iterations.numpy() == 2
model.fit(expected["x"], np.zeros(len(expected["x"])), verbose=0)
"""
    result = processes.run(code)
    assert result.returncode == 0, result.stderr


def test_moving_reaches_the_compiled_function():
    model = curves.connect(linear_network(random_weights(0)), linear_network(random_weights(1)))
    x = np.ones((4, 4), "float32")
    for move in (lambda t: setattr(model, "t", t), model.t.assign):
        for t in (0.0, 0.7):
            move(t)
            assert model.predict(x, verbose=0) == pytest.approx(model.network_at(t).predict(x, verbose=0), abs=1e-5)


@pytest.mark.parametrize("t", [-0.1, 1.1, np.float64(7)])
def test_position_outside_the_curve(t):
    model = curves.connect(linear_network(), linear_network())
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\]"):
        model.t.assign(t)
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\]"):
        model.t = t
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\]"):
        model.network_at(t)
    assert float(to_numpy(model.t)) == 0.5


def test_first_weight_that_differs_is_named():
    def network(width):
        return keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(width, name="wide"), layers.Dense(2)])

    with pytest.raises(ValueError, match=r"trainable weight 2: '.*wide/kernel' \(3, 5\) .*wide/kernel' \(3, 6\)"):
        curves.connect(network(5), network(6))
    deeper = keras.Sequential([*network(5).layers, layers.Dense(2, name="more")])
    deeper.build((None, 4))
    with pytest.raises(ValueError, match=r"have 6 and 8 trainable weights.*more/kernel' of `end`"):
        curves.connect(network(5), deeper)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (layers.Dense(3, "relu"), layers.Dense(3, "tanh"), "differ in `activation`: relu in layer .* against tanh"),
        (layers.ReLU(), layers.ReLU(max_value=6), "differ in `max_value`: None in layer .* against 6"),
        (layers.ReLU(), layers.Dropout(0.1), "differ in `class`: ReLU in layer .* against Dropout"),
    ],
    ids=["activation", "option", "class"],
)
def test_equal_weights_of_another_function(ours, theirs, message):
    networks = [keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)]) for layer in (ours, theirs)]
    with pytest.raises(ValueError, match=message):
        curves.connect(*networks)


def test_networks_may_have_been_trained_in_different_ways():
    def network(rate, decay):
        dense = layers.Dense(2, kernel_initializer="zeros" if decay else "ones", kernel_regularizer=decay)
        return keras.Sequential([keras.Input((4,)), layers.Dropout(rate), dense])

    assert curves.connect(network(0.1, None), network(0.2, "l2")).built


def test_networks_that_cannot_be_connected():
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="`start` must be a built network"):
        curves.connect(unbuilt, linear_network())
    with pytest.raises(ValueError, match=r"`end` must be a keras.Model"):
        curves.connect(linear_network(), layers.Dense(2))
    frozen = [linear_network(random_weights(seed)) for seed in (0, 1)]
    for network in frozen:
        network.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        curves.connect(*frozen)

    def half_frozen():
        network = keras.Sequential(
            [keras.Input((4,)), layers.Dense(3, trainable=False, name="frozen"), layers.Dense(2)]
        )
        return network

    with pytest.raises(ValueError, match=r"differ in '.*frozen/kernel', which is frozen"):
        curves.connect(half_frozen(), half_frozen())


def test_layer_twice_in_a_nested_sequential_model():
    def network():
        first, second, inputs = layers.Dense(4), layers.Dense(4), keras.Input((4,))
        return keras.Model(inputs, keras.Sequential([keras.Input((4,)), first, second, first])(inputs))

    with pytest.raises(ValueError, match="Sequential model in which one layer stands twice"):
        curves.connect(network(), network())


def test_arrays_in_a_configuration_are_compared():
    class Table(layers.Dense):
        def __init__(self, units, table, **kwargs):
            super().__init__(units, **kwargs)
            self.table = np.asarray(table)

        def get_config(self):
            return {**super().get_config(), "table": self.table}

    one, same, other = (keras.Sequential([keras.Input((4,)), Table(2, table)]) for table in ([1, 2], [1, 2], [1, 3]))
    assert curves.connect(one, same).built
    with pytest.raises(ValueError, match="differ in `table`"):
        curves.connect(one, other)


def test_class_without_a_configuration():
    class Custom(keras.Model):
        def __init__(self, make):
            super().__init__()
            self.dense = make()

        def call(self, x):
            return self.dense(x)

    networks = [Custom(lambda: layers.Dense(2)) for _ in range(2)]
    for network in networks:
        network(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"could not be rebuilt from its configuration.*get_config"):
        curves.connect(*networks)


def test_custom_loss_and_schedule_of_the_endpoint_do_not_matter():
    class Schedule(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    start = batch_norm_network()
    start.compile(keras.optimizers.SGD(Schedule()), lambda y, p: p)
    with pytest.warns(UserWarning, match="compiled without its `optimizer`"):
        model = curves.connect(start, batch_norm_network())
    assert start.compiled and model.loss is start.loss and model.optimizer is None
    x, _ = images(4)
    assert model(x).shape == (4, 3)


class OwnStep(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


def test_networks_with_a_train_step_of_their_own():
    def network():
        inputs = keras.Input((3,))
        return OwnStep(inputs, keras.layers.Dense(2)(inputs))

    with pytest.warns(UserWarning, match="has its own `train_step`, which a curve does not use"):
        curves.connect(network(), network())


class Consistent(keras.Model):
    """A loss that looks at the weights and calls the network again, beside the compiled one or instead of it."""

    uses_compiled = True

    def compute_loss(self, x, y, y_pred, sample_weight=None):
        again = ops.mean(ops.square(self(x + 0.1) - y_pred))
        if self.uses_compiled:
            return super().compute_loss(x, y, y_pred, sample_weight) + again
        return ops.mean(ops.square(y - y_pred)) + again + ops.sum(ops.square(self.layers[-1].bias))


@slow_on_tensorflow
@pytest.mark.parametrize("uses_compiled", [True, False])
def test_a_curve_minimizes_the_loss_hook_of_its_network(uses_compiled, monkeypatch):
    monkeypatch.setattr(Consistent, "uses_compiled", uses_compiled)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 16, 3)).astype("float32")

    def network():
        inputs = keras.Input((3,))
        regularizer = keras.regularizers.L2(0.1)
        network = Consistent(inputs, keras.layers.Dense(3, kernel_regularizer=regularizer)(inputs))
        network.layers[-1].bias.assign(rng.normal(size=3))
        return network

    curve = curves.connect(network(), network(), weight_decay=0.2, seed=0)
    curve.compile(keras.optimizers.SGD(0.1), "mse")
    for t in (0.0, 0.3):
        curve.t = t
        kernel, bias = (array.astype("float64") for array in curve.weights_at(t))
        outputs = x @ kernel + bias
        expected = np.mean((y - outputs) ** 2) + np.mean((0.1 * kernel.sum(axis=0)) ** 2)
        expected += 0.1 * np.sum(kernel**2) if uses_compiled else np.sum(bias**2)  # One that leaves regularizers out.
        expected += 0.1 * (np.sum(kernel**2) + np.sum(bias**2))  # The decay of the curve.
        assert curve.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-4)
    before = curve.evaluate(x, y, verbose=0)
    curve.fit(x, y, epochs=20, verbose=0)
    assert curve.evaluate(x, y, verbose=0) < before


@slow_but_on_torch
def test_an_optimizer_that_would_decay_the_bends(trained):
    start, end, x, y = trained
    curve = curves.connect(start, end)
    curve.compile(keras.optimizers.AdamW(0.001), logits_loss())
    with pytest.warns(UserWarning, match=r"weight_decay=0.004 decays each bend by itself, not the weights w\(t\)"):
        curve.fit(x, y, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        curve.compile(keras.optimizers.Adam(0.001), logits_loss())
        curve.fit(x, y, verbose=0)
        curves.connect(start, end)
