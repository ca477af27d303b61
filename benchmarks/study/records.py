"""Records of measurements, a JSON line for each unit: what was run, on which machine, the wall time, the results."""

import contextlib
import datetime
import json
import math
import os
import pathlib
import platform
import time

from absl import app

from keras_fge.core.files import checksum, local_path, write_atomically
from study.machine import command, environment

try:
    import fcntl
except ImportError:  # Windows: one process at a time.
    fcntl = None


class Records:
    """The finished units of work in a folder.

    configuration.json    all that results depend on: flags, backend and data, the same for all records of a folder
    commands.jsonl        a line for each command that was given: all flags, versions, hardware
    records.jsonl         a line for each unit: metrics, time, checksums of its configuration, its command and itself
    failures.jsonl        a line for each unit that ended with an error of its own, and its message

    Lines are only ever added. Several processes may work in one folder. If two did the same unit, the first counts.

    Args:
        folder: Folder of these files; missing ones are created.
        configuration: Configuration of the program. Default: the one in the folder, for a report.

    Attributes:
        units: Records by the name of their unit: the arguments of `append`, and the command with its flags.

    Raises:
        ValueError: if a line is damaged, the folder has another configuration, or has none while none is given.
    """

    def __init__(self, folder, configuration=None):
        self.path = os.path.join(folder, "records.jsonl")
        self._commands_path = os.path.join(folder, "commands.jsonl")
        self._failures_path = os.path.join(folder, "failures.jsonl")
        path = os.path.join(folder, "configuration.json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                theirs = _parse(file.read(), f"{path} is no configuration, or a damaged one")
            self.configuration = theirs if configuration is None else configuration
            self._check(theirs, path)
            self.configuration = theirs  # Equal, but 1 and 1.0 have different checksums.
        elif configuration is None:
            raise ValueError(f"{folder} has no records yet: run some --experiment first.")
        else:
            self.configuration = configuration
            write_json(configuration, path)
        self.units, self._lines = {}, []
        self.read()

    def read(self):
        """Reads the records that were added, by any process."""
        lines = _lines(self.path)  # Read first: a command is written before its records.
        if lines[: len(self._lines)] != self._lines:  # Somebody removed a line.
            self.units, self._lines = {}, []
        if lines == self._lines:
            return
        commands = {}
        for number, line in enumerate(_lines(self._commands_path), 1):
            where = f"{self._commands_path}, line {number},"
            content = _parse(line, f"{where} is no command, or a damaged one.", ("command", "flags"))
            commands[checksum(content)] = content
        units = dict(self.units)
        for number, line in enumerate(lines[len(self._lines) :], 1 + len(self._lines)):
            where = f"{self.path}, line {number},"
            cure = "Remove that line: its unit will be done again, from its checkpoint if that is there."
            record = _parse(
                line, f"{where} is no record, or a damaged one. {cure}", ("unit", "metrics", "configuration", "command")
            )
            # Some that are committed were made before there were checksums.
            if record.pop("checksum", None) not in (None, checksum(record)):
                raise ValueError(f"{where} was changed: it does not have its checksum. {cure}")
            if record["configuration"] != checksum(self.configuration):
                raise ValueError(f"{where} ({record['unit']}) is of another configuration. Give another --output_dir.")
            if record["command"] not in commands:
                raise ValueError(f"{where} is of a command that is not in {self._commands_path}. {cure}")
            record = {**record, **commands[record["command"]], "configuration": self.configuration}
            units.setdefault(record["unit"], {**record, "metrics": _map(_to_nan, record["metrics"])})
        self.units, self._lines = units, lines

    def _check(self, theirs, where):
        differences = [
            f"--{name}={theirs.get(name)} there, {self.configuration.get(name)} here"
            for name in sorted(set(theirs) | set(self.configuration))
            if theirs.get(name) != self.configuration.get(name)
        ]
        if differences:
            raise ValueError(
                f"{where} is of another configuration: {'; '.join(differences)}. Give another --output_dir."
            )

    def __contains__(self, unit):
        return unit in self.units

    def add_failure(self, unit, error):
        """Notes that a unit ended with an error."""
        _append(self._failures_path, json.dumps({"unit": unit, "error": str(error), "time": time.time()}))

    def failures(self, since=0.0):
        """The last message of each unit that failed, at this time or later, and was not done since, by name."""
        lines = [json.loads(line) for line in _lines(self._failures_path)]
        return {x["unit"]: x["error"] for x in lines if x["unit"] not in self.units and x["time"] >= since}

    def metrics(self, unit):
        return self.units[unit]["metrics"]

    def of(self, experiment):
        """The records of one experiment, in the order of their seeds or names."""
        records = [record for record in self.units.values() if record["experiment"] == experiment]
        return sorted(records, key=lambda record: record["key"])

    def append(self, experiment, key, metrics, seconds, flags):
        """Adds the record of a unit, and syncs the file.

        Args:
            experiment, key: The unit: what was done, and with which seed, curve or runs.
            metrics: Dictionary that JSON can hold.
            seconds: Wall time of the unit in this process, without the time of earlier, interrupted processes.
            flags: Dictionary of all flags.
        """
        program = {"command": command(), "flags": flags, **environment()}
        line = json.dumps(program)
        if line.encode() not in _lines(self._commands_path):
            _append(self._commands_path, line)
        record = {
            "unit": unit_name(experiment, key),
            "experiment": experiment,
            "key": key,
            "metrics": _map(_to_null, metrics),
            "wall_seconds": round(seconds, 2),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "configuration": checksum(self.configuration),
            "command": checksum(program),
        }
        _append(self.path, json.dumps({**record, "checksum": checksum(record)}, allow_nan=False))
        self.read()


def _lines(path):
    """The complete lines of a file, as a list of bytes; an empty list if there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        return _whole_lines(file.read()).split(b"\n")[:-1]


def _append(path, line):
    """Adds a line to a file that other processes may write to, and syncs it."""
    with open(path, "ab+") as file, _exclusively(file):
        file.seek(0)
        content = file.read()
        whole = _whole_lines(content)
        file.truncate(min(len(whole), len(content)))
        file.write(whole[len(content) :] + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(content):
    """The content without an incomplete last line, which a killed process may have left."""
    end = content.rfind(b"\n") + 1
    try:
        json.JSONDecoder().raw_decode(content[end:].decode())
    except ValueError:
        return content[:end]
    return content + b"\n"  # A whole record, of which no more than the end of the line is missing or damaged.


def _parse(text, message, keys=()):
    try:
        content = json.loads(text)
        _ = [content[key] for key in keys] or content.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{message} ({error!r})") from error
    return content


def _map(function, value):
    """Applies a function to each value in a structure of dictionaries and lists."""
    if isinstance(value, dict):
        return {name: _map(function, part) for name, part in value.items()}
    if isinstance(value, list):
        return [_map(function, part) for part in value]
    return function(value)


def _to_null(value):
    """Turns NaN and infinity, which JSON cannot hold, into null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_nan(value):
    return math.nan if value is None else value


@contextlib.contextmanager
def _exclusively(file, wait=True):
    """Locks the file until the end of the block or process; yields False if another has it and `wait` is False."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(path, wait=True):
    """Keeps other processes from the same work; yields False if one is doing it and this one is not to wait.

    Who has the lock writes its host, process and time into the file; see `holder`.
    """
    with open(path, "a") as file, _exclusively(file, wait) as is_free:
        if is_free:
            file.truncate(0)
            file.write(json.dumps({"host": platform.node(), "process": os.getpid(), "since": time.time()}))
            file.flush()
        yield is_free


def holder(path):
    """{"host", "process", "since"} of who has the lock at `path`; None if nobody has, or on Windows."""
    with contextlib.suppress(OSError, ValueError), open(path) as file, _exclusively(file, wait=False) as is_free:
        return None if is_free else json.loads(file.read())
    return None


def unit_name(experiment, key):
    return f"{experiment} {' '.join(map(str, key))}"


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


def opened_record(path, settings, **contents):
    """The record in a file, to go on with; or, with its folder, a new one that holds `contents`."""
    path = pathlib.Path(local_path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    return json.loads(path.read_text()) if path.exists() else {**new_record(settings), **contents}


def refuse_another(path, record, **asked):
    """Raises an error, for the command line, unless these parts of the record in a file are as asked."""
    for part, value in asked.items():
        if record[part] != value:
            raise app.UsageError(f"'{path}' has other {part}: {record[part]}, not {value}.")


def name_of_data(record):
    """The name, to show, of the data that a record of small networks is about."""
    return {"folder": "CIFAR-10 (JPEG)"}.get(record["flags"]["dataset"], "Fashion-MNIST")


def write_json(record, path):
    """Writes it, and makes its folder."""
    os.makedirs(os.path.dirname(local_path(path)) or ".", exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
