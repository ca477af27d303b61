"""SIGTERM during a `fit`, as SLURM and Kubernetes send it: the epoch is finished, its state is written, `fit` ends."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import keras

from keras_fge.core.keras_internals import Fit
from keras_fge.core.processes import has_one_process


class Termination:
    """Waits for the signal while one `fit` runs in the main thread, unless the program handles it itself.

    Where JAX runs on several processes it does not: they would end after different epochs. A second signal ends the
    program at once.

    Attributes:
        is_requested: Whether the signal came.
    """

    def __init__(self):
        self.is_requested = False
        self._callbacks: Any = None  # Of the `fit`. Python's table of handlers keeps this object.
        self._process: int | None = None

    def watch(self, fit: Fit | None) -> None:
        """Begins to wait, in a `fit`; None: it could not be seen."""
        self.is_requested, self._callbacks, self._process = False, fit and fit.callbacks, os.getpid()
        present = signal.getsignal(signal.SIGTERM)
        is_ours = isinstance(getattr(present, "__self__", None), Termination)  # Of a fit that failed.
        if _is_main_thread() and has_one_process() and (is_ours or present is signal.SIG_DFL):
            signal.signal(signal.SIGTERM, self._note)

    def end(self, callback: keras.callbacks.Callback, message: str, logs: Any) -> None:
        """Ends the wait, in `on_train_end` of `callback`, and, if the signal came, the program, with its exit status.

        Before, it calls `on_train_end` of the callbacks that follow, and prints `message`.

        Raises:
            SystemExit: so that the program can still close what it has open.
        """
        listed = self._callbacks and self._callbacks()
        if _is_main_thread() and signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.is_requested:
            for other in listed.callbacks[listed.callbacks.index(callback) + 1 :] if listed else ():
                other.on_train_end(logs)
            print(message, file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> Any:
        # A fit that failed told nobody, but its list of callbacks is gone. A forked process is to end.
        goes_on = self._callbacks is None or self._callbacks() is not None
        if goes_on and not self.is_requested and os.getpid() == self._process:
            self.is_requested = True
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


def _is_main_thread():
    return threading.current_thread() is threading.main_thread()
