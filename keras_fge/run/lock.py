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

from keras_fge.core.keras_internals import is_chief

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nothing keeps two processes apart.
    fcntl = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class _Holder:
    path: str
    file: int
    thread: threading.Thread
    process: int


_holders: dict[str, _Holder] = {}  # Of this process. A lock on a file keeps other processes out, not other threads.
_lock_of_holders = threading.RLock()  # Garbage may be collected, and so let go, in whatever the thread is doing here.


class FolderLock:
    """The right to train in a folder: held from `acquire` to `release`, or until the process dies.

    A `fit` that fails tells no callback. So what it holds goes over to the next training of its thread, or to any once
    the thread has ended, and is free once the callback is gone.

    Args:
        directory: The folder. While it is held it contains the file `fit.lock`.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = os.fspath(directory)
        self._holder: _Holder | None = None

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
        if not is_chief() or fcntl is None:
            return
        os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(os.path.realpath(self.directory), "fit.lock")
        with _lock_of_holders:
            holder = _holders.get(path)
            if holder:
                is_here = holder.process == os.getpid() and holder.thread.is_alive()
                if is_here and holder.thread is not threading.current_thread():
                    raise self._busy(f"thread '{holder.thread.name}' of this process")
                _release(holder)
            file = self._lock(path)
            self._holder = _holders[path] = _Holder(path, file, threading.current_thread(), os.getpid())
        weakref.finalize(self, _release, self._holder)

    def release(self) -> None:
        """Lets the next one in."""
        if self._holder:
            _release(self._holder)
            self._holder = None

    def _lock(self, path):
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        # In a process that was forked from the one that holds it, it is not ours.
        with contextlib.suppress(OSError):
            if holder.process == os.getpid() and os.path.samestat(os.fstat(holder.file), os.stat(holder.path)):
                os.unlink(holder.path)
        with contextlib.suppress(OSError):
            os.close(holder.file)
