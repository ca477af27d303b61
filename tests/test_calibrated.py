"""Ensembles with a temperature: against scipy, and wherever one predicts with it."""

import keras
import numpy as np
import pytest
import scipy.optimize
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH, logits_loss
from keras_fge.core.temperature import best_temperature

pytestmark = SLOW_BUT_ON_TORCH

rng = np.random.default_rng(0)
X = rng.normal(size=(600, 5)).astype("float32")
KERNEL = rng.normal(size=(5, 3))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def draw(probabilities):
    return (rng.uniform(size=(*probabilities.shape[:-1], 1)) > np.cumsum(probabilities, axis=-1)).sum(axis=-1)


Y = draw(softmax(X @ KERNEL))
LABELS = (rng.uniform(size=(600, 3)) < 1 / (1 + np.exp(-X @ KERNEL))).astype("float32")


def ensemble(activation="softmax", sharper=3.0, task=None, width=3):
    """Members that are too sure, by about this factor, with some noise."""
    network = keras.Sequential([keras.Input((5,)), layers.Dense(width, activation)])
    members = [[sharper * (KERNEL[:, :width] + 0.1 * rng.normal(size=(5, width))), np.zeros(width)] for _ in range(3)]
    return keras_fge.Ensemble(network, [[w.astype("float32") for w in m] for m in members], activation is None, task)


def log(p):  # Probabilities are taken to be at least 1e-7.
    return np.log(np.maximum(p.astype("float64"), 1e-7))


def nll(p, y, weights=None):
    return np.average(-np.log(p[np.arange(len(y)), y]), weights=weights)


@pytest.mark.parametrize("activation", ["softmax", None], ids=["probabilities", "logits"])
@pytest.mark.parametrize("sharper", [3.0, 0.4], ids=["too sure", "not sure enough"])
def test_the_temperature_is_the_minimum_of_the_nll(activation, sharper):
    ours = ensemble(activation, sharper)
    weights = rng.uniform(0.5, 2, 300)
    logs = log(ours.predict(X[:300]))
    found = scipy.optimize.minimize_scalar(lambda s: nll(softmax(logs / np.exp(s)), Y[:300], weights), bounds=(-3, 3),
                                           method="bounded", options={"xatol": 1e-10})  # fmt: skip
    calibrated = ours.calibrated(X[:300], Y[:300], sample_weight=weights)
    assert calibrated.temperature == pytest.approx(np.exp(found.x), rel=1e-5)
    assert (calibrated.temperature > 1.5) == (sharper > 1)
    expected = softmax(log(ours.predict(X[300:])) / calibrated.temperature)
    np.testing.assert_allclose(calibrated.predict(X[300:]), expected, atol=1e-6)
    values = calibrated.evaluate(X[300:], Y[300:])
    assert values["nll"] == pytest.approx(nll(expected, Y[300:]), abs=1e-5)
    before = ours.evaluate(X[300:], Y[300:])
    assert values["error"] == before["error"] and values["nll"] < before["nll"]


def test_its_standard_error_is_that_of_repeated_draws():
    logits = X[:300] @ KERNEL
    found = []
    for _ in range(200):
        labels = draw(softmax(logits / 1.5))
        found.append(best_temperature(logits, logits[np.arange(300), labels], np.ones(300)))
    temperatures, errors = np.array(found).T
    assert temperatures.mean() == pytest.approx(1.5, rel=0.02)
    assert errors.mean() == pytest.approx(temperatures.std() / temperatures.mean(), rel=0.15)


@pytest.mark.parametrize("kind", ["multilabel", "one column", "positions"])
def test_other_kinds_of_probabilities(kind):
    if kind == "positions":
        inputs = keras.Input((4, 5))
        network = keras.Model(inputs, layers.Dense(3, "softmax")(inputs))
        ours = keras_fge.Ensemble(network, [[(3 * KERNEL).astype("float32"), np.zeros(3)]])
        x, y = X.reshape(150, 4, 5), Y.reshape(150, 4)
        t = ours.calibrated(x, y).temperature
        scaled, off = (softmax(log(ours.predict(x)) / s) for s in (t, 1.02 * t))
        losses = [np.mean(-np.log(np.take_along_axis(q, y[..., None], -1))) for q in (scaled, off)]
    else:
        several = kind == "multilabel"
        ours = ensemble("sigmoid", 3.0, "multilabel" if several else None, 3 if several else 1)
        x, y = X, LABELS if several else LABELS[:, :1]
        p, t = ours.predict(x).astype("float64"), ours.calibrated(x, y).temperature
        odds = log(p) - log(1 - p)
        scaled, off = (1 / (1 + np.exp(-odds / s)) for s in (t, 1.02 * t))
        losses = [-np.mean(y * np.log(q) + (1 - y) * np.log(1 - q)) for q in (scaled, off)]
    assert t > 1.5 and losses[0] < losses[1]
    np.testing.assert_allclose(ours.calibrated(x, y).predict(x), scaled, atol=1e-5)


def test_wherever_it_predicts(tmp_path):
    ours = ensemble(None)
    ours.network.compile("sgd", logits_loss())
    calibrated = ours.calibrated(X, Y)
    expected = calibrated.predict(X)
    calibrated.save(tmp_path / "folder")
    loaded = keras_fge.Ensemble.load(tmp_path / "folder")
    assert loaded.temperature == calibrated.temperature and f"temperature={calibrated.temperature}" in repr(loaded)
    np.testing.assert_allclose(loaded.predict(X), expected, atol=1e-6)
    one = calibrated.to_model()
    one.save(tmp_path / "one.keras")
    for model in (one, keras.saving.load_model(tmp_path / "one.keras")):
        np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-5)
        assert model.evaluate(X, Y, verbose=0) == pytest.approx(calibrated.evaluate(X, Y)["nll"], abs=1e-4)
    generated = calibrated.predict(batch for batch in (X[:300], X[300:]))
    np.testing.assert_allclose(generated, expected, atol=1e-6)
    assert calibrated.evaluate(X, Y, metrics="compiled")["loss"] == pytest.approx(
        calibrated.evaluate(X, Y)["nll"], abs=1e-4
    )


def test_it_belongs_to_this_mean_alone():
    calibrated = ensemble().calibrated(X, Y)
    others = [calibrated[:2], calibrated + ensemble(), calibrated.select(X, Y), keras_fge.SWAG(calibrated).sample(1)]
    assert all(other.temperature is None for other in others)
    members = calibrated.predict(X, members=True)
    np.testing.assert_array_equal(members, ensemble_of(calibrated).predict(X, members=True))
    sizes = calibrated.evaluate_sizes(X, Y)
    assert sizes["nll"][-1] == pytest.approx(ensemble_of(calibrated).evaluate(X, Y)["nll"])


def ensemble_of(calibrated):
    return keras_fge.Ensemble(calibrated.network, calibrated.snapshots)


def test_several_outputs_have_one_each(tmp_path):
    inputs = keras.Input((5,))
    names = {"kind": "softmax", "size": None, "labels": "sigmoid"}
    network = keras.Model(inputs, {name: layers.Dense(3, kind, name=name)(inputs) for name, kind in names.items()})
    weights = [w for _ in names for w in ((3 * KERNEL).astype("float32"), np.zeros(3, "float32"))]
    tasks = [{"kind": "classification", "size": "regression", "labels": "multilabel"}[name] for name in sorted(names)]
    logits = [None if name == "size" else False for name in sorted(names)]
    ours = keras_fge.Ensemble(network, [weights, weights], logits, tasks)
    targets = {"kind": Y, "size": X[:, :3], "labels": LABELS}
    calibrated = ours.calibrated(X, targets)
    assert calibrated.temperature.keys() == {"kind", "labels"} and min(calibrated.temperature.values()) > 1.5
    before, after = ours.predict(X), calibrated.predict(X)
    np.testing.assert_array_equal(before["size"], after["size"])
    expected = softmax(log(before["kind"]) / calibrated.temperature["kind"])
    np.testing.assert_allclose(after["kind"], expected, atol=1e-5)
    model = calibrated.to_model()
    for name, array in model.predict(X, verbose=0).items():
        np.testing.assert_allclose(array, after[name], atol=1e-5)
    calibrated.save(tmp_path / "a")
    assert keras_fge.Ensemble.load(tmp_path / "a").temperature == calibrated.temperature


def test_what_cannot_be_told_is_said():
    with pytest.warns(UserWarning, match=r"has a standard error of .* % on these data: too few"):
        ensemble().calibrated(X[:12], Y[:12])
    with pytest.warns(UserWarning, match=r"at the edge of the search.*always right"):
        always_right().calibrated(X, X[:, 0] > 0)
    values = keras_fge.Ensemble(ensemble().network, [ensemble().network.get_weights()], None)
    with pytest.raises(ValueError, match=r"`calibrated` needs outputs that are probabilities.*predict_variance"):
        values.calibrated(X, X[:, :3])
    for bad in (0, -1.0, "hot", {"kind": 0}):
        with pytest.raises(ValueError, match="`temperature` must be"):
            keras_fge.Ensemble(ensemble().network, [ensemble().network.get_weights()], temperature=bad)


def always_right():
    network = keras.Sequential([keras.Input((5,)), layers.Dense(1, "sigmoid")])
    return keras_fge.Ensemble(network, [[np.eye(5, 1, dtype="float32"), np.zeros(1, "float32")]])
