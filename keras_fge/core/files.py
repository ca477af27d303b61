"""Files that are written whole or not at all, and checked as they are read; arrays without pickle; checksums."""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

# Of a process that is writing: the name of the file, the process, and a random number.
TEMPORARY = re.compile(r"(?P<file>.+?)\.(?P<process>\d+)\.[0-9a-f]{16}\.tmp(\.keras)?")
_being_written: set[str] = set()
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+._:-]+:/.*", re.DOTALL)  # As pathlib leaves it; not a drive: "C:/".


def local_path(path: str | os.PathLike) -> str:
    """The path, as text.

    Raises:
        ValueError: if it is the address of an object store. By itself it would be taken for a folder named "s3:".
    """
    path = os.fspath(path)
    if ADDRESS.fullmatch(path):
        raise ValueError(
            f"'{path}' is an address, not a place in a file system. Object stores have no locks, and nothing there "
            "tells one run that another one writes: give a local folder (one of this very name as './name'), and copy "
            "it whole, before and after. With fsspec: `fs, at = fsspec.url_to_fs(address)`, then "
            "`fs.get(at + '/', 'folder/', recursive=True)` or `fs.put('folder/', at + '/', recursive=True)`."
        )
    return path


@contextlib.contextmanager
def temporary_name(path: str | os.PathLike, ending: str = "") -> Iterator[str]:
    """A name for a file that is to become `path`; what is left under it at the end of the block is removed."""
    name = f"{os.fspath(path)}.{os.getpid()}.{secrets.token_hex(8)}.tmp{ending}"
    _being_written.add(os.path.basename(name))
    try:
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        _being_written.discard(os.path.basename(name))


def remove_leftovers(folder: str | os.PathLike, is_ours: Callable[[str], bool]) -> None:
    """Removes what a process that was killed had not finished writing.

    Args:
        folder: Where to look.
        is_ours: Whether a file of this name is one that we write.
    """
    for entry in os.scandir(os.fspath(folder)):
        match = TEMPORARY.fullmatch(entry.name)
        if not match or not is_ours(match["file"]) or not entry.is_file(follow_symlinks=False):
            continue
        if entry.name not in _being_written and not _runs(int(match["process"])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)


def _runs(process):
    """Whether another process of this number runs here; if that cannot be known, yes."""
    if process == os.getpid():
        return False  # It was one of the same number, as in a container that was started again.
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def always_right() -> None:
    """The check of a place that nobody can take away."""


def write_atomically(path: str | os.PathLike, content: bytes, check: Callable[[], None] = always_right) -> None:
    """Writes the bytes to `path`, which at any moment holds its old content or the new one, also after a power cut.

    Args:
        path: The file.
        content: What is to be in it.
        check: Raises an error if this is not the place to write to, any more. Called before the file is made, and
            before it becomes `path`.

    Raises:
        OSError: if it cannot be written, as on a full disk. What was there before is untouched.
    """
    check()
    with temporary_name(local_path(path)) as temporary:
        try:
            # No file or link that is there already is written to.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            with open(temporary, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            check()
            replace(temporary, path)
        except OSError as error:
            text = f"{error.strerror or error}, writing {len(content):,} bytes"
            raise OSError(error.errno, text, os.fspath(path)) from error


def replace(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Moves a file, already written and synced, to `path`, and syncs the folder."""
    os.replace(temporary, path)
    if os.name == "posix":  # Elsewhere, folders cannot be opened.
        folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def checksum(description: Any) -> str:
    """SHA-256 of what JSON can hold, or of the text of anything else, shortened."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:16]


def checksum_of_arrays(arrays: Iterable[Any]) -> str:
    """SHA-256 of the types, shapes and values of arrays, shortened."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode())
        if array.dtype.hasobject:  # Texts.
            digest.update(repr(array.tolist()).encode())
        elif array.size:
            digest.update(array.view(np.uint8).data)
    return digest.hexdigest()[:16]


def to_npz(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of an .npz file, which depend on nothing but the arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@contextlib.contextmanager
def naming(folder: str | os.PathLike) -> Iterator[None]:
    """Inside, a ValueError about what was read from `folder` names it."""
    try:
        yield
    except ValueError as error:
        if os.fspath(folder) in str(error):
            raise
        raise ValueError(f"'{os.fspath(folder)}' holds something else, or is damaged. {error}") from error


def read_bytes(
    path: str | os.PathLike, size: int | None = None, sha256: str | None = None, *, follows: bool = True
) -> bytes:
    """The content of a file.

    Args:
        path: The file. Devices and pipes are refused: they have no end.
        size: What its size must be, if that is known.
        sha256: What its checksum must be, if that is known.
        follows: Whether it may be a link out of its folder. Default: yes.

    Raises:
        ValueError: if it is no regular file, or not what was written; or an address of an object store.
        FileNotFoundError: if there is none.
    """
    status = os.stat(local_path(path))
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    if not follows and os.path.dirname(os.path.realpath(path)) != folder:
        raise ValueError(
            f"'{os.fspath(path)}' is a link out of its folder, which is not followed. Copy the folder with what its "
            "links point to (`cp -rL`), or download it with `local_dir=`."
        )
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"'{os.fspath(path)}' is no regular file.")
    if size is not None and status.st_size != size:
        raise ValueError(f"'{os.fspath(path)}' is damaged: it has {status.st_size:,} bytes instead of {size:,}.")
    with open(path, "rb") as file:
        content = file.read()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"'{os.fspath(path)}' is damaged: it is not what was written (by its SHA-256).")
    return content


def read_npz(file: str | os.PathLike | bytes, name: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays in an .npz file as `to_npz` makes it, without compression: it takes no more memory than its size.

    Args:
        file: Path or content of the file.
        name: The file, for the error.

    Raises:
        ValueError: if it is no such file, or a damaged one.
    """
    content = file if isinstance(file, bytes) else read_bytes(file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {entry.filename.removesuffix(".npy"): _read_array(archive, entry) for entry in archive.infolist()}
    except Exception as error:  # zipfile and numpy raise errors of a dozen kinds.
        raise ValueError(f"'{os.fspath(name)}' is no .npz file, or a damaged one. {error!r}") from error


def check_keras_file(content: bytes, path: str | os.PathLike) -> None:
    """Raises a ValueError if a .keras file is damaged, or would unfold to more than its size: those of Keras do not.

    (What its configuration asks for, such as a layer of any width, is made all the same.)
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{entry.filename} is compressed, which Keras never does")
                if entry.filename.endswith(".h5"):
                    _check_stored(io.BytesIO(archive.read(entry)), entry.filename)
    except Exception as error:  # zipfile and h5py raise errors of a dozen kinds.
        raise ValueError(f"'{os.fspath(path)}' is no file of Keras, or a damaged one. {error!r}") from error


def _check_stored(file, name):
    """Raises a ValueError unless each array in an HDF5 file takes the bytes that it announces."""
    import h5py

    def check(path, item):
        if isinstance(item, h5py.Dataset) and item.id.get_storage_size() < item.nbytes:
            raise ValueError(
                f"{path} in {name} announces {item.nbytes:,} bytes, and has {item.id.get_storage_size():,}"
            )

    with h5py.File(file, "r") as arrays:
        arrays.visititems(check)  # Links out of the file are not visited, and Keras does not follow them.


def _read_array(archive, entry):
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed, which we never write")
    content = io.BytesIO(archive.read(entry))  # It compares the checksum.
    version = np.lib.format.read_magic(content)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, kind = read_header(content)
    size = len(content.getbuffer()) - content.tell()
    if kind.hasobject or math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"{entry.filename} announces {shape} of {kind}, but has {size} bytes")
    content.seek(0)
    return np.load(content, allow_pickle=False)
