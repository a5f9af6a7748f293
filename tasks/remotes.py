"""A cohort's global model and figures between the workspace and its default remote, tried again when the network fails."""

from pathlib import Path

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from fedsilo.errors import FedsiloError
from tasks import repro, transfers
from tasks.transfers import UnreachableError

RETRIES = len(transfers.WAITS_SECONDS)
DELAYS_SECONDS = list(transfers.WAITS_SECONDS)


def is_passing(task: "Task[..., object]", run: TaskRun, state: "State[object]") -> bool:  # noqa: ARG001  # Prefect's names
    """Say whether a task failed because a remote could not be reached, and may be tried again."""
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


@task(
    name="dvc pull", task_run_name="dvc pull {target}", retries=RETRIES, retry_delay_seconds=DELAYS_SECONDS,
    retry_condition_fn=is_passing, cache_policy=NO_CACHE, persist_result=False,
)  # fmt: skip
def fetch(workspace: Path, target: str) -> None:
    """Fetch what the lock file names of a target and the stages before it, as far as the remote has it.

    What is never pushed, such as prepared cases and inside models, no remote has: the graph makes it.

    Args:
        workspace: Root of the DVC repository.
        target: A dvc.yaml file or a stage in one, as ``dvc repro`` takes it.

    Raises:
        UnreachableError: The remote could not be reached, four times.
        FedsiloError: There is no default remote, it refuses us, or another run holds the workspace.
    """
    with repro.held_lock(workspace):
        # dvc says so only when there is something to fetch: a run of hours would fail at its end
        if not transfers.has_default(workspace):
            raise FedsiloError(f"{workspace} has no default remote; add one: dvc remote add --default NAME URL")
        said = transfers.transfer(workspace, "pull", [target], "--with-deps", "--allow-missing")
    get_run_logger().info("%s", said or "everything is up to date")


@task(
    name="dvc push", task_run_name="dvc push {target}", retries=RETRIES, retry_delay_seconds=DELAYS_SECONDS,
    retry_condition_fn=is_passing, cache_policy=NO_CACHE, persist_result=False,
)  # fmt: skip
def send(workspace: Path, target: str) -> None:
    """Push what may be pushed of a target and the stages before it; what is of patients or of one site has no remote or its own.

    Args:
        workspace: Root of the DVC repository.
        target: A dvc.yaml file or a stage in one, as ``dvc repro`` takes it.

    Raises:
        UnreachableError: The remote could not be reached, four times.
        FedsiloError: There is no default remote, it refuses us, or another run holds the workspace.
    """
    with repro.held_lock(workspace):
        said = transfers.transfer(workspace, "push", [target], "--with-deps")
    get_run_logger().info("%s", said or "everything is up to date")
