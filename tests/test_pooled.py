"""Ensembles of any networks, weighted members, soups, SWAG and uncertainty, against numpy and scikit-learn."""

import keras
import numpy as np
import pytest
import sklearn.metrics
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH, batch_norm_network, images, values

pytestmark = SLOW_BUT_ON_TORCH

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(80, 4)).astype("float32"), RNG.integers(0, 3, 80)


def network(activation="softmax", units=3):
    return keras.Sequential([keras.Input((4,)), layers.Dense(units, activation=activation)])


def softmax(x, weights):
    logits = x.astype("float64") @ weights[0] + weights[1]
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def members(count=4):
    return [network() for _ in range(count)]


def test_networks_that_were_trained_apart():
    networks = members(3)
    ensemble = keras_fge.Ensemble.of(networks)
    p = np.stack([softmax(X, n.get_weights()) for n in networks])
    assert ensemble.predict(X) == pytest.approx(p.mean(axis=0), abs=1e-6)
    assert ensemble.predict(X, members=True) == pytest.approx(p, abs=1e-6)
    networks[0].layers[0].bias.assign([5.0, 0.0, 0.0])
    assert ensemble.predict(X) == pytest.approx(p.mean(axis=0), abs=1e-6)  # They are copies.
    with pytest.raises(ValueError, match=r"`networks\[0\]` and `networks\[1\]` must have the same architecture"):
        keras_fge.Ensemble.of([network(), network(units=2)])
    with pytest.raises(ValueError, match="`networks` is empty"):
        keras_fge.Ensemble.of([])
    with pytest.raises(ValueError, match=r"`networks\[0\]` must be a keras.Model"):
        keras_fge.Ensemble.of([1])


def test_runs_are_pooled(tmp_path):
    networks = members(5)
    first, second = keras_fge.Ensemble.of(networks[:2]), keras_fge.Ensemble.of(networks[2:])
    second.save(tmp_path)
    both = first + keras_fge.Ensemble.load(tmp_path)
    assert both.predict(X) == pytest.approx(keras_fge.Ensemble.of(networks).predict(X), abs=1e-6)
    weighted = keras_fge.Ensemble.of(networks[:2], weights=[1, 3]) + second
    assert weighted.weights == pytest.approx([0.1, 0.3, 0.2, 0.2, 0.2])
    with pytest.raises(ValueError, match="must have the same `from_logits` and `task`"):
        first + keras_fge.Ensemble.of(networks, from_logits=True)
    with pytest.raises(ValueError, match="that of the second must have the same architecture"):
        first + keras_fge.Ensemble.of([network(units=2)])
    with pytest.raises(TypeError):
        first + 1


def test_weighted_members(tmp_path):
    networks, shares = members(3), np.array([0.5, 0.2, 0.3])
    ensemble = keras_fge.Ensemble.of(networks, weights=10 * shares)
    p = np.stack([softmax(X, n.get_weights()) for n in networks])
    mean = np.einsum("k,knc->nc", shares, p)
    variance = np.einsum("k,knc->nc", shares, (p - mean) ** 2)
    assert ensemble.predict(X) == pytest.approx(mean, abs=1e-6)
    assert ensemble.predict_variance(X) == pytest.approx(variance, abs=1e-6)
    assert ensemble.evaluate(X, Y)["nll"] == pytest.approx(sklearn.metrics.log_loss(Y, mean), rel=1e-5)
    two = (shares[0] * p[0] + shares[1] * p[1]) / 0.7
    assert ensemble.evaluate_sizes(X, Y)["nll"][1] == pytest.approx(sklearn.metrics.log_loss(Y, two), rel=1e-5)
    assert ensemble[:2].predict(X) == pytest.approx(two, abs=1e-6)
    assert ensemble.to_model().predict(X, verbose=0) == pytest.approx(mean, abs=1e-6)
    kernels = [n.get_weights()[0].astype("float64") for n in networks]
    expected = np.einsum("k,kij->ij", shares, kernels)
    assert ensemble.average_weights().get_weights()[0] == pytest.approx(expected, abs=1e-6)
    ensemble.save(tmp_path)
    assert keras_fge.Ensemble.load(tmp_path).predict(X) == pytest.approx(mean, abs=1e-6)
    for weights in ([1, 2], [1, 2, 0], [1, 2, np.nan]):
        with pytest.raises(ValueError, match="`weights` must be"):
            keras_fge.Ensemble.of(networks, weights=weights)


def test_generators_are_read_once():
    ensemble = keras_fge.Ensemble.of(members(3), weights=[1, 2, 3])
    batches = (X[i : i + 32] for i in range(0, 80, 32))
    assert ensemble.predict(batches) == pytest.approx(ensemble.predict(X), abs=1e-6)
    labelled = ((X[i : i + 32], Y[i : i + 32]) for i in range(0, 80, 32))
    assert ensemble.predict(labelled) == pytest.approx(ensemble.predict(X), abs=1e-6)
    with pytest.raises(ValueError, match="`x` holds no batches"):
        ensemble.predict(labelled)


def test_a_greedy_soup_is_that_of_a_plain_loop():
    truth = [RNG.normal(size=(4, 3)), RNG.normal(size=3)]
    y = np.argmax(X @ truth[0] + truth[1], axis=1)
    weights = [[(w + RNG.normal(size=w.shape) * s).astype("float32") for w in truth] for s in (0.5, 0.6, 0.7, 5.0, 0.8)]
    ensemble = keras_fge.Ensemble(network(), weights)
    halves = np.array_split(np.random.default_rng(3).permutation(80), 2)

    def nll(chosen, half):
        mean = [np.mean([weights[k][i] for k in chosen], axis=0) for i in range(2)]
        rows = halves[half]
        return sklearn.metrics.log_loss(y[rows], np.clip(softmax(X[rows], mean), 1e-7, 1), labels=[0, 1, 2])

    order = sorted(range(5), key=lambda k: nll([k], 0))
    chosen, path = order[:1], [order[:1]]
    for k in order[1:]:
        if nll([*chosen, k], 0) <= nll(chosen, 0):
            chosen = [*chosen, k]
            path.append(chosen)
    best = min(path, key=lambda soup: nll(soup, 1))
    assert len(path) > 1
    soup = ensemble.soup(X, y, seed=3)
    for i, array in enumerate(soup.get_weights()):
        assert array == pytest.approx(np.mean([weights[k][i] for k in best], axis=0), abs=1e-6)


def test_soups_have_their_own_statistics_and_leave_out_what_has_diverged():
    x, y = images()
    networks = [batch_norm_network() for _ in range(3)]
    for index, net in enumerate(networks):
        net.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        keras.utils.set_random_seed(index)
        net.set_weights(networks[0].get_weights())
        net.fit(x, y, epochs=1, verbose=0)
    networks[2].set_weights([np.full_like(w, np.nan) for w in networks[2].get_weights()])
    ensemble = keras_fge.Ensemble.of(networks, from_logits=True)
    with pytest.raises(ValueError, match="`train` is needed"):
        ensemble.soup(x, y)
    before = values(networks[0].weights)
    with pytest.warns(UserWarning, match="Members 2 are left out"):
        soup = ensemble.soup(x, y, train=(x, y))
    assert all(np.array_equal(a, b) for a, b in zip(before, values(networks[0].weights)))
    assert np.isfinite(soup.predict(x, verbose=0)).all()
    pair = ensemble[:2].average_weights((x, y)).get_weights()
    singles = [net.get_weights() for net in networks[:2]]
    assert any(all(np.allclose(a, b) for a, b in zip(soup.get_weights(), w)) for w in (pair, *singles))


def test_samples_of_swag_have_the_moments_of_its_gaussian():
    net = keras.Sequential([keras.Input((1,)), layers.Dense(2, use_bias=False)])
    weights = [RNG.normal(size=(1, 2)).astype("float32") + 1 for _ in range(6)]
    swag = keras_fge.SWAG(keras_fge.Ensemble(net, [[w] for w in weights], None), rank=3, scale=0.8)
    flat = np.array(weights, "float64").reshape(6, 2)
    means = np.cumsum(flat, axis=0) / np.arange(1, 7)[:, None]
    columns = (flat - means)[-3:]
    covariance = 0.64 / 2 * (np.diag(flat.var(axis=0)) + columns.T @ columns / 2)
    assert swag.mean()[0] == pytest.approx(flat.mean(axis=0, keepdims=True), abs=1e-6)
    drawn = np.array([s.weights[0].ravel() for s in swag.sample(10_000, seed=1).snapshots])
    assert drawn.mean(axis=0) == pytest.approx(flat.mean(axis=0), abs=5 * np.sqrt(covariance.max() / 1e4))
    assert np.cov(drawn.T) == pytest.approx(covariance, abs=0.05 * covariance.max())
    again = swag.sample(2, seed=1).snapshots
    assert np.array_equal(again[1].weights[0].ravel(), drawn[1])


def test_multiswag_draws_a_run_first():
    net = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    runs = [keras_fge.Ensemble(net, [[np.full((1, 1), c + d, "float32")] for d in (-0.1, 0.1)], None) for c in (-5, 5)]
    drawn = np.array([s.weights[0].item() for s in keras_fge.SWAG(runs).sample(500).snapshots])
    assert 0.4 < np.mean(drawn > 0) < 0.6 and np.all(np.abs(np.abs(drawn) - 5) < 1)


def test_swag_with_batch_normalization_and_bad_input():
    x, y = images()
    nets = [batch_norm_network() for _ in range(2)]
    ensemble = keras_fge.Ensemble.of(nets, from_logits=True)
    with pytest.raises(ValueError, match="`train` is needed"):
        keras_fge.SWAG(ensemble).sample(1)
    samples = keras_fge.SWAG(ensemble).sample(2, train=(x, y))
    own = samples[0]
    expected = own.get_weights()
    import curves

    curves.update_batch_norm(own, (x, y))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(expected, own.get_weights()))
    assert samples.from_logits is True and len(samples) == 2
    for rank in (3, 1):
        with pytest.raises(ValueError, match="`rank` must be"):
            keras_fge.SWAG(ensemble, rank=rank)
    with pytest.raises(ValueError, match="`ensembles` must be an Ensemble"):
        keras_fge.SWAG([nets])
    assert repr(keras_fge.SWAG([ensemble, ensemble])) == f"SWAG(2 runs of '{nets[0].name}', rank=2)"


def test_uncertainty():
    p = RNG.dirichlet(np.ones(3), (4, 80))
    ours = keras_fge.uncertainty(p)
    total = -np.sum(p.mean(axis=0) * np.log(p.mean(axis=0)), axis=1)
    assert ours["entropy"] == pytest.approx(total)
    divergence = np.mean([np.sum(q * np.log(q / p.mean(axis=0)), axis=1) for q in p], axis=0)
    assert ours["mutual_information"] == pytest.approx(divergence)  # The mean divergence from the mean.
    assert keras_fge.uncertainty([p[0], p[0]])["mutual_information"] == pytest.approx(np.zeros(80), abs=1e-12)
    weighted = keras_fge.uncertainty(p[:2], weights=[1, 3])
    repeated = keras_fge.uncertainty(np.stack([p[0], p[1], p[1], p[1]]))
    assert weighted["entropy"] == pytest.approx(repeated["entropy"])
    binary = keras_fge.uncertainty(p[:, :, :1])
    both = keras_fge.uncertainty(np.stack([p[..., 0], 1 - p[..., 0]], axis=-1))
    assert binary["entropy"] == pytest.approx(both["entropy"])
    with pytest.raises(ValueError, match="`members` must hold probabilities"):
        keras_fge.uncertainty(5 * p)


def test_foreign_data():
    ensemble = keras_fge.Ensemble.of(members(3))
    foreign = (3 * RNG.normal(size=(50, 4))).astype("float32")
    values = ensemble.evaluate(X, Y, ood=foreign)
    for name in ("entropy", "mutual_information"):
        ours, theirs = (ensemble.uncertainty(data)[name] for data in (X, foreign))
        larger = np.mean(theirs[:, None] > ours) + 0.5 * np.mean(theirs[:, None] == ours)
        assert values[f"ood_auroc_{name}"] == pytest.approx(larger)
    assert keras_fge.ood_auroc([0.1, 0.2], [0.2, 0.9]) == 0.875
    with pytest.raises(ValueError, match="`uncertainty` needs a classifier"):
        keras_fge.Ensemble.of([network(None)], from_logits=None).uncertainty(X)
