"""Any task: labels of every kind, weights and masks, several outputs, against scikit-learn and Keras itself."""

import inspect

import keras
import numpy as np
import pytest
import sklearn.metrics
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH
from keras_fge.core.compiled import compiled_outputs
from keras_fge.core.networks import clone

pytestmark = SLOW_BUT_ON_TORCH

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
SEQUENCES = RNG.normal(size=(60, 5, 4)).astype("float32")
LABELS = RNG.integers(0, 3, 60)
TAGS = RNG.integers(0, 3, (60, 5))
FLAGS = RNG.integers(0, 2, (60, 3))
MASK = (RNG.uniform(size=(60, 5)) < 0.7).astype("float32")


def model(units, activation=None, shape=(4,), loss="mse", metrics=None):
    network = keras.Sequential([keras.Input(shape), layers.Dense(units, activation=activation)])
    network.compile(keras.optimizers.SGD(0.05), loss, metrics=metrics)
    return network


def fitted(network, x, y, **arguments):
    """FGE in two cycles of a `fit`, and the ensemble."""
    fge = keras_fge.FGE(0.05, 0.01, cycle_epochs=1, **arguments)
    network.fit(x, y, batch_size=10, epochs=2, shuffle=False, verbose=0, callbacks=[fge])
    return fge, fge.ensemble()


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_labels_that_do_not_exclude_each_other(activation, tmp_path):
    network = model(3, activation, loss=keras.losses.BinaryCrossentropy(from_logits=activation is None))
    fge, ensemble = fitted(network, X, FLAGS, validation_data=(X, FLAGS), directory=tmp_path)
    probabilities = ensemble.predict(X)
    assert ensemble.task == "multilabel" and np.all((probabilities > 0) & (probabilities < 1))
    metrics = ensemble.evaluate(X, FLAGS, calibrate=True)
    assert metrics["error"] == pytest.approx(sklearn.metrics.hamming_loss(FLAGS, probabilities > 0.5))
    assert metrics["nll"] == pytest.approx(sklearn.metrics.log_loss(FLAGS.ravel(), probabilities.ravel()), rel=1e-5)
    assert metrics["brier"] == pytest.approx(2 * np.mean((probabilities - FLAGS) ** 2), rel=1e-5)
    assert {"ensemble_error", "ensemble_nll", "member_error"} <= set(fge.snapshots[-1].metrics)
    assert fge.snapshots[-1].metrics["ensemble_nll"] == pytest.approx(metrics["nll"], rel=1e-5)
    loaded = keras_fge.Ensemble.load(tmp_path)
    assert loaded.task == "multilabel" and loaded.evaluate(X, FLAGS) == pytest.approx(ensemble.evaluate(X, FLAGS))
    assert ensemble.to_model().predict(X, verbose=0) == pytest.approx(probabilities, abs=1e-6)
    assert ensemble[:1].task == ensemble.select(X, FLAGS).task == "multilabel"
    assert ensemble.disagreement(X)[0, 1] == np.mean((ensemble[:1].predict(X) > 0.5) != (ensemble[1:].predict(X) > 0.5))


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_class_at_each_position(one_hot):
    kind = keras.losses.CategoricalCrossentropy if one_hot else keras.losses.SparseCategoricalCrossentropy
    y = np.eye(3, dtype="float32")[TAGS] if one_hot else TAGS
    fge, ensemble = fitted(model(3, None, (5, 4), kind(from_logits=True)), SEQUENCES, y, validation_data=(SEQUENCES, y))
    rows = ensemble.predict(SEQUENCES).reshape(-1, 3)
    expected = {
        "error": 1 - sklearn.metrics.accuracy_score(TAGS.ravel(), rows.argmax(1)),
        "nll": sklearn.metrics.log_loss(TAGS.ravel(), rows.astype("float64")),
        **{k: v for k, v in keras_fge.classification_metrics(rows, TAGS.ravel()).items() if k in ("brier", "ece")},
    }
    assert ensemble.evaluate(SEQUENCES, y) == pytest.approx(expected, rel=1e-5)
    assert fge.snapshots[-1].metrics["ensemble_error"] == pytest.approx(expected["error"])


def test_masks_and_weights_of_samples():
    _, ensemble = fitted(model(3, "softmax", (5, 4), "sparse_categorical_crossentropy"), SEQUENCES, TAGS)
    rows, kept = ensemble.predict(SEQUENCES), MASK > 0
    padded = np.where(kept, TAGS, -1)  # What does not count may be anything.
    metrics = ensemble.evaluate(SEQUENCES, padded, sample_weight=MASK, calibrate=True)
    assert metrics["nll"] == pytest.approx(sklearn.metrics.log_loss(TAGS[kept], rows[kept].astype("float64")), rel=1e-5)
    assert metrics["error"] == pytest.approx(1 - sklearn.metrics.accuracy_score(TAGS[kept], rows[kept].argmax(1)))
    weights = RNG.uniform(size=60)
    metrics = ensemble.evaluate(SEQUENCES, TAGS, sample_weight=weights)
    expected = sklearn.metrics.log_loss(
        TAGS.ravel(), rows.reshape(-1, 3).astype("float64"), sample_weight=np.repeat(weights, 5)
    )
    assert metrics["nll"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(60, 5\) or \(60,\). Received: \(7,\)"):
        ensemble.evaluate(SEQUENCES, TAGS, sample_weight=np.ones(7))
    with pytest.raises(ValueError, match="`sample_weight` must be finite, not negative"):
        ensemble.evaluate(SEQUENCES, TAGS, sample_weight=np.zeros(60))
    with pytest.raises(ValueError, match=r"`y` must have shape \(60, 5\)"):
        ensemble.evaluate(SEQUENCES, TAGS[:, :4])


def test_weights_equal_samples_that_are_there_more_than_once():
    counts = RNG.integers(1, 4, 60)
    p = RNG.dirichlet(np.ones(3), 60)
    p_again, y_again = np.repeat(p, counts, axis=0), np.repeat(LABELS, counts)
    ours = keras_fge.classification_metrics(p, LABELS, counts)
    assert ours == pytest.approx(keras_fge.classification_metrics(p_again, y_again))
    values, targets = RNG.normal(size=(2, 60, 2))
    again = keras_fge.regression_metrics(np.repeat(values, counts, axis=0), np.repeat(targets, counts, axis=0))
    assert keras_fge.regression_metrics(values, targets, counts) == pytest.approx(again)


def test_weighted_data_sets_and_triples():
    weights = RNG.uniform(size=60).astype("float32")
    network = model(3, "softmax", loss="sparse_categorical_crossentropy")
    triple, batches = (X, LABELS, weights), keras_fge.Batches(X, LABELS, 16, sample_weight=weights)
    _, ensemble = fitted(network, X, LABELS)
    expected = ensemble.evaluate(X, LABELS, sample_weight=weights)
    assert ensemble.evaluate(batches) == pytest.approx(expected, rel=1e-5)
    assert expected["nll"] != pytest.approx(ensemble.evaluate(X, LABELS)["nll"], rel=1e-5)
    for data in (triple, batches):
        fge, ensemble = fitted(network, X, LABELS, validation_data=data)
        nll = ensemble.evaluate(X, LABELS, sample_weight=weights)["nll"]
        assert fge.snapshots[-1].metrics["ensemble_nll"] == pytest.approx(nll, rel=1e-5)


def test_values_are_measured_as_such():
    targets = X[:, :2]
    for arguments in ({}, {"task": "regression"}):
        network = model(2, loss="mse" if not arguments else lambda y, p: keras.ops.mean((y - p) ** 2, axis=-1))
        fge, ensemble = fitted(network, X, targets, validation_data=(X, targets), **arguments)
        assert not any(name.endswith(("nll", "error")) for name in fge.snapshots[-1].metrics)
        mse = sklearn.metrics.mean_squared_error(targets, ensemble.predict(X))
        assert fge.snapshots[-1].metrics["ensemble_mse"] == pytest.approx(mse, rel=1e-5)


def test_several_outputs_of_mixed_kinds():
    inputs = keras.Input((4,))
    outputs = {
        "digit": layers.Dense(3, name="digit")(inputs),
        "flags": layers.Dense(3, activation="sigmoid", name="flags")(inputs),
        "size": layers.Dense(1, name="size")(inputs),
    }
    network = keras.Model(inputs, outputs)
    losses = {
        "digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "flags": "binary_crossentropy",
        "size": "mse",
    }
    network.compile(keras.optimizers.SGD(0.05), losses)
    y = {"digit": LABELS, "flags": FLAGS, "size": X[:, :1]}
    fge, ensemble = fitted(network, X, y, validation_data=(X, y))
    said = keras_fge.FGE(0.1, from_logits=[True, False, None], task=["classification", "multilabel", "regression"])
    said.set_model(network)
    said.snapshots = fge.snapshots
    assert said.ensemble().from_logits == [True, False, None] == ensemble.from_logits
    p = ensemble.predict(X)
    metrics = ensemble.evaluate(X, y)
    assert metrics["digit_nll"] == pytest.approx(sklearn.metrics.log_loss(LABELS, p["digit"].astype("float64")), 1e-5)
    assert metrics["flags_error"] == pytest.approx(sklearn.metrics.hamming_loss(FLAGS, p["flags"] > 0.5))
    assert metrics["size_mse"] == pytest.approx(np.mean((p["size"] - X[:, :1]) ** 2), rel=1e-5)
    assert {"ensemble_digit_nll", "ensemble_flags_error", "ensemble_size_mse"} <= set(fge.snapshots[-1].metrics)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_compiled_metrics_of_one_member_are_those_of_keras(activation):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    network = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation=activation, kernel_regularizer=keras.regularizers.L2(0.1))]
    )
    network.compile(
        keras.optimizers.SGD(0.05), loss, metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    )
    fge, ensemble = fitted(network, X, LABELS, metrics="compiled", validation_data=(X, LABELS))
    before = [keras.ops.convert_to_numpy(v) for v in network.metrics_variables]
    ours = ensemble[-1:].evaluate(X, LABELS, metrics="compiled")
    assert all(np.array_equal(a, keras.ops.convert_to_numpy(b)) for a, b in zip(before, network.metrics_variables))
    network.set_weights(ensemble.snapshots[-1].weights)
    theirs = network.evaluate(X, LABELS, verbose=0, return_dict=True)
    penalty = 0.1 * np.sum(ensemble.snapshots[-1].weights[0].astype("float64") ** 2)
    assert ours.pop("loss") == pytest.approx(theirs.pop("loss") - penalty, rel=1e-4)
    assert ours == pytest.approx(theirs, abs=1e-6)
    both = ensemble.evaluate(X, LABELS, metrics="compiled")
    assert both["loss"] == pytest.approx(ensemble.evaluate(X, LABELS)["nll"], rel=1e-4)
    logged = fge.snapshots[-1].metrics
    assert logged["ensemble_loss"] == pytest.approx(both["loss"], rel=1e-4)
    assert logged["ensemble_accuracy"] == pytest.approx(both["accuracy"], abs=1e-6) and "member_loss" in logged
    assert ensemble.evaluate_sizes(X, LABELS, metrics="compiled")["loss"][-1] == pytest.approx(both["loss"])


def test_any_loss_can_be_measured_as_compiled():
    class Ordinal(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.abs(keras.ops.cumsum(y_true - y_pred, axis=-1)), axis=-1)

    y = np.eye(3, dtype="float32")[LABELS]
    fge, ensemble = fitted(
        model(3, "softmax", loss=Ordinal()), X, y, metrics="compiled", from_logits=False, validation_data=(X, y)
    )
    p = ensemble.predict(X)
    expected = np.mean(np.abs(np.cumsum(y - p, axis=1)))
    assert fge.snapshots[-1].metrics["ensemble_loss"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match='`metrics` must be None or "compiled"'):
        ensemble.evaluate(X, y, metrics="all")
    with pytest.raises(ValueError, match="needs a compiled network"):
        keras_fge.Ensemble(clone(ensemble.network), ensemble.snapshots).evaluate(X, y, metrics="compiled")


def test_training_is_the_same_whether_it_is_measured_or_not():
    results = []
    for arguments in ({}, {"validation_data": (X, LABELS), "metrics": "compiled"}):
        keras.utils.set_random_seed(1)
        network = model(3, "softmax", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        fge = keras_fge.FGE(0.05, 0.01, cycle_steps=4, **arguments)
        history = network.fit(X, LABELS, batch_size=10, epochs=2, shuffle=False, verbose=0, callbacks=[fge]).history
        results.append((history["loss"], history["accuracy"], network.get_weights()))
    assert results[0][:2] == results[1][:2]
    assert all(np.array_equal(a, b) for a, b in zip(results[0][2], results[1][2]))


@pytest.mark.parametrize("way", ["arrays", "split", "triple", "batches"])
def test_the_validation_data_of_fit_are_taken(way):
    network = model(3, "softmax", loss="sparse_categorical_crossentropy")
    fge = keras_fge.FGE(0.05, 0.01, cycle_epochs=1)
    arguments = {
        "arrays": {"validation_data": (X[48:], LABELS[48:])},
        "split": {"validation_split": 0.2},
        "triple": {"validation_data": (X[48:], LABELS[48:], np.ones(12))},
        "batches": {"validation_data": keras_fge.Batches(X[48:], LABELS[48:], 5)},
    }[way]
    x, y = (X, LABELS) if way == "split" else (X[:48], LABELS[:48])
    network.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[fge], **arguments)
    expected = fge.ensemble().evaluate(X[48:], LABELS[48:])
    assert fge.snapshots[-1].metrics["ensemble_nll"] == pytest.approx(expected["nll"], rel=1e-5)
    assert fge.validation_data is None
    network.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[fge])
    assert "ensemble_nll" not in fge.snapshots[-1].metrics


def test_validation_data_of_fit_that_cannot_be_measured_are_left_out_with_a_warning():
    network = model(3, loss=lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True))
    fge = keras_fge.FGE(0.05, 0.01, cycle_epochs=1)
    with pytest.warns(UserWarning, match="does not measure its members on the validation data of `fit`: Say `from_log"):
        network.fit(X, LABELS, batch_size=10, verbose=0, validation_data=(X, LABELS), callbacks=[fge])
    assert len(fge.snapshots) == 1
    with pytest.warns(UserWarning, match="Only whole data sets"):
        batches = keras_fge.Batches(X, LABELS, 10)
        network.fit(X, LABELS, batch_size=10, verbose=0, validation_data=batches, validation_steps=2, callbacks=[fge])


def test_what_contradicts_itself_is_refused_at_once():
    network = model(3)
    weights = [network.get_weights()]
    for make in (lambda **a: keras_fge.FGE(0.1, **a), lambda **a: keras_fge.Ensemble(network, weights, **a)):
        with pytest.raises(ValueError, match="`task` must be one of"):
            make(task="segmentation")
        with pytest.raises(ValueError, match="`task` and `from_logits` contradict"):
            make(task="regression", from_logits=True)
        with pytest.raises(ValueError, match="`task` and `from_logits` contradict"):
            make(task="multilabel", from_logits=None)
    with pytest.raises(ValueError, match='`metrics` must be None or "compiled"'):
        keras_fge.FGE(0.1, metrics="loss", validation_data=(X, LABELS))
    with pytest.raises(ValueError, match='`metrics` must be None or "compiled"'):
        keras_fge.FGE(0.1, metrics="loss")
    with pytest.raises(ValueError, match='task="multilabel"'):  # The rows do not sum to 1.
        keras_fge.Ensemble(model(3, "sigmoid"), weights).evaluate(X, LABELS)


def test_a_task_that_a_user_says_is_stronger_than_the_loss():
    one_hot = np.eye(3, dtype="float32")[LABELS]
    network = model(3, "softmax", loss="mse")  # A classifier with the loss of Brier.
    fge, _ = fitted(network, X, one_hot, task="classification", validation_data=(X, one_hot))
    assert "ensemble_nll" in fge.snapshots[-1].metrics
    own = model(3, loss=lambda y, p: keras.losses.binary_crossentropy(y, p, from_logits=True))
    fge, _ = fitted(own, X, FLAGS, task="multilabel", validation_data=(X, FLAGS))  # The outputs show logits.
    measured = keras_fge.Ensemble(own, fge.snapshots, True, "multilabel").evaluate(X, FLAGS)
    assert fge.snapshots[-1].metrics["ensemble_nll"] == pytest.approx(measured["nll"], rel=1e-5)
    assert fge.ensemble(from_logits=True).task == "multilabel"


def test_what_is_said_of_each_output_stands_where_one_loss_is_for_all():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, [layers.Dense(3, activation="softmax")(inputs), layers.Dense(3)(inputs)])
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy())
    fge = keras_fge.FGE(0.1, from_logits=[False, True])
    fge.set_model(network)
    fge.snapshots = [keras_fge.Snapshot.of(network)]
    assert fge.ensemble().from_logits == [False, True]
    assert fge.ensemble().predict(X)[1].sum(axis=1) == pytest.approx(np.ones(60), abs=1e-5)


LOSSES = [kind for kind in vars(keras.losses).values() if isinstance(kind, type) and kind is not keras.losses.Loss]
OF_PROBABILITIES = ("KLDivergence", "CategoricalGeneralizedCrossEntropy")


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)
def test_every_loss_of_keras_says_what_it_takes(kind):
    """Whether it takes logits is in its signature and configuration; as an attribute, not in every version."""
    network = model(3, loss=kind())
    if kind.__name__ == "CTC":  # It takes logits, and has no word for it.
        with pytest.raises(ValueError, match="Say `from_logits=True`"):
            compiled_outputs(network)
    elif "from_logits" in inspect.signature(kind).parameters:
        assert compiled_outputs(network).from_logits is False
        assert compiled_outputs(model(3, loss=kind(from_logits=True))).from_logits is True
    else:
        assert compiled_outputs(network).from_logits is (False if kind.__name__ in OF_PROBABILITIES else None)


def test_a_loss_without_the_attribute_says_it_in_its_configuration():
    class OfLogits(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

        def get_config(self):
            return {**super().get_config(), "from_logits": True}

    class WithAttribute(OfLogits):
        from_logits = True

        def get_config(self):
            raise NotImplementedError

    for loss in (OfLogits(), WithAttribute()):
        assert compiled_outputs(model(3, loss=loss)).from_logits is True


def test_functions_and_names_of_losses():
    for loss, expected in [
        (keras.losses.sparse_categorical_crossentropy, False),
        ("kl_divergence", False),
        ("binary_crossentropy", False),
        ("mean_squared_error", None),
    ]:
        assert compiled_outputs(model(3, loss=loss)).from_logits is expected


def mean_loss(case, probabilities, labels, weights):
    """The loss of all samples at once, by its definition."""
    loss = -np.log(np.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0])
    counts = np.ones_like(loss)
    if case == "ignore_class":
        counts = np.where(labels == 2, 0.0, 1.0)
    shares = weights * counts
    if case == "sum":
        return np.sum(shares * loss)
    return np.sum(shares * loss) / (np.sum(shares) if case == "mean_with_sample_weight" else np.sum(counts))


@pytest.mark.parametrize("samples", [100, 2500])  # 1,024 at a time would be two or three blocks, of other sizes.
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", ["sum_over_batch_size", "sum", "mean_with_sample_weight", "ignore_class"])
def test_the_compiled_loss_is_that_of_all_samples(case, weighted, samples):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(samples, 4, 3)).astype("float32"), rng.integers(0, 3, (samples, 4))
    labels[: samples // 2, :3] = 2  # Ignored classes are not spread evenly.
    weights = rng.uniform(0.1, 2, (samples, 4)) if weighted else np.ones((samples, 4))
    members = [[rng.normal(size=(3, 3)), rng.normal(size=3)] for _ in range(2)]
    network = keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(3, "softmax")])
    options = {"ignore_class": 2} if case == "ignore_class" else {"reduction": case}
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(**options))
    ensemble = keras_fge.Ensemble(network, members, from_logits=False)
    logits = np.stack([x.astype("float64") @ kernel + bias for kernel, bias in members])
    mean = np.mean(np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True), axis=0)
    values = ensemble.evaluate(x, labels, sample_weight=weights if weighted else None, metrics="compiled")
    assert values["loss"] == pytest.approx(mean_loss(case, mean, labels, weights), rel=1e-5)
