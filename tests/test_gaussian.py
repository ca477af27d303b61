"""Networks that output a mean and a variance: their loss, and the mixture of several, against scipy."""

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH, to_numpy
from keras_fge.core.mixture import Mixture, best_stretch

pytestmark = SLOW_BUT_ON_TORCH

rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, size=(240, 1)).astype("float32")
Y = (X[:, 0] ** 2 + 0.3 * rng.normal(size=240)).astype("float32")
SHARES = [0.5, 0.3, 0.2]


def network(width=2):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(16, "tanh"), layers.Dense(width)])
    model.compile(keras.optimizers.Adam(0.02), keras_fge.gaussian_nll)
    return model


@pytest.fixture(scope="module")
def trained_run():
    model = network()
    fge = keras_fge.FGE(0.03, 0.001, cycle_epochs=2, validation_data=(X[160:], Y[160:]))
    log = model.fit(X[:160], Y[:160], epochs=12, verbose=0, callbacks=[fge])
    return model, fge, log


def components(ensemble, x):
    """scipy's distributions of the members, each over all samples."""
    outputs = np.stack([member.predict(x, verbose=0) for member in ensemble]).astype("float64")
    return [scipy.stats.norm(output[..., 0], np.exp(0.5 * output[..., 1])) for output in outputs]


def density(parts, y, shares=SHARES):
    return sum(share * part.pdf(y) for share, part in zip(shares, parts))


def random_mixture(positions=7):
    means, deviations = rng.normal(size=(3, positions)), rng.uniform(0.3, 2, (3, positions))
    return Mixture(means, deviations**2, np.array(SHARES)), [scipy.stats.norm(m, s) for m, s in zip(means, deviations)]


def test_the_loss_is_that_of_scipy():
    outputs, targets = rng.normal(size=(5, 3, 2)).astype("float32"), rng.normal(size=(5, 3)).astype("float32")
    expected = -scipy.stats.norm(outputs[..., 0], np.exp(0.5 * outputs[..., 1])).logpdf(targets)
    for y in (targets, targets[..., None]):
        np.testing.assert_allclose(to_numpy(keras_fge.gaussian_nll(y, outputs)), expected, rtol=1e-5)


def test_a_mixture_has_the_scores_of_its_distribution():
    mixture, parts = random_mixture()
    targets = rng.normal(size=7)
    np.testing.assert_allclose(mixture.nll(targets), -np.log(density(parts, targets)), rtol=1e-10)
    below = sum(share * part.cdf(targets) for share, part in zip(SHARES, parts))
    np.testing.assert_allclose(mixture.cdf(targets), below, atol=1e-6)
    for place, target in enumerate(targets):

        def squared(z, place=place, target=target):
            cdf = sum(
                share * scipy.stats.norm.cdf(z, p.args[0][place], p.args[1][place]) for share, p in zip(SHARES, parts)
            )
            return (cdf - (z >= target)) ** 2

        expected = scipy.integrate.quad(squared, -20, target)[0] + scipy.integrate.quad(squared, target, 20)[0]
        assert mixture.crps(targets)[place] == pytest.approx(expected, rel=1e-5)
    draws = np.concatenate([p.rvs((int(4e5 * share), 7), random_state=0) for share, p in zip(SHARES, parts)])
    np.testing.assert_allclose(np.asarray(mixture), np.stack([draws.mean(0), draws.var(0)], -1), atol=0.02)
    np.testing.assert_allclose(np.asarray(mixture)[:, 1], mixture.noise + mixture.disagreement, rtol=1e-6)


def test_stretched_and_the_best_stretch():
    mixture, parts = random_mixture(400)
    stretched = mixture.stretched(2.5)
    np.testing.assert_allclose(np.asarray(stretched), np.asarray(mixture) * [1, 2.5], rtol=1e-5)
    targets, root = rng.normal(size=400), np.sqrt(2.5)
    expected = density(parts, mixture.mean + (targets - mixture.mean) / root) / root
    np.testing.assert_allclose(stretched.nll(targets), -np.log(expected), rtol=1e-9)
    weights = rng.uniform(0.5, 2, 400)
    found = scipy.optimize.minimize_scalar(
        lambda s: np.average(mixture.stretched(np.exp(s)).nll(targets), weights=weights), bounds=(-4, 4),
        method="bounded", options={"xatol": 1e-9})  # fmt: skip
    temperature, _ = best_stretch(mixture, targets, weights)
    assert temperature == pytest.approx(np.exp(found.x), rel=1e-5)


def test_the_standard_error_of_the_stretch_is_that_of_repeated_draws():
    mixture = Mixture(np.zeros((1, 300)), np.ones((1, 300)), np.ones(1))
    drawn = [best_stretch(mixture, np.sqrt(2) * rng.normal(size=300), np.ones(300)) for _ in range(100)]
    temperatures, errors = np.array(drawn).T
    assert temperatures.mean() == pytest.approx(2, rel=0.03)
    assert errors.mean() == pytest.approx(temperatures.std() / temperatures.mean(), rel=0.25)


def test_a_run_and_its_ensemble(trained_run):
    model, fge, log = trained_run
    ensemble, x, y = fge.ensemble(), X[160:], Y[160:]
    assert ensemble.task == "gaussian" and ensemble.from_logits is None
    parts, shares = components(ensemble, x), np.full(len(ensemble), 1 / len(ensemble))
    mean = np.mean([part.mean() for part in parts], axis=0)
    noise, spread = np.mean([p.var() for p in parts], axis=0), np.var([p.mean() for p in parts], axis=0)
    np.testing.assert_allclose(ensemble.predict(x), np.stack([mean, noise + spread], -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ensemble.predict(iter([x])), ensemble.predict(x), rtol=1e-6)
    np.testing.assert_allclose(ensemble.predict(x, members=True)[1, :, 1], parts[1].var(), rtol=1e-4)
    uncertainty = ensemble.uncertainty(x)
    np.testing.assert_allclose(uncertainty["noise"], noise, rtol=1e-4)
    np.testing.assert_allclose(uncertainty["disagreement"], spread, rtol=1e-3, atol=1e-6)
    values = ensemble.evaluate(x, y)
    nll = -np.log(density(parts, y, shares)).mean()
    below = sum(part.cdf(y) for part in parts) / len(parts)
    assert values["nll"] == pytest.approx(nll, rel=1e-4) and log.history["ensemble_nll"][-1] == pytest.approx(
        nll, rel=1e-4
    )
    assert values["mse"] == pytest.approx(np.mean((mean - y) ** 2), rel=1e-4)
    assert values["coverage_90"] == np.mean((below > 0.05) & (below < 0.95))
    assert ensemble.evaluate(x, y, metrics="compiled")["loss"] == pytest.approx(
        -scipy.stats.norm(mean, np.sqrt(noise + spread)).logpdf(y).mean(), rel=1e-3
    )
    assert ensemble.evaluate_sizes(x, y)["nll"][-1] == pytest.approx(values["nll"])
    difference, error = fge.comparison.differences["ensemble", "last network"]["nll"]
    last = -scipy.stats.norm(
        *(f(model.predict(x, verbose=0).T[i]) for i, f in ((0, np.array), (1, lambda s: np.exp(s / 2))))
    ).logpdf(y)
    each = -np.log(density(parts, y, shares)) - last
    assert difference == pytest.approx(each.mean(), abs=1e-4)
    assert error == pytest.approx(each.std(ddof=1) / np.sqrt(len(y)), rel=1e-3)
    assert "NLL" in str(fge) and "By the mean squared error" not in str(fge)


def test_a_temperature_is_a_factor_of_the_variance(trained_run, tmp_path):
    ensemble = trained_run[1].ensemble()
    calibrated = ensemble.calibrated(X[160:], Y[160:])
    expected = ensemble.predict(X) * [1, calibrated.temperature]
    np.testing.assert_allclose(calibrated.predict(X), expected, rtol=1e-5)
    assert calibrated.evaluate(X[160:], Y[160:])["nll"] < ensemble.evaluate(X[160:], Y[160:])["nll"]
    calibrated.save(tmp_path / "folder")
    loaded = keras_fge.Ensemble.load(tmp_path / "folder")
    assert loaded.task == "gaussian" and loaded.network.loss is keras_fge.gaussian_nll
    np.testing.assert_allclose(loaded.predict(X), expected, rtol=1e-5)
    one = calibrated.to_model()
    assert not one.compiled
    one.save(tmp_path / "one.keras")
    for model in (one, keras.saving.load_model(tmp_path / "one.keras")):
        np.testing.assert_allclose(model.predict(X, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_shares_of_members_and_choosing_them(trained_run):
    ensemble = trained_run[1].ensemble()[:3]
    weighted = keras_fge.Ensemble(ensemble.network, ensemble.snapshots, task="gaussian", weights=SHARES)
    parts = components(weighted, X)
    mean = sum(share * part.mean() for share, part in zip(SHARES, parts))
    variance = sum(share * (part.var() + (part.mean() - mean) ** 2) for share, part in zip(SHARES, parts))
    np.testing.assert_allclose(weighted.predict(X), np.stack([mean, variance], -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weighted.to_model().predict(X, verbose=0), weighted.predict(X), rtol=1e-4, atol=1e-5)
    assert weighted.evaluate(X, Y)["nll"] == pytest.approx(-np.log(density(parts, Y)).mean(), rel=1e-4)
    noisy = [[w + 3 * rng.normal(size=w.shape).astype("float32") for w in ensemble.snapshots[0].weights]]
    chosen = keras_fge.Ensemble(ensemble.network, [*noisy, *ensemble.snapshots], task="gaussian").select(X, Y)
    assert all(not np.array_equal(s.weights[0], noisy[0][0]) for s in chosen.snapshots)
    members = [keras_fge.Ensemble.of([member]).evaluate(X, Y)["nll"] for member in ensemble]
    assert keras_fge.Ensemble.of([ensemble.soup(X, Y)]).evaluate(X, Y)["nll"] < np.mean(members)


def test_several_targets_weights_and_outputs():
    inputs = keras.Input((1,))
    pairs = layers.Reshape((3, 2), name="pairs")(layers.Dense(6)(inputs))
    model = keras.Model(inputs, [pairs, layers.Dense(2, "softmax", name="sign")(inputs)])
    ensemble = keras_fge.Ensemble(model, [model.get_weights()] * 2, [None, False], ["gaussian", None])
    y, weights = rng.normal(size=(240, 3)), (rng.uniform(size=(240, 3)) > 0.5).astype(float)
    y[weights == 0] = np.nan
    values = ensemble.evaluate(X, [y, X[:, 0] > 0], sample_weight=[weights, np.ones(240)])
    output = model.predict(X, verbose=0)[0].astype("float64")
    losses = -scipy.stats.norm(output[..., 0], np.exp(0.5 * output[..., 1])).logpdf(y)
    assert values["pairs_nll"] == pytest.approx(np.nanmean(losses), rel=1e-5) and "sign_error" in values


def test_targets_of_the_loss_are_not_reshaped():
    outputs = np.zeros((4, 3, 2), "float32")
    for y in (np.zeros((3, 4), "float32"), np.zeros((12,), "float32"), np.zeros((4, 3, 2), "float32")):
        with pytest.raises(ValueError, match=r"`y_true` must have shape \(4, 3\)"):
            keras_fge.gaussian_nll(y, outputs)
    assert to_numpy(keras_fge.gaussian_nll(np.zeros(4, "float32"), outputs[:, :1])).shape == (4, 1)


def test_what_does_not_fit_is_said():
    for method in ("evaluate", "calibrated", "selective"):
        with pytest.raises(ValueError, match="`y` must be finite, where"):
            getattr(keras_fge.Ensemble(network(), [network().get_weights()], task="gaussian"), method)(X, np.nan * Y)
    model = network(3)
    ensemble = keras_fge.Ensemble(model, [model.get_weights()], task="gaussian")
    with pytest.raises(ValueError, match=r"must be \(mean, logarithm of the variance\).*240, 3"):
        ensemble.predict(X)
    ensemble = keras_fge.Ensemble(network(), [network().get_weights()], task="gaussian")
    with pytest.raises(ValueError, match=r"`y` must have the shape \(240,\).*\(240, 2\)"):
        ensemble.evaluate(X, np.zeros((240, 2)))
    with pytest.raises(ValueError, match="`disagreement` needs a classifier"):
        ensemble.disagreement(X)
    with pytest.raises(ValueError, match="contradict"):
        keras_fge.Ensemble(network(), [network().get_weights()], from_logits=True, task="gaussian")
