"""A training that diverges: nothing is written over what was good, and the next run goes on from there."""

import shutil
import warnings

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, batch_norm_network, images, logits_loss, values
from keras_fge.run.state import StateFile

pytestmark = SLOW_BUT_ON_TORCH


def network(rate=0.02):
    keras.utils.set_random_seed(0)
    model = batch_norm_network()
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), logits_loss())
    return model


class Poison(keras.callbacks.Callback):
    """Makes the training diverge in one epoch: an infinite bias makes all gradients NaN."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            bias = self.model.trainable_variables[-1]
            bias.assign(np.full(bias.shape, np.inf))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)


@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
def test_the_last_good_state_stays_and_is_gone_on_from(tmp_path, kind):
    def callback(directory):
        if kind == "checkpoint":
            return keras_fge.Checkpoint(directory)
        return keras_fge.FGE(0.02, 0.002, cycle_steps=4, directory=directory, resume=True)

    def fit(model, directory, *others):
        resumed = callback(directory)
        batches = resumed.batches(*images(), batch_size=13)  # 4 steps an epoch.
        model.fit(batches, epochs=5, verbose=0, callbacks=[*others, resumed])

    expected = network()
    fit(expected, tmp_path / "whole")
    with pytest.raises(FloatingPointError, match=r"diverged: '.*' is not finite .*keeps") as error:
        fit(network(), tmp_path / "parts", Poison(3))
    assert "epoch 4" in str(error.value) and str(tmp_path / "parts") in str(error.value)
    assert StateFile(tmp_path / "parts").read().counters["epoch"] == 3
    if kind == "fge":
        members = keras_fge.Ensemble.load(tmp_path / "parts").snapshots
        assert len(members) == 3 and all(np.isfinite(w).all() for member in members for w in member.weights)
    model = network()
    fit(model, tmp_path / "parts")
    assert all(np.array_equal(a, b) for a, b in zip(values(model.weights), values(expected.weights)))


@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
def test_a_new_learning_rate_is_taken_with_a_warning(tmp_path, kind):
    def fit(model, epochs):
        fge = keras_fge.FGE(0.02, 0.002, cycle_steps=4, start_epoch=8, directory=tmp_path, resume=True)
        callback = fge if kind == "fge" else keras_fge.Checkpoint(tmp_path)
        model.fit(*images(), batch_size=13, shuffle=False, epochs=epochs, verbose=0, callbacks=[callback])

    fit(network(0.02), 10 if kind == "fge" else 2)
    model = network(0.005)
    with pytest.warns(UserWarning, match=r"began with learning_rate=0.02, and goes on with 0.005\."):
        fit(model, 11)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(network(0.005), 12)


def test_rates_that_a_callback_has_moved_are_no_wish_of_the_user(tmp_path):
    def fit(model, epochs, rate=lambda epoch: 0.02 / (epoch + 1)):
        scheduler = [keras.callbacks.LearningRateScheduler(rate)] if rate else []
        checkpoint = keras_fge.Checkpoint(tmp_path / str(rate is None))
        batches = checkpoint.batches(*images(), batch_size=13)
        model.fit(batches, epochs=epochs, verbose=0, callbacks=[*scheduler, checkpoint])

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = network()
        fit(model, 2)
        fit(model, 3)  # In the same process, with the rate of before.
        assert float(model.optimizer.learning_rate) == pytest.approx(0.02 / 3)
        fit(network(), 4)  # In another one, with that of the beginning.
        fit(network(keras.optimizers.schedules.CosineDecay(0.02, 4)), 1, rate=None)
    with pytest.warns(UserWarning, match="began with schedule=.* and goes on with"):
        fit(network(keras.optimizers.schedules.CosineDecay(0.02, 8)), 2, rate=None)


def test_new_rates_are_the_papers_step_also_after_a_kill_before_the_next_state(tmp_path, monkeypatch):
    def fit(rate, epochs, *others):
        model = network()
        fge = keras_fge.FGE(rate, 0.001, cycle_steps=8, directory=tmp_path, resume=True)
        model.fit(fge.batches(*images(), batch_size=13), epochs=epochs, verbose=0, callbacks=[*others, fge])
        return values(model.weights)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 4:
                raise KeyboardInterrupt

    fit(0.02, 2)
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    with pytest.warns(UserWarning, match="goes on with 0.005"):
        expected = fit(0.005, 5)
    shutil.rmtree(tmp_path)
    shutil.copytree(tmp_path.parent / "copy", tmp_path)
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: False)
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="goes on with 0.005"):
        fit(0.005, 5, Stop())  # It has written a member, and so the manifest, but no state.
    with pytest.warns(UserWarning, match="goes on with 0.005"):
        received = fit(0.005, 5)
    assert all(np.array_equal(a, b) for a, b in zip(received, expected))


def test_members_in_memory_are_finite():
    model, fge = network(), keras_fge.FGE(0.02, 0.002, cycle_steps=4)
    with pytest.raises(FloatingPointError, match="is not finite in epoch 3, step 10 of the cycles"):
        model.fit(*images(), batch_size=13, epochs=5, verbose=0, callbacks=[Poison(2), fge])
    assert len(fge.snapshots) == 2


def test_selection_leaves_out_members_that_are_not_finite():
    x, y = images()
    model = network()
    good = model.get_weights()
    bad = [np.full_like(w, np.nan) for w in good]
    ensemble = keras_fge.Ensemble(model, [bad, good, bad], from_logits=True)
    with pytest.warns(UserWarning, match=r"Members 0, 2 are left out: their predictions are not finite"):
        chosen = ensemble.select(x, y)
    assert len(chosen) == 1 and np.array_equal(chosen.snapshots[0].weights[0], good[0])
    with pytest.raises(ValueError, match="No member has finite predictions"):
        keras_fge.Ensemble(model, [bad], from_logits=True).select(x, y)


@pytest.mark.parametrize("rate", [np.nan, np.inf, "0.1", True])
def test_rates_are_finite_numbers(rate):
    with pytest.raises(ValueError, match=r"`max_learning_rate` must be a finite number. Received: max_learning_rate="):
        keras_fge.FGE(rate, 0.001)
    with pytest.raises(ValueError, match="`max_learning_rate` must be a finite number"):
        keras_fge.SnapshotEnsemble(rate, cycle_steps=2)
    if rate is not True:
        with pytest.raises(ValueError, match="`min_learning_rate` must be a finite number"):
            keras_fge.FGE(0.1, rate)


def test_default_rates(tmp_path, capsys):
    with pytest.raises(ValueError, match="`min_learning_rate` needs `max_learning_rate`"):
        keras_fge.FGE(min_learning_rate=0.1)
    given = keras_fge.FGE(0.05)
    assert (given.max_learning_rate, given.min_learning_rate) == (0.05, 0.0005)

    def fit(epochs, model, *others):
        fge = keras_fge.FGE(cycle_steps=4, start_epoch=1, directory=tmp_path, resume=True)
        batches = fge.batches(*images(), batch_size=13)
        model.fit(batches, epochs=epochs, verbose=2, callbacks=[*others, fge])
        return fge

    # Lowered before the cycles begin, as after a decay; later resumes keep what was chosen.
    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 if epoch < 2 else 0.5)
    fge = fit(2, network(0.02), lower)
    assert (fge.max_learning_rate, fge.min_learning_rate) == pytest.approx((0.01, 0.0001))
    assert "FGE: rates 0.01 to 0.0001" in capsys.readouterr().out
    resumed = fit(3, network(0.02), lower)
    assert resumed.max_learning_rate == fge.max_learning_rate and len(resumed.snapshots) == 2
    assert resumed.snapshots[1].learning_rate == pytest.approx(0.0001)


def test_numbers_of_numpy_are_rates(tmp_path):
    fge = keras_fge.FGE(np.float32(0.05), np.float64(0.001), cycle_steps=2, directory=tmp_path)
    network().fit(*images(), batch_size=25, verbose=0, callbacks=[fge])
    assert len(keras_fge.Ensemble.load(tmp_path)) == 1


def test_statistics_are_finite():
    model = network()
    x, _ = images()
    x[3, 0, 0, 0] = np.nan
    before = values(model.weights)
    with pytest.raises(ValueError, match="`data` gives statistics of BatchNormalization that are not finite"):
        curves.update_batch_norm(model, (x, None))
    assert all(np.array_equal(a, b) for a, b in zip(values(model.weights), before))
