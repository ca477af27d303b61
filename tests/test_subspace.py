"""Chains through several networks, simplexes, losses of the bends, and samples from a subspace, against numpy."""

import math

import keras
import numpy as np
import pytest
import scipy.stats
from keras import layers, ops

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, logits_loss, to_numpy, values
from curves.subspace import elliptical_slice

pytestmark = SLOW_BUT_ON_TORCH

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
Y = np.argmax(X[:, :3] + 0.5 * RNG.normal(size=(60, 3)), axis=1)


def network(seed=0, batch_norm=False):
    keras.utils.set_random_seed(seed)
    norm = [layers.BatchNormalization()] if batch_norm else []
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="tanh"), *norm, layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1), logits_loss(), metrics=["accuracy"])
    model.fit(X, Y, batch_size=20, epochs=2, verbose=0)
    return model


def compiled(model):
    model.compile(keras.optimizers.SGD(0.05), logits_loss(), metrics=["accuracy"])
    return model


@pytest.mark.parametrize("batch_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_chain_goes_through_its_networks(batch_norm):
    networks = [network(seed, batch_norm) for seed in range(3)]
    chain = compiled(curves.connect(networks))
    assert chain.curve == curves.PolygonalChain(3)
    for t, each in zip((0.0, 0.5, 1.0), networks):
        chain.t = t
        assert chain.predict(X, verbose=0) == pytest.approx(each.predict(X, verbose=0), abs=1e-6)
        assert all(np.array_equal(a, b) for a, b in zip(chain.weights_at(t), each.get_weights()))
    weights = [each.get_weights()[0].astype("float64") for each in networks]
    assert chain.weights_at(0.6)[0] == pytest.approx(0.8 * weights[1] + 0.2 * weights[2], abs=1e-6)
    with pytest.raises(ValueError, match="There is nothing to train"):
        chain.fit(X, Y, verbose=0)
    result = curves.evaluate_path(chain, (X, Y), (X, Y), num_points=5, verbose=False)
    losses = [each.evaluate(X, Y, verbose=0, return_dict=True)["loss"] for each in networks]
    assert result.train["loss"][[0, 2, 4]] == pytest.approx(losses, rel=1e-4)
    plane = curves.evaluate_plane(chain, (X, Y), (X, Y), num_points=3, margin=0.0, verbose=False)
    assert plane.train["loss"].shape == (3, 3)


def test_the_line_of_a_chain_is_that_between_its_ends():
    networks = [network(seed, batch_norm=True) for seed in range(3)]
    chain, line = (
        compiled(curves.connect(networks)),
        compiled(curves.connect(networks[0], networks[2], curves.Bezier(2))),
    )
    ours, theirs = (curves.evaluate_path(c, (X, Y), (X, Y), num_points=5, verbose=False) for c in (chain, line))
    assert ours.line.train["loss"] == pytest.approx(theirs.train["loss"], rel=1e-5)
    chain.t = 0.5  # Afterwards it is the chain again.
    assert chain.predict(X, verbose=0) == pytest.approx(networks[1].predict(X, verbose=0), abs=1e-6)


@pytest.mark.parametrize("count", [14, 24, 132])
def test_at_each_bend_of_a_long_chain_no_other_one_counts(count):
    chain = curves.PolygonalChain(count)
    for k in range(count):
        assert np.array_equal(to_numpy(chain.coefficients(k / (count - 1))), np.eye(count, dtype="float32")[k])


def test_inner_networks_may_move():
    networks = [network(seed) for seed in range(4)]
    for fix_inner in (True, False):
        curve = compiled(curves.connect(networks, curve=curves.Bezier(4), fix_end=False, fix_inner=fix_inner, seed=0))
        before = [values(bend) for bend in curve.body.bends]
        curve.fit(X, Y, batch_size=20, epochs=1, verbose=0)
        moved = [
            any(not np.array_equal(a, b) for a, b in zip(old, values(new)))
            for old, new in zip(before, curve.body.bends)
        ]
        assert moved == [False, not fix_inner, not fix_inner, True]


def test_lists_that_cannot_be_connected():
    networks = [network(seed) for seed in range(3)]
    with pytest.raises(ValueError, match="one bend for each of 3 networks"):
        curves.connect(networks, curve=curves.Bezier(4))
    with pytest.raises(ValueError, match="not both"):
        curves.connect(networks, networks[0])
    with pytest.raises(ValueError, match="at least 2 networks"):
        curves.connect(networks[:1])
    with pytest.raises(ValueError, match="`end` must be a keras"):
        curves.connect(networks[0])
    with pytest.raises(ValueError, match=r"`start\[2\]` must be a keras"):
        curves.connect([*networks[:2], "third"])
    other = keras.Sequential([keras.Input((4,)), layers.Dense(7), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"`start\[0\]` and `start\[1\]` must have the same architecture"):
        curves.connect([networks[0], other, networks[1]])
    with pytest.raises(ValueError, match="`curve` must be a curves"):
        curves.connect(networks, curve="bezier")
    with pytest.raises(ValueError, match="for a simplex, give a list"):
        curves.connect(*networks[:2], curve=curves.Simplex(2))


def test_positions_on_a_simplex():
    simplex = curves.Simplex(3)
    assert to_numpy(simplex.coefficients([0.5, 0.25, 0.25])) == pytest.approx([0.5, 0.25, 0.25])
    for bad in (0.5, [0.5, 0.5], [0.7, 0.4, -0.1], [0.5, 0.5, 0.5], [np.nan, 0.5, 0.5]):
        with pytest.raises(ValueError, match="`t` must be 3 numbers"):
            simplex.coefficients(bad)
    assert simplex == curves.Simplex(3) != curves.Simplex(4)
    assert curves.Simplex.from_config(simplex.get_config()) == simplex
    with pytest.raises(ValueError, match="`num_vertices`"):
        curves.Simplex(1)


def test_a_simplex_is_drawn_uniformly():
    simplex = curves.Simplex(3)
    uniforms = RNG.random((4000, 3)).astype("float32")
    drawn = np.array([to_numpy(simplex.position_from(list(row))) for row in uniforms])
    assert drawn.sum(axis=1) == pytest.approx(1, abs=1e-5) and drawn.min() >= 0
    for column in drawn.T:  # The marginals of Dirichlet(1, 1, 1).
        assert scipy.stats.kstest(column, scipy.stats.beta(1, 2).cdf).pvalue > 1e-3
    model = curves.CurveModel(curves.Curve(network(), simplex), seed=0)
    positions = np.array([to_numpy(model._sample_position()) for _ in range(300)])
    assert scipy.stats.kstest(positions[:, 2], scipy.stats.beta(1, 2).cdf).pvalue > 1e-3
    assert len(np.unique(positions, axis=0)) == 300


def test_a_simplex_trains_predicts_and_is_saved(tmp_path):
    networks = [network(seed, batch_norm=True) for seed in range(3)]
    curve = curves.connect(networks, curve=curves.Simplex(3), fix_start=False, fix_end=False, fix_inner=False, seed=0)
    compiled(curve)
    middle = [np.mean(arrays, axis=0) for arrays in zip(*(n.get_weights() for n in networks))]
    assert curve.weights_at([1 / 3, 1 / 3, 1 / 3])[0] == pytest.approx(middle[0], abs=1e-6)
    curve.fit(X, Y, batch_size=20, epochs=2, verbose=0)
    assert to_numpy(curve.t) == pytest.approx(1 / 3)
    curve.t = [0.2, 0.3, 0.5]
    plain = curve.network_at([0.2, 0.3, 0.5])
    assert curve.predict(X, verbose=0) == pytest.approx(plain.predict(X, verbose=0), abs=1e-6)
    curves.update_batch_norm(curve, (X, Y))
    curve.save(tmp_path / "simplex.keras")
    loaded = keras.saving.load_model(tmp_path / "simplex.keras")
    assert loaded.predict(X, verbose=0) == pytest.approx(curve.predict(X, verbose=0), abs=1e-6)
    assert "Simplex(num_vertices=3)" in repr(curve)
    with pytest.raises(ValueError, match="`evaluate_path` needs a Bezier curve or a polygonal chain"):
        curves.evaluate_path(curve, (X, Y), (X, Y))
    with pytest.raises(ValueError, match="`init_linear` needs a Bezier curve or a polygonal chain"):
        curve.init_linear()
    with pytest.raises(ValueError, match="`objective='arc_length'` needs a Bezier curve or a polygonal chain"):
        curves.CurveModel(curve.body, objective="arc_length")
    plane = curves.evaluate_plane(curve, (X, Y), (X, Y), num_points=3, verbose=False)
    assert np.isfinite(plane.train["loss"]).all() and plane.path.shape == (0, 2)


def test_gradients_on_a_simplex():
    """dL/dw_i = t_i dL/dw(t), seen by one step of SGD from a known position."""
    start = network()
    curve = curves.CurveModel(curves.Curve(start, curves.Simplex(3), fix_start=False, fix_end=False), seed=0)
    t = np.array([0.2, 0.3, 0.5], "float32")
    curve._sample_position = lambda: ops.convert_to_tensor(t)
    curve.compile(keras.optimizers.SGD(0.1), logits_loss())
    before = [values(bend) for bend in curve.body.bends]
    plain = curve.network_at(t)
    plain.compile(keras.optimizers.SGD(0.1), logits_loss())
    weights = plain.get_weights()
    plain.train_on_batch(X, Y)
    curve.train_on_batch(X, Y)
    steps = [a - b for a, b in zip(plain.get_weights(), weights)]
    for share, old, bend in zip(t, before, curve.body.bends):
        for a, b, step in zip(old, values(bend), steps):
            assert b - a == pytest.approx(share * step, abs=2e-6)


def vectors(bends):
    return [np.concatenate([to_numpy(w).astype("float64").ravel() for w in bend]) for bend in bends]


def test_losses_of_the_bends():
    body = curves.Curve(keras.Sequential([keras.Input((2,)), layers.Dense(2)]), curves.Simplex(3))
    for bend in body.bends:
        for variable in bend:
            variable.assign(RNG.normal(size=variable.shape))
    a, b, c = vectors(body.bends)
    sides = [np.linalg.norm(p - q) for p, q in ((a, b), (b, c), (c, a))]
    half = sum(sides) / 2
    heron = math.sqrt(half * math.prod(half - side for side in sides))
    assert float(to_numpy(curves.VolumeRegularizer(0.7)(body.bends))) == pytest.approx(-0.7 * math.log(heron), rel=1e-4)
    cosines = [np.dot(p, q) / np.linalg.norm(p) / np.linalg.norm(q) for p, q in ((a, b), (b, c), (c, a))]
    expected = 0.5 * np.mean(np.square(cosines))
    assert float(to_numpy(curves.CosineRegularizer(0.5)(body.bends))) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="`strength`"):
        curves.CosineRegularizer(-1.0)
    with pytest.raises(ValueError, match="`regularizer` must be"):
        curves.Curve(layers.Dense(2), regularizer=keras.regularizers.L2(0.1))


def test_the_volume_works_under_xla():
    start = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    curve = curves.Curve(start, curves.Simplex(3), False, False, regularizer=curves.VolumeRegularizer(0.1))
    for bend in curve.bends:
        bend[0].assign(RNG.normal(size=bend[0].shape))
    model = curves.CurveModel(curve, seed=0)
    model.compile(keras.optimizers.SGD(0.01), logits_loss(), jit_compile=keras.backend.backend() != "torch")
    assert np.isfinite(model.train_on_batch(X, Y))


def test_validation_on_a_simplex_checks_its_points_first():
    curve = compiled(curves.connect([network(k) for k in range(3)], curve=curves.Simplex(3), fix_inner=False))
    with pytest.raises(ValueError, match="`t` must be 3 numbers"):
        curve.fit(X, Y, verbose=0, callbacks=[curves.PathValidation((X, Y))])
    points = curves.PathValidation((X, Y), points=[[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    assert np.isfinite(curve.fit(X, Y, verbose=0, callbacks=[points]).history["val_path_max_loss"]).all()
    with pytest.raises(ValueError, match="`init_linear` needs a Bezier curve"):
        curve.init_linear()


@pytest.mark.parametrize("regularizer", [curves.VolumeRegularizer(0.5), curves.CosineRegularizer(0.5)])
def test_losses_of_the_bends_act_in_training_alone_and_are_saved(regularizer, tmp_path):
    curve = curves.Curve(
        keras.Sequential([layers.Dense(3)]), curves.Simplex(3), fix_start=False, fix_end=False, regularizer=regularizer
    )
    model = compiled(curves.CurveModel(curve, seed=0))
    model(X)
    with_it = float(to_numpy(regularizer(curve.bends)))
    loss = model.evaluate(X, Y, verbose=0, return_dict=True)["loss"]
    model._sample_position = lambda: ops.convert_to_tensor([1 / 3, 1 / 3, 1 / 3])
    model.reset_metrics()
    trained = model.train_on_batch(X, Y, return_dict=True)["loss"]
    assert float(trained) == pytest.approx(loss + with_it, abs=1e-4)
    model.fit(X, Y, batch_size=20, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").body.regularizer
    assert type(again) is type(regularizer) and again.strength == 0.5


def test_the_sampler_on_a_gaussian_with_known_moments():
    precision, mean = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, -0.5])

    def log_likelihood(z):
        return -0.5 * (z - mean) @ precision @ (z - mean)

    covariance = np.linalg.inv(np.eye(2) + precision)  # The prior is N(0, I).
    expected = covariance @ precision @ mean
    z, value, samples = np.zeros(2), log_likelihood(np.zeros(2)), []
    rng = np.random.default_rng(1)
    for _ in range(12_000):
        z, value = elliptical_slice(z, log_likelihood, rng, value)
        assert value == pytest.approx(log_likelihood(z))
        samples.append(z)
    samples = np.array(samples[100:])
    assert samples.mean(axis=0) == pytest.approx(expected, abs=0.03)
    assert np.cov(samples.T) == pytest.approx(covariance, abs=0.03)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_samples_lie_in_the_subspace_and_a_walk_goes_on(batch_norm, tmp_path):
    curve = compiled(curves.connect(network(0, batch_norm), network(1, batch_norm), seed=0))
    curve.fit(X, Y, batch_size=20, epochs=2, verbose=0)
    before = values(curve.variables)
    arguments = {"temperature": 5.0, "burn_in": 2, "seed": 3, "verbose": False}
    whole = curves.sample_subspace(curve, (X, Y), 4, **arguments)
    assert isinstance(whole, keras_fge.Ensemble) and len(whole) == 4 and whole.from_logits is True
    assert all(np.array_equal(a, b) for a, b in zip(before, values(curve.variables)))
    bends = vectors(curve.body.bends)
    basis = np.stack([bends[1] - bends[0], bends[2] - bends[0]], axis=1)
    for member in whole:
        w = np.concatenate([to_numpy(v).astype("float64").ravel() for v in member.trainable_variables]) - bends[0]
        rest = w - basis @ np.linalg.lstsq(basis, w, rcond=None)[0]
        assert np.linalg.norm(rest) < 1e-4 * np.linalg.norm(w)
        if batch_norm:
            estimated = values(member.non_trainable_variables)
            curves.update_batch_norm(member, (X, Y))
            assert all(
                a == pytest.approx(b, abs=1e-5) for a, b in zip(estimated, values(member.non_trainable_variables))
            )
    assert len({member.get_weights()[0].tobytes() for member in whole}) > 1
    path = tmp_path / "walk.npz"
    curves.sample_subspace(curve, (X, Y), 2, file=path, **arguments)
    resumed = curves.sample_subspace(curve, (X, Y), 4, file=path, **arguments)
    for a, b in zip(whole.snapshots, resumed.snapshots):
        assert all(np.allclose(v, w, atol=1e-6) for v, w in zip(a.weights, b.weights))
    with pytest.raises(ValueError, match="holds another measurement: its temperature"):
        curves.sample_subspace(curve, (X, Y), 4, file=path, **{**arguments, "temperature": 1.0})


@pytest.mark.slow
def test_a_high_temperature_spreads_the_samples():
    curve = compiled(curves.connect(network(0), network(1), seed=0))
    spread, many = {}, (np.tile(X, (400, 1)), np.tile(Y, 400))
    for temperature in (1.0, 1e5):
        ensemble = curves.sample_subspace(curve, many, 12, temperature, burn_in=8, batch_size=6000, verbose=False)
        distances = ensemble.distances()
        spread[temperature] = distances[np.triu_indices(12, 1)].mean()
    assert spread[1e5] > 1.5 * spread[1.0]


def test_what_cannot_be_sampled():
    curve = compiled(curves.connect(network(0), network(1), seed=0))
    with pytest.raises(ValueError, match="`model` must be a curves"):
        curves.sample_subspace(network(), (X, Y), 2)
    with pytest.raises(ValueError, match="must be compiled"):
        curves.sample_subspace(curves.CurveModel(curves.Curve(keras.models.clone_model(curve.body.layer))), (X, Y), 2)
    with pytest.raises(ValueError, match="`train` must be arrays"):
        curves.sample_subspace(curve, keras_fge.Batches(X, Y, 10, 0), 2)
    with pytest.raises(ValueError, match="`temperature`"):
        curves.sample_subspace(curve, (X, Y), 2, temperature=0.0)
    same = network(0)
    with pytest.raises(ValueError, match="span no subspace"):
        curves.sample_subspace(compiled(curves.connect(same, same)), (X, Y), 2)
    values_curve = curves.connect(network(0), network(1))
    values_curve.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs a network that classifies"):
        curves.sample_subspace(values_curve, (X, np.zeros((60, 3))), 2)
