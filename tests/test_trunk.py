"""Layers that all members share run once in `predict` and `evaluate`, with the same results; or else not at all."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import values
from keras_fge.ensemble import trunk
from keras_fge.ensemble.trunk import trunk_of

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(40, 8, 8, 3)).astype("float32")
TOKENS = rng.integers(0, 20, size=(40, 6))
LABELS = rng.integers(0, 3, size=40)


def body():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="body")
    model.set_weights([np.abs(w + 0.3 * rng.normal(size=w.shape)) for w in model.get_weights()])
    model.trainable = False
    return model


def heads():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dropout(0.5)(body()(layers.Rescaling(0.5)(inputs)))
    x = layers.BatchNormalization(name="own_norm")(layers.Dense(5, "relu", name="first")(x))
    return keras.Model(inputs, layers.Dense(3, "softmax", name="second")(x)), IMAGES, {"body"}


def sequential():
    parts = [layers.Rescaling(2.0), layers.Conv2D(4, 3, name="conv"), layers.Flatten(), layers.Dense(3, name="top")]
    network = keras.Sequential([keras.Input((8, 8, 3)), *parts])
    network.get_layer("conv").trainable = False
    return network, IMAGES, {"conv"}


def two_inputs_and_outputs():
    """The second input goes into the heads, the trunk's own output out of the network, and a layer stands twice."""
    inputs = {"image": keras.Input((8, 8, 3), name="image"), "age": keras.Input((1,), name="age")}
    features = body()(inputs["image"])
    twice = layers.Dense(4, name="twice")
    x = layers.Concatenate()([twice(twice(features)), inputs["age"]])
    outputs = {"kind": layers.Dense(3, "softmax", name="kind")(x), "age": keras.ops.sum(x, axis=1, keepdims=True)}
    x = {"image": IMAGES, "age": rng.normal(size=(40, 1)).astype("float32")}
    return keras.Model(inputs, {**outputs, "features": features}), x, {"body"}


def lora():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="before")(inputs)
    dense = layers.Dense(3, "softmax", name="adapted")
    network = keras.Model(inputs, dense(layers.Flatten()(x)))
    dense.enable_lora(2)
    network.get_layer("before").trainable = False
    return network, IMAGES, {"before"}


def half():
    with_policy = {"dtype": "mixed_bfloat16"}
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv", trainable=False, **with_policy)(inputs)
    x = layers.GlobalAveragePooling2D(**with_policy)(x)
    return keras.Model(inputs, layers.Dense(3, name="top", dtype="float32")(x)), IMAGES, {"conv"}


def text():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, name="words", trainable=False)(inputs)
    return keras.Model(inputs, layers.Dense(3, "softmax")(layers.GRU(4)(x))), TOKENS, {"words"}


def masked():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True, trainable=False)(inputs)
    return keras.Model(inputs, layers.Dense(3, "softmax")(layers.GRU(4)(x))), TOKENS, None


def nothing_frozen():
    network, x, _ = sequential()
    network.get_layer("conv").trainable = True
    return network, x, None


def not_at_the_start():
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, layers.Dense(3, trainable=False)(x)), IMAGES, None


def random_at_prediction():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dropout(0.0)(inputs, training=True)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, trainable=False)(x))
    return keras.Model(inputs, layers.Dense(3)(x)), IMAGES, None


class OwnStep(keras.Model):
    def predict_step(self, *args, **kwargs):
        return super().predict_step(*args, **kwargs)


def own_step():
    network, x, _ = heads()
    return OwnStep(network.inputs, network.outputs), x, None


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.top = body(), layers.Dense(3)

    def call(self, x):
        return self.top(self.body(x))


def own_call():
    network = OwnCall()
    network(IMAGES[:2])
    return network, IMAGES, None


RUN_ONCE = [heads, sequential, two_inputs_and_outputs, lora, half, text]
RUN_EACH = [masked, nothing_frozen, not_at_the_start, random_at_prediction, own_step, own_call]


def ensemble_of(network, count=3, **arguments):
    """Members that differ in all that is trained, and in statistics of layers that are."""
    fixed = {id(v) for layer in network.layers if not layer.trainable for v in layer.weights}
    frozen = [id(v) in fixed or (not v.trainable and "norm" not in v.path) for v in network.weights]
    members = []
    for _ in range(count):
        noise = [0 if f else np.abs(rng.normal(size=w.shape)) for f, w in zip(frozen, network.get_weights())]
        members.append([(w + n).astype(w.dtype) for w, n in zip(network.get_weights(), noise)])
    first = keras_fge.Snapshot(members[0])
    return keras_fge.Ensemble(network, [first, *members[1:]], None, **arguments)


@pytest.mark.parametrize("make", RUN_ONCE + RUN_EACH, ids=lambda make: make.__name__)
def test_members_predict_as_alone(make):
    network, x, names = make()
    before = values(network.variables)
    ensemble = ensemble_of(network)
    assert set(ensemble.runs_once) == (names or set())
    assert ("once" in repr(ensemble)) == bool(names)
    expected = []
    for snapshot in ensemble.snapshots:
        member = keras.models.clone_model(network) if make is not own_call and make is not lora else network
        member.set_weights(snapshot.weights)
        expected.append(member.predict(x, verbose=0))
    for variable, value in zip(network.variables, before):
        variable.assign(value)
    found = ensemble.predict(x, members=True)
    assert type(found) is type(expected[0]) or isinstance(found, np.ndarray)
    for k, prediction in enumerate(expected):
        pairs = zip(keras.tree.flatten(found), keras.tree.flatten(prediction), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours[k], theirs.astype("float32"), atol=2e-6, rtol=2e-6)
    assert all(np.array_equal(*pair) for pair in zip(values(network.variables), before))
    for layer in network.layers:
        if not isinstance(layer, layers.InputLayer) and names and layer.name != "twice":
            layer.output  # noqa: B018 - Keras raises an error, if a layer has been called once more.


def test_all_that_predicts_takes_it(monkeypatch):
    network, x, _ = heads()
    network.compile("sgd", "sparse_categorical_crossentropy")
    plain, weights = ensemble_of(network), [0.5, 0.3, 0.2]
    arguments = {"from_logits": False, "weights": weights}
    shared = keras_fge.Ensemble(network, plain.snapshots, **arguments)
    calls = []

    def of(name):
        batches = [(x[:16], LABELS[:16]), (x[16:], LABELS[16:])]
        data = keras_fge.Batches(x, LABELS, batch_size=16)
        results = [shared.predict(x), shared.predict(iter(batches)), shared.predict(data), shared.predict_variance(x)]
        results += [*shared.evaluate(x, LABELS).values(), *shared.evaluate(x, LABELS, metrics="compiled").values()]
        results += [*shared.evaluate_sizes(x, LABELS).values(), *shared.uncertainty(x).values()]
        calls.append(name)
        return results

    once = of("once")
    assert shared.runs_once
    monkeypatch.setattr(trunk.Trunk, "pays", lambda self, x: False)
    for pair in zip(once, of("each"), strict=True):
        np.testing.assert_allclose(*pair, atol=2e-6, rtol=2e-6)


def test_the_trunk_runs_once(monkeypatch):
    network, x, _ = sequential()
    ensemble = ensemble_of(network)
    ran = []
    original = keras.Model.predict

    def predict(self, *args, **kwargs):
        ran.append([layer.name for layer in self.layers])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "predict", predict)
    ensemble.predict(x)
    assert sum("conv" in names for names in ran) == 1 and len(ran) == 4


def test_what_would_take_too_much_memory(monkeypatch):
    network, x, _ = sequential()
    ensemble = ensemble_of(network)
    assert trunk_of(network, ensemble.snapshots).sample_bytes == 4 * 6 * 6 * 4
    found = ensemble.predict(x)
    monkeypatch.setattr(trunk, "OF_A_SAMPLE", 500)
    assert ensemble._members.trunk.pays(x) and not ensemble._members.trunk.pays(iter([x]))
    monkeypatch.setattr(trunk, "OF_ALL", 1000)
    assert not ensemble._members.trunk.pays(x)
    np.testing.assert_allclose(ensemble.predict(x), found, atol=2e-6)


def test_one_member_has_nothing_to_share():
    network, _, _ = heads()
    assert ensemble_of(network)[:1].runs_once == ()


def test_members_of_a_run(tmp_path):
    network, x, _ = heads()
    network.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2, directory=tmp_path / "run")
    network.fit(x, LABELS, batch_size=8, epochs=1, verbose=0, callbacks=[fge])
    expected = np.mean([member.predict(x, verbose=0) for member in fge.ensemble()], axis=0)
    for ensemble in (fge.ensemble(), keras_fge.Ensemble.load(tmp_path / "run")):
        assert ensemble.runs_once == ("body",)
        np.testing.assert_allclose(ensemble.predict(x), expected, atol=2e-6)
