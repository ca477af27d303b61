"""Runs that are killed, at any moment, and go on from their folder; folders that cannot be used."""

import errno
import gc
import os
import pathlib
import time
import weakref

import keras
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import batch_norm_network, images, logits_loss, slow_but_on_torch, slow_on_tensorflow, values
from keras_fge.run.state import StateFile

BACKEND = keras.backend.backend()


def network_and_data():
    x, y = images()
    network = batch_norm_network()
    network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
    return network, x, y


@pytest.fixture(autouse=True)
def state_of_every_epoch(monkeypatch):
    """Else it would depend on the time that an epoch takes."""
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)


def test_writing_states_takes_at_most_a_tenth_of_the_time(tmp_path, monkeypatch):
    monkeypatch.undo()
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def write(path, content, check):
        now[0] += 2

    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    network.compile("sgd", "mse")
    monkeypatch.setattr("keras_fge.run.state.write_atomically", write)
    state = StateFile(tmp_path)
    assert state.is_due()
    state.write({"epoch": 0, "batch": 0}, network)
    assert now[0] == 102 and not state.is_due()
    now[0] = 119.9
    assert not state.is_due()
    now[0] = 120.0
    assert state.is_due() and not state.is_due(20)
    now[0] = 122.0
    assert state.is_due(20)


def fit(network, x, y, fge, epochs=4):
    network.fit(x, y, batch_size=25, shuffle=False, epochs=epochs, verbose=0, callbacks=[fge])
    return fge


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@slow_on_tensorflow
def test_snapshots_in_the_folder_are_those_of_a_run_in_memory(tmp_path):
    keras.utils.set_random_seed(1)
    network, x, y = network_and_data()
    begin = network.get_weights()
    kept = fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4))
    network, x, y = network_and_data()
    network.set_weights(begin)
    stored = fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run"))
    assert len(stored.snapshots) == len(kept.snapshots) == 2
    loaded = keras_fge.Ensemble.load(tmp_path / "run")
    for a, b, c in zip(kept.snapshots, stored.snapshots, loaded.snapshots):
        assert all(np.array_equal(v, w) and np.array_equal(v, u) for v, w, u in zip(a.weights, b.weights, c.weights))
        assert a.metrics == pytest.approx(b.metrics, rel=1e-6) and b.metrics == c.metrics
        assert (a.step, a.learning_rate) == (c.step, c.learning_rate)
    assert loaded.from_logits is True
    assert loaded.predict(x) == pytest.approx(kept.ensemble().predict(x), abs=1e-6)
    network.fit(x, y, epochs=1, verbose=0)  # A later fit begins with its first epoch.
    assert network.history.epoch == [0]


@slow_on_tensorflow
def test_resume_in_the_same_process_after_an_interrupt(tmp_path):
    network, x, y = network_and_data()
    begin = network.get_weights()
    whole = fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4))
    expected = values(network.weights)
    network, x, y = network_and_data()
    network.set_weights(begin)
    arguments = {"cycle_steps": 4, "directory": tmp_path / "run", "resume": True}
    fge = keras_fge.FGE(0.02, 0.001, **arguments)
    with pytest.raises(KeyboardInterrupt):
        network.fit(x, y, batch_size=25, shuffle=False, epochs=4, verbose=0, callbacks=[fge, Interrupt()])
    other, x, y = network_and_data()
    resumed = fit(other, x, y, keras_fge.FGE(0.02, 0.001, **arguments))
    assert other.history.epoch == [0, 1, 2, 3]
    assert all(np.array_equal(a, b) for a, b in zip(expected, values(other.weights)))
    assert [s.metrics for s in resumed.snapshots] == [pytest.approx(s.metrics) for s in whole.snapshots]
    with pytest.warns(UserWarning, match="There was nothing to train"):
        again = fit(other, x, y, keras_fge.FGE(0.02, 0.001, **arguments))
    assert other.history.epoch == [0, 1, 2, 3] and len(again.snapshots) == 2
    longer = fit(other, x, y, keras_fge.FGE(0.02, 0.001, **arguments), epochs=6)
    assert other.history.epoch == [0, 1, 2, 3, 4, 5] and len(longer.snapshots) == 3


@slow_but_on_torch
def test_the_data_set_does_not_keep_the_network_in_memory():
    network, x, y = network_and_data()
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=4)
    network.fit(fge.batches(x, y, batch_size=25), epochs=2, verbose=0, callbacks=[fge])
    alive = weakref.ref(network)
    del network, fge
    gc.collect()
    assert alive() is None


@slow_but_on_torch
def test_an_epoch_that_was_cut_short_is_done_again(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.history.epoch == [0]:
                self.model.stop_training = True  # In the middle of the second epoch.

    arguments = {"cycle_steps": 4, "directory": tmp_path / "run", "resume": True}
    network, x, y = network_and_data()
    begin = network.get_weights()
    fge = keras_fge.FGE(0.02, 0.001, **arguments)
    network.fit(x, y, batch_size=25, shuffle=False, epochs=4, verbose=0, callbacks=[fge, Stop()])
    resumed = fit(network, x, y, keras_fge.FGE(0.02, 0.001, **arguments))
    assert network.history.epoch == [0, 1, 2, 3]
    other, x, y = network_and_data()
    other.set_weights(begin)
    whole = fit(other, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4))
    for a, b in zip(whole.snapshots, resumed.snapshots, strict=True):
        assert all(np.array_equal(v, w) for v, w in zip(a.weights, b.weights))


@slow_on_tensorflow
def test_a_run_of_one_cycle_resumes(tmp_path):
    network, x, y = network_and_data()
    arguments = {"cycle_epochs": np.int64(4), "directory": tmp_path / "run", "resume": True}
    with pytest.raises(KeyboardInterrupt):
        sse = keras_fge.SnapshotEnsemble(0.02, **arguments)
        network.fit(x, y, batch_size=25, shuffle=False, epochs=4, verbose=0, callbacks=[sse, Interrupt()])
    assert len(fit(network, x, y, keras_fge.SnapshotEnsemble(0.02, **arguments)).snapshots) == 1


@slow_but_on_torch
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no resume", "holds a run already. Continue it with `resume=True`"),
        ("settings", "holds another run: its cycle_steps is 4, here it is 6"),
        ("data", "holds another run: its steps_per_epoch is 2, here it is 1"),
        ("network", "holds another run: its architecture is"),
        ("optimizer", "holds another run: its optimizer is SGD, here it is Adam"),
        ("momentum", "holds another run: its optimizer_config is"),
        ("damage", "is damaged"),
    ],
)
def test_folders_of_other_runs(tmp_path, change, message):
    network, x, y = network_and_data()
    folder = tmp_path / "run"
    fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=folder), epochs=2)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    cycle_steps = 6 if change == "settings" else 4
    if change == "network":
        network = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(3)])
        network.compile(keras.optimizers.SGD(0.02), logits_loss())
    if change == "optimizer":
        network.compile("adam", logits_loss())
    if change == "momentum":
        network.compile(keras.optimizers.SGD(0.02, momentum=0.8), logits_loss())
    if change == "damage":
        next(folder.glob("member-*")).write_bytes(b"")
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    if change == "data":
        x, y = x[:20], y[:20]
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=cycle_steps, directory=folder, resume=change != "no resume")
    before = values(network.weights)
    with pytest.raises(ValueError, match=message):
        fit(network, x, y, fge)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.weights)))
    assert files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_networks_that_are_not_built(tmp_path):
    network = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    network.compile("sgd", logits_loss())
    x, y = images()
    if BACKEND == "tensorflow":  # Elsewhere, Keras builds the network before the callbacks begin.
        with pytest.raises(ValueError, match="needs a network that is built"):
            fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run"))
    else:
        fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run"))


@slow_but_on_torch
def test_a_full_disk_ends_the_run_and_leaves_what_is_there(tmp_path, monkeypatch):
    network, x, y = network_and_data()
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run", resume=True)
    fsync, full = os.fsync, []

    def full_disk(file):
        if len(fge.snapshots) == 2 and not full:
            full.append(file)
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        fit(network, x, y, fge)
    assert len(fge.snapshots) == 2 and len(fge.ensemble().predict(x)) == len(x)
    assert len(keras_fge.Ensemble.load(tmp_path / "run")) == 1
    assert not list((tmp_path / "run").glob("*.tmp*"))
    other, x, y = network_and_data()  # When there is room again:
    resumed = fit(other, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run", resume=True))
    assert all(np.array_equal(a, b) for a, b in zip(resumed.snapshots[1].weights, fge.snapshots[1].weights))


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    network, x, y = network_and_data()
    before = values(network.weights)
    with pytest.raises(OSError):
        fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "file" / "run"))
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.weights)))


@slow_but_on_torch
@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_damaged_members(tmp_path, damage):
    network, x, y = network_and_data()
    fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run"))
    second = keras_fge.Ensemble.load(tmp_path / "run").snapshots[1]
    path, content = pathlib.Path(second.path), bytearray(pathlib.Path(second.path).read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-10])
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=f"'{path}' is (damaged|missing).*`skip_damaged=True` would leave it out"):
        keras_fge.Ensemble.load(tmp_path / "run")
    with pytest.warns(UserWarning, match="It is left out"):
        ensemble = keras_fge.Ensemble.load(tmp_path / "run", skip_damaged=True)
    assert len(ensemble) == 1 and len(ensemble.predict(x)) == len(x)


@slow_but_on_torch
def test_damaged_manifests_and_states(tmp_path):
    network, x, y = network_and_data()
    folder = tmp_path / "run"
    fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=folder))
    state = folder / "state.npz"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"state.npz' is no .npz file, or a damaged one"):
        fit(network, x, y, keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=folder, resume=True))
    assert len(keras_fge.Ensemble.load(folder)) == 2
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json' is no manifest of an ensemble"):
        keras_fge.Ensemble.load(folder)
    with pytest.raises(ValueError, match=r"there is no ensemble in"):
        keras_fge.Ensemble.load(tmp_path / "other")


@slow_but_on_torch
def test_no_member_is_lost_when_the_start_is(tmp_path):
    class Remove(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                next((tmp_path / "run").glob("start-*")).unlink()

    network, x, y = network_and_data()
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run")
    with pytest.raises(ValueError, match=r"The member '.*/start-.*npz' is missing"):
        network.fit(x, y, batch_size=25, shuffle=False, epochs=4, verbose=0, callbacks=[fge, Remove()])
    loaded = keras_fge.Ensemble.load(tmp_path / "run")  # The second was written before its distances were measured.
    assert [snapshot.step for snapshot in loaded.snapshots] == [2, 6] == [s.step for s in fge.snapshots]


def three_layers(frozen=(), loss="mse", rate=0.05, dropout=0.1, regularizer=None):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(6, kernel_regularizer=regularizer), layers.Dense(6), layers.Dropout(dropout, seed=1)]
    network = keras.Sequential([keras.Input((6,)), *parts, layers.Dense(6)])
    for index in frozen:
        network.layers[index].trainable = False
    network.compile(keras.optimizers.SGD(rate), loss)
    return network


def fit_three(network, callback, epochs):
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    network.fit(callback.batches(x, x, 8), epochs=epochs, verbose=0, callbacks=[callback])


@slow_but_on_torch
@pytest.mark.parametrize(("before", "after"), [((), (0,)), ((0,), ()), ((0,), (1,))])
def test_a_resume_with_other_frozen_layers_is_refused(before, after, tmp_path):
    fit_three(three_layers(before), keras_fge.Checkpoint(tmp_path), 1)
    with pytest.raises(ValueError, match="its frozen_weights is"):
        fit_three(three_layers(after), keras_fge.Checkpoint(tmp_path), 2)


@slow_but_on_torch
@pytest.mark.parametrize("frozen", [(0,), (1,), (3,), (0, 3), (0, 1)])
def test_frozen_layers_keep_their_places_in_a_resume(frozen, tmp_path):
    whole = three_layers(frozen)
    fit_three(whole, keras_fge.Checkpoint(tmp_path / "whole"), 4)
    fit_three(three_layers(frozen), keras_fge.Checkpoint(tmp_path / "parts"), 2)
    other = three_layers(frozen)
    fit_three(other, keras_fge.Checkpoint(tmp_path / "parts"), 4)
    assert all(np.array_equal(a, b) for a, b in zip(values(whole.variables), values(other.variables), strict=True))


@slow_but_on_torch
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": "mae"}, "loss=mse, and goes on with mae"),
        ({"dropout": 0.5}, "rate of layer 2 .Dropout.=0.1, and goes on with 0.5"),
        ({"regularizer": "l2"}, "kernel_regularizer of layer 0 .Dense.=None, and goes on with .*L2"),
    ],
)
def test_what_changes_a_training_is_said_at_a_resume(change, said, tmp_path):
    fit_three(three_layers(), keras_fge.Checkpoint(tmp_path), 1)
    with pytest.warns(UserWarning, match=said):
        fit_three(three_layers(**change), keras_fge.Checkpoint(tmp_path), 2)


def test_a_directory_does_not_change_the_training(tmp_path):
    networks = []
    for directory in (None, tmp_path / "run"):
        networks.append(three_layers())
        fit_three(networks[-1], keras_fge.FGE(0.05, 0.005, cycle_epochs=2, directory=directory), 4)
    assert all(np.array_equal(a, b) for a, b in zip(*(values(network.variables) for network in networks), strict=True))
