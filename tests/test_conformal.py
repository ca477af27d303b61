"""Sets and intervals: coverage in the exact band, other people's library, numpy, and wherever they predict."""

import json

import keras
import numpy as np
import pytest
import scipy.stats
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH
from keras_fge.core.conformal import Intervals, Sets, threshold

pytestmark = SLOW_BUT_ON_TORCH

rng = np.random.default_rng(0)
X = rng.normal(size=(900, 4)).astype("float32")
KERNEL = rng.normal(size=(4, 5))
P = np.exp(X @ KERNEL) / np.exp(X @ KERNEL).sum(axis=1, keepdims=True)
Y = (rng.uniform(size=(900, 1)) > np.cumsum(P, axis=1)).sum(axis=1)
VALUES = (X @ KERNEL[:, 0] + (0.2 + np.abs(X[:, 0])) * rng.normal(size=900)).astype("float32")


def members(width, count=3):
    noise = np.random.default_rng(1).normal(size=(count, 4, width))
    return [[(KERNEL[:, :width] + 0.3 * n).astype("float32"), np.zeros(width, "float32")] for n in noise]


def classifier(activation="softmax", width=5):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(width, activation)])
    return keras_fge.Ensemble(network, members(width), activation is None)


def regression(width=1, task="regression"):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(width)])
    return keras_fge.Ensemble(network, members(width), None, task)


def sets(method, seed=None, is_by_class=False):
    return Sets(method, 0.01, 2, is_by_class, seed)


def drawn(rng, samples):
    """Probabilities that are wrong in many ways, and labels."""
    logits = rng.normal(size=(samples, 5))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = np.exp(3 * logits + rng.normal(size=logits.shape))
    labels = (rng.uniform(size=(samples, 1)) > np.cumsum(truth, axis=1)).sum(axis=1)
    return (p / p.sum(axis=1, keepdims=True)).astype("float32"), np.minimum(labels, 4)


def predicted(rng, samples):
    low, noise = rng.normal(size=(2, samples))
    scale = rng.uniform(0.5, 2, samples)
    return (low, low + scale, scale), low + 0.5 * scale + scale * noise


CASES = [
    *[(sets(method), drawn) for method in ("lac", "aps", "raps")],
    *[(sets(method, 3), drawn) for method in ("aps", "raps")],
    *[(Intervals(method), predicted) for method in ("scaled", "residual", "quantile")],
]


@pytest.mark.parametrize("rule, draw", CASES, ids=lambda case: getattr(case, "method", ""))
def test_coverage_is_in_the_exact_band(rule, draw):
    """Of 100 samples covered out of m, over 1,000 independent draws of n calibration samples: beta-binomial."""
    n, m, alpha, times = 60, 100, 0.2, 1000
    rng = np.random.default_rng(5)
    counts = []
    for _ in range(times):
        prediction, y = draw(rng, n + m)
        if isinstance(rule, Sets):
            limit = rule.fitted(prediction[:n], y[:n], alpha)
            counts.append(rule.predict(prediction[n:], limit)[np.arange(m), y[n:]].sum())
        else:
            limit = rule.fitted([part[:n] for part in prediction], y[:n], alpha)
            lower, upper = (keras.ops.convert_to_numpy(a) for a in rule.predict([p[n:] for p in prediction], limit))
            counts.append(np.sum((lower <= y[n:]) & (y[n:] <= upper)))
    rank = int(np.ceil((n + 1) * (1 - alpha)))
    exact = scipy.stats.betabinom(m, rank, n + 1 - rank)
    assert np.mean(counts) == pytest.approx(exact.mean(), abs=4 * exact.std() / np.sqrt(times))
    low, high = exact.interval(0.9)
    inside = exact.cdf(high) - exact.cdf(low - 1)
    share = np.mean((counts >= low) & (counts <= high))
    assert share == pytest.approx(inside, abs=4 * np.sqrt(inside * (1 - inside) / times))


def by_numpy(method, p, u):
    """Scores of one sample, written once more."""
    ranking = sorted(range(len(p)), key=lambda c: -p[c])
    scores = np.empty(len(p))
    for rank, c in enumerate(ranking, 1):
        scores[c] = sum(p[k] for k in ranking[:rank]) - u * p[c] + (0.01 * max(rank - 2, 0) if method == "raps" else 0)
    return 1 - p if method == "lac" else scores


@pytest.mark.parametrize("seed", [None, 7], ids=["", "randomized"])
@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_of_an_ensemble(method, seed):
    ensemble = classifier()
    options = {} if seed is None or method == "lac" else {"randomized": True, "seed": seed}
    ours = ensemble.conformal(X[:400], Y[:400], 0.15, method, lam=0.01, k_reg=2, **options)
    p = ensemble.predict(X).astype("float64")
    factors = 1 + np.random.default_rng(seed).random(5)
    places = 1000 * (np.log(np.maximum(p, 1e-7)) * factors).mean(axis=1)
    draws = places - np.floor(places) if options else np.zeros(900)
    if options:
        assert abs(draws.mean() - 0.5) < 0.05 and abs(draws.std() - 12**-0.5) < 0.02
    calibration = [by_numpy(method, *row)[label] for row, label in zip(zip(p[:400], draws), Y)]
    limit = np.sort(calibration)[int(np.ceil(401 * 0.85)) - 1]
    rounding = 2e-3 if options else 2e-5  # Of u, with the logarithms of float32.
    assert float(ours.threshold) == pytest.approx(limit, abs=rounding)
    scores = np.array([by_numpy(method, *row) for row in zip(p[400:], draws[400:])])
    found = ours.predict(X[400:])
    assert found.dtype == bool and found.shape == (500, 5)
    sure = np.abs(scores - limit) > 2 * rounding
    assert sure.mean() > 0.97
    np.testing.assert_array_equal(found[sure], (scores <= limit)[sure])
    apart = [ours.predict(X[400 + k : 401 + k]) for k in range(8)]  # One by one, they have the same sets.
    assert np.mean(np.concatenate(apart) != found[:8]) < 0.05
    values, inside = ours.evaluate(X[400:], Y[400:]), found[np.arange(500), Y[400:]]
    assert values["coverage"] == inside.mean() and values["size"] == found.sum(1).mean()
    assert values["coverage_low"] < values["coverage"] < values["coverage_high"]
    low, high = scipy.stats.binomtest(int(inside.sum()), 500).proportion_ci(method="wilson")
    assert (values["coverage_low"], values["coverage_high"]) == pytest.approx((low, high), rel=1e-6)
    np.testing.assert_allclose(values["coverage_by_class"], [inside[Y[400:] == c].mean() for c in range(5)])
    for size, coverage in values["coverage_by_size"].items():
        assert coverage == inside[found.sum(1) == size].mean()


def test_another_library_finds_the_same():
    crepes = pytest.importorskip("crepes")
    ensemble = classifier()
    scores = 1 - ensemble.predict(X)
    other = crepes.ConformalClassifier()
    other.fit(scores[np.arange(400), Y[:400]])
    expected = other.predict_set(scores[400:], confidence=0.877, smoothing=False)
    ours = ensemble.conformal(X[:400], Y[:400], alpha=0.123, method="lac").predict(X[400:])
    np.testing.assert_array_equal(ours, expected.astype(bool))
    by_class = ensemble.conformal(X[:400], Y[:400], alpha=0.123, method="lac", by_class=True).predict(X[400:])
    for c in range(5):
        other = crepes.ConformalClassifier()
        other.fit(scores[:400][Y[:400] == c, c])
        expected = other.predict_set(scores[400:, [c]], confidence=0.877, smoothing=False)
        np.testing.assert_array_equal(by_class[:, c], expected[:, 0].astype(bool))
    values = regression()
    mean, deviation = values.predict(X)[:, 0], np.sqrt(values.predict_variance(X))[:, 0]
    for method, scales in (("scaled", deviation), ("residual", np.ones(900))):
        other = crepes.ConformalRegressor()
        other.fit(VALUES[:400] - mean[:400], sigmas=scales[:400])
        expected = other.predict_int(mean[400:], sigmas=scales[400:], confidence=0.9)
        found = values.conformal(X[:400], VALUES[:400], method=method).predict(X[400:])
        np.testing.assert_allclose(np.stack([part[:, 0] for part in found], 1), expected, rtol=1e-4, atol=1e-4)


def test_each_class_has_its_coverage():
    ensemble = classifier()
    ensemble.snapshots[0].weights[1][0] += 3  # It takes everything for class 0.
    together, apart = (ensemble.conformal(X[:600], Y[:600], 0.2, by_class=b) for b in (False, True))
    assert apart.threshold.shape == (5,)
    for c in range(5):
        scores = 1 - ensemble.predict(X[:600])[Y[:600] == c, c]
        assert apart.threshold[c] == pytest.approx(threshold(scores, 0.2))
    worst = [conformal.evaluate(X[600:], Y[600:])["coverage_by_class"].min() for conformal in (together, apart)]
    assert worst[0] < worst[1]


@pytest.mark.parametrize("method", ["scaled", "residual", "quantile", "gaussian"])
def test_intervals_of_an_ensemble(method):
    ensemble = regression(1 if method in ("scaled", "residual") else 2, "gaussian" if method == "gaussian" else None)
    ours = ensemble.conformal(X[:400], VALUES[:400], 0.2, None if method in ("scaled", "gaussian") else method)
    mean = ensemble.predict(X).astype("float64")
    low, high, scale = mean[:, 0], mean[:, 0], np.ones(900)
    if method == "scaled":
        scale = np.sqrt(np.var(ensemble.predict(X, members=True)[..., 0].astype("float64"), axis=0))
    elif method == "gaussian":
        scale = np.sqrt(mean[:, 1])
    elif method == "quantile":
        high = mean[:, 1]
    scores = np.maximum(low - VALUES, VALUES - high) / scale
    limit = np.sort(scores[:400])[int(np.ceil(401 * 0.8)) - 1]
    lower, upper = ours.predict(X[400:])
    middle = (low + high) / 2
    np.testing.assert_allclose(np.ravel(lower), np.minimum(low - limit * scale, middle)[400:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.ravel(upper), np.maximum(high + limit * scale, middle)[400:], rtol=1e-4, atol=1e-4)
    values = ours.evaluate(X[400:], VALUES[400:])
    assert values["coverage"] == pytest.approx(np.mean(scores[400:] <= limit), abs=0.005)
    assert values["width"] == pytest.approx(np.mean(upper - lower), rel=1e-5) and len(values["coverage_by_width"]) == 4


def test_values_on_the_edge_are_held():
    """Of discrete targets, the threshold is the residual of many."""
    network = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    kernels = [np.full((1, 1), value, "float32") for value in (0.3, 0.37)]
    ensemble = keras_fge.Ensemble(network, [[kernel] for kernel in kernels], None)
    x, y = np.ones((300, 1), "float32"), rng.integers(0, 10, 300) / 10
    for method in ("residual", "scaled"):
        ours = ensemble.conformal(x[:100], y[:100], 0.1, method)
        scores = np.abs(y - ensemble.predict(x)[:, 0].astype("float64"))
        held = scores[100:] <= np.sort(scores[:100])[90]
        assert held.mean() > 0.89
        for lower, upper in (ours.predict(x[100:]), ours.to_model().predict(x[100:], verbose=0)):
            np.testing.assert_array_equal((lower[:, 0] <= y[100:]) & (y[100:] <= upper[:, 0]), held)


def test_a_set_of_all_has_the_last_class():
    rule = sets("aps")
    p, _ = drawn(np.random.default_rng(3), 200)
    assert np.all(rule.predict(p, np.float32(1.0)))


def test_several_targets_have_each_their_coverage():
    targets = (X @ KERNEL[:, :3] + [1, 5, 20] * rng.normal(size=(900, 3))).astype("float32")
    ours = regression(3).conformal(X[:450], targets[:450], 0.1, "residual")
    assert ours.threshold.shape == (3,) and ours.threshold[2] > 3 * ours.threshold[1] > 6 * ours.threshold[0]
    lower, upper = ours.predict(X[450:])
    inside = np.mean((lower <= targets[450:]) & (targets[450:] <= upper), axis=0)
    assert np.all(np.abs(inside - 0.9) < 0.06)
    assert ours.evaluate(X[450:], targets[450:])["coverage"] == pytest.approx(inside.mean())


KINDS = {
    "lac": lambda: classifier(None).calibrated(X[:200], Y[:200]).conformal(X[200:500], Y[200:500]),
    "one column": lambda: classifier("sigmoid", 1).conformal(X[:300], VALUES[:300] > 0),
    "raps by class": lambda: classifier().conformal(X[:500], Y[:500], 0.2, "raps", by_class=True, k_reg=1),
    "aps": lambda: classifier().conformal(X[:300], Y[:300], method="aps"),
    "randomized": lambda: classifier().conformal(X[:300], Y[:300], method="aps", randomized=True),
    "scaled": lambda: regression().conformal(X[:300], VALUES[:300]),
    "gaussian": lambda: regression(2, "gaussian").calibrated(X[:300], VALUES[:300]).conformal(X[:300], VALUES[:300]),
    "quantile": lambda: regression(2).conformal(X[:300], VALUES[:300], method="quantile"),
    "three targets": lambda: regression(3).conformal(X[:300], X[:300, :3], method="residual"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_it_predicts(kind, tmp_path):
    ours = KINDS[kind]()
    expected = ours.predict(X[500:])
    ours.save(tmp_path / "folder", about="Which answers are possible.")
    loaded = keras_fge.Conformal.load(tmp_path / "folder")
    assert repr(loaded) == repr(ours) and f"method='{ours.method}'" in repr(ours)
    for ours_part, loaded_part in zip(expected, loaded.predict(X[500:])):
        np.testing.assert_array_equal(ours_part, loaded_part)
    assert len(keras_fge.Ensemble.load(tmp_path / "folder")) == 3
    one = ours.to_model()
    one.save(tmp_path / "one.keras")
    for model in (one, keras.saving.load_model(tmp_path / "one.keras")):
        found = model.predict(X[500:], verbose=0)
        if isinstance(expected, tuple):
            assert model.output_names == ["lower", "upper"]
            for pair in zip(found, expected):
                np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-4)
        else:
            assert found.dtype == bool and np.mean(found != expected) < 1e-3


def test_a_folder_of_something_else(tmp_path):
    classifier().save(tmp_path / "ensemble")
    with pytest.raises(ValueError, match="not saved by `conformal"):
        keras_fge.Conformal.load(tmp_path / "ensemble")
    KINDS["aps"]().save(tmp_path / "sets")
    manifest = json.loads((tmp_path / "sets/manifest.json").read_text())
    manifest["conformal"]["threshold"] = 2.0
    (tmp_path / "sets/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="does not have its checksum"):
        keras_fge.Conformal.load(tmp_path / "sets")


def positions():
    inputs = keras.Input((6, 4))
    network = keras.Model(inputs, layers.Dense(5, "softmax")(inputs))
    return keras_fge.Ensemble(network, members(5)), X.reshape(150, 6, 4), Y.reshape(150, 6)


def test_what_cannot_be_promised_is_refused():
    ours, values = classifier(), regression()
    labels = keras_fge.Ensemble(ours.network, members(5), task="multilabel")
    alike = keras_fge.Ensemble(values.network, members(1, 1), None)
    refused = {
        r"`alpha`=0.01 needs at least 99 calibration samples. Received: 98": (ours, X[:98], Y[:98], {"alpha": 0.01}),
        r"`alpha`=0.1 needs at least 9 samples of class \d. Received": (ours, X[:20], Y[:20], {"by_class": True}),
        "`alpha` must be between 0 and 1. Received: alpha=1": (ours, X, Y, {"alpha": 1}),
        "`method` must be one of .*'raps'.* Received: method='residual'": (ours, X, Y, {"method": "residual"}),
        "`method` must be one of .*'scaled'.* Received: method='aps'": (values, X, VALUES, {"method": "aps"}),
        '`randomized` is for method="aps"': (ours, X, Y, {"randomized": True}),
        "`by_class` is for classes": (values, X, VALUES, {"by_class": True}),
        "one class for each sample": (*positions(), {}),
        "classes that exclude each other": (labels, X, Y, {}),
        "no soft labels": (ours, X, P, {}),
        "`y` must have the shape of the predictions": (values, X, X, {}),
        "`y` must be finite": (values, X, np.full(900, np.nan), {}),
        "some agree exactly. Use": (alike, X, VALUES, {}),
        r"outputs \(lower, upper\)": (values, X, VALUES, {"method": "quantile"}),
    }
    for message, (ensemble, x, y, options) in refused.items():
        with pytest.raises(ValueError, match=message):
            ensemble.conformal(x, y, **options)
    assert ours.conformal(X[:99], Y[:99], 0.01).samples == 99


def test_samples_of_weight_0_do_not_count():
    class Padded(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            rows = slice(100 * index, 100 * index + 100)
            return X[rows], np.where(KEPT[rows], Y[rows], -1), KEPT[rows].astype("float32")

    KEPT = rng.uniform(size=300) > 0.3
    ours, expected = classifier().conformal(Padded()), classifier().conformal(X[:300][KEPT], Y[:300][KEPT])
    assert ours.samples == KEPT.sum() and ours.threshold == pytest.approx(expected.threshold)
    assert ours.evaluate(Padded())["coverage"] == expected.evaluate(X[:300][KEPT], Y[:300][KEPT])["coverage"]


def test_structures_of_one_output():
    expected = classifier().conformal(X[:300], Y[:300]).threshold
    inputs = keras.Input((4,))
    network = keras.Model(inputs, {"kind": layers.Dense(5, "softmax")(inputs)})
    ours = keras_fge.Ensemble(network, members(5))
    for y in (Y, {"kind": Y}, [Y]):
        assert ours.conformal(X[:300], keras.tree.map_structure(lambda a: a[:300], y)).threshold == expected
        ours.selective(X, y), ours.reliability(X, y)
    with pytest.raises(ValueError, match="`x` is read many times"):
        ours.conformal(X, Y).predict(iter([X]))
