"""Models under DVC, one file each: the global model for whoever may have it, a site's for its own remote or for nobody else."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks import repro, transfers


def track_models(workspace: Path, shared: Sequence[Path], private: Mapping[Path, str | None]) -> list[Path]:
    """Put models under DVC, each with its ``.dvc`` file beside it; those that are tracked as they are stay.

    Args:
        workspace: Root of the DVC repository.
        shared: Files that go to the default remote.
        private: Files of sites, with the one remote that each may be pushed to; None: it is never pushed.

    Returns:
        The ``.dvc`` files.

    Raises:
        FedsiloError: Another run holds the workspace, or dvc failed.
        OutputError: The workspace cannot be written.
    """
    paths = [*shared, *private]
    new = [path for path in paths if not _is_tracked(path)]
    with repro.held_lock(workspace):
        if new:
            repro.run_dvc(workspace, "add", *(str(path.relative_to(workspace)) for path in new))
        for path, remote in private.items():
            repro.confine(tracked_by(path), remote or "")
    return [tracked_by(path) for path in paths]


def check_out(workspace: Path, paths: Sequence[Path]) -> None:
    """Bring tracked files back from the cache; what the cache has not stays missing.

    Raises:
        FedsiloError: Another run holds the workspace, or dvc failed.
    """
    with repro.held_lock(workspace):
        repro.run_dvc(workspace, "checkout", "--allow-missing", *(str(tracked_by(path).relative_to(workspace)) for path in paths))


def push_models(workspace: Path, paths: Sequence[Path]) -> list[Path]:
    """Push tracked files that have a remote, their own or the default one; say which these are.

    Raises:
        UnreachableError: A remote could not be reached, four times.
        FedsiloError: dvc failed.
    """
    has_default = transfers.has_default(workspace)
    outs = {path: repro.output_of(tracked_by(path)) for path in paths}
    pushed = [path for path, out in outs.items() if out.get("push", True) and ("remote" in out or has_default)]
    if pushed:
        transfers.insist(workspace, "push", [str(tracked_by(path).relative_to(workspace)) for path in pushed])
    return pushed


def remote_of(tracked: Path) -> str | None:
    """Name the one remote that a ``.dvc`` file's output may be pushed to; None without one, or without the file."""
    return str(found) if tracked.is_file() and (found := repro.output_of(tracked).get("remote")) else None


def tracked_by(path: Path) -> Path:
    """Name the ``.dvc`` file beside a tracked file or folder."""
    return path.with_name(f"{path.name}.dvc")


def _is_tracked(path: Path) -> bool:
    """Say whether a file is tracked with the content that it has."""
    if not tracked_by(path).is_file():
        return False
    # DVC knows files by MD5 alone; ours are known by SHA-256 beside it
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return repro.output_of(tracked_by(path)).get("md5") == digest
