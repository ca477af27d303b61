"""A state in the middle of an epoch: the training that goes on from there has the other batches of that epoch."""

import os
import signal
import time

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import batch_norm_network, images, logits_loss, slow_but_on_torch, slow_on_tensorflow, values
from keras_fge.run.state import StateFile

X, Y = images(70)
STEPS, EPOCHS = 7, 3  # Of 10 samples.


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)


class Stop(keras.callbacks.Callback):
    """Ends a training at a batch, counted from the first of this `fit`: by an error, or by SIGTERM."""

    def __init__(self, at, how="error"):
        super().__init__()
        self.at, self.how, self.count = at, how, 0

    def on_train_batch_begin(self, batch, logs=None):
        self.count += 1
        if self.count == self.at:
            if self.how == "error":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)


class Seen(keras.callbacks.Callback):
    """The numbers that `fit` gives the batches of each epoch."""

    def on_train_begin(self, logs=None):
        self.epochs = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs[epoch] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.epochs[max(self.epochs)].append(batch)


def network():
    model = batch_norm_network()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True), logits_loss(), metrics=["accuracy"])
    return model


def curve():
    model = curves.connect(batch_norm_network(), batch_norm_network(), seed=5)
    model.compile(keras.optimizers.Adam(0.01), logits_loss())
    return model


def checkpoint(folder):
    return keras_fge.Checkpoint(folder, every=0)


def fge(folder):
    return keras_fge.FGE(0.02, 0.002, cycle_steps=4, start_epoch=1, directory=folder, resume=True, every=0)


def sse(folder):
    return keras_fge.SnapshotEnsemble(0.02, cycle_steps=5, directory=folder, resume=True, every=0)


def paper(folder):
    return [keras_fge.PaperTraining(0.02, EPOCHS), checkpoint(folder)]


def begun(make, callback):
    keras.utils.set_random_seed(3)
    return make(), callback.batches(X, Y, 10, seed=4)


def fit(model, data, *callbacks):
    return model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=list(callbacks))


def train(make, callbacks, *others):
    listed = keras.tree.flatten(callbacks)
    model, data = begun(make, listed[-1])
    return model, listed[-1], fit(model, data, *listed, *others)


def assert_same(one, other):
    for a, b in zip(*(values(model.variables + model.optimizer.variables) for model in (one, other)), strict=True):
        assert np.array_equal(a, b)


# After one batch of the first epoch, in the middle of the second, before the last batch of all.
@pytest.mark.parametrize("at", [11, *(pytest.param(at, marks=slow_but_on_torch) for at in (2, STEPS * EPOCHS))])
@pytest.mark.parametrize(
    ("make", "callbacks"),
    [
        (network, fge),
        *(
            pytest.param(*pair, marks=slow_but_on_torch)
            for pair in [(network, paper), (network, sse), (curve, checkpoint)]
        ),
    ],
)
def test_the_rest_of_the_epoch_is_trained_with_the_same_bits(make, callbacks, at, tmp_path):
    whole, ours, expected = train(make, callbacks(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(make, callbacks(tmp_path / "parts"), Stop(at))
    epoch, done = divmod(at - 1, STEPS)
    seen = Seen()
    said = (
        f"goes on in epoch {epoch + 1}, after {done} of its 7 batches. What `fit` logs of that epoch is of the others"
    )
    with pytest.warns(UserWarning, match=said):
        other, theirs, history = train(make, callbacks(tmp_path / "parts"), seen)
    assert seen.epochs[epoch] == list(range(STEPS - done))
    assert all(seen.epochs[later] == list(range(STEPS)) for later in range(epoch + 1, EPOCHS))
    assert_same(whole, other)
    assert history.epoch == expected.epoch == list(range(EPOCHS))
    for name, column in history.history.items():  # Its log is that of other batches in one epoch.
        assert column[:epoch] == expected.history[name][:epoch]
        assert column[epoch + 1 :] == pytest.approx(expected.history[name][epoch + 1 :], rel=1e-6)
    for a, b in zip(*(getattr(c, "snapshots", []) for c in (ours, theirs)), strict=True):
        assert a.step == b.step and all(map(np.array_equal, a.weights, b.weights))


@slow_but_on_torch
def test_stopped_again_and_again_in_one_epoch(tmp_path):
    whole, _, _ = train(network, fge(tmp_path / "whole"))
    attempts, other = 0, None
    while other is None:
        attempts += 1
        try:
            other, _, _ = train(network, fge(tmp_path / "parts"), Stop(3))  # Two batches further each time.
        except KeyboardInterrupt:
            continue
        finally:
            assert attempts < 12
    assert attempts >= 10
    assert_same(whole, other)


@slow_but_on_torch
@pytest.mark.filterwarnings("ignore:.*goes on in epoch")
@pytest.mark.parametrize("callbacks", [fge, paper])
def test_sigterm_does_not_wait_for_the_end_of_the_epoch(callbacks, tmp_path, capsys):
    whole, _, _ = train(network, callbacks(tmp_path / "whole"))
    seen = Seen()
    with pytest.raises(SystemExit) as ended:
        train(network, callbacks(tmp_path / "parts"), Stop(10, "SIGTERM"), seen)
    assert ended.value.code == 128 + signal.SIGTERM and seen.epochs[1] == [0, 1, 2, 3]
    assert "Ended by SIGTERM in epoch 2: the same program goes on from" in capsys.readouterr().err
    other, _, history = train(network, callbacks(tmp_path / "parts"))
    assert history.epoch == [0, 1, 2]
    assert_same(whole, other)


@slow_but_on_torch
@pytest.mark.filterwarnings("ignore:.*goes on in epoch")
def test_the_same_objects_go_on_after_an_interrupt(tmp_path):
    """Interrupted in the rest of an epoch, `fit` is called again with the same callback and batches."""
    whole, _, _ = train(network, fge(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(network, fge(tmp_path / "parts"), Stop(10))
    ours = fge(tmp_path / "parts")
    model, data = begun(network, ours)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, ours, Stop(3))
    assert len(data) == STEPS
    fit(model, data, ours)
    assert_same(whole, model)


@slow_but_on_torch
def test_states_come_no_more_often_than_told(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.undo()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    own = StateFile.write

    def write(self, counters, *others):
        written.append((counters["epoch"], counters["batch"]))
        own(self, counters, *others)

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            now[0] += 50.0

    monkeypatch.setattr(StateFile, "write", write)
    model, ours = network(), keras_fge.Checkpoint(tmp_path, every=2)
    data = ours.batches(X, Y, 10)
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[Clock(), ours])
    assert written == [(0, 0), (0, 2), (0, 5), (1, 0), (1, 2), (1, 5), (2, 0)]


@slow_but_on_torch
@pytest.mark.parametrize("make", [fge, checkpoint])
def test_what_has_no_order_is_refused_before_the_training(make, tmp_path):
    ours = make(tmp_path)
    for data, arguments in (
        ((X, Y), {"shuffle": False}),
        ((ours.batches(X, Y, 10),), {}),
        ((keras_fge.Batches(X, Y, 10, follow=make(tmp_path)),), {"shuffle": False}),
        ((ours.batches(X, Y, 10),), {"shuffle": False, "steps_per_epoch": 3}),
    ):
        model = network()
        before = values(model.variables)
        with pytest.raises(ValueError, match=r"callback\.batches"):
            model.fit(*data, epochs=EPOCHS, verbose=0, callbacks=[ours], **arguments)
        assert all(map(np.array_equal, before, values(model.variables)))
    assert not os.listdir(tmp_path)


@slow_but_on_torch
def test_a_run_in_an_epoch_needs_the_same_order_also_without_every(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(network, fge(tmp_path), Stop(10))
    ours = keras_fge.FGE(0.02, 0.002, cycle_steps=4, start_epoch=1, directory=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"to go on in the middle of an epoch, give `fit` `callback\.batches"):
        network().fit(ours.batches(X, Y, 10, seed=4), epochs=EPOCHS, verbose=0, callbacks=[ours])
    with pytest.warns(UserWarning, match="goes on in epoch 2, after 2 of its 7 batches"):
        train(network, ours)


class Use(keras.callbacks.Callback):
    """Uses the batches that `fit` trains on, at the begin of an epoch and in its middle."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_epoch_begin(self, epoch, logs=None):
        self.model.evaluate(self.data, verbose=0)

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            self.model.evaluate(self.data, verbose=0)
            self.model.predict(self.data, verbose=0)


@slow_but_on_torch
@pytest.mark.filterwarnings("ignore:.*goes on in epoch")
def test_other_uses_of_the_same_batches_change_nothing(tmp_path):
    whole, _, _ = train(network, checkpoint(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(network, checkpoint(tmp_path / "parts"), Stop(10))
    ours = checkpoint(tmp_path / "parts")
    model, data = begun(network, ours)
    fit(model, data, ours, Use(data))
    assert_same(whole, model)


@slow_but_on_torch
@pytest.mark.filterwarnings("ignore:.*goes on in epoch")
def test_afterwards_the_batches_are_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(network, fge(tmp_path), Stop(STEPS * EPOCHS - 2))
    ours = fge(tmp_path)
    model, data = begun(network, ours)
    fit(model, data, ours)
    assert [len(data[index][1]) for index in range(len(data))] == STEPS * [10]
    assert ours.ensemble().evaluate(data) == pytest.approx(ours.ensemble().evaluate(X, Y))


@slow_but_on_torch
@pytest.mark.filterwarnings("ignore:.*goes on in epoch")
@pytest.mark.parametrize("at", [6, 9, 17])
def test_a_scheduler_acts_once_in_an_epoch(at, tmp_path):
    def halved():
        return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)

    whole, _, _ = train(network, [halved(), checkpoint(tmp_path / "whole")])
    with pytest.raises(KeyboardInterrupt):
        train(network, [halved(), checkpoint(tmp_path / "parts")], Stop(at))
    other, _, _ = train(network, [halved(), checkpoint(tmp_path / "parts")])
    assert_same(whole, other)


@slow_on_tensorflow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras on torch has no `steps_per_execution`.")
@pytest.mark.filterwarnings("ignore:.*goes on in epoch", "ignore:.*convolutions are many times slower")
def test_a_last_execution_with_less_steps(tmp_path):
    """Seven batches: three in one execution, three in the next, one in the last."""

    def in_threes():
        model = network()
        model.compile("adam", logits_loss(), steps_per_execution=3)
        return model

    whole, _, _ = train(in_threes, checkpoint(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(in_threes, checkpoint(tmp_path / "parts"), Stop(5))  # The second execution of the second epoch.
    other, _, history = train(in_threes, checkpoint(tmp_path / "parts"))
    assert history.epoch == [0, 1, 2]
    for a, b in zip(*(values(model.variables) for model in (whole, other)), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.once
@pytest.mark.parametrize(("every", "said"), [(-1, "at least 0"), ("5", "a finite number"), (np.nan, "a finite number")])
def test_bad_arguments(every, said, tmp_path):
    with pytest.raises(ValueError, match=f"`every` must be {said}"):
        keras_fge.Checkpoint(tmp_path, every=every)
    with pytest.raises(ValueError, match="`every` needs the `directory`"):
        keras_fge.FGE(0.1, 0.01, cycle_steps=4, every=5)
