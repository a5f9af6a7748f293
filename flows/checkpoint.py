"""State the size and root of a federation's log in a checkpoint, as a deployment; `python -m flows.audit checkpoint` by hand."""

from prefect import flow

from flows import environment, notices
from tasks import audit
from tasks.audit import Books
from tasks.paths import AuditPaths

LONGEST_SECONDS = 3600


@flow(
    name="checkpoint",
    flow_run_name="checkpoint {federation}",
    timeout_seconds=LONGEST_SECONDS,
    on_failure=[notices.tell],
    on_crashed=[notices.tell],
    persist_result=False,
)
def state_checkpoint(federation: str = "demo", workspace: str = ".") -> str:
    """Verify the federation's log, then sign its size and root with the server's key.

    Args:
        federation: Whose log.
        workspace: Folder of the repository, with the server's key in ``keys/``; a run of a deployment has no choice.

    Raises:
        AuditRefusedError: The log is refused.
        DataError: The log, the founding or the key is missing.
    """
    paths = AuditPaths(environment.workspace(workspace), federation)
    return audit.checkpoint(Books.of_federation(paths), paths.private_key("server"))
