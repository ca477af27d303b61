"""Records of measurements: what was run, on what, how long it took, and what came out, one JSON line for each unit."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import sys

import keras

from curves.files import write_atomically

FILE = "records.jsonl"


class Records:
    """The finished units of work in a folder. Lines are only ever added.

    Several processes may work in one folder. Where two did the same unit, the first line counts.

    Args:
        folder: Has, or gets, the file "records.jsonl".
        configuration: The flags that all records of the folder must share, because results depend on them. Default:
            those of the first record, for a report.

    Raises:
        ValueError: if a line is damaged, or a record is of another configuration.
    """

    def __init__(self, folder, configuration=None):
        self.path = os.path.join(folder, FILE)
        self.units = {}
        for number, line in enumerate(self._lines(), 1):
            try:
                record = json.loads(line)
                unit, theirs = record["unit"], record["configuration"]
                _ = record["metrics"], record["experiment"], record["key"], record["data"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}, is no record, or a damaged one ({error!r}). Remove that line: its "
                    "unit will be done again, from its checkpoint if that is there."
                ) from error
            configuration = theirs if configuration is None else configuration
            differences = [
                f"--{name}={theirs.get(name)} there, {configuration.get(name)} here"
                for name in sorted(set(theirs) | set(configuration))
                if theirs.get(name) != configuration.get(name)
            ]
            if differences:
                raise ValueError(
                    f"{self.path}, line {number} ({unit}), is of another configuration: {'; '.join(differences)}. Give "
                    "another --output_dir."
                )
            self.units.setdefault(unit, record)
        self.configuration = configuration

    def _lines(self):
        if not os.path.exists(self.path):
            return []
        with open(self.path, "rb") as file:
            return file.read().splitlines()

    def __contains__(self, unit):
        return unit in self.units

    def metrics(self, unit):
        return self.units[unit]["metrics"]

    def of(self, experiment):
        """The records of one experiment, in the order of their seeds or names."""
        records = [record for record in self.units.values() if record["experiment"] == experiment]
        return sorted(records, key=lambda record: record["key"])

    def append(self, experiment, key, metrics, seconds, flags, data):
        """Adds the record of a unit, as a whole line in one write, and syncs it.

        Args:
            experiment, key: The unit: what was done, and with which seed, curve or runs.
            metrics: What JSON can hold.
            seconds: Wall time of the unit in this process: without what an interrupted one had done before.
            flags: All of them, by name.
            data: What is to be known of the data set.
        """
        unit = unit_name(experiment, key)
        record = {
            "unit": unit,
            "experiment": experiment,
            "key": key,
            "metrics": metrics,
            "wall_seconds": round(seconds, 2),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command(),
            "configuration": self.configuration,
            "flags": flags,
            "data": data,
            **environment(),
        }
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)
        if written != len(line):
            raise OSError(f"{self.path}: only {written} of {len(line)} bytes of the record of {unit} could be written.")
        self.units.setdefault(unit, record)


def unit_name(experiment, key):
    return f"{experiment} {' '.join(map(str, key))}"


def command():
    return " ".join(["python", *sys.argv])


def environment():
    """Versions and hardware, as far as they matter for numbers and times."""
    packages = ("keras-fge", "keras", keras.backend.backend(), "numpy", "scikit-learn")
    return {
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "device": accelerator() or _processor(),
        "cpus": os.cpu_count(),
    }


def _version(package):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # Run from a copy of the source.
        return importlib.metadata.version(package)


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


def new_record(settings):
    """The head of a record that is a file of its own, for measurements that are one unit of work."""
    return {
        "command": command(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        "flags": dict(vars(settings)),
        **environment(),
        "wall_seconds": {},
    }


def write_json(record, path):
    write_atomically(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
