"""Programs in processes of their own, forked from one that has imported Keras: importing it takes seconds."""

import dataclasses
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["keras", "keras_fge", "curves"])  # No operation runs there: no thread is forked.


@dataclasses.dataclass(frozen=True)
class Ended:
    """What `subprocess.CompletedProcess` would say."""

    returncode: int
    stdout: str
    stderr: str


def run(program, *arguments):
    """Runs the source of a program with `sys.argv[1:]`, in the project's root."""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = CONTEXT.Process(target=_execute, args=(program, arguments, files))
        process.start()
        process.join()
        return Ended(process.exitcode, *(pathlib.Path(file).read_text() for file in files))


def _execute(program, arguments, files):
    for stream, file in zip((1, 2), files):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
    os.chdir(ROOT)
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})
