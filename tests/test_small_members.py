"""Members of networks with a frozen part: as small as what is trained, in memory, in files and in one model."""

import json
import os
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, values

pytestmark = SLOW_BUT_ON_TORCH

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, 40)


def backbone():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(32, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()],
        name="backbone",
    )


def network(nested=True, trainable=False):
    inputs = keras.Input((8, 8, 3))
    part = backbone()
    part.trainable = trainable
    x = inputs
    for layer in [part] if nested else part.layers:
        x = layer(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(layers.Dropout(0.1, seed=1)(x)))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def fit(model, directory=None, epochs=3, resume=False, **arguments):
    keras.utils.set_random_seed(3)
    fge = keras_fge.FGE(0.01, 0.001, cycle_epochs=1, directory=directory, resume=resume, **arguments)
    model.fit(X, Y, batch_size=10, epochs=epochs, shuffle=False, verbose=0, callbacks=[fge])
    return fge


HEAD = (6 * 6 * 32 * 4 + 4) * 4  # Bytes.


def test_members_in_memory_share_what_is_frozen():
    model = network()
    fge = fit(model)
    again = keras_fge.FGE(0.01, 0.001, cycle_epochs=1)
    again.snapshots = list(fge.snapshots)
    model.fit(X, Y, batch_size=10, epochs=1, verbose=0, callbacks=[again])
    names = [variable.path for variable in model.weights]
    for snapshot in again.snapshots[1:]:
        same = [a is b for a, b in zip(fge.snapshots[0].weights, snapshot.weights)]
        assert [n for n, flag in zip(names, same) if not flag] == ["head/kernel", "head/bias"]
    assert all(np.array_equal(a, b) for a, b in zip(again.snapshots[-1].weights, values(model.weights)) if a.ndim > 2)


@pytest.mark.parametrize("trainable", [False, True])
def test_files_are_as_small_as_what_is_trained_and_hold_the_same_members(tmp_path, trainable):
    model, twin = network(trainable=trainable), network(trainable=trainable)
    twin.set_weights(model.get_weights())
    in_memory = fit(twin)
    stored = fit(model, tmp_path / "run")
    sizes = [os.path.getsize(snapshot.path) for snapshot in stored.snapshots]
    if trainable:
        assert all(snapshot.base is None for snapshot in stored.snapshots) and min(sizes) > HEAD + 32 * 27 * 4
        return
    assert max(sizes) < HEAD + 2000
    loaded = keras_fge.Ensemble.load(tmp_path / "run")
    for a, b in zip(in_memory.snapshots, loaded.snapshots, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    first, second = (snapshot.weights for snapshot in loaded.snapshots[:2])
    assert sum(a is b for a, b in zip(first, second)) == 6  # In memory once.
    assert loaded.predict(X) == pytest.approx(in_memory.ensemble().predict(X), abs=1e-6)
    loaded.save(tmp_path / "copy")
    sizes = sorted(os.path.getsize(path) for path in (tmp_path / "copy").glob("member-*.npz"))
    assert sizes[-2] < HEAD + 2000 < sizes[-1]  # What is frozen stands in the first one.
    assert np.array_equal(keras_fge.Ensemble.load(tmp_path / "copy").predict(X), loaded.predict(X))
    loaded[1:].save(tmp_path / "part")
    assert np.array_equal(keras_fge.Ensemble.load(tmp_path / "part").predict(X), loaded[1:].predict(X))


def test_a_resumed_run_has_the_same_small_members(tmp_path):
    starts = network().get_weights()
    results = []
    for name, parts in (("whole", (3,)), ("resumed", (1, 3))):
        for epochs in parts:
            model = network()
            model.set_weights(starts)
            fge = fit(model, tmp_path / name, epochs, resume=True)
        results.append([snapshot.weights for snapshot in fge.snapshots])
        assert max(os.path.getsize(snapshot.path) for snapshot in fge.snapshots) < HEAD + 2000
    for a, b in zip(*results, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_frozen_part_that_changes_all_the_same_is_kept(tmp_path):
    class Counting(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(3,), initializer="zeros", trainable=False, name="count")

        def call(self, x):
            self.count.assign(self.count + 1.0)
            return x

    inputs = keras.Input((8, 8, 3))
    layer = Counting()
    layer.trainable = False
    model = keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.Flatten()(layer(inputs))))
    model.compile("sgd", "sparse_categorical_crossentropy")
    fge = fit(model)
    counts = [snapshot.weights[0][0] for snapshot in fge.snapshots]
    assert len(set(counts)) == 3 and counts == sorted(counts)


def test_a_damaged_or_missing_base_is_an_error(tmp_path):
    fit(network(), tmp_path)
    (base,) = tmp_path.glob("start-*.npz")
    content = bytearray(base.read_bytes())
    content[-500] ^= 1
    base.write_bytes(content)
    with pytest.raises(ValueError, match=r"start-.*npz"):
        keras_fge.Ensemble.load(tmp_path)
    base.unlink()
    with pytest.raises(ValueError, match=r"start-.*npz' is missing"):
        keras_fge.Ensemble.load(tmp_path)


def test_a_member_is_whole_where_its_base_is_gone(tmp_path):
    class Remove(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for path in tmp_path.glob("start-*.npz") if epoch == 0 else ():
                path.unlink()

    model = network()
    fge = keras_fge.FGE(0.01, 0.001, cycle_epochs=2, directory=tmp_path)
    with pytest.raises(ValueError, match="is missing"):
        model.fit(X, Y, batch_size=10, epochs=2, verbose=0, callbacks=[fge, Remove()])
    assert len(fge.snapshots) == 1


@pytest.mark.parametrize("nested", [True, False])
def test_one_model_has_the_frozen_part_once(nested, tmp_path):
    model = network(nested)
    if not nested:
        for layer in model.layers[:-1]:
            layer.trainable = False
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    ensemble = fit(model).ensemble()
    one = ensemble.to_model()
    assert one.count_params() == model.count_params() + 2 * (6 * 6 * 32 * 4 + 4)
    assert one.predict(X, verbose=0) == pytest.approx(ensemble.predict(X), abs=1e-6)
    one.save(tmp_path / "one.keras")
    loaded = keras.saving.load_model(tmp_path / "one.keras")
    assert loaded.predict(X, verbose=0) == pytest.approx(ensemble.predict(X), abs=1e-6)
    weighted = keras_fge.Ensemble(model, ensemble.snapshots, weights=[1, 2, 3])
    assert weighted.to_model().predict(X, verbose=0) == pytest.approx(weighted.predict(X), abs=1e-6)
    assert ensemble.average_weights().count_params() == model.count_params()
    ensemble.save(tmp_path / "saved")
    again = keras_fge.Ensemble.load(tmp_path / "saved").to_model()
    assert again.count_params() == one.count_params()
    assert again.predict(X, verbose=0) == pytest.approx(ensemble.predict(X), abs=1e-6)


def test_networks_that_share_a_backbone_by_its_values():
    first, second = network(), network()
    second.get_layer("backbone").set_weights(first.get_layer("backbone").get_weights())
    ensemble = keras_fge.Ensemble.of([first, second])
    assert sum(a is b for a, b in zip(*(snapshot.weights for snapshot in ensemble.snapshots))) == 6
    other = keras_fge.Ensemble.of([first, network()])  # Another backbone, which has a right to its own.
    p = np.mean([n.predict(X, verbose=0) for n in (first, other[1])], axis=0)
    assert other.predict(X) == pytest.approx(p, abs=1e-6)
    assert other.to_model().predict(X, verbose=0) == pytest.approx(p, abs=1e-6)


def lora_network(rank=2, seed=0, backbone_weights=None):
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu", name="large")(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))
    if backbone_weights:
        model.set_weights(backbone_weights)
    if rank:
        model.get_layer("large").enable_lora(rank)
        model.get_layer("out").enable_lora(rank)
    model.compile(keras.optimizers.AdamW(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


V = RNG.normal(size=(60, 6)).astype("float32")
LABELS = np.argmax(V[:, :3], axis=1)


def trained_with_lora(seed, weights):
    keras.utils.set_random_seed(seed)
    model = lora_network(backbone_weights=weights)
    model.fit(V, LABELS, batch_size=10, epochs=2, verbose=0)
    return model


def test_members_of_a_network_with_lora_are_the_adapters(tmp_path):
    model = lora_network()
    fge = keras_fge.FGE(0.01, 0.001, cycle_epochs=1, directory=tmp_path)
    model.fit(V, LABELS, batch_size=10, epochs=2, shuffle=False, verbose=0, callbacks=[fge])
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    own = [w for i, w in enumerate(fge.snapshots[0].weights) if i not in fge.snapshots[0].shared]
    assert sum(w.size for w in own) == trained
    loaded = keras_fge.Ensemble.load(tmp_path)
    assert loaded.predict(V) == pytest.approx(fge.ensemble().predict(V), abs=1e-5)


def test_lora_inside_a_layer_is_in_the_folder(tmp_path):
    """Of a layer inside another, Keras writes neither what is frozen nor LoRA."""
    inputs = keras.Input((4, 6))
    attention, frozen = layers.MultiHeadAttention(2, 3), keras.Sequential([layers.Dense(6), layers.Dense(6)])
    x = layers.GlobalAveragePooling1D()(frozen(attention(inputs, inputs)))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    frozen.layers[0].trainable = False
    for part in (attention.query_dense, attention.value_dense):
        part.enable_lora(2, lora_alpha=3)
    model.compile(keras.optimizers.AdamW(0.01), "sparse_categorical_crossentropy")
    v, fge = RNG.normal(size=(20, 4, 6)), keras_fge.FGE(0.01, 0.001, cycle_epochs=1, directory=tmp_path / "run")
    with warnings.catch_warnings(action="error", category=UserWarning):
        model.fit(v, np.arange(20) % 3, batch_size=10, epochs=2, shuffle=False, verbose=0, callbacks=[fge])
        fge.ensemble().save(tmp_path / "saved")
    expected = fge.ensemble().predict(v)
    for folder in ("run", "saved"):
        for verify in (True, False):
            loaded = keras_fge.Ensemble.load(tmp_path / folder, verify=verify)
            assert loaded.predict(v) == pytest.approx(expected, abs=1e-6)
            flags = [[w.trainable for w in network.weights] for network in (loaded.network, model)]
            assert flags[0] == flags[1] and not all(flags[0])
    # The network of `save` computes what the last one of the run did, though its LoRA begins anew.
    assert loaded.network.predict(v, verbose=0) == pytest.approx(model.predict(v, verbose=0), abs=1e-6)
    path = tmp_path / "saved" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["network"]["untold"]["lora"][0][0] = 99
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="no layer at place 99 that can have LoRA"):
        keras_fge.Ensemble.load(tmp_path / "saved", verify=False)


def test_int8_inside_a_layer(tmp_path):
    """Keras loads no file of it, so a folder needs the network. All else copies it in memory."""

    def build():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 6))
        attention = layers.MultiHeadAttention(2, 3)
        x = layers.GlobalAveragePooling1D()(attention(inputs, inputs))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
        for part in (attention.query_dense, attention.key_dense):
            part.quantize("int8")
        for part in (attention.query_dense, attention.value_dense):
            part.enable_lora(2)
        model.compile(keras.optimizers.AdamW(0.01), "sparse_categorical_crossentropy")
        return model

    model, v = build(), RNG.normal(size=(20, 4, 6))
    fge = keras_fge.FGE(0.01, 0.001, cycle_epochs=1, directory=tmp_path)
    with pytest.warns(UserWarning, match="will need one that you build"):
        model.fit(v, np.arange(20) % 3, batch_size=10, epochs=2, shuffle=False, verbose=0, callbacks=[fge])
    ensemble = fge.ensemble()
    expected = np.mean([member.predict(v, verbose=0) for member in ensemble], axis=0)
    assert ensemble[0].layers[1].query_dense.quantization_mode == "int8" and ensemble[0].compiled
    for found in (ensemble, keras_fge.Ensemble.load(tmp_path, build())):
        assert found.predict(v) == pytest.approx(expected, abs=1e-6)
    assert ensemble.to_model().predict(v, verbose=0) == pytest.approx(expected, abs=1e-6)
    assert ensemble.average_weights().predict(v, verbose=0) == pytest.approx(expected, abs=0.002)


def test_a_curve_in_the_space_of_the_adapters():
    weights = lora_network(rank=0).get_weights()
    start, end = (trained_with_lora(seed, weights) for seed in (1, 2))
    curve = curves.connect(start, end, seed=0)
    curve.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    for t, model in ((0.0, start), (1.0, end)):
        curve.t = t
        assert curve.predict(V, verbose=0) == pytest.approx(model.predict(V, verbose=0), abs=1e-6)
    curve.fit(V, LABELS, batch_size=10, epochs=2, verbose=0)
    curve.t = 0.5
    middle = curve.network_at(0.5)
    assert curve.predict(V, verbose=0) == pytest.approx(middle.predict(V, verbose=0), abs=1e-6)
    c = np.array([0.25, 0.5, 0.25])  # A and B are on the curve, and so the product is of degree 4 in t.
    names = [v.path.split("/")[-1] for v in start.get_layer("large").trainable_variables]
    a, b = names.index("lora_kernel_a"), names.index("lora_kernel_b")
    slots = [v.path for v in curve.body.slots]
    pick = lambda name: np.tensordot(  # noqa: E731
        c, [keras.ops.convert_to_numpy(bend[slots.index(name)]) for bend in curve.body.bends], 1
    )
    path = next(name for name in slots if name.endswith("large/lora_kernel_a")).removesuffix("lora_kernel_a")
    layer = middle.get_layer("large")
    kernel = weights[0] + layer.lora_alpha / layer.lora_rank * pick(path + "lora_kernel_a") @ pick(
        path + "lora_kernel_b"
    )
    assert keras.ops.convert_to_numpy(layer.kernel) == pytest.approx(kernel, abs=1e-5) and a != b
    result = curves.evaluate_path(curve, (V, LABELS), (V, LABELS), num_points=3, verbose=False)
    assert np.isfinite(result.train["loss"]).all()


def test_endpoints_with_different_adapters_or_frozen_weights_are_refused():
    weights = lora_network(rank=0).get_weights()
    start = trained_with_lora(1, weights)
    with pytest.raises(ValueError, match="LoRA is enabled in `start` only: layer 'large'"):
        curves.connect(start, lora_network(rank=0))
    with pytest.raises(ValueError, match=r"differ in '.*large/kernel', which is frozen"):
        curves.connect(start, lora_network())
    with pytest.raises(ValueError, match="differ in"):
        curves.connect(start, lora_network(rank=3, backbone_weights=weights))


@pytest.mark.parametrize("kind", ["dense", "einsum", "embedding", "int8"])
def test_lora_of_every_layer_on_a_curve_and_in_members(kind):
    x = RNG.integers(0, 10, (60, 6)) if kind == "embedding" else V

    def build(seed):
        keras.utils.set_random_seed(5)  # The same frozen weights.
        inputs = keras.Input((6,), dtype=str(x.dtype))
        layer = {
            "einsum": layers.EinsumDense("ab,bc->ac", output_shape=16, bias_axes="c"),
            "embedding": layers.Embedding(10, 16),
        }.get(kind, layers.Dense(16))
        h = layer(inputs)
        h = layers.GlobalAveragePooling1D()(h) if kind == "embedding" else h
        model = keras.Model(inputs, layers.Dense(3, activation="softmax")(h))
        if kind == "int8":
            layer.quantize("int8")
        layer.enable_lora(2)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
        keras.utils.set_random_seed(seed)
        model.fit(x, LABELS, batch_size=10, epochs=1, verbose=0)
        return model

    start, end = build(1), build(2)
    curve = curves.connect(start, end, seed=0)
    curve.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    for t, model in ((0.0, start), (1.0, end)):
        curve.t = t
        assert curve.predict(x, verbose=0) == pytest.approx(model.predict(x, verbose=0), abs=1e-6)
    before = values(curve.body.bends[1])
    curve.fit(x, LABELS, batch_size=10, epochs=1, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, values(curve.body.bends[1])))
    curve.t = 0.5
    assert curve.predict(x, verbose=0) == pytest.approx(curve.network_at(0.5).predict(x, verbose=0), abs=1e-6)
    fge = keras_fge.FGE(0.01, 0.001, cycle_epochs=1)
    start.fit(x, LABELS, batch_size=10, epochs=2, shuffle=False, verbose=0, callbacks=[fge])
    _, second = fge.snapshots
    own = [array.shape for index, array in enumerate(second.weights) if index not in second.shared]
    assert sorted(own) == sorted(tuple(variable.shape) for variable in start.trainable_variables)
    mean = np.mean([member.predict(x, verbose=0) for member in fge.ensemble()], axis=0)
    assert fge.ensemble().predict(x) == pytest.approx(mean, abs=1e-5)
