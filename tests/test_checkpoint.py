"""`Checkpoint` and `Batches`: any training goes on bit for bit, with its History, whatever stopped it."""

import pickle
import warnings

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import (
    batch_norm_network,
    images,
    logits_loss,
    slow_but_on_torch,
    slow_on_jax,
    slow_on_tensorflow,
    to_numpy,
    values,
)
from keras_fge.run.state import StateFile, training_state

BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def state_of_every_epoch(monkeypatch):
    """Else it would depend on the time that an epoch takes."""
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)


class Stop(keras.callbacks.Callback):
    """Interrupts `fit` at the begin of an epoch, or ends it in the middle of one."""

    def __init__(self, epoch, softly=False):
        super().__init__()
        self.at, self.softly = epoch, softly

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at and not self.softly:
            raise KeyboardInterrupt

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.history.epoch and self.model.history.epoch[-1] + 1 == self.at and self.softly:
            self.model.stop_training = True


def curve():
    ends = [batch_norm_network() for _ in range(2)]
    model = curves.connect(*ends, seed=1)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"])
    return model


def network():
    model = batch_norm_network()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"])
    return model


def fit(model, folder, *callbacks, epochs=4, **arguments):
    x, y = images()
    checkpoint = keras_fge.Checkpoint(folder)
    callbacks = [*callbacks, checkpoint]
    return model.fit(
        checkpoint.batches(x, y, 25), epochs=epochs, verbose=0, callbacks=callbacks, shuffle=False, **arguments
    )


@pytest.mark.parametrize(
    ("make", "softly"),
    [
        pytest.param(network, False, marks=slow_on_tensorflow),
        pytest.param(curve, True, marks=slow_on_jax),
        *(pytest.param(*case, marks=slow_but_on_torch) for case in [(network, True), (curve, False)]),
    ],
)
def test_networks_and_curves_go_on(make, softly, tmp_path):
    keras.utils.set_random_seed(3)
    whole = make()
    expected = fit(whole, tmp_path / "whole")
    keras.utils.set_random_seed(3)
    model = make()
    if softly:
        fit(model, tmp_path / "parts", Stop(2, softly=True))  # In the middle of the third epoch, which is done again.
    else:
        with pytest.raises(KeyboardInterrupt):
            fit(model, tmp_path / "parts", Stop(2))
    keras.utils.set_random_seed(8)
    other = make()
    history = fit(other, tmp_path / "parts")
    assert history.epoch == expected.epoch == [0, 1, 2, 3]
    assert history.history == expected.history
    for ours, theirs in zip(values(training_state(other)), values(training_state(whole))):
        assert np.array_equal(ours, theirs)
    longer = fit(other, tmp_path / "parts", epochs=5)
    assert longer.epoch == [0, 1, 2, 3, 4]
    x, y = images()
    assert other.fit(x, y, epochs=1, verbose=0).epoch == [0]  # A later fit begins with its first epoch.


@slow_but_on_torch
def test_the_second_part_of_a_training_has_a_checkpoint_of_its_own(tmp_path):
    keras.utils.set_random_seed(3)
    whole = network()
    fit(whole, tmp_path / "whole")
    keras.utils.set_random_seed(3)
    fit(network(), tmp_path / "first", epochs=2)
    model = network()
    fit(model, tmp_path / "first", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tmp_path / "second", Stop(3), initial_epoch=2)
    model = network()
    history = fit(model, tmp_path / "second", initial_epoch=2)
    assert history.epoch == [2, 3]
    assert all(np.array_equal(a, b) for a, b in zip(values(whole.weights), values(model.weights)))


def rows_of_each_epoch(epochs, callback=None, initial_epoch=0, fits=()):
    """The order in which `fit` reads the samples 0, 1, ..., 9, as the network saw them."""
    count = epochs - initial_epoch

    class Seen(keras.Model):
        def __init__(self):
            super().__init__()
            self.w = self.add_weight(shape=(), initializer="zeros")
            self.seen = self.add_weight(shape=(10 * count,), initializer="zeros", trainable=False)

        def call(self, x):
            self.seen.assign(keras.ops.concatenate([self.seen[5:], x[:, 0]]))
            return self.w * x

    model = Seen()
    model.compile("sgd", "mse")
    x = np.arange(10, dtype="float32")[:, None]
    model(x[:5])
    batches = keras_fge.Batches(x, x, batch_size=5, seed=6, follow=callback)
    arguments = {"verbose": 0, "shuffle": False, "callbacks": [callback] if callback else []}
    for begin, end in zip([initial_epoch, *fits], [*fits, epochs]):
        model.fit(batches, initial_epoch=begin, epochs=end, **arguments)
    return to_numpy(model.seen).astype(int).reshape(count, 10).tolist()


def test_batches_have_the_order_of_their_seed_and_the_epoch(tmp_path):
    expected = [np.random.default_rng((6, epoch)).permutation(10).tolist() for epoch in range(4)]
    assert rows_of_each_epoch(4, fits=[1]) == expected  # Without a callback they count their own passes.
    assert rows_of_each_epoch(4, keras_fge.Checkpoint(tmp_path / "a"), initial_epoch=2) == expected[2:]
    fge = keras_fge.FGE(0.01, 0.001, cycle_steps=2)
    assert rows_of_each_epoch(4, fge, initial_epoch=1) == expected[1:]
    assert rows_of_each_epoch(2) == expected[:2]  # Nothing is left of the epoch of another fit.


@pytest.mark.parametrize("kind", ["bare", "of another callback"])
def test_batches_that_a_resume_would_not_find_again_are_refused(tmp_path, kind):
    x, y = images()
    checkpoint, other = keras_fge.Checkpoint(tmp_path / "a"), keras_fge.Checkpoint(tmp_path / "b")
    batches = keras_fge.Batches(x, y, follow=None if kind == "bare" else other)
    with pytest.raises(ValueError, match=r"Write `callback.batches\(x, y, ...\)`, or `Batches\(x, y, ..., follow="):
        network().fit(batches, verbose=0, callbacks=[checkpoint])
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="`follow` must be an FGE, a SnapshotEnsemble or a Checkpoint"):
        keras_fge.Batches(x, y, follow=keras.callbacks.Callback())


def test_batches_whose_callback_is_gone_count_their_own_passes():
    x = np.arange(10, dtype="float32")[:, None]
    batches = pickle.loads(pickle.dumps(keras_fge.FGE(0.1, 0.01).batches(x, x, 5, 6)))
    orders = []
    for _ in range(2):
        batches.on_epoch_begin()
        orders.append(np.concatenate([batches[k][0][:, 0] for k in range(2)]).tolist())
        batches.on_epoch_end()
    assert orders == [np.random.default_rng((6, epoch)).permutation(10).tolist() for epoch in range(2)]


def test_after_a_finished_run_other_batches_can_be_evaluated(tmp_path):
    model = network()
    for _ in range(2):
        fit(model, tmp_path, epochs=1)
    checkpoint = keras_fge.Checkpoint(tmp_path)
    model.fit(checkpoint.batches(*images(), batch_size=25), verbose=0, callbacks=[checkpoint])
    x, y = images(20)
    assert np.isfinite(model.evaluate(checkpoint.batches(x, y, 10), verbose=0)[0])


@slow_but_on_torch
def test_an_interrupted_training_with_the_papers_rate_goes_on_in_the_same_process(tmp_path):
    """A user stops the cell of a notebook, and runs it again: new callbacks, the same model."""

    def run(model, folder, *others):
        checkpoint = keras_fge.Checkpoint(tmp_path / folder)
        data, callbacks = checkpoint.batches(*images(), batch_size=25), [checkpoint, keras_fge.PaperTraining(0.02, 6)]
        model.fit(data, epochs=6, shuffle=False, verbose=0, callbacks=[*others, *callbacks])
        return values(model.weights)

    keras.utils.set_random_seed(3)
    expected = run(network(), "whole")
    keras.utils.set_random_seed(3)
    model = network()

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.history.epoch == [0, 1, 2, 3]:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, "parts", Interrupt())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert all(np.array_equal(a, b) for a, b in zip(expected, run(model, "parts")))


def test_batches_are_structures_of_rows():
    x, y = {"a": np.arange(5), "b": np.arange(10).reshape(5, 2)}, np.arange(5) * 2
    batches = keras_fge.Batches(x, y, batch_size=2)
    assert len(batches) == 3
    rows = [batches[index] for index in range(3)]
    assert [len(labels) for _, labels in rows] == [2, 2, 1]
    for inputs, labels in rows:
        assert np.array_equal(2 * inputs["a"], labels) and np.array_equal(inputs["b"][:, 0], labels)
    for arguments, message in (((x, y[:3]), "lengths"), (([], []), "lengths"), ((x, y, 0), "`batch_size`")):
        with pytest.raises(ValueError, match=message):
            keras_fge.Batches(*arguments)


@slow_but_on_torch
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no resume", "holds a run already. Continue it with `resume=True`"),
        ("data", "its steps_per_epoch is 2, here it is 1"),
        ("network", "its architecture is"),
        ("optimizer", "its optimizer is SGD, here it is Adam"),
        ("momentum", "its optimizer_config is"),
        ("damage", "state.npz' is no .npz file, or a damaged one"),
    ],
)
def test_states_of_other_trainings(tmp_path, change, message):
    model = network()
    fit(model, tmp_path, epochs=1)
    path = tmp_path / "state.npz"
    if change == "damage":
        path.write_bytes(path.read_bytes()[:-100])
    if change == "network":
        model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.02), logits_loss())
    if change == "optimizer":
        model.compile("adam", logits_loss())
    if change == "momentum":
        model.compile(keras.optimizers.SGD(0.02, momentum=0.8), logits_loss())
    before, state = values(model.weights), path.read_bytes()
    x, y = images(20 if change == "data" else 50)
    checkpoint = keras_fge.Checkpoint(tmp_path, resume=change != "no resume")
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, batch_size=25, verbose=0, callbacks=[checkpoint])
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.weights)))
    assert path.read_bytes() == state


class Refuse(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise ValueError("refused")


@slow_but_on_torch
@pytest.mark.parametrize("kind", ["checkpoint", "fge"])
def test_a_resume_that_another_callback_refuses_leaves_nothing_behind(tmp_path, kind):
    def callback():
        fge = keras_fge.FGE(0.05, 0.01, cycle_steps=2, directory=tmp_path, resume=True)
        return fge if kind == "fge" else keras_fge.Checkpoint(tmp_path)

    x, y = images()
    model = network()
    model.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[callback()])
    again = network()
    with pytest.raises(ValueError, match="refused"):
        again.fit(x, y, batch_size=25, epochs=4, verbose=0, callbacks=[callback(), Refuse()])
    assert again.fit(x, y, batch_size=25, epochs=3, verbose=0).epoch == [0, 1, 2]


@pytest.mark.parametrize("directory", [None, "run"])
def test_fge_keeps_its_own_state(tmp_path, directory):
    model = network()
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=directory and tmp_path / directory)
    message = r"FGE and Checkpoint cannot share one `fit`: FGE and SnapshotEnsemble set the learning rate, and keep"
    with pytest.raises(ValueError, match=message):
        fit(model, tmp_path / "checkpoint", fge)
    assert not (tmp_path / "checkpoint").exists()


@slow_but_on_torch
def test_folders_are_not_shared_by_the_two_kinds(tmp_path):
    x, y = images()
    model = network()
    fit(model, tmp_path / "checkpoint", epochs=1)
    state = (tmp_path / "checkpoint/state.npz").read_bytes()
    for resume in (False, True):
        fge = keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "checkpoint", resume=resume)
        with pytest.raises(ValueError, match=r"holds the state of a training, but no manifest.json of a run"):
            model.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
    assert (tmp_path / "checkpoint/state.npz").read_bytes() == state
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=tmp_path / "run")
    model.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
    with pytest.raises(ValueError, match=r"holds an ensemble, or a run of FGE. Give another folder"):
        fit(model, tmp_path / "run")
    assert len(keras_fge.Ensemble.load(tmp_path / "run")) == 1
