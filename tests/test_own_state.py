"""What a network holds beside its weights: states of recurrent layers, vocabularies, what a layer itself saves."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_fge
from conftest import IS_BEFORE_3_14, SLOW_ON_TENSORFLOW, slow_but_on_torch, slow_elsewhere, values
from keras_fge.core.networks import clone, recurrent_states, restored
from keras_fge.core.own_state import own_state
from keras_fge.run.state import training_state

pytestmark = SLOW_ON_TENSORFLOW

RNG = np.random.default_rng(0)
SEQUENCES = RNG.normal(size=(8, 5, 3)).astype("float32")
CELLS = {
    "gru": lambda: layers.GRU(4, stateful=True),
    "lstm": lambda: layers.LSTM(4, stateful=True),
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(4, stateful=True)),
    "cells": lambda: layers.RNN([layers.GRUCell(4), layers.LSTMCell(4)], stateful=True),
}


def stateful(kind, seed=0):
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.Input((5, 3), batch_size=4), CELLS[kind](), layers.Dense(2, "softmax")])
    network.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    return network


def begin(network):
    for state in recurrent_states(network):
        state.assign(ops.zeros_like(state.value))


def predicted(network):
    return network.predict(SEQUENCES, batch_size=4, verbose=0)


@slow_but_on_torch
@pytest.mark.parametrize("kind", CELLS)
def test_members_with_states_begin_alike(kind):
    """Each from zeros, whatever the network, or the member before, has left; the network keeps its own states."""
    networks = [stateful(kind, seed) for seed in range(2)]
    expected = []
    for network in networks:
        begin(network)
        expected.append(predicted(network))
    before = values(recurrent_states(networks[0]))
    assert len(before) >= 1 and (keras.backend.backend() == "jax" or max(np.abs(state).max() for state in before) > 0)
    ensemble = keras_fge.Ensemble.of(networks)
    for _ in range(2):
        members = ensemble.predict(SEQUENCES, batch_size=4, members=True)
        assert np.allclose(members, expected, atol=1e-6)
    assert all(np.array_equal(*pair) for pair in zip(before, values(recurrent_states(networks[0]))))


def test_states_come_back_after_measuring():
    network = stateful("lstm")
    for state in recurrent_states(network):
        state.assign(ops.ones_like(state.value))
    with restored(network, only_on_error=True):
        network(SEQUENCES[:4])
    assert all(np.all(state == 1) for state in values(recurrent_states(network)))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras cannot train stateful networks on torch")
@pytest.mark.skipif(IS_BEFORE_3_14, reason="There, Keras on TensorFlow cannot train these on a PyDataset")
@pytest.mark.parametrize("kind", ["gru", "bidirectional"])
def test_a_resume_goes_on_from_the_states(kind, tmp_path):
    def fit(folder, epochs):
        network, checkpoint = stateful(kind), keras_fge.Checkpoint(tmp_path / folder)
        batches = checkpoint.batches(SEQUENCES, np.arange(8) % 2, 4)
        network.fit(batches, epochs=epochs, verbose=0, callbacks=[checkpoint])
        return values(training_state(network))

    fit("parts", 1)
    whole, parts = fit("whole", 3), fit("parts", 3)
    assert all(np.array_equal(*pair) for pair in zip(whole, parts, strict=True))


@keras.saving.register_keras_serializable("test_own_state")
class Counting(layers.Layer):
    """Adds a number that is no variable, and saves it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.number = np.float32(0)

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return x * self.scale + self.number

    def save_own_variables(self, store):
        store["scale"], store["number"] = self.scale, self.number

    def load_own_variables(self, store):
        self.number = np.float32(store["number"])
        self.scale.assign(store["scale"])


@keras.saving.register_keras_serializable("test_own_state")
class Words(layers.Layer):
    """A vocabulary in a file, as the lookup layers of Keras have it with TensorFlow."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = ()

    def build(self, shape):
        pass

    def call(self, x):
        return x + len(self.words)

    def save_assets(self, folder):
        with open(f"{folder}/words.txt", "w") as file:
            file.write("\n".join(self.words))

    def load_assets(self, folder):
        with open(f"{folder}/words.txt") as file:
            self.words = tuple(file.read().split("\n"))


def with_own(layer, **attributes):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((3,)), layer, layers.Dense(2, "softmax")])
    for name, value in attributes.items():
        setattr(layer, name, value)
    network.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return network


X = RNG.normal(size=(12, 3)).astype("float32")
Y = np.arange(12) % 2


@pytest.mark.parametrize(
    ("kind", "attributes", "others"),
    [(Counting, {"number": 3}, {"number": 4}), (Words, {"words": ("a", "b")}, {"words": ("a", "c")})],
)
def test_copies_and_folders_keep_what_layers_save(kind, attributes, others, tmp_path):
    network = with_own(kind(), **attributes)
    copy = clone(network)
    copy.set_weights(network.get_weights())
    assert own_state(copy.layers[0]) == own_state(network.layers[0]) != own_state(kind())
    ensemble = keras_fge.Ensemble.of([network, with_own(kind(), **attributes)])
    expected = network.predict(X, verbose=0)
    ensemble.save(tmp_path / "ensemble")
    loaded = keras_fge.Ensemble.load(tmp_path / "ensemble")
    for predictions in (
        copy.predict(X, verbose=0),
        loaded.predict(X),
        ensemble.to_model().predict(X, verbose=0),
        ensemble[0].predict(X, verbose=0),
        ensemble.average_weights().predict(X, verbose=0),
    ):
        assert np.allclose(predictions, expected, atol=1e-6)
    with pytest.raises(ValueError, match="must have the same architecture, but differ in `own_state`"):
        keras_fge.Ensemble.of([network, with_own(kind(), **others)])


@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
def test_what_snapshots_would_not_hold_is_refused_before_the_training(kind, tmp_path):
    network = with_own(Counting(name="counting"), number=3)
    before = values(network.weights)
    callback = keras_fge.Checkpoint(tmp_path) if kind == "checkpoint" else keras_fge.FGE(0.1, 0.01, cycle_epochs=2)
    with pytest.raises(ValueError, match=r"Layer 'counting' \(Counting\) saves 'number' beside its variables"):
        network.fit(X, Y, epochs=2, verbose=0, callbacks=[callback])
    assert all(np.array_equal(*pair) for pair in zip(before, values(network.weights))) and not list(tmp_path.iterdir())


def test_a_resume_with_another_vocabulary_is_refused(tmp_path):
    def fit(epochs, *words):
        fge = keras_fge.FGE(0.1, 0.01, cycle_epochs=2, directory=tmp_path, resume=True)
        with_own(Words(), words=words).fit(fge.batches(X, Y, 4), epochs=epochs, verbose=0, callbacks=[fge])
        return fge

    fit(2, "a", "b")
    with pytest.raises(ValueError, match="holds another run: its architecture is"):
        fit(4, "a", "c")
    assert len(fit(4, "a", "b").snapshots) == 2


@slow_elsewhere
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the lookup layers of Keras are TensorFlow's")
@pytest.mark.parametrize("mode", ["int", "multi_hot", "tf_idf"])
def test_adapted_vocabularies_of_keras(mode, tmp_path):
    if mode == "tf_idf" and IS_BEFORE_3_14:
        pytest.skip("There, Keras itself cannot load what it has saved of these.")
    import tensorflow

    def text(*sentences):
        vectorization = layers.TextVectorization(
            output_mode=mode, max_tokens=12, output_sequence_length=4 if mode == "int" else None
        )
        vectorization.adapt(list(sentences))
        x = vectorization(inputs := keras.Input((), dtype="string"))
        x = layers.Flatten()(layers.Embedding(12, 3)(x)) if mode == "int" else layers.Dense(3)(x)
        return keras.Model(inputs, layers.Dense(2, "softmax")(x))

    x = tensorflow.constant(["a c f", "b b d", "z"])
    ensemble = keras_fge.Ensemble.of([text("a b c", "c d e f") for _ in range(2)])
    expected = np.mean([ensemble[k].predict(x, verbose=0) for k in range(2)], axis=0)
    ensemble.save(tmp_path / "ensemble")
    assert np.allclose(keras_fge.Ensemble.load(tmp_path / "ensemble").predict(x), expected, atol=1e-6)
    assert np.allclose(ensemble.to_model().predict(x, verbose=0), expected, atol=1e-6)
    with pytest.raises(ValueError, match="differ in `own_state`"):
        keras_fge.Ensemble.of([ensemble[0], text("a b c", "c d e g")])
