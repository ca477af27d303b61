"""SIGTERM during a `fit`, as SLURM and Kubernetes send it: the epoch is finished, its state is written, `fit` ends."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import keras

from keras_fge.core.keras_internals import callbacks_around, fits_on_the_stack, has_one_process


class Termination:
    """Waits for the signal while one `fit` runs in the main thread, unless the program handles it itself.

    Where JAX runs on several processes it does not: they would end after different epochs.

    Attributes:
        is_requested: Whether the signal came.
    """

    def __init__(self):
        self.is_requested = False
        self._model: keras.Model | None = None
        self._process: int | None = None

    def watch(self, model: keras.Model) -> None:
        """Begins to wait, in the `fit` that `model` is in."""
        self.is_requested, self._model, self._process = False, model, os.getpid()
        present = signal.getsignal(signal.SIGTERM)
        is_ours = isinstance(getattr(present, "__self__", None), Termination)  # Of a fit that failed.
        if _is_main_thread() and has_one_process() and (is_ours or present is signal.SIG_DFL):
            signal.signal(signal.SIGTERM, self._note)

    def end(self, callback: Any, logs: Any) -> None:
        """Ends the wait, in `on_train_end` of `callback`, and, if the signal came, the program.

        It ends after `on_train_end` of the callbacks that follow, with a message that says from which `directory` of
        `callback` it goes on, and with the exit status of that signal.

        Raises:
            SystemExit: so that the program can still close what it has open.
        """
        self._model = None
        if _is_main_thread() and signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.is_requested:
            for other in callbacks_around(callback)[1]:
                other.on_train_end(logs)
            message = f"Ended by SIGTERM after epoch {callback.epoch + 1}: the same program goes on from"
            print(f"{message} '{callback.directory}'.", file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> Any:
        # A fit that failed told nobody, so only the stack says whether one still runs; that of a process which was
        # forked from it says so, too, but that one is to end.
        is_in_fit = any(variables["self"] is self._model for variables in fits_on_the_stack(frame))
        if is_in_fit and os.getpid() == self._process:
            self.is_requested = True
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


def _is_main_thread():
    return threading.current_thread() is threading.main_thread()
