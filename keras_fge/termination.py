"""SIGTERM during a `fit`, as SLURM and Kubernetes send it: the epoch is finished, its state is written, `fit` ends."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import keras


class Termination:
    """Waits for the signal while one `fit` runs in the main thread, unless the program handles it itself.

    Attributes:
        is_requested: Whether the signal came.
    """

    def __init__(self):
        self.is_requested = False
        self._model: keras.Model | None = None

    def watch(self, model: keras.Model) -> None:
        """Begins to wait, in the `fit` that `model` is in."""
        self.is_requested, self._model = False, model
        present = signal.getsignal(signal.SIGTERM)
        is_ours = isinstance(getattr(present, "__self__", None), Termination)  # Of a fit that failed.
        if threading.current_thread() is threading.main_thread() and (is_ours or present is signal.SIG_DFL):
            signal.signal(signal.SIGTERM, self._note)

    def end(self, message: str) -> None:
        """Ends the wait, and, if the signal came, the program: with `message` and the exit status of that signal.

        Raises:
            SystemExit: so that the program can still close what it has open.
        """
        self._model = None
        if signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.is_requested:
            print(message, file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> Any:
        # A fit that failed told nobody, so only the stack says whether one still runs.
        while frame is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is self._model is not None:
                self.is_requested = True
                return
            frame = frame.f_back
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
