"""Two trainings in one folder: one at a time, on the data that it began with."""

import gc
import os
import shutil
import threading
import time

import keras
import numpy as np
import pytest

import keras_fge
import processes
from conftest import SLOW_BUT_ON_TORCH, batch_norm_network, images, logits_loss, values
from keras_fge.run.lock import FolderLock, _lock_of_holders
from keras_fge.run.state import StateFile

pytestmark = SLOW_BUT_ON_TORCH


def network():
    keras.utils.set_random_seed(0)
    model = batch_norm_network()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
    return model


def callback(kind, directory):
    if kind == "checkpoint":
        return keras_fge.Checkpoint(directory)
    return keras_fge.FGE(0.02, 0.002, cycle_steps=4, directory=directory, resume=True)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)


def hold(folder, held):
    lock = FolderLock(folder)
    lock.acquire()
    held.set()
    time.sleep(60)


@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
def test_another_process_is_named_until_it_ends(tmp_path, kind):
    held = processes.CONTEXT.Event()
    other = processes.CONTEXT.Process(target=hold, args=(str(tmp_path), held), daemon=True)
    other.start()
    assert held.wait(60)
    model = network()
    before = values(model.weights)
    with pytest.raises(ValueError, match=rf"`directory`: process {other.pid} on .* trains in '{tmp_path}'"):
        model.fit(*images(), verbose=0, callbacks=[callback(kind, tmp_path)])
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.weights)))
    other.kill()  # No chance to tidy up.
    other.join()
    fge = callback(kind, tmp_path)
    model.fit(*images(), batch_size=10, verbose=0, callbacks=[fge])
    assert "fit.lock" not in os.listdir(tmp_path)


def test_another_thread_waits_for_the_end_of_a_fit(tmp_path):
    is_in, may_go_on = threading.Event(), threading.Event()

    class Pause(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            is_in.set()
            may_go_on.wait(60)

    def fit(*others):
        return network().fit(*images(), verbose=0, callbacks=[*others, keras_fge.Checkpoint(tmp_path)])

    thread = threading.Thread(target=fit, args=[Pause()], name="first")
    thread.start()
    is_in.wait(60)
    try:
        with pytest.raises(ValueError, match="thread 'first' of this process trains in"):
            fit()
    finally:
        may_go_on.set()
        thread.join()
    assert fit().epoch == [0]  # As the folder says: nothing is left to do.


def test_a_fit_that_failed_keeps_nobody_out_for_long(tmp_path):
    class Fail(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise KeyboardInterrupt

    model, checkpoint = network(), keras_fge.Checkpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*images(), verbose=0, callbacks=[checkpoint, Fail()])
    assert "fit.lock" in os.listdir(tmp_path)
    other = keras_fge.Checkpoint(tmp_path)
    model.fit(*images(), verbose=0, callbacks=[other])  # The same thread can go on.
    assert "fit.lock" not in os.listdir(tmp_path)
    lock = FolderLock(tmp_path)
    lock.acquire()
    del lock  # As of a callback that nobody holds any more.
    gc.collect()
    assert "fit.lock" not in os.listdir(tmp_path)


def test_garbage_that_is_collected_at_a_bad_moment(tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    locks = [lock]
    del lock

    def collect():
        with _lock_of_holders:  # As inside `acquire` of another folder.
            locks.clear()
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive() and "fit.lock" not in os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds a run on other batches: their seed is 0, here it is 1"),
        ({"batch_size": 14}, "their batch_size is 13, here it is 14"),
        ({"x": 1}, "their data is [0-9a-f]{16}, here it is"),
        ({"y": 1}, "their data is [0-9a-f]{16}, here it is"),
        ({}, None),
    ],
)
def test_a_resume_takes_the_same_batches(tmp_path, kind, change, message):
    def fit(epochs, x=0, y=0, **arguments):
        images_, labels = images()
        images_[7, 2, 2, 1] += x
        labels[-1] = (labels[-1] + y) % 3
        resumed = callback(kind, tmp_path)
        batches = resumed.batches(images_, labels, **{"batch_size": 13, "seed": 0, **arguments})
        return model.fit(batches, epochs=epochs, verbose=0, callbacks=[resumed])

    model = network()
    fit(2)
    before = values(model.weights)
    about = StateFile(tmp_path).read().counters["batches"]
    assert about["seed"] == 0 and about["batch_size"] == 13
    if message is None:
        assert fit(3, **change).epoch[-1] == 2
        return
    with pytest.raises(ValueError, match=message):
        fit(3, **change)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.weights)))


def test_numbers_of_numpy_are_batch_sizes(tmp_path):
    fge = callback("fge", tmp_path)
    batches = fge.batches(*images(), batch_size=np.int64(8), seed=np.uint8(3))
    network().fit(batches, verbose=0, callbacks=[fge])
    assert len(keras_fge.Ensemble.load(tmp_path)) == 2


class At(keras.callbacks.Callback):
    def __init__(self, epoch, action):
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.action()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
@pytest.mark.parametrize("comes_after", ["a run", "nothing", "a link"])
def test_a_run_writes_only_into_the_folder_in_which_it_began(tmp_path, kind, comes_after):
    """Its folder is moved at the begin of epoch 2: what is there then stays as it is, and the run can go on."""
    here, moved, other = tmp_path / "run", tmp_path / "moved", tmp_path / "other"

    def fit(epochs, directory, *others):
        resumed = callback(kind, directory)
        model = network()
        model.fit(resumed.batches(*images()), epochs=epochs, verbose=0, callbacks=[*others, resumed])
        return values(model.weights)

    def move():
        here.rename(moved)
        if comes_after == "a run":
            shutil.copytree(other, here)
        elif comes_after == "a link":
            here.symlink_to(other)

    fit(1, other)
    before = contents(other)
    with pytest.raises(RuntimeError, match=f"'{here}' is not the folder, any more, .* moved to '{moved}'"):
        fit(4, here, At(2, move))
    assert contents(other) == before and (comes_after != "a run" or contents(here) == before)
    assert here.exists() == (comes_after != "nothing")
    assert all(np.array_equal(*pair) for pair in zip(fit(4, moved), fit(4, tmp_path / "whole")))


ATTEMPT = """
import sys
from keras_fge.run.lock import FolderLock
try:
    FolderLock(sys.argv[1]).acquire()
    print("acquired")
except ValueError as error:
    print(error)
"""


def test_a_backup_of_the_lock_leaves_it(tmp_path):
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    shutil.copytree(tmp_path / "run", tmp_path / "backup")  # A lock of POSIX is gone once any such file is closed.
    assert f"process {os.getpid()} on" in processes.run(ATTEMPT, str(tmp_path / "run")).stdout
    lock.check()
    lock.release()
    assert processes.run(ATTEMPT, str(tmp_path / "run")).stdout == "acquired\n"


FORKED = """
import os, sys, threading
from keras_fge.run.lock import FolderLock, _lock_of_holders

lock, mine, is_in, may_go_on = FolderLock(sys.argv[1]), FolderLock(sys.argv[2]), threading.Event(), threading.Event()
lock.acquire()

def hold():
    with _lock_of_holders:
        is_in.set()
        may_go_on.wait()

thread = threading.Thread(target=hold)
thread.start()
is_in.wait()
if (child := os.fork()) == 0:
    mine.acquire()
    mine.release()
    try:
        FolderLock(sys.argv[1]).acquire()
    except ValueError as error:
        print(error, flush=True)
    lock.release()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
may_go_on.set()
thread.join()
lock.check()
lock.release()
"""


def test_a_process_that_was_forked_neither_holds_nor_releases(tmp_path):
    ended = processes.run(FORKED, str(tmp_path / "run"), str(tmp_path / "mine"))
    assert ended.returncode == 0 and "process" in ended.stdout and "trains in" in ended.stdout, ended
    assert not (tmp_path / "run/fit.lock").exists()


@pytest.mark.parametrize("moment", ["later", "earlier"])
def test_a_copy_of_two_moments_of_a_run_is_refused(tmp_path, moment):
    """The manifest is of the begin of epoch 2, the other files of the begin of epoch 4."""
    run, copy = tmp_path / "run", tmp_path / "copy"
    first, second = (lambda name: name == "manifest.json"), (lambda name: name not in ("manifest.json", "fit.lock"))
    if moment == "earlier":
        first, second = (lambda name: name == "state.npz"), (lambda name: name not in ("state.npz", "fit.lock"))

    def copied(choose):
        copy.mkdir(exist_ok=True)
        for name in filter(choose, os.listdir(run)):
            shutil.copy(run / name, copy)

    fge = callback("fge", run)
    others = [At(2, lambda: copied(first)), At(4, lambda: copied(second))]
    network().fit(fge.batches(*images()), epochs=5, verbose=0, callbacks=[*others, fge])
    resumed = callback("fge", copy)
    if moment == "earlier":  # As of a run that ended between member and state: what is missing is made again.
        network().fit(resumed.batches(*images()), epochs=5, verbose=0, callbacks=[resumed])
        assert len(resumed.snapshots) == len(fge.snapshots)
        assert all(np.array_equal(*pair) for pair in zip(resumed.snapshots[-1].weights, fge.snapshots[-1].weights))
        return
    with pytest.raises(ValueError, match=r"of two moments of a run.* list 2 and 1 members"):
        network().fit(resumed.batches(*images()), epochs=5, verbose=0, callbacks=[resumed])
