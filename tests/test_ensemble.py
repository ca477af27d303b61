"""Ensembles against numpy; metrics against scikit-learn and hand-computed cases."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

import keras_fge
from conftest import logits_loss, values

rng = np.random.default_rng(0)
X = rng.normal(size=(50, 4)).astype("float32")
Y = rng.integers(0, 3, 50)


def network(activation="softmax", outputs=3):
    return keras.Sequential([keras.Input((4,)), layers.Dense(outputs, activation=activation)])


def snapshots(members=3, outputs=3):
    generator = np.random.default_rng(1)
    return [[2 * generator.normal(size=(4, outputs)), generator.normal(size=outputs)] for _ in range(members)]


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("from_logits", [False, True])
def test_mean_of_probabilities_never_of_logits(from_logits):
    members = snapshots()
    ensemble = keras_fge.Ensemble(network(None if from_logits else "softmax"), members, from_logits)
    logits = [X.astype("float64") @ kernel + bias for kernel, bias in members]
    expected = np.mean([softmax(z) for z in logits], axis=0)
    assert ensemble.predict(X, batch_size=16) == pytest.approx(expected, abs=1e-6)
    assert np.max(np.abs(expected - softmax(np.mean(logits, axis=0)))) > 0.01


def test_metrics_against_scikit_learn():
    probabilities = softmax(rng.normal(size=(200, 4)))
    labels = rng.integers(0, 4, 200)
    metrics = keras_fge.classification_metrics(probabilities, labels)
    assert metrics["error"] == pytest.approx(1 - accuracy_score(labels, probabilities.argmax(axis=1)))
    assert metrics["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(4)))
    brier = brier_score_loss(labels, probabilities, labels=range(4), scale_by_half=False)
    assert metrics["brier"] == pytest.approx(brier)
    ece = 0.0
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            ece += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics["ece"] == pytest.approx(ece)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    metrics = keras_fge.classification_metrics(probabilities, [0, 1, 1, 1])
    # Two bins of two samples: |0.5 - 0.9| and |1 - 0.6|.
    assert metrics["ece"] == pytest.approx(0.4)
    assert metrics["error"] == pytest.approx(0.25)
    assert metrics["brier"] == pytest.approx((0.02 + 1.62 + 0.32 + 0.32) / 4)


def test_labels_of_every_form_and_binary_outputs():
    probabilities = softmax(rng.normal(size=(20, 3)))
    labels = rng.integers(0, 3, 20)
    expected = keras_fge.classification_metrics(probabilities, labels)
    assert keras_fge.classification_metrics(probabilities, labels[:, None]) == expected
    assert keras_fge.classification_metrics(probabilities, np.eye(3)[labels]) == expected
    two = keras_fge.classification_metrics(np.stack([1 - probabilities[:, 0], probabilities[:, 0]], 1), labels > 0)
    assert keras_fge.classification_metrics(probabilities[:, :1], labels > 0) == pytest.approx(two)


@pytest.mark.parametrize("from_logits", [False, True])
def test_one_output_is_the_probability_of_class_one(from_logits):
    members = snapshots(outputs=1)
    ensemble = keras_fge.Ensemble(network(None if from_logits else "sigmoid", 1), members, from_logits)
    expected = np.mean([1 / (1 + np.exp(-(X @ kernel + bias))) for kernel, bias in members], axis=0)
    assert ensemble.predict(X) == pytest.approx(expected, abs=1e-6)
    labels = Y > 0
    assert ensemble.evaluate(X, labels)["error"] == pytest.approx(np.mean((expected[:, 0] > 0.5) != labels))


def test_sizes_are_the_ensembles_of_the_first_members():
    ensemble = keras_fge.Ensemble(network(), snapshots())
    sizes = ensemble.evaluate_sizes(X, Y)
    for k in (1, 2, 3):
        expected = ensemble[:k].evaluate(X, Y)
        assert {name: array[k - 1] for name, array in sizes.items()} == pytest.approx(expected, abs=1e-6)
        assert expected == pytest.approx(keras_fge.classification_metrics(ensemble[:k].predict(X), Y), abs=1e-6)
    assert set(sizes) == {"error", "nll", "brier", "ece"} and sizes["nll"].shape == (3,)


def test_equal_members_are_that_member():
    one, three = (keras_fge.Ensemble(network(), [snapshots(1)[0]] * k) for k in (1, 3))
    assert three.predict(X) == pytest.approx(one.predict(X), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nll_of_the_ensemble_is_at_most_the_mean_of_the_members(seed):
    generator = np.random.default_rng(seed)
    members = softmax(3 * generator.normal(size=(4, 30, 3)))
    labels = generator.integers(0, 3, 30)
    each = [keras_fge.classification_metrics(p, labels)["nll"] for p in members]
    assert keras_fge.classification_metrics(members.mean(axis=0), labels)["nll"] <= np.mean(each) + 1e-9


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, shuffle=False):
        super().__init__()
        self.x, self.y, self.shuffle = x, y, shuffle

    def __len__(self):
        return -(-len(self.x) // 16)

    def __getitem__(self, index):
        if self.shuffle and index == 0:
            order = np.random.default_rng().permutation(len(self.x))
            self.x, self.y = self.x[order], self.y[order]
        return self.x[16 * index : 16 * index + 16], self.y[16 * index : 16 * index + 16]


def test_data_sets_and_their_order():
    ensemble = keras_fge.Ensemble(network(), snapshots())
    assert ensemble.predict(Batches(X, Y)) == pytest.approx(ensemble.predict(X), abs=1e-6)
    assert ensemble.evaluate(Batches(X, Y)) == pytest.approx(ensemble.evaluate(X, Y), abs=1e-6)
    with pytest.raises(ValueError, match="turn the shuffling of the data set off"):
        ensemble.evaluate(Batches(X, Y, shuffle=True))


def test_data_sets_of_the_backend():
    ensemble = keras_fge.Ensemble(network(), snapshots())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    elif keras.backend.backend() == "torch":
        import torch

        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)), 16)
    else:
        data = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 50, 16)]
    assert ensemble.evaluate(data) == pytest.approx(ensemble.evaluate(X, Y), abs=1e-6)


def test_several_outputs():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"a": layers.Dense(2)(inputs), "b": layers.Dense(3)(inputs)})
    members = [[1.5 * w for w in model.get_weights()], model.get_weights()]
    predictions = keras_fge.Ensemble(model, members).predict(X)
    expected = model.predict(X, verbose=0)
    for name in ("a", "b"):
        assert predictions[name] == pytest.approx(1.25 * expected[name], abs=1e-5)


def test_the_network_gets_its_weights_back_also_after_an_error():
    model = network()
    before = values(model.weights)
    ensemble = keras_fge.Ensemble(model, snapshots())
    ensemble.predict(X)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.weights)))
    with pytest.raises(Exception):  # noqa: B017 - the backends disagree on what a shape mismatch is
        ensemble.predict(np.ones((3, 7), "float32"))
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.weights)))


def test_from_logits_comes_from_the_compiled_loss():
    model = network(None)
    model.compile(keras.optimizers.SGD(0.1), logits_loss())
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2)
    model.fit(X, Y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
    assert np.sum(fge.ensemble().predict(X), axis=1) == pytest.approx(1, abs=1e-5)
    assert repr(fge.ensemble()) == f"Ensemble(2 members of '{model.name}', from_logits=True)"


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("sparse_categorical_crossentropy", False),
        (keras.losses.SparseCategoricalCrossentropy(), False),
        ([keras.losses.SparseCategoricalCrossentropy(from_logits=True)], True),
        (keras.losses.MeanSquaredError(), None),
        ("mse", None),
    ],
    ids=["string", "probabilities", "list with logits", "regression", "string of a regression"],
)
def test_from_logits_of_every_form_of_loss(loss, expected):
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2)
    model = network(None)
    model.compile("sgd", loss)
    fge.set_model(model)
    fge.snapshots = [keras_fge.Snapshot.of(model)]
    assert fge.ensemble().from_logits is expected
    assert fge.ensemble(from_logits=not expected).from_logits != expected


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y, p: p, r"Say `ensemble\(from_logits=True\)`"),
        (keras.losses.BinaryCrossentropy(from_logits=True), "several independent binary outputs"),
    ],
)
def test_losses_that_do_not_tell(loss, message):
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2)
    model = network(None)
    model.compile("sgd", loss)
    fge.set_model(model)
    fge.snapshots = [keras_fge.Snapshot.of(model)]
    with pytest.raises(ValueError, match=message):
        fge.ensemble()


def test_bad_input():
    with pytest.raises(ValueError, match="`snapshots` is empty"):
        keras_fge.Ensemble(network(), [])
    with pytest.raises(ValueError, match=r"`snapshots\[1\]` does not fit .* shape \(4, 2\) instead of \(4, 3\)"):
        keras_fge.Ensemble(network(), [*snapshots(1), *snapshots(1, outputs=2)])
    with pytest.raises(ValueError, match="1 arrays instead of 2"):
        keras_fge.Ensemble(network(), [snapshots(1)[0][:1]])
    logits = network(None)
    before = values(logits.weights)
    with pytest.raises(ValueError, match="set from_logits=True") as error:
        keras_fge.Ensemble(logits, snapshots()).evaluate(X, Y)
    assert error and all(np.array_equal(a, b) for a, b in zip(before, values(logits.weights)))
    with pytest.raises(ValueError, match="are no probabilities"):
        keras_fge.classification_metrics(np.full((2, 2), np.nan), [0, 1])
    ensemble = keras_fge.Ensemble(network(), snapshots())
    with pytest.raises(ValueError, match=r"`y` must have shape \(50,\)"):
        ensemble.evaluate(X, Y[:7])
    with pytest.raises(ValueError, match="`y` must hold classes 0 to 2"):
        ensemble.evaluate(X, Y + 1)
    with pytest.raises(ValueError, match="`y` is missing"):
        ensemble.evaluate(X)
    with pytest.raises(TypeError, match="indexed by slices"):
        ensemble[0]
