"""What must outlast a power cut: names of new files too, which a folder holds."""

import os
from pathlib import Path

from fedsilo.errors import OutputError


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that files that were made or renamed in it are there after a power cut.

    Raises:
        OutputError: The disk failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot sync {folder}: {error.strerror or error}") from None


def read_at(handle: int, start: int, end: int) -> bytes:
    """Read the bytes of an open file from ``start`` to ``end``, or to where it ends; one call gives 2 GiB at most."""
    parts = []
    while start < end and (part := os.pread(handle, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)
