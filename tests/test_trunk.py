"""Layers that all members share run once in `predict` and `evaluate`, with the same results; or else not at all."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import slow_but_on_torch, slow_on_tensorflow, values
from keras_fge.ensemble import stacked, trunk
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


def two_inputs_and_outputs(with_features=False):
    """The second input goes into the heads; and the trunk's own output out of the network."""
    inputs = {"image": keras.Input((8, 8, 3), name="image"), "age": keras.Input((1,), name="age")}
    features = body()(inputs["image"])
    x = layers.Concatenate()([layers.Dense(4)(features), inputs["age"]])
    outputs = {"kind": layers.Dense(3, "softmax", name="kind")(x), "age": keras.ops.sum(x, axis=1, keepdims=True)}
    x = {"image": IMAGES, "age": rng.normal(size=(40, 1)).astype("float32")}
    outputs |= {"features": features} if with_features else {}
    return keras.Model(inputs, outputs), x, None if with_features else {"body"}


def features_too():
    return two_inputs_and_outputs(True)


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
    x = layers.Embedding(20, 8, mask_zero=True, trainable=False, name="words")(inputs)
    return keras.Model(inputs, layers.Dense(3, "softmax")(layers.GRU(4)(x))), TOKENS, {"words"}


def nothing_frozen():
    network, x, _ = sequential()
    network.get_layer("conv").trainable = True
    return network, x, None


def not_at_the_start():
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, layers.Dense(3, trainable=False)(x)), IMAGES, None


def a_layer_called_twice():
    inputs = keras.Input((8, 8, 3))
    twice = layers.Dense(4)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, trainable=False, name="conv")(inputs))
    return keras.Model(inputs, layers.Dense(3)(twice(twice(x)))), IMAGES, {"conv"}


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


class OwnPredict(keras.Model):
    """As KerasHub's tasks, which put their preprocessing there."""

    def predict(self, x, **kwargs):
        return super().predict(x / 2, **kwargs)


def own_predict():
    network, x, _ = heads()
    return OwnPredict(network.inputs, network.outputs), x, None


def masked_inside():
    inner = keras.Input((6,), dtype="int32")
    body = keras.Model(inner, layers.Embedding(20, 8, mask_zero=True)(inner), name="words")
    body.trainable = False
    inputs = keras.Input((6,), dtype="int32")
    return keras.Model(inputs, layers.Dense(3, "softmax")(layers.GRU(4)(body(inputs)))), TOKENS, None


class Doubling(layers.Layer):
    factor = 2.0  # Not in the configuration.

    def call(self, x):
        return self.factor * x


def set_after_it_was_made():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv", trainable=False)(inputs)
    own = Doubling()
    own.factor = 3.0
    x = layers.Lambda(lambda t: t + 1.0)(own(layers.Dense(5)(layers.GlobalAveragePooling2D()(x))))
    return keras.Model(inputs, layers.Dense(3)(x)), IMAGES, {"conv"}


RUN_ONCE = [
    set_after_it_was_made,
    heads,
    sequential,
    two_inputs_and_outputs,
    lora,
    half,
    text,
    masked,
    a_layer_called_twice,
]
RUN_EACH = [
    own_predict,
    masked_inside,
    nothing_frozen,
    not_at_the_start,
    features_too,
    own_step,
    own_call,
]


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


EVERYWHERE = [heads, two_inputs_and_outputs, lora, masked, own_call]


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=[] if make in EVERYWHERE else slow_but_on_torch) for make in RUN_ONCE + RUN_EACH],
    ids=lambda make: make.__name__,
)
def test_members_predict_as_alone(make):
    network, x, names = make()
    before = values(network.variables)
    ensemble = ensemble_of(network)
    expected = []
    for snapshot in ensemble.snapshots:
        network.set_weights(snapshot.weights)
        expected.append(network.predict(x, verbose=0))
    for variable, value in zip(network.variables, before):
        variable.assign(value)
    found = ensemble.predict(x, members=True)
    assert type(found) is type(expected[0]) or isinstance(found, np.ndarray)
    for k, prediction in enumerate(expected):
        pairs = zip(keras.tree.flatten(found), keras.tree.flatten(prediction), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours[k], theirs.astype("float32"), atol=2e-6, rtol=2e-6)
    assert set(ensemble.runs_once) == (names or set())
    assert all(np.array_equal(*pair) for pair in zip(values(network.variables), before))
    for layer in network.layers:
        if not isinstance(layer, layers.InputLayer) and names:
            layer.output  # noqa: B018 - Keras raises an error, if a layer has been called once more.


@slow_on_tensorflow
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
        results += [*shared.evaluate(batches).values(), *shared.evaluate(data).values()]
        calls.append(name)
        return results

    once = of("once")
    assert shared.runs_once
    monkeypatch.setattr(trunk.Trunk, "serves", lambda self, x, is_data_set: False)
    for pair in zip(once, of("each"), strict=True):
        np.testing.assert_allclose(*pair, atol=2e-6, rtol=2e-6)


def test_the_trunk_runs_once(monkeypatch):
    network, x, _ = sequential()
    ensemble = ensemble_of(network)
    ensemble.predict(x[:2])  # Now the two parts are known to be right.
    ran = []
    for name in ("predict", "predict_on_batch"):

        def predict(self, *args, original=getattr(keras.Model, name), **kwargs):
            ran.append([layer.name for layer in self.layers])
            return original(self, *args, **kwargs)

        monkeypatch.setattr(keras.Model, name, predict)
    ensemble.predict(x, batch_size=len(x))
    assert sum("conv" in names for names in ran) == 1 and len(ran) == 4


def test_what_would_take_too_much_memory(monkeypatch):
    network, x, _ = sequential()
    ensemble = ensemble_of(network)
    parts = trunk_of(network, ensemble.snapshots)
    assert parts.sample_bytes == 4 * 6 * 6 * 4
    found = ensemble.predict(x)
    assert ensemble.runs_once
    monkeypatch.setattr(trunk, "OF_A_SAMPLE", 500)
    assert parts.serves(x, False) and not parts.serves([x], True)
    monkeypatch.setattr(trunk, "OF_ALL", 1000)
    assert not parts.serves(x, False)
    np.testing.assert_allclose(ensemble.predict(x), found, atol=2e-6)


def test_a_generator_is_not_begun():
    """To look at its first rows would take them away."""
    network, x, _ = heads()
    ensemble = keras_fge.Ensemble(network, ensemble_of(network).snapshots)
    batches = [(x[:16], LABELS[:16]), (x[16:], LABELS[16:])]
    with pytest.raises(ValueError, match="A generator can be read only once"):
        ensemble.evaluate(iter(batches))
    found = ensemble[:1].evaluate(iter(batches))
    assert found["nll"] == pytest.approx(ensemble[:1].evaluate(x, LABELS)["nll"], abs=1e-6)


def test_nothing_hangs_on_the_network():
    network, x, _ = heads()
    ensemble = ensemble_of(network)
    ensemble.predict(x)
    parts = weakref.ref(ensemble._members.trunk.after)
    del ensemble
    gc.collect()
    assert parts() is None


class Random(layers.Layer):
    """As a layer that samples, whatever `training` says."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed_generator)


def test_members_draw_for_themselves():
    inputs = keras.Input((8, 8, 3))
    x = Random()(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, trainable=False)(inputs)))
    network = keras.Model(inputs, layers.Dense(3, use_bias=False)(x))
    ensemble = keras_fge.Ensemble(network, [network.get_weights()] * 3, None)
    assert ensemble.predict_variance(IMAGES).min() > 1e-6 and ensemble.runs_once == ()


@slow_on_tensorflow
def test_lengths_that_vary():
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, 8, trainable=False)(inputs)
    network = keras.Model(inputs, layers.Dense(3)(layers.GRU(4)(x)))
    ensemble = ensemble_of(network)

    class Padded(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return TOKENS[8 * index : 8 * index + 8, : 3 + index]

    expected = [keras.ops.convert_to_numpy(ensemble.predict(TOKENS[8 * k : 8 * k + 8, : 3 + k])) for k in (0, 1)]
    np.testing.assert_allclose(ensemble.predict(Padded()), np.concatenate(expected), atol=2e-6)


def small():
    inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="norm")(layers.Dropout(0.5)(layers.Dense(5, "relu")(inputs)))
    x = layers.LayerNormalization()(layers.Concatenate()([x, layers.Rescaling(2.0)(inputs)]))
    outputs = {"kind": layers.Dense(3, "softmax", name="kind")(x), "size": layers.Dense(1, name="size")(x)}
    return keras.Model(inputs, outputs)


def small_with_lora():
    dense = layers.Dense(3, name="adapted")
    network = keras.Sequential([keras.Input((6,)), layers.Dense(4, "tanh"), dense])
    dense.enable_lora(2)
    return network


def other_layers():
    return keras.Sequential([keras.Input((6,)), layers.Dense(4), Doubling(), layers.Dense(2)])


def in_float64():
    return keras.Sequential([keras.Input((6,)), layers.Dense(4, dtype="float64"), layers.Dense(2, dtype="float64")])


@pytest.mark.parametrize("make", [small, small_with_lora, other_layers, in_float64], ids=lambda make: make.__name__)
def test_small_members_are_one_program(make):
    network, x = make(), rng.normal(size=(50, 6)).astype("float32")
    ensemble = ensemble_of(network, weights=[0.5, 0.3, 0.2])
    before = values(network.variables)
    found, mean = ensemble.predict(x, members=True), ensemble.predict(x)
    generated = ensemble.predict(iter([x[:20], x[20:]]))
    assert all(np.array_equal(*pair) for pair in zip(values(network.variables), before))
    assert ensemble.is_stacked == (make in (small, small_with_lora))
    expected = []
    for snapshot in ensemble.snapshots:
        network.set_weights(snapshot.weights)
        expected.append(network.predict(x, verbose=0))
    flat = [np.stack(column) for column in zip(*map(keras.tree.flatten, expected))]
    for ours, theirs in zip(keras.tree.flatten(found), flat, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=2e-6)
    for part in (mean, generated):
        for ours, theirs in zip(keras.tree.flatten(part), flat, strict=True):
            np.testing.assert_allclose(ours, np.average(theirs, axis=0, weights=[0.5, 0.3, 0.2]), atol=3e-6, rtol=3e-6)


def test_one_program_runs_once(monkeypatch):
    network, x = small_with_lora(), rng.normal(size=(50, 6)).astype("float32")
    ensemble = ensemble_of(network, 10)
    ensemble.predict(x[:2])
    ran, original = [], keras.Model.predict
    monkeypatch.setattr(
        keras.Model, "predict", lambda self, *args, **kw: (ran.append(self), original(self, *args, **kw))[1]
    )
    ensemble.evaluate(x, x[:, :3])
    assert len(ran) == 1


def test_large_members_are_not_stacked(monkeypatch):
    network = small_with_lora()
    monkeypatch.setattr(stacked, "WEIGHTS", 100)
    assert not ensemble_of(network).is_stacked and not ensemble_of(network)[:1].is_stacked


def test_one_member_has_nothing_to_share():
    network, _, _ = heads()
    assert ensemble_of(network)[:1].runs_once == ()


@slow_on_tensorflow
def test_members_of_a_run(tmp_path):
    network, x, _ = heads()
    network.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2, directory=tmp_path / "run")
    network.fit(x, LABELS, batch_size=8, epochs=1, verbose=0, callbacks=[fge])
    expected = np.mean([member.predict(x, verbose=0) for member in fge.ensemble()], axis=0)
    for ensemble in (fge.ensemble(), keras_fge.Ensemble.load(tmp_path / "run")):
        assert ensemble.runs_once == ("body",)
        np.testing.assert_allclose(ensemble.predict(x), expected, atol=2e-6)


def lora_inside_a_layer():
    inputs = keras.Input((4, 6))
    attention, norm = layers.MultiHeadAttention(2, 3, name="attention"), layers.BatchNormalization(trainable=False)
    x = layers.GlobalAveragePooling1D()(norm(attention(inputs, inputs)))
    network = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))
    for part in (attention.query_dense, attention.value_dense):
        part.enable_lora(2)
    for part in (attention.key_dense, attention.output_dense):
        part.trainable = False
    return network


def test_one_model_of_members_with_lora_inside_a_layer(tmp_path):
    network, x = lora_inside_a_layer(), rng.normal(size=(7, 4, 6)).astype("float32")
    members = [network.get_weights() for _ in range(3)]
    for weights in members:
        for place, variable in enumerate(network.weights):
            if variable.trainable:
                weights[place] = rng.normal(size=variable.shape).astype("float32")
    ensemble = keras_fge.Ensemble(network, members)
    expected = ensemble.predict(x)
    assert not np.allclose(expected, ensemble[0].predict(x, verbose=0), atol=1e-3)
    one = ensemble.to_model()
    np.testing.assert_allclose(one.predict(x, verbose=0), expected, atol=2e-6)
    one.save(tmp_path / "one.keras")
    one.load_weights(tmp_path / "one.keras")
    for model in (one, keras.saving.load_model(tmp_path / "one.keras")):
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=2e-6)
