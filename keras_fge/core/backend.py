"""Which backend Keras is to take, if it is not loaded yet and nobody has said so.

Keras takes that of KERAS_BACKEND, or of its configuration file, or TensorFlow, whatever is installed.
"""

import importlib.util
import json
import os
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def choose_backend() -> None:
    """Sets KERAS_BACKEND if Keras would take a backend that is not installed, and exactly one other is.

    Raises:
        ImportError: if none is installed, or several are and Keras would take another one. It names what to write.
    """
    if "keras" in sys.modules or "KERAS_BACKEND" in os.environ:
        return
    choice = _configured() or "tensorflow"
    if choice not in BACKENDS or _is_installed(choice):
        return
    installed = [name for name in BACKENDS if _is_installed(name)]
    if not installed:
        raise ImportError("Keras needs a backend, and none is installed: pip install tensorflow, or jax, or torch.")
    if len(installed) > 1:
        raise ImportError(
            f"Keras would take {choice}, which is not installed. There are {' and '.join(installed)}: write "
            f'`import os; os.environ["KERAS_BACKEND"] = "{installed[0]}"` before the first import of keras.'
        )
    os.environ["KERAS_BACKEND"] = installed[0]


def _configured():
    """The backend in Keras' configuration file, which Keras itself writes when it is first loaded; None without one."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return json.load(file).get("backend")
    except (OSError, ValueError, AttributeError):
        return None


def _is_installed(name):
    return importlib.util.find_spec(name) is not None
