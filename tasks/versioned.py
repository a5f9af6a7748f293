"""Read data as they were at a commit, through DVC's library: nothing is checked out, run or locked."""

from pathlib import Path

from fedsilo.errors import DataError


def read_at(workspace: Path, path: str, commit: str) -> bytes | None:
    """Read a file as it was at a commit, from DVC's cache if DVC versions it; None if that commit has no such file.

    Args:
        workspace: Root of the DVC repository.
        path: In it.
        commit: A commit, tag or branch.

    Raises:
        DataError: There is no such commit, or the cache has lost the file.
    """
    from dvc import api
    from dvc.exceptions import DvcException, PathMissingError
    from dvc_data.index import DataIndexDirError
    from scmrepo.exceptions import SCMError

    try:
        with api.open(path, repo=str(workspace), rev=commit, mode="rb") as handle:
            content: bytes = handle.read()
    except PathMissingError:
        if not _is_listed(workspace, path, commit):
            return None
        raise DataError(f"cannot read {path} as it was at {commit}: DVC's cache has lost it") from None
    except (DvcException, DataIndexDirError, SCMError, OSError) as error:
        raise DataError(f"cannot read {path} as it was at {commit}: {' '.join(str(error).split())}") from error
    return content


def _is_listed(workspace: Path, path: str, commit: str) -> bool:
    """Say whether a commit has a file, or a folder that might have it and whose listing is lost."""
    from dvc import api
    from dvc_data.index import DataIndexDirError

    try:
        return bool(api.DVCFileSystem(str(workspace), rev=commit).exists(path))
    except DataIndexDirError:
        return True
