"""What other callbacks remember goes on with a resumed training, or is said to be lost."""

import contextlib
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import keras_fge
from conftest import SLOW_BUT_ON_TORCH, values
from keras_fge.core.data import checksum_of_data
from keras_fge.run.state import StateFile, training_state

pytestmark = SLOW_BUT_ON_TORCH

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype("float32")
Y = (X[:, 0] + RNG.normal(size=48) > 0).astype("int32")
X_VAL, Y_VAL = X[:20] + 1, 1 - Y[:20]


@pytest.fixture(autouse=True)
def state_of_every_epoch(monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)


class Patient(keras.callbacks.Callback):
    """A user's own: halves the learning rate in every third epoch that it sees."""

    def __init__(self):
        super().__init__()
        self.seen, self.rates, self.kind = 0, [], "own"

    def on_epoch_end(self, epoch, logs=None):
        self.seen += 1
        if self.seen % 3 == 0:
            self.rates = [*self.rates, float(self.model.optimizer.learning_rate)]
            self.model.optimizer.learning_rate = self.rates[-1] / 2


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise KeyboardInterrupt


KINDS = {
    "plateau": lambda folder: keras.callbacks.ReduceLROnPlateau("loss", patience=2, min_delta=0.5, cooldown=1),
    "early": lambda folder: keras.callbacks.EarlyStopping("loss", patience=5, min_delta=9),
    "best": lambda folder: keras.callbacks.ModelCheckpoint(folder / "best.keras", monitor="loss", save_best_only=True),
    "averages": lambda folder: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
}


def fit(folder, *callbacks, epochs=8, validation=None, before=True, make=keras_fge.Checkpoint):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, "softmax")])
    optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9)
    network.compile(optimizer, "sparse_categorical_crossentropy")
    ours = make(folder)
    listed = [*callbacks, ours] if before else [ours, *callbacks]
    with contextlib.suppress(KeyboardInterrupt):
        network.fit(ours.batches(X, Y, 8), epochs=epochs, verbose=0, validation_data=validation, callbacks=listed)
    return network


def told(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    return result, " ".join(str(warning.message) for warning in caught if "__array__" not in str(warning.message))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [2, 4])
def test_a_resume_is_exact(kind, at, tmp_path):
    whole = KINDS[kind](tmp_path)
    expected = fit(tmp_path / "whole", whole)
    fit(tmp_path / "parts", KINDS[kind](tmp_path), Stop(at))
    parts = KINDS[kind](tmp_path)
    network, said = told(lambda: fit(tmp_path / "parts", parts))
    assert all(np.array_equal(*pair) for pair in zip(values(training_state(network)), values(training_state(expected))))
    assert network.history.history == expected.history.history and "begins anew" not in said
    for name in ("wait", "best", "cooldown_counter", "stopped_epoch", "_ema_weights_in_model"):
        assert vars(parts).get(name) == vars(whole).get(name)
    assert kind != "early" or len(network.history.epoch) < 8


@pytest.mark.parametrize(
    ("make", "before", "lost"),
    [
        (lambda: keras.callbacks.EarlyStopping("loss", 4, restore_best_weights=True), True, "'best_weights'"),
        (lambda: keras.callbacks.ReduceLROnPlateau("loss", patience=3, min_delta=9), False, "'wait'.* List it before"),
        (Patient, True, "'seen', 'rates'"),
    ],
)
def test_what_is_lost_is_said_before_the_training(make, before, lost, tmp_path):
    fit(tmp_path, make(), Stop(3), before=before)
    with pytest.warns(UserWarning, match=f"{type(make()).__name__} begins anew with .*{lost}"):
        fit(tmp_path, Stop(3), make(), before=before)


def test_callbacks_without_a_state_are_not_mentioned(tmp_path):
    def fitted(*more):
        others = [
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        ]
        return fit(tmp_path, *others, *more)

    fitted(Stop(3))
    assert "begins anew" not in told(fitted)[1]


def test_a_run_that_was_ended_early_does_not_go_on_silently(tmp_path):
    def fitted(epochs=8):
        return fit(tmp_path, keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9), epochs=epochs)

    assert len(fitted().history.epoch) == 2
    with pytest.warns(
        UserWarning, match="`stop_training` ended the run .* after epoch 2, as EarlyStopping does. It goes on"
    ):
        fitted()
    assert "ended the run" not in told(lambda: fitted(epochs=3))[1]  # There is nothing left to train.


def fge(folder, **arguments):
    return keras_fge.FGE(0.05, 0.005, cycle_epochs=2, directory=folder, resume=True, **arguments)


@pytest.mark.parametrize("later", [None, (X_VAL, Y_VAL), (X, Y, np.linspace(0.5, 1.5, 48))])
@pytest.mark.parametrize("first", [None, (X, Y)])
def test_members_are_measured_on_the_validation_data_of_the_resume(first, later, tmp_path):
    fit(tmp_path, epochs=4, validation=first, make=fge)
    callbacks = []

    def resumed(folder):
        callbacks.append(fge(folder))
        return callbacks[0]

    same = first is None and later is None
    network, said = told(lambda: fit(tmp_path, epochs=8, validation=later, make=resumed))
    assert ("validation_data=" in said) == (not same)
    members = callbacks[0].snapshots
    assert len(members) == 4 and (later is None or len({frozenset(member.metrics) for member in members}) == 1)
    assert all(("member_error" in member.metrics) == (first is not None) for member in members[:2] if later is None)
    assert keras_fge.Ensemble.load(tmp_path).snapshots[0].metrics == members[0].metrics
    if later is not None:
        for k, member in enumerate(members):
            one = keras_fge.Ensemble(network, [member], False).evaluate(*later[:2], sample_weight=(*later, None)[2])
            several = keras_fge.Ensemble(network, members[: k + 1], False).evaluate(
                *later[:2], sample_weight=(*later, None)[2]
            )
            assert member.metrics["member_error"] == pytest.approx(one["error"], abs=1e-5)
            assert member.metrics["ensemble_nll"] == pytest.approx(several["nll"], abs=1e-5)
    callbacks[0].to_frame()
    callbacks[0].plot(tmp_path / "run.png")
    callbacks[0].to_html(tmp_path / "run.html")
    print(callbacks[0])


def test_validation_data_that_are_no_arrays(tmp_path):
    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return X, Y

    is_tensorflow = keras.backend.backend() == "tensorflow"  # There Keras takes sparse matrices, too.
    for name, data in (("data", Dataset()), *[("sparse", (scipy.sparse.csr_array(X), Y))][:is_tensorflow]):
        fit(tmp_path / name, epochs=1, validation=data)
        assert len(fit(tmp_path / name, epochs=2, validation=data).history.history["val_loss"]) == 2
    assert checksum_of_data((scipy.sparse.csr_array(X), Y)) == "csr_array"
    assert checksum_of_data(pd.DataFrame(X)) == "DataFrame"  # Neither true nor false.


def test_other_validation_data_of_a_checkpoint_are_said(tmp_path):
    fit(tmp_path, epochs=2, validation=(X, Y))
    with pytest.warns(UserWarning, match="began with validation_data=[0-9a-f]{16}, and goes on with None"):
        fit(tmp_path, epochs=3)


def test_many_changed_options_are_one_warning(tmp_path):
    def fitted(rate):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dropout(rate, seed=1) for _ in range(9)]
        network = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(2, "softmax")])
        network.compile("sgd", "sparse_categorical_crossentropy")
        checkpoint = keras_fge.Checkpoint(tmp_path)
        network.fit(checkpoint.batches(X, Y), epochs=1, verbose=0, callbacks=[checkpoint])

    fitted(0.1)
    said = told(lambda: fitted(0.2))[1]
    assert said.count("The run in") == 1 and said.count("goes on with") == 5 and "(And 4 more options" in said
