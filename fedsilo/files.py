"""Files that are whole or absent: written under a temporary name, synced, then moved into place."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from fedsilo.errors import DataError, OutputError

CHUNK_BYTES = 1 << 20


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write a file through ``write(handle)`` so that a reader sees the old file or the whole new one.

    Parent folders are made. Any failure of the disk (no space, no permission) leaves the old file untouched.

    Raises:
        OutputError: The folder cannot be made or written; names the path and the system's reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() and os.access(temporary.parent, os.W_OK) else None
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def sync_folder(folder: Path) -> None:
    """Make what was moved into a folder outlive a loss of power.

    Raises:
        OSError: The disk failed.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place_folder(building: Path, folder: Path) -> Path:
    """Put a folder that is whole in the place of another, which goes once the new one is there.

    Raises:
        OutputError: The place cannot be written.
    """
    replaced = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        if folder.exists():
            folder.rename(replaced)
        building.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes atomically."""
    return write_atomic(path, lambda handle: handle.write(content))


def write_text(path: Path, content: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, object] | list[object]) -> Path:
    """Write JSON atomically: sorted keys, two spaces, no NaN or infinity, a final newline."""
    return write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        DataError: The file is missing, not JSON or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"cannot use {path}: expected a JSON object, got {type(content).__name__}")
    return content


def sha256_file(path: Path) -> str:
    """Hash a file's bytes; hex."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
