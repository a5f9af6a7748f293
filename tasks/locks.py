"""One writer a folder: a lock that the system frees when its process dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedsilo.errors import OutputError


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold ``<folder>/.lock`` or refuse.

    Raises:
        OutputError: Another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(f"{folder} is in use by another run; wait for it or end it") from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
