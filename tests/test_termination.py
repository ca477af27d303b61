"""SIGTERM: the epoch is finished and its state written, `fit` ends, and the same program goes on from there."""

import os
import signal

import keras
import pytest

import keras_fge
import killed
from conftest import batch_norm_network, images, logits_loss, slow_but_on_torch
from keras_fge.run.termination import Termination

PROGRAM = (
    """
class Terminate(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if self.model.history.epoch == [0] and batch == 1 and int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGTERM)

network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
saver = {"fge": lambda: keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=folder, resume=True),
         "checkpoint": lambda: keras_fge.Checkpoint(folder)}[KIND]()
try:
    network.fit(saver.batches(x, y, batch_size=13), epochs=4, verbose=0, callbacks=[Terminate(), saver])
finally:
    print("closed", len(network.history.epoch))
"""
    + killed.SAVE
)


@slow_but_on_torch
@pytest.mark.parametrize("kind", ["fge", "checkpoint"])
def test_the_epoch_is_finished_and_the_program_goes_on_from_there(tmp_path, kind):
    program = f"KIND = {kind!r}\n{PROGRAM}"
    expected = killed.run(program, tmp_path / "whole")
    assert expected.returncode == 0, expected.stderr
    result = killed.run(program, tmp_path / "parts", kill=-1)
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert result.stdout == "closed 2\n"  # It was the second epoch.
    assert f"Ended by SIGTERM after epoch 2: the same program goes on from '{tmp_path / 'parts'}'." in result.stderr
    result = killed.run(program, tmp_path / "parts", seed=1)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "parts/end.npz").read_bytes() == (tmp_path / "whole/end.npz").read_bytes()


@slow_but_on_torch
def test_callbacks_that_follow_are_closed(tmp_path):
    program = """
class Last(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        print("closed", flush=True)

class Terminate(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        os.kill(os.getpid(), signal.SIGTERM)

network.compile("sgd", logits_loss())
network.fit(x, y, epochs=2, verbose=0, callbacks=[Terminate(), keras_fge.Checkpoint(folder), Last()])
"""
    result = killed.run(program, tmp_path)
    assert result.returncode == 128 + signal.SIGTERM and result.stdout == "closed\n", result.stderr


@slow_but_on_torch
def test_a_process_that_was_forked_in_a_fit_ends_at_once(tmp_path):
    program = """
import time

class Fork(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        time.sleep(0.5)
        os.kill(child, signal.SIGTERM)
        status = os.waitpid(child, 0)[1]
        print(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, flush=True)

network.compile("sgd", logits_loss())
network.fit(x, y, verbose=0, callbacks=[keras_fge.Checkpoint(folder), Fork()])
"""
    result = killed.run(program, tmp_path)
    assert result.returncode == 0 and result.stdout.startswith("True\n"), result.stderr


@slow_but_on_torch
def test_a_second_signal_ends_the_program_at_once(tmp_path):
    program = """
class Terminate(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        print(batch, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

network.compile("sgd", logits_loss())
network.fit(x, y, batch_size=10, verbose=0, callbacks=[keras_fge.Checkpoint(folder), Terminate()])
"""
    result = killed.run(program, tmp_path)
    assert result.returncode == -signal.SIGTERM and result.stdout == "0\n1\n"


def test_outside_of_a_fit_the_signal_ends_the_process_as_ever(tmp_path):
    program = """
class Fail(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        raise KeyboardInterrupt

network.compile("sgd", logits_loss())
try:
    network.fit(x, y, verbose=0, callbacks=[keras_fge.Checkpoint(folder), Fail()])
except KeyboardInterrupt:
    print("failed", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""
    result = killed.run(program, tmp_path)
    assert result.returncode == -signal.SIGTERM and result.stdout == "failed\n"


def test_a_handler_of_the_program_stays(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        model = batch_norm_network()
        model.compile("sgd", logits_loss())

        class Terminate(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                os.kill(os.getpid(), signal.SIGTERM)

        history = model.fit(
            *images(), epochs=2, verbose=0, callbacks=[Terminate(), keras_fge.Checkpoint(tmp_path / "run")]
        )
        assert received == [1, 1] and history.epoch == [0, 1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_afterwards_the_signal_means_what_it_did():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Fits of other tests that failed may have left theirs.
    try:
        termination = Termination()
        termination.watch(None)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        termination.end(keras.callbacks.Callback(), "a message", None)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
