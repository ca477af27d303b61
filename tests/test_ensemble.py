"""Ensembles against numpy; metrics against scikit-learn and hand-computed cases."""

import concurrent.futures
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

import curves
import keras_fge
import processes
from conftest import logits_loss, slow_but_on_torch, slow_on_jax, slow_on_tensorflow, to_numpy, values

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


@slow_but_on_torch
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


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("sparse_categorical_crossentropy", False),
        (keras.losses.SparseCategoricalCrossentropy(), False),
        ([keras.losses.SparseCategoricalCrossentropy(from_logits=True)], True),
        (keras.losses.MeanSquaredError(), None),
        ("mse", None),
        (keras.losses.sparse_categorical_crossentropy, False),
        (keras.losses.mean_absolute_error, None),
    ],
    ids=["string", "probabilities", "list with logits", "regression", "string of a regression", "function", "values"],
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
        (lambda y, p: p, r"Say `from_logits=True`, .* to `ensemble\(\)`.*does not tell what the network outputs"),
        (OwnLoss(), r"Say `from_logits=True`"),
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


@slow_but_on_torch
@pytest.mark.parametrize("loss", [lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p), OwnLoss()])
def test_where_the_loss_does_not_tell_outputs_or_the_user_do(loss, tmp_path):
    model = network("softmax")
    model.compile("sgd", loss)
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2, validation_data=(X, Y))
    model.fit(X, Y, batch_size=10, verbose=0, callbacks=[fge])  # The outputs are probabilities.
    assert fge.snapshots[0].metrics["ensemble_nll"] > 0
    logits = network(None)
    logits.compile("sgd", loss)
    other = keras_fge.FGE(0.1, 0.01, cycle_steps=2, validation_data=(X, Y))
    with pytest.raises(ValueError, match="Say `from_logits=True`"):
        logits.fit(X, Y, batch_size=10, verbose=0, callbacks=[other])
    given = keras_fge.FGE(0.1, 0.01, cycle_steps=2, validation_data=(X, Y), directory=tmp_path, from_logits=True)
    logits.fit(X, Y, batch_size=10, verbose=0, callbacks=[given])
    assert given.ensemble().from_logits is True is keras_fge.Ensemble.load(tmp_path).from_logits
    measured = keras_fge.Ensemble(logits, given.snapshots, from_logits=True).evaluate(X, Y)
    assert given.snapshots[-1].metrics["ensemble_nll"] == pytest.approx(measured["nll"], rel=1e-5)


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
    with pytest.raises(ValueError, match="are not finite: the training has diverged"):
        keras_fge.classification_metrics(np.full((2, 2), np.nan), [0, 1])
    ensemble = keras_fge.Ensemble(network(), snapshots())
    with pytest.raises(ValueError, match=r"`y` must have shape \(50,\)"):
        ensemble.evaluate(X, Y[:7])
    with pytest.raises(ValueError, match="`y` must hold classes 0 to 2"):
        ensemble.evaluate(X, Y + 1)
    with pytest.raises(ValueError, match="`y` is missing"):
        ensemble.evaluate(X)
    with pytest.raises(IndexError):
        ensemble[len(ensemble)]


# --- Calibration ------------------------------------------------------------------------------------------------------


def test_temperature_of_each_fold_is_the_best_one_for_the_others():
    from scipy.optimize import minimize_scalar

    generator = np.random.default_rng(3)
    logits = 4 * generator.normal(size=(200, 4))
    labels = np.array([generator.choice(4, p=softmax(row / 3)) for row in logits])
    calibrated = keras_fge.calibrated_metrics(softmax(logits), labels, folds=4, seed=7)
    scaled, temperatures = np.zeros((200, 4)), []
    for fold in np.array_split(np.random.default_rng(7).permutation(200), 4):
        others = [n for n in range(200) if n not in fold]
        nll = lambda log_t, rows: log_loss(labels[rows], softmax(logits[rows] / np.exp(log_t)), labels=range(4))  # noqa: E731
        temperatures.append(np.exp(minimize_scalar(nll, args=(others,), bounds=(-4, 4), method="bounded").x))
        scaled[fold] = softmax(logits[fold] / temperatures[-1])
    assert calibrated["temperature"] == pytest.approx(np.mean(temperatures), rel=1e-3)
    expected = keras_fge.classification_metrics(scaled, labels)
    for name in ("nll", "brier", "ece"):
        assert calibrated[f"calibrated_{name}"] == pytest.approx(expected[name], abs=1e-3)
    assert calibrated["calibrated_nll"] < keras_fge.classification_metrics(softmax(logits), labels)["nll"]
    assert 2 < calibrated["temperature"] < 4.5  # The labels were drawn at a temperature of 3.


def test_calibrated_metrics_of_ensembles_of_every_size():
    ensemble = keras_fge.Ensemble(network(), snapshots())
    sizes = ensemble.evaluate_sizes(X, Y, calibrate=True)
    for k in (1, 3):
        expected = keras_fge.calibrated_metrics(ensemble[:k].predict(X), Y)
        assert {name: sizes[name][k - 1] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert ensemble.evaluate(X, Y, calibrate=True)["calibrated_nll"] == pytest.approx(sizes["calibrated_nll"][-1])
    with pytest.raises(ValueError, match="`folds` must be from 2 to the number of samples, 50"):
        keras_fge.calibrated_metrics(ensemble.predict(X), Y, folds=51)


def test_predictions_that_are_always_right_have_the_lowest_temperature():
    assert keras_fge.calibrated_metrics(np.tile([[0.6, 0.4]], (10, 1)), np.zeros(10))["temperature"] < 0.02


# --- Other kinds of outputs -------------------------------------------------------------------------------------------


def test_regression_mean_variance_and_errors():
    members = snapshots()
    ensemble = keras_fge.Ensemble(network(None), members, from_logits=None)
    outputs = np.stack([X.astype("float64") @ kernel + bias for kernel, bias in members])
    targets = rng.normal(size=(50, 3))
    assert ensemble.predict(X) == pytest.approx(outputs.mean(axis=0), abs=1e-5)
    assert ensemble.predict_variance(X) == pytest.approx(outputs.var(axis=0), abs=1e-4)
    large = [[np.zeros((4, 3), "float32"), np.full(3, 1e7 + k, "float32")] for k in range(4)]
    assert np.all(keras_fge.Ensemble(network(None), large, from_logits=None).predict_variance(X) == 1.25)
    error = outputs.mean(axis=0) - targets
    expected = {"mse": np.mean(error**2), "mae": np.mean(np.abs(error))}
    assert ensemble.evaluate(X, targets) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="`y` must have the shape of the predictions"):
        ensemble.evaluate(X, Y)


def two_outputs(structure):
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3, name="digit")(inputs), layers.Dense(1, name="angle")(inputs)]
    return keras.Model(inputs, outputs if structure == "list" else {"digit": outputs[0], "angle": outputs[1]})


def test_labels_by_the_names_of_outputs_that_are_a_list():
    inputs = keras.Input((4,))
    outputs = [layers.Dense(1, name="z", activation="sigmoid")(inputs), layers.Dense(3, name="a")(inputs)]
    model = keras.Model(inputs, outputs)
    binary = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("sgd", [binary, logits_loss()])
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2)
    model.fit(X, {"z": Y > 0, "a": Y}, batch_size=25, epochs=1, verbose=0, callbacks=[fge])
    ensemble = fge.ensemble()
    assert ensemble.from_logits == [True, True]
    by_name, by_order = ensemble.evaluate(X, {"a": Y, "z": Y > 0}), ensemble.evaluate(X, [Y > 0, Y])
    assert by_name == by_order and by_name["z_error"] != by_name["a_error"]


@slow_but_on_torch
@pytest.mark.parametrize("structure", ["list", "dictionary"])
def test_outputs_of_two_kinds(structure):
    model = two_outputs(structure)
    model.compile("sgd", {"digit": logits_loss(), "angle": "mse"})
    angles = rng.normal(size=(50, 1)).astype("float32")
    y = [Y, angles] if structure == "list" else {"digit": Y, "angle": angles}
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2, validation_data=(X, y))
    model.fit(X, y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
    metrics = fge.ensemble().evaluate(X, y)
    outputs = []
    for snapshot in fge.snapshots:
        model.set_weights(snapshot.weights)
        outputs.append(model.predict(X, verbose=0))
    digit, angle = (0, 1) if structure == "list" else ("digit", "angle")
    probabilities = np.mean([softmax(o[digit]) for o in outputs], axis=0)
    expected = keras_fge.classification_metrics(probabilities, Y)
    assert metrics["digit_nll"] == pytest.approx(expected["nll"], rel=1e-4)
    assert metrics["angle_mse"] == pytest.approx(np.mean((np.mean([o[angle] for o in outputs], axis=0) - angles) ** 2))
    assert fge.snapshots[-1].metrics["ensemble_digit_nll"] == pytest.approx(metrics["digit_nll"], rel=1e-5)
    single = fge.ensemble().to_model().predict(X, verbose=0)
    assert single[digit] == pytest.approx(probabilities, abs=1e-5)
    with pytest.raises(ValueError, match="one value for each of 2 outputs"):
        keras_fge.Ensemble(model, fge.snapshots, [True]).predict(X)


# --- What follows from an ensemble ------------------------------------------------------------------------------------


@slow_but_on_torch
def test_disagreement_and_distances():
    members = snapshots()
    ensemble = keras_fge.Ensemble(network(), members)
    classes = [np.argmax(X @ kernel + bias, axis=1) for kernel, bias in members]
    flat = [np.concatenate([kernel.ravel(), bias]) for kernel, bias in members]
    for j in range(3):
        for k in range(3):
            assert ensemble.disagreement(X)[j, k] == pytest.approx(np.mean(classes[j] != classes[k]))
            assert ensemble.distances()[j, k] == pytest.approx(np.linalg.norm(flat[j] - flat[k]))
    diverged = [members[0][0] * np.nan, members[0][1]]
    matrix = keras_fge.Ensemble(network(), [members[0], diverged, members[1]]).disagreement(X)
    assert np.isnan(matrix[1]).all() and np.isnan(matrix[:, 1]).all()
    assert matrix[0, 2] == ensemble.disagreement(X)[0, 1]


@slow_on_jax
def test_average_weights_with_batch_norm(trained):
    start, end, x, y = trained
    ensemble = keras_fge.Ensemble(start, [start.get_weights(), end.get_weights()], from_logits=True)
    average = ensemble.average_weights((x, y), batch_size=25)
    expected = keras.models.clone_model(start)
    expected.set_weights([(a + b) / 2 for a, b in zip(start.get_weights(), end.get_weights())])
    curves.update_batch_norm(expected, (x, y), batch_size=25)
    for ours, theirs in zip(values(average.weights), values(expected.weights)):
        assert ours == pytest.approx(theirs, abs=1e-6)
    with pytest.raises(ValueError, match=r"`train` is needed: .* has BatchNormalization"):
        ensemble.average_weights()
    same = keras_fge.Ensemble(start, [start.get_weights()] * 3).average_weights((x, y), batch_size=25)
    for ours, theirs in zip(values(same.trainable_variables), values(start.trainable_variables)):
        assert np.array_equal(ours, theirs)


def test_average_weights_keeps_weights_that_are_no_floats():
    class Counter(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

        def call(self, x):
            return x

        def get_config(self):
            return super().get_config()

    with keras.saving.custom_object_scope({"Counter": Counter}):
        model = keras.Sequential([keras.Input((2,)), Counter(), layers.Dense(1)])
        one, two = model.get_weights(), [w + 2 for w in model.get_weights()]
        average = values(keras_fge.Ensemble(model, [one, two]).average_weights().weights)
    assert average[0] == 0 and average[1] == pytest.approx(one[1] + 1)


@slow_on_jax
def test_one_model(trained, tmp_path):
    start, end, x, _ = trained
    ensemble = keras_fge.Ensemble(start, [start.get_weights(), end.get_weights()], from_logits=True)
    model = ensemble.to_model()
    assert model.predict(x, verbose=0) == pytest.approx(ensemble.predict(x), abs=1e-5)
    assert not model.trainable_variables
    model.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        model.export(tmp_path / "served", verbose=False)
        served = tf.saved_model.load(str(tmp_path / "served"))
        assert served.serve(x).numpy() == pytest.approx(ensemble.predict(x), abs=1e-5)
    assert keras_fge.Ensemble(network(), snapshots(1)).to_model().predict(X, verbose=0).shape == (50, 3)


@keras.saving.register_keras_serializable(package="tests")
class OwnClass(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


class NotRegistered(OwnClass):
    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def get_config(self):
        raise NotImplementedError


@slow_but_on_torch
def test_networks_of_a_class_of_ones_own(tmp_path):
    model = OwnClass()
    model(X)
    ensemble = keras_fge.Ensemble(model, snapshots(), from_logits=True)
    ensemble.save(tmp_path / "own")
    assert np.array_equal(keras_fge.Ensemble.load(tmp_path / "own").predict(X), ensemble.predict(X))
    with pytest.raises(ValueError, match="`to_model` needs a functional or Sequential network"):
        ensemble.to_model()
    unknown = NotRegistered(3)
    unknown(X)
    ensemble = keras_fge.Ensemble(unknown, snapshots(), from_logits=True)
    with pytest.warns(UserWarning, match=r"`Ensemble.load\(.*, network=...\)` will need one that you build"):
        ensemble.save(tmp_path / "unknown")
    with pytest.raises(ValueError, match="cannot be loaded: give `network`"):
        keras_fge.Ensemble.load(tmp_path / "unknown")
    loaded = keras_fge.Ensemble.load(tmp_path / "unknown", network=unknown)
    assert np.array_equal(loaded.predict(X), ensemble.predict(X)) and loaded.from_logits is True


@keras.saving.register_keras_serializable("test_ensemble")
class Forgetful(layers.Layer):
    """Its configuration lacks the factor."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.relu = layers.LeakyReLU(factor)

    def call(self, x):
        return self.relu(x)

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: layers.Lambda(lambda x: 2 * x), "safe"),
        (lambda: Forgetful(0.3), "differ in `negative_slope`"),
        (lambda: keras.layers.Activation(lambda x: 2 * x), ""),
    ],
)
def test_a_network_that_cannot_be_loaded_is_known_before_the_training(layer, said, tmp_path):
    model = keras.Sequential([keras.Input((4,)), layer(), layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=4, directory=tmp_path)

    class IsFirst(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            assert any("cannot be saved and loaded again" in str(w.message) for w in warned)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.fit(X, Y, batch_size=10, verbose=0, callbacks=[fge, IsFirst()])
    assert any(said in str(w.message) for w in warned if "cannot be saved" in str(w.message))
    assert np.allclose(keras_fge.Ensemble.load(tmp_path, network=model).predict(X), fge.ensemble().predict(X))


@slow_on_jax
def test_save_and_load_in_a_new_process(trained, tmp_path):
    start, end, x, _ = trained
    ensemble = keras_fge.Ensemble(start, [start.get_weights(), end.get_weights()], from_logits=True)
    ensemble.save(tmp_path / "saved")
    np.savez(tmp_path / "expected.npz", x=x, outputs=ensemble.predict(x))
    program = """
import sys, numpy as np, keras_fge
data = np.load(sys.argv[1] + "/expected.npz")
ensemble = keras_fge.Ensemble.load(sys.argv[1] + "/saved")
assert np.allclose(ensemble.predict(data["x"]), data["outputs"], atol=1e-6) and len(ensemble) == 2
assert len(ensemble[:1]) == 1
"""
    result = processes.run(program, str(tmp_path))
    assert result.returncode == 0, result.stderr
    with pytest.raises(ValueError, match="holds an ensemble already"):
        ensemble.save(tmp_path / "saved")
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} == {".keras", ".json", ".npz", ".md"}


@slow_but_on_torch
def test_greedy_selection_is_guarded_by_the_other_half():
    generator = np.random.default_rng(0)
    truth = 3 * generator.normal(size=(4, 3))
    x = generator.normal(size=(400, 4)).astype("float32")
    y = np.argmax(x @ truth + generator.gumbel(size=(400, 3)), axis=1)
    good = [[truth + 0.3 * generator.normal(size=(4, 3)), np.zeros(3)] for _ in range(3)]
    bad = [[-truth, np.zeros(3)]]
    ensemble = keras_fge.Ensemble(network(None), bad + good + bad, from_logits=True)
    chosen = ensemble.select(x, y)
    assert 1 <= len(chosen) <= 3
    assert all(any(s is g for g in ensemble.snapshots[1:4]) for s in chosen.snapshots)
    assert chosen.evaluate(x, y)["nll"] < ensemble.evaluate(x, y)["nll"]
    equal = keras_fge.Ensemble(network(None), good[:1] * 3, from_logits=True)
    assert len(equal.select(x, y)) == 1
    with pytest.raises(ValueError, match="at least 2 samples"):
        ensemble.select(x[:1], y[:1])


def test_reduced_precision(trained):
    _, _, x, y = trained
    for policy in ("mixed_bfloat16", "bfloat16"):
        model = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(3, dtype=policy)])
        fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2)
        model.compile(keras.optimizers.SGD(0.1), logits_loss())
        model.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
        assert fge.snapshots[0].weights[0].dtype == np.float32
        assert np.sum(fge.ensemble().predict(x), axis=1) == pytest.approx(1, abs=1e-5)


@slow_on_tensorflow
def test_threads_wait_for_each_other(trained):
    """Two ensembles on one network, in two threads: without a lock, each finds members of the other in the network."""
    start, end, x, _ = trained
    weights = [start.get_weights(), end.get_weights()]
    network, before = start, values(start.weights)
    ensembles = [keras_fge.Ensemble(network, [*weights, weights[0]], True), keras_fge.Ensemble(network, weights, True)]
    expected = [ensemble.predict(x) for ensemble in ensembles]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda index: ensembles[index % 2].predict(x), range(30)))
    assert all(np.array_equal(result, expected[index % 2]) for index, result in enumerate(results))
    assert all(np.array_equal(a, b) for a, b in zip(values(network.weights), before))


FORKED = """
import os, threading
import keras
from keras_fge.core.networks import borrowed

used, other = (keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]) for _ in range(2))
is_in, may_go_on = threading.Event(), threading.Event()

def use():
    with borrowed(used):
        is_in.set()
        may_go_on.wait()

thread = threading.Thread(target=use)
thread.start()
is_in.wait()
with borrowed(other):  # By the thread that forks: it goes on in the child.
    child = os.fork()
    if child == 0:
        for network in (other, used):
            try:
                with borrowed(network):
                    print("entered", flush=True)
            except RuntimeError as error:
                print(error, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
may_go_on.set()
thread.join()
"""


def test_a_network_in_use_at_a_fork_is_refused_in_the_child():
    ended = processes.run(FORKED)
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.splitlines()
    assert first == "entered" and "Another thread used 'sequential' when this process was forked" in second


@pytest.mark.slow
def test_measurements_in_threads_wait_for_each_other(trained):
    start, end, x, y = trained
    data = (x, y)
    line = curves.connect(start, end, curves.PolygonalChain(2))
    line.compile("sgd", logits_loss(), metrics=["accuracy"])
    ensemble = keras_fge.Ensemble(start, [start.get_weights(), end.get_weights()], True)
    weights = values(start.weights)

    def path():
        return curves.evaluate_path(line, data, data, num_points=3, verbose=False).train["loss"]

    def plane():
        networks = [start, end, middle]
        return curves.evaluate_plane(networks, data, data, num_points=2, verbose=False).train["loss"]

    middle = line.network_at(0.5)
    for variable in middle.trainable_variables:  # Beside the line, or there would be no plane.
        variable.assign(1.1 * to_numpy(variable) + 0.01)
    works = [path, path, plane, plane, lambda: ensemble.predict(x), lambda: keras_fge.Snapshot.of(start).weights[0]]
    expected = [work() for work in works]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(work) for work in 2 * works]]
    assert all(np.allclose(result, expected[index % len(works)], atol=1e-6) for index, result in enumerate(results))
    assert all(np.array_equal(a, b) for a, b in zip(values(start.weights), weights))


def test_members_are_networks(trained):
    start, end, x, _ = trained
    ensemble = keras_fge.Ensemble(start, [start.get_weights(), end.get_weights()], from_logits=True)
    first, second = ensemble
    assert first is not start and np.array_equal(first.predict(x, verbose=0), start.predict(x, verbose=0))
    assert np.array_equal(ensemble[-1].predict(x, verbose=0), second.predict(x, verbose=0))
    assert np.array_equal(second.predict(x, verbose=0), end.predict(x, verbose=0))


def test_bare_batches_are_predicted_in_the_order_of_their_arrays():
    """Each pass of Keras over them has another order, which must not mix the rows of members."""
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    ensemble = keras_fge.Ensemble(network, 2 * [[np.ones((1, 1), "float32")]], from_logits=None)
    x = np.arange(8, dtype="float32")[:, None]
    batches = keras_fge.Batches(x, x, batch_size=3)
    assert np.array_equal(ensemble.predict(batches), x)
    assert np.array_equal(ensemble.predict(batches, members=True), np.stack([x, x]))
    assert ensemble[:1].predict(x, members=True).shape == (1, 8, 1)
