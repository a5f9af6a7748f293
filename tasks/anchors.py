"""Checkpoints that are kept elsewhere, to hold a log against: in other folders, and in commits of git."""

from pathlib import Path

from fedsilo.audit import checkpoints
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.errors import DataError
from tasks import versions

GIT = "git:"


def find(spec: str, workspace: Path, log: str) -> tuple[Checkpoint, ...]:
    """Find checkpoints of a log.

    Args:
        spec: A file; a folder of them, or one that has them in ``<federation>/<log>`` or
            ``audit/checkpoints/<federation>/<log>``; or ``git:REF``, which is that folder as it was committed.
        workspace: Folder of the repository that a commit is read from.
        log: ``federation/log``.

    Raises:
        AuditRefusedError: One is not as it should be.
        DataError: There is none, or git cannot read it.
    """
    if spec.startswith(GIT):
        ref = spec.removeprefix(GIT)
        committed = versions.committed(workspace, ref, f"audit/checkpoints/{log}")
        lines = ((name, content) for name, content in committed.items() if name.endswith(".json"))
        found = checkpoints.ordered(checkpoints.parse(content, f"{ref}:{name}") for name, content in lines)
    else:
        path = Path(spec)
        places = (path, path / log, path / "audit" / "checkpoints" / log)
        found = next(filter(None, map(checkpoints.find, places)), ())
    if not found:
        raise DataError(f"there is no checkpoint of {log} in {spec}")
    return found
