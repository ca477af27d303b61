"""After a `fit`, whole or failed: nothing on model and optimizer keeps a callback, its members or its lock alive."""

import gc
import pickle
import threading
import weakref

import keras
import numpy as np
import pytest

import keras_fge
from conftest import SLOW_ON_TENSORFLOW, images, logits_loss, slow_but_on_torch, to_numpy
from keras_fge.run import resumable
from keras_fge.run.state import StateFile

pytestmark = SLOW_ON_TENSORFLOW

ENDINGS = ["whole", "failed in a step", "failed before a step", "failed before the first epoch"]


class Fail(keras.callbacks.Callback):
    """Fails at a moment; "failed before a step": after FGE has put its step in place."""

    def __init__(self, ending):
        super().__init__()
        self.ending = ending

    def on_train_begin(self, logs=None):
        if self.ending == "failed before the first epoch":
            raise RuntimeError("as told")

    def on_train_batch_begin(self, batch, logs=None):
        if self.ending == "failed before a step" and batch == 3:
            raise RuntimeError("as told")

    def on_train_batch_end(self, batch, logs=None):
        if self.ending == "failed in a step" and batch == 3:
            raise RuntimeError("as told")


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
    return model


def callback(kind, folder):
    if kind == "checkpoint":
        return keras_fge.Checkpoint(folder)
    return keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=folder, resume=folder is not None)


def fit(model, resumed, ending="whole"):
    data = resumed.batches(*images(), batch_size=10)
    if ending == "whole":
        model.fit(data, epochs=2, verbose=0, callbacks=[resumed])
        return
    try:
        model.fit(data, epochs=2, verbose=0, callbacks=[resumed, Fail(ending)])
    except RuntimeError as error:
        assert str(error) == "as told"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "kind", ["fge", *(pytest.param(kind, marks=slow_but_on_torch) for kind in ("fge in memory", "checkpoint"))]
)
def test_callback_members_and_lock_are_free(kind, ending, tmp_path):
    model = network()
    model.predict(images()[0], verbose=0)
    before = {owner: set(vars(owner)) for owner in (model, model.optimizer)}
    folder = None if kind == "fge in memory" else tmp_path / "run"
    resumed = callback(kind, folder)
    fit(model, resumed, ending)
    plain = network()
    plain.predict(images()[0], verbose=0)
    plain.fit(*images(), batch_size=10, verbose=0)
    for owner, like in ((model, plain), (model.optimizer, plain.optimizer)):
        assert set(vars(owner)) - before[owner] <= set(vars(like))
    kept = [weakref.ref(resumed)]
    if kind != "checkpoint":
        kept += [weakref.ref(snapshot) for snapshot in resumed.snapshots]
    del resumed
    gc.collect()
    assert not any(reference() for reference in kept)
    if folder is not None:  # Another thread can train there now.
        results = []
        thread = threading.Thread(target=lambda: results.append(fit(model, callback(kind, folder))))
        thread.start()
        thread.join()
        assert results == [None]
    assert model.fit(*images(), batch_size=10, epochs=1, verbose=0).epoch == [0]


@slow_but_on_torch
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["fge", "fge in memory", "checkpoint"])
def test_a_used_callback_can_be_pickled(kind, ending, tmp_path):
    model = network()
    resumed = callback(kind, None if kind == "fge in memory" else tmp_path / "run")
    fit(model, resumed, ending)
    again = pickle.loads(pickle.dumps(resumed))
    assert again.epoch == resumed.epoch and again.directory == resumed.directory
    if ending == "whole" and kind != "checkpoint":
        x = images()[0]
        assert np.array_equal(again.ensemble().predict(x), resumed.ensemble().predict(x))
        assert str(again) == str(resumed)


@slow_but_on_torch
@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
def test_a_fit_that_cannot_be_seen_resumes_all_the_same(kind, tmp_path, monkeypatch):
    """As a callback inside one of another library: nothing is known of the data and the other callbacks of `fit`."""
    monkeypatch.setattr(resumable, "fit_around", lambda callback: None)
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(folder, *others):
        model, resumed = network(), callback(kind, tmp_path / folder)
        data, arguments = resumed.batches(*images(), batch_size=10), {"shuffle": False, "verbose": 0}
        history = model.fit(data, epochs=4, callbacks=[resumed, *others], validation_data=images(), **arguments)
        return history.epoch, model.get_weights(), resumed

    _, expected, whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", Interrupt())
    epochs, weights, resumed = run("parts")
    assert epochs == [0, 1, 2, 3] and all(np.array_equal(a, b) for a, b in zip(weights, expected))
    if kind == "fge":
        assert len(resumed.snapshots) == len(whole.snapshots) == 5
        assert "ensemble_nll" not in whole.snapshots[-1].metrics  # Give `validation_data` to FGE there.


def test_afterwards_the_velocity_is_that_of_the_optimizers_rate():
    """As PyTorch's v does not depend on the rate, Keras' -alpha v is to have the alpha that comes next."""
    x = np.random.default_rng(2).normal(size=(24, 5)).astype("float32")
    y = x[:, :1]
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.03, momentum=0.9), "mse")
    w, v = model.get_weights()[0].astype("float64"), 0.0
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=8)
    model.fit(x, y, batch_size=24, epochs=10, shuffle=False, verbose=0, callbacks=[fge])
    for step in range(1, 11):
        v = 0.9 * v + 2 / 24 * x.T.astype("float64") @ (x @ w - y)
        w = w - float(to_numpy(keras_fge.triangular(step, 0.05, 0.0005, 8))) * v
    assert to_numpy(model.optimizer.momentums[0]) == pytest.approx(-0.03 * v, rel=1e-4)


def test_a_finished_run_ends_with_the_same_velocity_again(tmp_path):
    velocities = []
    for _ in range(2):
        model = network()
        fit(model, callback("fge", tmp_path / "run"))
        velocities.append(to_numpy(model.optimizer.momentums[0]))
    assert np.array_equal(*velocities)
