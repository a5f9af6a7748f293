"""Which code, lock files and libraries a run is made with."""

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from fedsilo import files
from fedsilo.audit.events import Environment

CODE = Path(__file__).resolve().parents[1]
MADE = (":(exclude)reports", ":(exclude,glob)**/dvc.lock", ":(exclude)dvc.lock")
"""What phases write and git keeps: it does not make the code dirty."""


def installed() -> str:
    """Give the version of our code that is installed."""
    return version("fedsilo")


def commit(folder: Path, *paths: str) -> tuple[str | None, bool]:
    """Say which commit a folder is at, and whether tracked files, or those among ``paths``, differ from it."""
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *(paths or (".",)))
    return _git(folder, "rev-parse", "HEAD"), bool(changes)


def environment(lock: Path) -> Environment:
    """Describe the code that runs, by its own repository, and the lock file of the graph that it runs for."""
    made_with = _code()
    return Environment(
        git=made_with[0],
        dirty=None if made_with[0] is None else made_with[1],
        dvc_lock_sha256=_hash(lock),
        constraints_sha256=_hash(CODE / "constraints.txt"),
        python=platform.python_version(),
        torch=version("torch"),
    )


@functools.cache
def _code() -> tuple[str | None, bool]:
    """Ask git once a process."""
    return commit(CODE, ".", *MADE)


def _hash(path: Path) -> str | None:
    return files.sha256_file(path) if path.is_file() else None


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git and return what it wrote, without the last newline; None if it failed."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603, S607  # argv, no shell
    return done.stdout.strip() if done.returncode == 0 else None
