"""Files that are written whole or not at all, arrays in them without pickle, and checksums."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes the bytes to `path`, which at any moment holds its old content or the new one, also after a power cut.

    Raises:
        OSError: if it cannot be written, as on a full disk. What was there before is untouched.
    """
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


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


def to_npz(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of an .npz file, which depend on nothing but the arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_npz(file: str | os.PathLike | IO[bytes], name: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays in an .npz file, a path or an open file; `name` is for the error message."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"'{name}' is no .npz file, or a damaged one. numpy says: {error}") from error
