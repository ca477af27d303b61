"""Reliability, selective prediction and their pictures: against scikit-learn and numpy, and in words both ways."""

import keras
import matplotlib
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH
from keras_fge.core.reliability import risk_coverage
from keras_fge.core.weighting import wilson
from keras_fge.ensemble.coverage import SetCoverage

pytestmark = SLOW_BUT_ON_TORCH

rng = np.random.default_rng(0)
X = rng.normal(size=(900, 4)).astype("float32")
KERNEL = 1.5 * rng.normal(size=(4, 3))
P = np.exp(X @ KERNEL) / np.exp(X @ KERNEL).sum(axis=1, keepdims=True)
Y = (rng.uniform(size=(900, 1)) > np.cumsum(P, axis=1)).sum(axis=1)
VALUES = (X @ KERNEL[:, 0] + np.abs(X[:, 0]) * rng.normal(size=900)).astype("float32")


def members(factor, width):
    noise = np.random.default_rng(1).normal(size=(3, 4, width))
    return [[(factor * KERNEL[:, :width] + 0.2 * n).astype("float32"), np.zeros(width, "float32")] for n in noise]


def classifier(factor=3.0, activation="softmax", task=None):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation)])
    return keras_fge.Ensemble(network, members(factor, 3), task=task)


def regression(task="regression"):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(2 if task == "gaussian" else 1)])
    return keras_fge.Ensemble(network, members(1.0, 2 if task == "gaussian" else 1), None, task)


def test_reliability_is_that_of_the_bins():
    ensemble = classifier().calibrated(X[:300], Y[:300])
    found = ensemble.reliability(X[300:], Y[300:])
    plain = keras_fge.Ensemble(ensemble.network, ensemble.snapshots)
    for name, p in (("before calibration", plain.predict(X[300:])), ("after calibration", ensemble.predict(X[300:]))):
        row, confidence, right = found[name], p.max(1).astype("float64"), p.argmax(1) == Y[300:]
        for b in range(15):
            inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
            assert row["count"][b] == inside.sum()
            if inside.any():
                assert row["confidence"][b] == pytest.approx(confidence[inside].mean(), abs=1e-5)
                assert row["accuracy"][b] == pytest.approx(right[inside].mean())
                assert row["low"][b] <= row["accuracy"][b] <= row["high"][b]
        assert row["gap"] == pytest.approx(confidence.mean() - right.mean(), abs=1e-5)
        assert row["gap_error"] == pytest.approx((confidence - right).std(ddof=1) / np.sqrt(600), rel=1e-4)
        ece = np.nansum(row["count"] * np.abs(row["accuracy"] - row["confidence"])) / 600
        assert ece == pytest.approx(
            (plain if "before" in name else ensemble).evaluate(X[300:], Y[300:])["ece"], abs=1e-6
        )
    assert list(plain.reliability(X, Y)) == ["before calibration"]
    frame = found.to_frame()
    assert frame.loc["after calibration"]["count"].sum() == 600


@pytest.mark.parametrize("factor, words", [(3.0, "surer"), (0.4, "less sure"), (1.0, "as sure")])
def test_reliability_in_words(factor, words):
    said = classifier(factor).calibrated(X[:450], Y[:450]).reliability(X[450:], Y[450:]).sentences()[0]
    assert said.startswith(f"The ensemble is {words} ") and "% sure where" in said
    assert ("a temperature of" in said and said.endswith("mends it.")) == (words != "as sure")
    alone = classifier(factor).reliability(X[450:], Y[450:]).sentences()[0]
    assert ("`calibrated` finds a temperature" in alone) == (words != "as sure")


def by_numpy(unsure, losses):
    order = np.argsort(unsure, kind="stable")
    return np.cumsum(losses[order]) / np.arange(1, len(losses) + 1)


@pytest.mark.parametrize("score", ["confidence", "entropy", "mutual_information"])
def test_risk_against_coverage(score):
    from sklearn.metrics import auc

    ensemble = classifier(0.7)
    p, members = ensemble.predict(X).astype("float64"), ensemble.predict(X, members=True)
    unsure = {"confidence": -p.max(1), "entropy": -(p * np.log(p)).sum(1)}
    unsure["mutual_information"] = keras_fge.uncertainty(members)["mutual_information"]
    wrong = (p.argmax(1) != Y).astype(float)
    risk = by_numpy(unsure[score], wrong)
    found = ensemble.selective(X, Y, score=score)
    np.testing.assert_allclose(found["risk"], risk, atol=0.02)
    assert found["aurc"] == pytest.approx(risk.mean(), abs=1e-3)
    assert found["aurc"] == pytest.approx(auc(found["coverage"], found["risk"]), abs=0.003)
    assert found["excess_aurc"] == pytest.approx(found["aurc"] - by_numpy(wrong, wrong).mean(), abs=1e-9)
    half = 1 - (np.flatnonzero(found["risk"] <= wrong.mean() / 2)[-1] + 1) / 900
    assert found["refused_for_half"] == pytest.approx(half)
    np.testing.assert_allclose(found.to_frame()["risk"], found["risk"])


def test_equally_sure_predictions_have_no_order():
    losses = np.array([1.0, 0, 0, 1, 0, 0])
    found = [
        risk_coverage(np.array([0, 0, 1, 1, 1, 1.0]), losses[order], np.ones(6))
        for order in (np.arange(6), [1, 0, 5, 4, 3, 2])
    ]
    np.testing.assert_allclose(found[0]["risk"], found[1]["risk"])
    np.testing.assert_allclose(found[0]["risk"], [0.5, 0.5, 1.25 / 3, 1.5 / 4, 1.75 / 5, 2 / 6])
    assert found[0]["refused_for_half"] is None
    twice = risk_coverage(np.arange(3.0), np.array([0.0, 1, 1]), np.array([2.0, 1, 1]))
    same = risk_coverage(np.array([0, 0, 1, 2.0]), np.array([0.0, 0, 1, 1]), np.ones(4))
    np.testing.assert_allclose(twice["risk"], same["risk"][1:])


def test_selective_of_other_outputs():
    plain = regression()
    found = plain.selective(X, VALUES)
    deviation = np.sqrt(plain.predict_variance(X))[:, 0]
    risk = by_numpy(deviation, (plain.predict(X)[:, 0] - VALUES.astype("float64")) ** 2)
    np.testing.assert_allclose(found["risk"], risk, rtol=1e-3)
    gaussian = regression("gaussian")
    prediction = gaussian.predict(X).astype("float64")
    risk = by_numpy(prediction[:, 1], (prediction[:, 0] - VALUES) ** 2)
    np.testing.assert_allclose(gaussian.selective(X, VALUES)["risk"], risk, rtol=1e-3)
    labels = (rng.uniform(size=(900, 3)) < 1 / (1 + np.exp(-X @ KERNEL))).astype(float)
    several = classifier(1.0, "sigmoid", "multilabel")
    p = several.predict(X).astype("float64").ravel()
    risk = by_numpy(-np.maximum(p, 1 - p), (p > 0.5) != labels.ravel())
    assert several.selective(X, labels)["aurc"] == pytest.approx(risk.mean(), abs=1e-3)
    assert several.reliability(X, labels)["before calibration"]["count"].sum() == 2700


def test_data_sets_in_an_order_of_their_own():
    """Each pass over these has another order: what is measured comes from one."""
    ensemble = classifier(0.7)
    for score in ("confidence", "mutual_information"):
        expected = ensemble.selective(X, Y, score=score)["aurc"]
        for shares in (None, [0.5, 0.3, 0.2]):
            weighted = keras_fge.Ensemble(ensemble.network, ensemble.snapshots, weights=shares)
            found = weighted.selective(keras_fge.Batches(X, Y, 100, 0), score=score)["aurc"]
            assert found == pytest.approx(weighted.selective(X, Y, score=score)["aurc"], abs=1e-6)
        assert ensemble.selective(X, Y, score=score)["aurc"] == expected


def test_masked_positions():
    inputs = keras.Input((6, 4))
    network = keras.Model(inputs, layers.Dense(3, "softmax")(inputs))
    ensemble = keras_fge.Ensemble(network, members(1.0, 3))
    x, y, mask = X.reshape(150, 6, 4), Y.reshape(150, 6).copy(), rng.uniform(size=(150, 6)) > 0.4
    y[~mask] = -1
    flat, kept = classifier(1.0), mask.ravel()
    for score in ("confidence", "mutual_information"):
        found = ensemble.selective(x, y, score=score, sample_weight=mask)
        expected = flat.selective(X[kept], Y[kept], score=score)
        assert found["aurc"] == pytest.approx(expected["aurc"], abs=1e-4)
    count = ensemble.reliability(x, y, sample_weight=mask)["before calibration"]["count"]
    np.testing.assert_array_equal(count, flat.reliability(X[kept], Y[kept])["before calibration"]["count"])


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"`score` must be one of .*entropy.*Received: score='deviation'"):
        classifier().selective(X, Y, score="deviation")
    with pytest.raises(ValueError, match="`reliability` needs probabilities"):
        regression().reliability(X, VALUES)
    inputs = keras.Input((4,))
    two = keras.Model(inputs, [layers.Dense(3, "softmax", name=n)(inputs) for n in "ab"])
    ensemble = keras_fge.Ensemble(two, [two.get_weights()], [False, False])
    for several in (ensemble, keras_fge.Ensemble(two, [two.get_weights()])):
        for method in ("reliability", "selective", "conformal"):
            with pytest.raises(ValueError, match=f"`{method}` needs a network with one output"):
                getattr(several, method)(X, [Y, Y])


def test_words_both_ways():
    sure = keras_fge.Ensemble(classifier().network, members(20.0, 3))
    assert "halves the error of" in classifier(1.0).selective(X, Y).sentences()[0]
    assert "(by entropy) halves" in classifier(1.0).selective(X, Y, score="entropy").sentences()[0]
    assert "no error to avoid" in sure.selective(X, sure.predict(X).argmax(1)).sentences()[0]
    random = rng.integers(0, 3, 900)
    assert "least sure half does not halve the error" in classifier().selective(X, random).sentences()[0]
    kept = classifier(1.0).conformal(X[:450], Y[:450])
    said = kept.evaluate(X[450:], Y[450:]).sentences()
    assert said[0].startswith("Sets of ") and "90 % were asked for" in said[0] and len(said) == 1
    assert "or of another kind" in kept.evaluate(X[450:], (Y[450:] + 1) % 3).sentences()[1]
    assert (
        "Intervals of a mean width" in regression().conformal(X[:450], VALUES[:450]).evaluate(X, VALUES).sentences()[0]
    )


def pictures():
    ensemble = classifier(1.0)
    yield "reliability", ensemble.calibrated(X, Y).reliability(X, Y)
    yield "selective", ensemble.selective(X, Y)
    yield "sets", ensemble.conformal(X[:450], Y[:450]).evaluate(X[450:], Y[450:])
    yield "intervals", regression().conformal(X[:450], VALUES[:450]).evaluate(X[450:], VALUES[450:])
    network = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    one = keras_fge.Ensemble(network, [[np.full((1, 1), w, "float32"), np.zeros(1)] for w in (1, 1.2)], None)
    yield "x", one.conformal(X[:450, :1], VALUES[:450]).evaluate(X[450:, :1], VALUES[450:])


@pytest.mark.parametrize("name", ["reliability", "selective", "sets", "intervals", "x"])
def test_pictures(name, tmp_path):
    matplotlib.use("Agg")
    picture = dict(pictures())[name]
    for columns, width in ((None, 5.0), (1, 3.3), (2, 6.9)):
        figure = picture.plot(tmp_path / f"{columns}.pdf", columns)
        assert figure.get_size_inches()[0] == width and (tmp_path / f"{columns}.pdf").stat().st_size > 1000
    axes = picture.plot().axes[0]
    assert axes.get_xlabel() and axes.get_ylabel() and axes.get_legend()
    if name == "x":
        assert axes.get_xlabel() == "x"
    picture.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert picture.title in page and '<label class="slider" hidden>' in page
    assert "<img" in picture._repr_html_()
    assert len(picture.to_frame())


def test_intervals_of_shares_hold_them():
    counts = np.arange(1, 200)
    for share in (0.0, 1.0):
        low, high = wilson(share, counts)
        assert np.all(low <= share) and np.all(high >= share)


def test_sets_count_what_they_hold():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]], bool)
    found = SetCoverage.of(sets, np.array([0, 2, 1, 1]), 0.1)
    assert found["coverage_by_size"] == {0: 0.0, 1: 1.0, 2: 0.5} and found["count_by_size"] == {0: 1, 1: 1, 2: 2}
    assert found["coverage_by_class"].tolist() == [1.0, 0.5, 0.0]


def test_one_sample_tells_nothing():
    assert "as sure as it is right" in classifier().reliability(X[:1], Y[:1]).sentences()[0]


def test_foreign_samples():
    inside, outside = rng.normal(size=1000), rng.normal(2, 1, size=500)
    threshold = np.sort(inside)[949]
    assert keras_fge.ood_fpr(inside, outside) == np.mean(outside <= threshold)
    assert keras_fge.ood_fpr(inside, inside.max() + 1 + np.abs(outside)) == 0
    with pytest.raises(ValueError, match="`accepted` must be"):
        keras_fge.ood_fpr(inside, outside, 1.5)
    for pair in (([], outside), ([0.1, np.nan], outside), (inside, [])):
        with pytest.raises(ValueError, match="must hold scores"):
            keras_fge.ood_fpr(*pair)
    values = classifier(1.0).evaluate(X, Y, ood=0.1 * X)
    ours, foreign = (classifier(1.0).uncertainty(data)["entropy"] for data in (X, 0.1 * X))
    assert values["ood_fpr95_entropy"] == keras_fge.ood_fpr(ours, foreign)


@pytest.mark.parametrize("shape", ["pandas", "dictionary"])
def test_labels_in_other_containers_after_a_fit(shape, monkeypatch):
    import pandas

    from keras_fge.outcome import comparison

    inputs = keras.Input((4,))
    network = keras.Model(inputs, layers.Dense(3, "softmax", name="kind")(inputs))
    network.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    order = np.random.default_rng(1).permutation(450)
    y = pandas.Series(Y[450:], index=order) if shape == "pandas" else {"kind": Y[450:]}
    monkeypatch.setattr(comparison, "MOST_POSITIONS", 200)  # So that rows of them are taken.
    fge = keras_fge.FGE(0.5, 0.05, cycle_epochs=2, validation_data=(X[450:], y))
    network.fit(X[:450], Y[:450], epochs=4, verbose=0, callbacks=[fge])
    rows = np.random.default_rng(0).permutation(450)[:200]
    expected = fge.ensemble().selective(X[450:][rows], Y[450:][rows])
    assert fge.comparison.selective["aurc"] == pytest.approx(expected["aurc"], abs=1e-6)
    assert fge.comparison.reliability["before calibration"]["count"].sum() == 200


def test_after_a_fit(tmp_path):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3, "softmax")])
    network.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    fge = keras_fge.FGE(0.5, 0.05, cycle_epochs=2, validation_data=(X[450:], Y[450:]))
    network.fit(X[:450], Y[:450], epochs=4, verbose=0, callbacks=[fge])
    expected = fge.ensemble().selective(X[450:], Y[450:])
    assert fge.comparison.selective["aurc"] == pytest.approx(expected["aurc"])
    calibrated = fge.ensemble().calibrated(X[450:], Y[450:])
    assert fge.comparison.reliability.temperature == pytest.approx(calibrated.temperature)
    assert expected.sentences()[0] in str(fge) and "The ensemble is" in str(fge)
    fge.to_html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "Reliability" in page and "Refusing what is least sure" in page
