"""`FolderLock`: one training at a time in a folder, whichever processes and threads want it."""

import contextlib
import dataclasses
import errno
import os
import socket
import threading
import warnings
import weakref
from collections.abc import Iterator

from keras_fge.core.processes import is_chief, together

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nothing keeps two processes apart.
    fcntl = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class _Holder:
    path: str
    file: int
    thread: threading.Thread


_holders: dict[str, _Holder] = {}  # Of this process. A lock on a file keeps other processes out, not other threads.
_lock_of_holders = threading.RLock()  # Garbage may be collected, and so let go, in whatever the thread is doing here.


def _forget_after_fork():
    """A process that was forked trains nowhere: the locks stay with the one that has them."""
    global _lock_of_holders
    _lock_of_holders = threading.RLock()  # A thread that is not in this process may hold the other.
    for holder in _holders.values():
        with contextlib.suppress(OSError):
            os.close(holder.file)
    _holders.clear()


if os.name == "posix":
    os.register_at_fork(after_in_child=_forget_after_fork)


class FolderLock:
    """The right to train in a folder: held from `acquire` to `release`, or until the process dies.

    The lock belongs to the open file (`flock`): it stays when a backup opens and closes the same file, and in the
    process that forks another. A copy of this object, or a pickle, holds nothing.

    A `fit` that fails tells no callback. So what it holds goes over to the next training of its thread, or to any once
    the thread has ended, and is free once the callback is gone.

    Args:
        directory: The folder. While it is held it contains the file `fit.lock`.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = os.fspath(directory)
        self._holder: _Holder | None = None

    def __getstate__(self):
        return {"directory": self.directory, "_holder": None}

    @contextlib.contextmanager
    def acquired(self) -> Iterator[None]:
        """Acquires it before the block, and keeps it after the block unless that fails."""
        self.acquire()
        try:
            yield
        except BaseException:
            self.release()
            raise

    def acquire(self) -> None:
        """Makes the folder if it is not there, and takes the lock; on several JAX processes, the first one does.

        Raises:
            ValueError: if another process or thread trains in this folder.
            OSError: if the folder cannot be written.
        """
        with together():
            if is_chief():
                self._acquire()

    def _acquire(self):
        os.makedirs(self.directory, exist_ok=True)
        if fcntl is None:
            return
        path = os.path.join(os.path.realpath(self.directory), "fit.lock")
        with _lock_of_holders:
            holder = _holders.get(path)
            if holder:
                if holder.thread.is_alive() and holder.thread is not threading.current_thread():
                    raise self._busy(f"thread '{holder.thread.name}' of this process")
                _release(holder)
            file = self._lock(path)
            self._holder = _holders[path] = _Holder(path, file, threading.current_thread())
        weakref.finalize(self, _release, self._holder)

    def release(self) -> None:
        """Lets the next one in."""
        if self._holder:
            _release(self._holder)
            self._holder = None

    def check(self) -> None:
        """Raises a RuntimeError unless the folder of this name is the one in which the lock was acquired.

        Where nothing was acquired, as on Windows, nothing is checked.
        """
        if self._holder is None:
            return
        try:
            status = os.fstat(self._holder.file)
            if _holders.get(self._holder.path) is self._holder and os.path.samestat(
                status, os.stat(os.path.join(self.directory, "fit.lock"))
            ):
                return
        except OSError:
            pass
        raise RuntimeError(
            f"'{self.directory}' is not the folder, any more, in which this `fit` began: that was moved to "
            f"{_place(self._holder.file)}, or its file fit.lock was removed. Nothing has been written to what is there "
            "now. The run can go on from its folder, as of its last state."
        )

    def _lock(self, path):
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                name = os.read(file, 200).decode(errors="replace")
                os.close(file)
                raise self._busy(name or "another process") from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                warnings.warn(
                    f"The file system of '{path}' has no locks: let no two processes train there.", stacklevel=2
                )
                return file
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):  # Not removed by who held it before.
                    with contextlib.suppress(OSError):  # A full disk; the name is for people only.
                        os.ftruncate(file, 0)
                        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    return file
            os.close(file)

    def _busy(self, name):
        return ValueError(
            f"`directory`: {name} trains in '{self.directory}' at this moment. Wait for its end, or give another "
            "folder."
        )


def _release(holder):
    with _lock_of_holders:
        if _holders.get(holder.path) is not holder:
            return
        del _holders[holder.path]
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(holder.file), os.stat(holder.path)):
                os.unlink(holder.path)
        with contextlib.suppress(OSError):
            os.close(holder.file)


def _place(file):
    """The folder in which an open file is, as far as the system says."""
    try:
        return f"'{os.path.dirname(os.readlink(f'/proc/self/fd/{file}'))}'"
    except OSError:
        return "another place"
