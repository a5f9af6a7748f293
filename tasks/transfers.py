"""What DVC sends to its remotes and fetches from them; a network that fails for a moment is told from all that stays as it is."""

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fedsilo.errors import FedsiloError
from tasks import repro

Direction = Literal["push", "pull"]
LOGGER = logging.getLogger(__name__)

WAITS_SECONDS = (5.0, 30.0, 120.0)
"""How long to wait before each new try when the network failed."""

PASSING = re.compile(
    r"could not connect to the endpoint|(connect|read) timeout on endpoint|connection (was closed|refused|reset|aborted)"
    r"|timed out|temporary failure in name resolution|name or service not known|network is unreachable|no route to host"
    r"|host is down|broken pipe|stale file handle|transport endpoint is not connected"
    r"|error occurred \((5\d\d|SlowDown|InternalError|ServiceUnavailable|RequestTimeout|ThrottlingException)\)",
    re.IGNORECASE,
)
"""What DVC, the AWS library and the system say of a network or server that may answer the next time."""


class UnreachableError(FedsiloError):
    """A remote did not answer, or could not for the moment: the same again may succeed."""


def transfer(workspace: Path, direction: Direction, targets: Sequence[str], *options: str) -> str:
    """Send outputs to their remotes, or fetch them, and give what dvc said of it.

    Args:
        workspace: Root of the DVC repository.
        direction: push or pull.
        targets: Stages, dvc.yaml files, ``.dvc`` files or outputs.
        options: More for dvc.

    Raises:
        UnreachableError: The network failed, or the remote's server for the moment.
        FedsiloError: dvc failed for another reason: no remote, no permission, an output that is not there.
    """
    try:
        return repro.run_dvc(workspace, direction, *options, *targets).strip()
    except FedsiloError as error:
        if PASSING.search(str(error)):
            raise UnreachableError(str(error)) from error
        raise


def insist(workspace: Path, direction: Direction, targets: Sequence[str]) -> str:
    """Transfer, and try again after each of ``WAITS_SECONDS`` when the network fails: for what is no task of a flow.

    Raises:
        UnreachableError: The network failed each time.
        FedsiloError: dvc failed for another reason; that is not tried again.
    """
    for wait in WAITS_SECONDS:
        try:
            return transfer(workspace, direction, targets)
        except UnreachableError as error:
            LOGGER.warning("%s; again in %g s", error, wait)
            time.sleep(wait)
    return transfer(workspace, direction, targets)


def has_default(workspace: Path) -> bool:
    """Say whether a workspace has a default remote.

    Raises:
        FedsiloError: dvc failed.
    """
    return any(line.startswith("core.remote=") for line in repro.run_dvc(workspace, "config", "--list").splitlines())
