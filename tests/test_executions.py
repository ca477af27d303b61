"""Several steps in one execution: the same training as with one step, resumes, SIGTERM, and what is refused."""

import os
import signal

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import batch_norm_network, images, logits_loss, slow_on_tensorflow, values
from keras_fge.core.keras_internals import keras_version
from keras_fge.run.state import StateFile

BACKEND = keras.backend.backend()
if BACKEND == "torch" and keras_version() < (3, 16):
    pytest.skip("Keras allows no steps_per_execution on torch before 3.16", allow_module_level=True)
# On JAX, Keras runs the steps one by one before 3.16, and a scan may be compiled otherwise.
ARE_SAME_BITS = BACKEND == "torch" or (BACKEND == "jax" and keras_version() < (3, 16))
pytestmark = pytest.mark.filterwarnings("ignore:.*convolutions are many times slower:UserWarning")
X, Y = images(60)  # An epoch has 6 batches of 10.
MAKE = {
    "FGE": lambda folder: keras_fge.FGE(0.02, 0.001, cycle_steps=12, directory=folder, resume=folder is not None),
    "SnapshotEnsemble": lambda folder: keras_fge.SnapshotEnsemble(
        0.02, cycle_steps=9, directory=folder, resume=folder is not None
    ),
    "Checkpoint": lambda folder: keras_fge.Checkpoint(folder) if folder else None,
}


def train(kind, steps_per_execution, *callbacks, folder=None):
    """(model, callback, History) after four epochs."""
    keras.utils.set_random_seed(0)
    model = batch_norm_network()
    if kind == "curve":
        model = curves.connect(model, batch_norm_network(), seed=0)
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    model.compile(optimizer, logits_loss(), metrics=["accuracy"], steps_per_execution=steps_per_execution)
    ours = MAKE[kind](folder) if kind in MAKE else None
    data = {"shuffle": False, "batch_size": 10, "validation_data": (X[:25], Y[:25])}
    history = model.fit(X, Y, epochs=4, verbose=0, callbacks=[*filter(None, [ours]), *callbacks], **data)
    return model, ours, history


def assert_equal(ours, theirs, are_bits):
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b) if are_bits else a == pytest.approx(b, rel=1e-5, abs=1e-6)


SLOW = pytest.param("SnapshotEnsemble", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["FGE", SLOW, "curve"])
def test_several_steps_are_those_steps(kind):
    """On TensorFlow and, from 3.16 on, on JAX, they are one loop, which a compiler may treat otherwise."""
    model, ours, history = train(kind, 3)
    other, theirs, expected = train(kind, 1)
    assert_equal(values(model.variables), values(other.variables), ARE_SAME_BITS)
    assert_equal(values(model.optimizer.variables), values(other.optimizer.variables), ARE_SAME_BITS)
    assert set(history.history) == set(expected.history)
    for name, column in history.history.items():
        assert column == pytest.approx(expected.history[name], rel=1e-5, abs=1e-6, nan_ok=True)
    if ours:
        assert [s.step for s in ours.snapshots] == [s.step for s in theirs.snapshots] and len(ours.snapshots) >= 2
        for a, b in zip(ours.snapshots, theirs.snapshots):
            assert_equal(a.weights, b.weights, ARE_SAME_BITS)
            assert a.metrics == pytest.approx(b.metrics, rel=1e-4)


class Break(keras.callbacks.Callback):
    """Ends a training in its third epoch: by an error in the middle, or by SIGTERM, after which the epoch ends."""

    def __init__(self, how):
        super().__init__()
        self.how, self.epochs = how, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1

    def on_train_batch_begin(self, batch, logs=None):
        if self.epochs == 3 and batch >= 3:
            self.epochs += 1
            if self.how == "error":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("FGE", "SIGTERM"),
        pytest.param("SnapshotEnsemble", "error", marks=slow_on_tensorflow),
        pytest.param("FGE", "error", marks=pytest.mark.slow),
        pytest.param("Checkpoint", "error", marks=pytest.mark.slow),
    ],
)
def test_a_resume_has_the_same_bits(kind, how, tmp_path, monkeypatch):
    """After two epochs of six steps, FGE is at the end of a cycle, SnapshotEnsemble in the middle of one."""
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)
    model, ours, _ = train(kind, 3, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt if how == "error" else SystemExit):
        train(kind, 3, Break(how), folder=tmp_path / "parts")
    other, theirs, history = train(kind, 3, folder=tmp_path / "parts")
    assert history.epoch == [0, 1, 2, 3]
    assert_equal(values(model.variables), values(other.variables), True)
    assert_equal(values(model.optimizer.variables), values(other.optimizer.variables), True)
    for a, b in zip(*(c.snapshots for c in (ours, theirs)), strict=True) if kind != "Checkpoint" else ():
        assert_equal(a.weights, b.weights, True)


@slow_on_tensorflow
def test_a_last_execution_with_less_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)
    model, _, _ = train("plain", 4)
    with pytest.raises(KeyboardInterrupt):
        train("Checkpoint", 4, Break("error"), folder=tmp_path)
    other, _, _ = train("Checkpoint", 4, folder=tmp_path)
    assert_equal(values(model.variables), values(other.variables), True)


def batches():
    while True:
        yield X[:10], Y[:10]


@pytest.mark.parametrize("steps", [None, 6])
def test_epochs_of_unknown_length(steps):
    model = batch_norm_network()
    model.compile("sgd", logits_loss(), steps_per_execution=3)
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=12)
    data = batches() if steps else (batch for batch, _ in zip(batches(), range(6)))
    arguments = {"steps_per_epoch": steps, "epochs": 2, "verbose": 0, "callbacks": [fge]}
    if steps:
        model.fit(data, **arguments)
        assert [snapshot.step for snapshot in fge.snapshots] == [6]
        return
    before = model.get_weights()
    with pytest.raises(
        ValueError, match=r"length of an epoch is not known.*pass `steps_per_epoch` to `fit`, or compile"
    ):
        model.fit(data, **arguments)
    assert_equal(model.get_weights(), before, True)


@slow_on_tensorflow
@pytest.mark.parametrize("kind", ["FGE", "curve"])
@pytest.mark.filterwarnings("default:.*convolutions are many times slower:UserWarning")
def test_a_scan_on_a_cpu_is_slow(kind, recwarn):
    train(kind, 3)
    warns = BACKEND == "jax" and keras_version() >= (3, 16)
    assert sum("convolutions are many times slower on a CPU" in str(w.message) for w in recwarn) == warns
