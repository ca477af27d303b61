"""Folders that version 0.1 wrote still load, and its runs go on from there. The files were made by that version."""

import pathlib
import shutil

import keras
import numpy as np
import pytest

import keras_fge
from conftest import logits_loss

FOLDERS = pathlib.Path(__file__).parent / "data/version_0_1"


def data():
    rng = np.random.default_rng(1)
    return rng.normal(1.0, 2.0, (50, 5)).astype("float32"), rng.integers(0, 3, 50)


def network():
    layers = [
        keras.Input((5,)),
        keras.layers.Dense(4, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3, seed=1),
        keras.layers.Dense(3),
    ]
    network = keras.Sequential(layers)
    network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"])
    return network


def fge(folder):
    return keras_fge.FGE(
        0.02,
        0.001,
        cycle_steps=4,
        start_epoch=1,
        validation_data=data(),
        directory=folder,
        resume=True,
        rescale_momentum=False,  # There was nothing else.
    )


@pytest.fixture
def expected():
    with np.load(FOLDERS / "expected.npz") as arrays:
        arrays = dict(arrays)
    return arrays.pop("predictions"), list(arrays.values())


@pytest.mark.parametrize(("name", "members"), [("finished", 2), ("interrupted", 1), ("saved", 1)])
def test_ensembles_load(name, members, expected):
    ensemble = keras_fge.Ensemble.load(FOLDERS / name)
    assert len(ensemble) == members and ensemble.from_logits is True
    if name == "finished":
        assert ensemble.predict(data()[0]) == pytest.approx(expected[0], abs=1e-5)


def test_a_run_goes_on(tmp_path, expected):
    shutil.copytree(FOLDERS / "interrupted", tmp_path / "run")
    callback, model = fge(tmp_path / "run"), network()
    model.fit(callback.batches(*data(), batch_size=25, seed=5), epochs=5, verbose=0, callbacks=[callback])
    assert model.history.epoch == [3, 4] and [snapshot.step for snapshot in callback.snapshots] == [2, 6]
    if keras.backend.backend() == "tensorflow":  # Where it was written: elsewhere, dropout draws other numbers.
        for ours, theirs in zip(model.get_weights(), expected[1], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_finished_run_has_nothing_to_train(tmp_path, expected):
    shutil.copytree(FOLDERS / "finished", tmp_path / "run")
    callback, model = fge(tmp_path / "run"), network()
    with pytest.warns(UserWarning, match="There was nothing to train"):
        model.fit(callback.batches(*data(), batch_size=25, seed=5), epochs=5, verbose=0, callbacks=[callback])
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), expected[1], strict=True))
    assert callback.ensemble().predict(data()[0]) == pytest.approx(expected[0], abs=1e-5)


def test_states_of_the_benchmark_load(tmp_path):
    shutil.copytree(FOLDERS / "checkpoint", tmp_path / "checkpoint")
    model = network()
    checkpoint = keras_fge.Checkpoint(tmp_path / "checkpoint")
    history = model.fit(keras_fge.Batches(*data(), 25, seed=5), epochs=3, verbose=0, callbacks=[checkpoint])
    assert history.epoch == [2] and set(history.history) == {"loss", "accuracy", "learning_rate"}
    with np.load(FOLDERS / "checkpoint_expected.npz") as arrays:
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), arrays.values(), strict=True))
