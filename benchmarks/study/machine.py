"""Where a record is made, and by what: the command, versions of packages, and the hardware."""

import contextlib
import importlib.metadata
import os
import platform
import shlex
import sys

import keras


def command():
    """The command line of this process, to be given again."""
    module = sys.modules["__main__"].__spec__  # None: the program is a file, not `python -m ROOM.FILE`.
    program = ["-m", module.name] if module else sys.argv[:1]
    return f"KERAS_BACKEND={keras.backend.backend()} {shlex.join(['python', *program, *sys.argv[1:]])}"


def environment():
    """Versions and hardware, as far as they matter for numbers and times."""
    packages = ("keras-fge", "keras", keras.backend.backend(), "numpy", "scikit-learn")
    return {
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages} | {"keras": keras.__version__},  # Or a nightly build.
        "platform": platform.platform(),
        "device": accelerator() or _processor(),
        "cpus": os.cpu_count(),
    }


def _version(package):
    for name in (package, f"{package}-cpu"):  # TensorFlow without CUDA is another package.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # Not installed.
            return importlib.metadata.version(name)


def accelerator():
    """The name of the GPU or TPU that Keras computes on, or None."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else None


def _processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
