"""Whether a run was worth it: the numbers against loops over samples, and the sentences both ways."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH, values
from keras_fge.core.metrics import classification_differences
from keras_fge.core.predictions import Votes
from keras_fge.core.value_metrics import regression_differences
from keras_fge.outcome import Comparison

pytestmark = SLOW_BUT_ON_TORCH

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(120, 6)).astype("float32"), rng.integers(0, 3, 120)
VALIDATION = (X[80:], Y[80:])


def network(*norm, logits=False):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), *norm, layers.Dense(3)])
    if not logits:
        model.add(layers.Softmax())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def run(model, x=None, epochs=4, **options):
    fge = keras_fge.FGE(cycle_epochs=2, **options)
    data = (fge.batches(X[:80], Y[:80], 20),) if x == "batches" else (X[:80], Y[:80], 20)
    model.fit(*data, epochs=epochs, verbose=0, validation_data=VALIDATION, callbacks=[fge])
    return fge


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def by_hand(probabilities):
    return {
        "error": np.mean(probabilities.argmax(1) != VALIDATION[1]),
        "nll": -np.mean(np.log(probabilities[np.arange(40), VALIDATION[1]])),
    }


@pytest.mark.parametrize("logits", [False, True])
def test_rows_are_those_of_the_networks(logits):
    model = network(logits=logits)
    fge = run(model)
    outputs = [m.predict(VALIDATION[0], verbose=0) for m in (model, *fge.ensemble())]
    last, *members = map(softmax, outputs) if logits else outputs
    averaged = network(logits=logits)
    averaged.set_weights([np.mean(w, axis=0) for w in zip(*(s.weights for s in fge.snapshots))])
    averaged = averaged.predict(VALIDATION[0], verbose=0)
    expected = {"last network": last, "ensemble": np.mean(members, axis=0)}
    expected["averaged weights"] = softmax(averaged) if logits else averaged
    assert list(fge.comparison) == list(expected)
    for name, probabilities in expected.items():
        for metric, value in by_hand(probabilities).items():
            assert fge.comparison[name][metric] == pytest.approx(value, abs=1e-6)
    difference, error = fge.comparison.differences["ensemble", "last network"]["nll"]
    parts = np.diff([-np.log(expected[n][np.arange(40), VALIDATION[1]]) for n in ("last network", "ensemble")], axis=0)[
        0
    ]
    assert difference == pytest.approx(parts.mean(), abs=1e-6)
    assert error == pytest.approx(parts.std(ddof=1) / np.sqrt(40), rel=1e-4)


def test_statistics_of_batch_normalization_come_from_batches_or_the_row_is_missing():
    model = network(layers.BatchNormalization())
    fge = run(model, "batches")
    averaged = fge.ensemble().average_weights((X[:80], Y[:80]))
    expected = by_hand(averaged.predict(VALIDATION[0], verbose=0))
    assert fge.comparison["averaged weights"]["nll"] == pytest.approx(expected["nll"], abs=1e-5)
    fge = run(network(layers.BatchNormalization()))
    assert list(fge.comparison) == ["last network", "ensemble"]
    assert "No comparison with the averaged weights: their BatchNormalization" in str(fge)


def test_the_network_is_as_without(capsys):
    trained = []
    for comparison in (True, False):
        keras.utils.set_random_seed(1)
        model = network(layers.BatchNormalization())
        fge = run(model, "batches", comparison=comparison)
        trained.append([*values(model.variables), *values(model.optimizer.variables), np.random.uniform(size=1)])
        assert (fge.comparison is None) is not comparison
    for ours, theirs in zip(*trained, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "validation samples" not in capsys.readouterr().out
    model.fit(X, Y, epochs=2, validation_data=VALIDATION, callbacks=[keras_fge.FGE(cycle_epochs=2)], verbose=2)
    assert "On 40 validation samples: last network " in capsys.readouterr().out


def test_without_validation_data_or_snapshot_there_is_nothing_to_compare():
    fge = keras_fge.FGE(cycle_epochs=2)
    network().fit(X, Y, epochs=2, verbose=0, callbacks=[fge])
    assert fge.comparison is None and "last network" not in str(fge)


def test_a_comparison_that_fails_loses_nothing(monkeypatch):
    def fails(*args):
        raise MemoryError("no room")

    monkeypatch.setattr("keras_fge.cyclic.compare", fails)
    with pytest.warns(UserWarning, match="not compared with the last network: no room"):
        fge = run(network())
    assert len(fge.snapshots) == 2 and fge.comparison is None


def test_compiled_metrics_have_no_standard_error():
    fge = run(network(), metrics="compiled")
    assert fge.comparison.keys() == {"last network", "ensemble", "averaged weights"}
    assert fge.comparison["ensemble"].keys() == {"loss", "accuracy"} and not any(fge.comparison.differences.values())
    assert "how much of it is chance is not known" in str(fge)


def test_several_outputs_are_compared_one_by_one():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [layers.Dense(3, "softmax", name="kind")(inputs), layers.Dense(1, name="size")(inputs)])
    model.compile("sgd", ["sparse_categorical_crossentropy", "mse"])
    fge = keras_fge.FGE(0.1, cycle_epochs=2)
    targets = [Y, X[:, :1]]
    model.fit(X, targets, epochs=4, verbose=0, validation_data=(X, targets), callbacks=[fge])
    said = fge.comparison.sentences()
    assert any(
        "On 120 validation samples of 'kind': last network" in sentence and "NLL" in sentence for sentence in said
    )
    assert any("of 'size': last network mean squared error" in sentence for sentence in said)


# --- Differences ------------------------------------------------------------------------------------------------------


def test_differences_of_positions_are_clustered_by_sample():
    first, second = softmax(rng.normal(size=(2, 30, 4, 3)))
    labels, weights = rng.integers(0, 3, (30, 4)), rng.uniform(0, 1, (30, 4)) * (rng.uniform(size=(30, 4)) > 0.3)
    losses = [-np.log(np.take_along_axis(p, labels[..., None], -1)[..., 0]) for p in (first, second)]
    difference, error = classification_differences(first, second, labels, weights)["nll"]
    d = np.average(losses[0] - losses[1], weights=weights)
    owned = [np.sum(weights[n] * (losses[0][n] - losses[1][n] - d)) for n in range(30) if weights[n].any()]
    expected = np.sqrt(len(owned) / (len(owned) - 1) * np.sum(np.square(owned))) / weights.sum()
    assert (difference, error) == (pytest.approx(d), pytest.approx(expected))


def test_the_standard_error_is_that_of_repeated_draws():
    draws = []
    for _ in range(400):
        hard = rng.uniform(size=200)  # Of both, so that they are paired.
        errors = [rng.uniform(size=200) < hard * scale for scale in (0.5, 0.6)]
        probabilities = [np.stack([1 - e, e], axis=1).astype(float) for e in errors]
        draws.append(classification_differences(*probabilities, np.zeros(200, int))["error"])
    differences, standard_errors = np.array(draws).T
    assert differences.mean() == pytest.approx(-0.05, abs=0.01)
    assert standard_errors.mean() == pytest.approx(differences.std(), rel=0.1)


def test_differences_of_values():
    first, second, targets = rng.normal(size=(3, 50))
    difference, error = regression_differences(first, second[:, None], targets)["mse"]
    parts = (first - targets) ** 2 - (second - targets) ** 2
    assert (difference, error) == (pytest.approx(parts.mean()), pytest.approx(parts.std(ddof=1) / np.sqrt(50)))


def test_disagreement_is_the_mean_over_pairs():
    classes = rng.integers(0, 4, (5, 30))
    classes[0] = 0  # The first network knows fewer classes.
    votes = Votes()
    assert votes.disagreement() is None
    for row in classes:
        votes.add(row)
    pairs = [np.mean(classes[j] != classes[k]) for j in range(5) for k in range(5) if j != k]
    assert votes.disagreement() == pytest.approx(np.mean(pairs))


def test_disagreement_of_a_run_is_that_of_its_ensemble():
    fge = run(network(), epochs=8)
    matrix = fge.ensemble().disagreement(VALIDATION[0])
    assert fge._validation.disagreement() == pytest.approx(matrix.sum() / (4 * 3), abs=1e-6)


# --- Sentences --------------------------------------------------------------------------------------------------------


def comparison(nll, error=(0.06, 0.06, 0.06), standard_error=0.004, error_error=0.01, names=3):
    kinds = ["last network", "ensemble", "averaged weights"][:names]
    rows = {kind: {"error": e, "nll": n} for kind, e, n in zip(kinds, error, nll)}
    pairs = [(kinds[a], kinds[b]) for a, b in ((1, 0), (2, 0), (1, 2)) if max(a, b) < names]
    differences = {
        (a, b): {
            "nll": (rows[a]["nll"] - rows[b]["nll"], standard_error),
            "error": (rows[a]["error"] - rows[b]["error"], error_error),
        }
        for a, b in pairs
    }
    return Comparison(rows, differences, 200, 10, {})


def test_the_sentence():
    said = comparison((0.254, 0.249, 0.251), (0.062, 0.066, 0.064)).sentences()
    assert said[0] == (
        "On 200 validation samples: last network 6.2 % error, NLL 0.254; ensemble of 10 6.6 %, 0.249; averaged weights "
        "6.4 %, 0.251."
    )
    assert said[1] == (
        "Ensemble against last network: NLL lower by 0.005 (standard error 0.004), error higher by 0.4 points "
        "(standard error 1)."
    )
    assert said[-1] == (
        "These samples do not tell that anything is better than the last network: about 512 would, if the "
        "difference is as measured."
    )


@pytest.mark.parametrize(
    ("made", "first", "last"),
    [
        (comparison((0.25, 0.27, 0.26)), "By the NLL, the last network is better than", "Take the last network."),
        (comparison((0.25, 0.20, 0.24)), "On 200", "Take the ensemble."),
        (comparison((0.25, 0.20, 0.30), names=2), "On 200", "Take the ensemble."),
        (comparison((0.25, 0.20, 0.203)), "On 200", "Take the averaged weights: they are one network, and these"),
        (comparison((0.25, 0.20, 0.19)), "On 200", "Take the averaged weights."),
        (comparison((0.25, 0.244, 0.245)), "On 200", "These samples do not tell that anything is better"),
        (
            comparison((0.25, 0.20, 0.24), (0.06, 0.09, 0.06)),
            "On 200",
            "Take the ensemble. Its error is higher, by more",
        ),
        (comparison((0.25, 0.20, 0.24), (0.06, 0.07, 0.06)), "On 200", "Take the ensemble."),
        (
            comparison((0.25, 0.20, 0.20), standard_error=np.nan),
            "On 200",
            "These samples do not tell that anything",
        ),
    ],
    ids=[
        "last",
        "ensemble",
        "no average",
        "average as good",
        "average",
        "few",
        "error higher",
        "by chance",
        "one sample",
    ],
)
def test_what_to_take(made, first, last):
    said = made.sentences()
    assert said[0].startswith(first) and said[-1].startswith(last)
    assert last.endswith("by more") or "by more than chance" not in said[-1]


def test_the_ensemble_is_taken_though_the_average_may_be_better_by_chance():
    made = comparison((0.25, 0.20, 0.195))
    made.differences["averaged weights", "last network"]["nll"] = (-0.055, 0.04)
    assert made.sentences()[-1] == "Take the ensemble."


def test_of_several_outputs_each_sentence_names_its_own():
    rows = {"last network": {"a_nll": 0.3, "b_mse": 1.0}, "ensemble": {"a_nll": 0.2, "b_mse": 2.0}}
    pair = {("ensemble", "last network"): {"a_nll": (-0.1, 0.01), "b_mse": (1.0, 0.1)}}
    said = Comparison(rows, pair, 50, 3, {}).sentences()
    assert [s for s in said if "Take" in s] == ["For 'a': Take the ensemble.", "For 'b': Take the last network."]
    assert all("'a'" in sentence or "'b'" in sentence for sentence in said)


def test_a_last_network_that_diverged_is_not_the_best():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    fge = keras_fge.FGE(0.01, cycle_epochs=2)

    class Diverge(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            self.model.set_weights([w * np.nan for w in self.model.get_weights()])

    data = X, X[:, :1]
    model.fit(*data, epochs=2, verbose=0, validation_data=data, callbacks=[Diverge(), fge])
    assert list(fge.comparison) == ["ensemble", "averaged weights"]
    assert "No comparison with the last network: what it predicts is not finite." in str(fge)


def test_outputs_that_are_not_finite_before_the_first_snapshot_end_no_training():
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights([w * np.nan for w in self.model.get_weights()])

    model, fge = network(), keras_fge.FGE(0.1, cycle_epochs=2, start_epoch=3)
    callbacks = [Spoil(), keras.callbacks.TerminateOnNaN(), fge]
    with pytest.warns(UserWarning, match="collected no snapshot"):
        history = model.fit(X[:80], Y[:80], 20, epochs=6, verbose=0, validation_data=VALIDATION, callbacks=callbacks)
    assert np.isnan(history.history["ensemble_nll"][-1]) and len(history.epoch) == 2


def test_positions_without_weight_do_not_count_as_agreement():
    votes, classes = Votes(), rng.integers(0, 3, (2, 20, 4))
    weights = (rng.uniform(size=(20, 4)) > 0.5).astype(float)
    for row in classes:
        votes.add(row, weights)
    assert votes.disagreement() == pytest.approx(np.average(classes[0] != classes[1], weights=weights))
    samples = Votes()
    for row in classes:
        samples.add(row, weights[:, 0])
    counted = weights[:, 0] > 0
    assert samples.disagreement() == pytest.approx(np.mean(classes[0][counted] != classes[1][counted]))
