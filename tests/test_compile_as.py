"""What comes back can be used at once: copies are compiled as the user's network is, with objects of their own."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, logits_loss, values

pytestmark = SLOW_BUT_ON_TORCH

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(60, 5)).astype("float32"), rng.integers(0, 3, 60)


def plain(activation="softmax", width=3):
    return keras.Sequential([keras.Input((5,)), layers.Dense(6, "tanh"), layers.Dense(width, activation)])


def network(loss=None, activation="softmax", metrics=("accuracy",), width=3):
    model = plain(activation, width)
    loss = loss or keras.losses.SparseCategoricalCrossentropy()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=list(metrics))
    return model


def fge_of(model, y=Y, **options):
    fge = keras_fge.FGE(0.05, cycle_epochs=2, **options)
    model.fit(X, y, 20, epochs=4, verbose=0, callbacks=[fge])
    return fge


MADE = {
    "member": lambda e, a, b: e[0],
    "average_weights": lambda e, a, b: e.average_weights(),
    "soup": lambda e, a, b: e.soup(X, Y),
    "sample": lambda e, a, b: keras_fge.SWAG(e).sample(1)[0],
    "network_at": lambda e, a, b: curves.connect(a, b).network_at(0.5),
    "connect": lambda e, a, b: curves.connect(a, b),
    "wise_ft": lambda e, a, b: curves.wise_ft(a, b, X, Y, num_points=3),
    "align": lambda e, a, b: curves.align(b, a, verbose=False),
}


@pytest.mark.parametrize(("kind", "logits"), [*((kind, False) for kind in MADE), ("member", True), ("connect", True)])
def test_copies_evaluate_and_fit_as_the_network(kind, logits):
    def make():
        return network(logits_loss(), None) if logits else network()

    a, b = make(), make()
    b.fit(X, Y, verbose=0)
    made = MADE[kind](fge_of(a).ensemble(), a, b)
    theirs = [part for model in (a, b) for part in (model.optimizer, *model.metrics, *model.optimizer.variables)]
    assert not {id(part) for part in (made.optimizer, *made.metrics)} & {id(part) for part in theirs}
    evaluated = made.evaluate(X, Y, verbose=0, return_dict=True)
    oracle = keras_fge.classification_metrics(
        keras.ops.convert_to_numpy(keras.ops.softmax(made.predict(X, verbose=0)))
        if logits
        else made.predict(X, verbose=0),
        Y,
    )
    assert evaluated["loss"] == pytest.approx(oracle["nll"], abs=1e-5)
    assert evaluated["accuracy"] == pytest.approx(1 - oracle["error"], abs=1e-6)
    before = [np.array(v) for v in values([v for m in (a, b) for v in (*m.variables, *m.optimizer.variables)])]
    made.fit(X, Y, 20, epochs=2, verbose=0)
    assert float(made.optimizer.learning_rate) == float(a.optimizer.learning_rate)
    after = values([v for m in (a, b) for v in (*m.variables, *m.optimizer.variables)])
    assert all(np.array_equal(p, q) for p, q in zip(before, after, strict=True))
    made.compile("adam", logits_loss() if logits else "sparse_categorical_crossentropy")  # As ever.
    made.fit(X, Y, 20, verbose=0)


def test_what_is_not_compiled_gives_what_is_not_compiled():
    networks = [plain(), plain()]
    assert not keras_fge.Ensemble.of(networks)[0].compiled and not curves.connect(*networks).compiled


def test_to_model_measures_probabilities_where_the_network_outputs_logits():
    metrics = [keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="nll"), "accuracy"]
    ensemble = fge_of(network(logits_loss(), None, metrics)).ensemble()
    evaluated = ensemble.to_model().evaluate(X, Y, verbose=0, return_dict=True)
    expected = ensemble.evaluate(X, Y)
    assert evaluated["loss"] == pytest.approx(expected["nll"], abs=1e-5)
    assert evaluated["nll"] == pytest.approx(expected["nll"], abs=1e-5)
    assert evaluated["accuracy"] == pytest.approx(1 - expected["error"], abs=1e-6)


def test_to_model_of_one_logit_takes_the_sigmoid_of_thresholds():
    y = (Y > 0).astype("float32")[:, None]
    metrics = [keras.metrics.BinaryAccuracy(threshold=0.3, name="cut"), keras.metrics.AUC(from_logits=True, name="auc")]
    model = network(keras.losses.BinaryCrossentropy(from_logits=True), None, metrics, width=1)
    ensemble = fge_of(model, y).ensemble()[:1]
    ours, theirs = (m.evaluate(X, y, verbose=0, return_dict=True) for m in (ensemble.to_model(), ensemble[0]))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_to_model_keeps_names_of_outputs_for_losses_by_name(tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [layers.Dense(3, name="kind")(inputs), layers.Dense(1, name="size")(inputs)])
    model.compile("sgd", {"kind": logits_loss(), "size": "mse"}, metrics={"kind": "accuracy"})
    targets = {"kind": Y, "size": X[:, :1]}
    ensemble = fge_of(model, targets).ensemble()
    for size in (1, 2):
        one = ensemble[:size].to_model()
        assert one.output_names == ["kind", "size"]
        evaluated = one.evaluate(X, targets, verbose=0, return_dict=True)
        assert evaluated["kind_accuracy"] == pytest.approx(
            1 - ensemble[:size].evaluate(X, targets)["kind_error"], abs=1e-6
        )
        one.save(tmp_path / f"{size}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{size}.keras")
        assert loaded.evaluate(X, targets, verbose=0, return_dict=True) == pytest.approx(evaluated, abs=1e-6)


def own_loss(y, logits):
    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))


class Odd(keras.metrics.Mean):
    """A metric without a `get_config` of its own, so that no copy can be made."""

    def __init__(self, share, name="odd"):
        super().__init__(name)
        self.share = share

    def update_state(self, y, prediction, sample_weight=None):
        super().update_state(self.share)


def test_losses_and_metrics_of_ones_own():
    model = network(own_loss, None, [Odd(0.25)])
    ensemble = fge_of(model, from_logits=True).ensemble()
    with pytest.warns(UserWarning, match="compiled without its `metrics`: the `get_config` of Odd does not have share"):
        member = ensemble[0]
    evaluated = member.evaluate(X, Y, verbose=0, return_dict=True)
    oracle = keras_fge.classification_metrics(ensemble[:1].predict(X), Y)["nll"]
    assert evaluated.keys() == {"loss"} and evaluated["loss"] == pytest.approx(oracle, abs=1e-5)
    assert not ensemble.to_model().compiled  # A loss of logits that nobody can turn into one of probabilities.


@keras.saving.register_keras_serializable()
class OwnCompile(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def compile(self, strength, **arguments):
        super().compile(**arguments)
        self.strength = strength

    def get_compile_config(self):
        return {"strength": self.strength}

    def compile_from_config(self, config):
        self.compile(config["strength"], optimizer="sgd", loss="mse")


def test_a_compile_of_ones_own_is_copied_by_its_own_config():
    model = OwnCompile()
    model(X)
    model.compile(3, optimizer="sgd", loss="mse")
    member = keras_fge.Ensemble(model, [model.get_weights()], None)[0]
    assert member.strength == 3 and np.isfinite(member.evaluate(X, X[:, :1], verbose=0))


def test_ensemble_of_networks_knows_from_their_losses_what_they_output():
    a, b = network(logits_loss(), None), network(logits_loss(), None)
    line = curves.connect(a, b)
    for networks in ([a, b], [line.network_at(t) for t in (0.0, 0.5, 1.0)]):
        assert keras_fge.Ensemble.of(networks).from_logits is True
    values = network("mse", None, width=1)
    assert keras_fge.Ensemble.of([values]).from_logits is None
    assert keras_fge.Ensemble.of([a], from_logits=False).from_logits is False
    assert keras_fge.Ensemble.of([plain()]).from_logits is False  # Not compiled: as ever.
    with pytest.raises(ValueError, match="compiled with losses of different kinds: say `from_logits`"):
        keras_fge.Ensemble.of([a, network(None, None)])
    with pytest.raises(ValueError, match=r"the loss .* does not tell"):
        keras_fge.Ensemble.of([network(own_loss, None)])


def test_to_model_whose_last_layer_all_members_share():
    model = network()
    model.layers[-1].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ensemble = fge_of(model).ensemble()
    one = ensemble.to_model()
    assert one.evaluate(X, Y, verbose=0)[0] == pytest.approx(ensemble.evaluate(X, Y)["nll"], abs=1e-5)


def test_what_is_loaded_is_compiled(tmp_path):
    model = network(logits_loss(), None, [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")])
    fge = fge_of(model, directory=tmp_path / "run")
    fge.ensemble().save(tmp_path / "saved")
    expected = fge.ensemble()[1].evaluate(X, Y, verbose=0, return_dict=True)
    for folder in ("run", "saved"):
        member = keras_fge.Ensemble.load(tmp_path / folder)[1]
        assert member.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(expected, abs=1e-6)
        assert expected.keys() == {"loss", "top"} and float(member.optimizer.learning_rate) == pytest.approx(0.05)


def test_own_losses_that_keras_cannot_load_leave_it_uncompiled(tmp_path):
    fge_of(network(lambda y, p: own_loss(y, p), None), from_logits=True, directory=tmp_path / "run")
    ensemble = keras_fge.Ensemble.load(tmp_path / "run")
    assert not ensemble.network.compiled and len(ensemble) == 2
    assert "__lambda__" not in (tmp_path / "run/manifest.json").read_text()  # No code in a folder.


@pytest.mark.parametrize("kind", ["attribute", "own constructor"])
def test_a_loss_class_of_ones_own_is_never_taken_for_one_of_probabilities(kind):
    class Attribute(keras.losses.Loss):
        def __init__(self):
            super().__init__()
            self.from_logits = True

        def call(self, y, logits):
            return own_loss(y, logits)

    class Constructor(keras.losses.SparseCategoricalCrossentropy):
        def __init__(self, share):
            super().__init__(from_logits=True)

    model = network(Attribute() if kind == "attribute" else Constructor(0.5), None)
    assert not fge_of(model).ensemble().to_model().compiled


def test_metrics_of_logits_that_are_ones_own_are_left_out():
    def own(y, logits):
        return own_loss(y, logits)

    ensemble = fge_of(network(logits_loss(), None, [own, "accuracy"])).ensemble()
    with pytest.warns(UserWarning, match=r"without its `metrics`.*a metric of your own"):
        one = ensemble.to_model()
    assert one.evaluate(X, Y, verbose=0) == pytest.approx(ensemble.evaluate(X, Y)["nll"], abs=1e-5)


def test_loss_scaling_is_copied():
    model = network()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "sparse_categorical_crossentropy")
    member = keras_fge.Ensemble.of([model])[0]
    assert isinstance(member.optimizer, keras.optimizers.LossScaleOptimizer) and member.optimizer is not model.optimizer


def test_ensemble_of_networks_that_are_compiled_without_a_loss():
    model = plain()
    model.compile("sgd")
    assert keras_fge.Ensemble.of([model]).from_logits is False


@pytest.mark.parametrize("kind", ["frozen", "twice", "sequential", "activation"])
def test_to_model_of_networks_with_any_names(kind):
    """Names that Keras gives by itself may be those that copies, or layers of ours, would get."""
    keras.backend.clear_session()
    inputs = keras.Input((5,), name="x")
    if kind == "twice":
        head = layers.Dense(3, "softmax", name="head")
        model = keras.Model(inputs, [head(inputs), head(keras.ops.tanh(inputs))])
    elif kind == "sequential":
        model = plain()
    else:
        frozen = layers.Dense(6, name="frozen")
        x = layers.Dense(3, name="dense_1")(layers.Dense(6, name="dense")(frozen(inputs)))
        model = keras.Model(inputs, layers.Activation("softmax", name="average")(x) if kind == "activation" else x)
        frozen.trainable = kind == "activation"
    first = keras_fge.Snapshot.of(model)
    shared = 2 if kind == "frozen" else 0
    model.set_weights([w if index < shared else w + 0.1 for index, w in enumerate(model.get_weights())])
    ensemble = keras_fge.Ensemble(model, [first, keras_fge.Snapshot.of(model, like=first)], kind == "frozen")
    one = ensemble.to_model()
    if kind != "twice":
        assert one.output_names == keras.Model(model.inputs, model.outputs).output_names
    for ours, theirs in zip(keras.tree.flatten(one.predict(X, verbose=0)), keras.tree.flatten(ensemble.predict(X))):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_files_name_no_class_that_needs_another_backend(tmp_path):
    fge = fge_of(network(), directory=tmp_path / "run")
    fge.ensemble().to_model().save(tmp_path / "one.keras")
    with zipfile.ZipFile(tmp_path / "one.keras") as file:
        assert b"keras.src.backend" not in file.read("config.json")
    assert "keras.src.backend" not in (tmp_path / "run/manifest.json").read_text()
