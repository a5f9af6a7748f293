"""Bring one stage of a cohort up to date, with all that it needs: `dvc repro` of a stage, as a deployment."""

from prefect import flow
from prefect.runtime import flow_run

from flows import environment, notices
from tasks import remotes, repro
from tasks.paths import OUTER_RUN
from tasks.repro import Reproduction


@flow(
    name="stage",
    flow_run_name="{stage} {cohort}",
    timeout_seconds=notices.LONGEST_SECONDS,
    on_failure=[notices.tell],
    on_crashed=[notices.tell],
    persist_result=False,
)
def reproduce_stage(stage: str, cohort: str = "demo", workspace: str = ".", *, share: bool = False) -> Reproduction:
    """Run ``dvc repro`` for one stage under the workspace's lock and say what was executed, restored or skipped.

    Args:
        stage: A phase that is a stage: prepare, federate, inside, outside or report.
        cohort: Name of a file in ``cohorts/``, without its ending.
        workspace: Folder of the repository; a run of a deployment has no choice.
        share: Fetch from the default remote before, and push to it afterwards.

    Raises:
        ParamsError: There is no such cohort.
        FedsiloError: Another run holds the workspace, a stage failed, or the remote cannot be used.
    """
    root = environment.workspace(workspace)
    target = repro.stage_target(root, cohort, stage)
    if share:
        remotes.fetch(root, target)
    record = repro.reproduce_graph(root, target, {OUTER_RUN: str(flow_run.id)})
    repro.tell_restored(root, cohort, record)
    if share:
        remotes.send(root, target)
    return record
