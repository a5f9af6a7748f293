"""Bring one stage of a cohort up to date, with all that it needs: `dvc repro` of a stage, as a deployment."""

from prefect import flow
from prefect.runtime import flow_run

from flows import environment, notices
from tasks import repro
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
def reproduce_stage(stage: str, cohort: str = "demo", workspace: str = ".") -> Reproduction:
    """Run ``dvc repro`` for one stage under the workspace's lock and say what was executed, restored or skipped.

    Args:
        stage: A phase that is a stage: prepare, federate, inside, outside or report.
        cohort: Name of a file in ``cohorts/``, without its ending.
        workspace: Folder of the repository; a run of a deployment has no choice.

    Raises:
        ParamsError: There is no such cohort.
        FedsiloError: Another run holds the workspace, or a stage failed.
    """
    root = environment.workspace(workspace)
    record = repro.reproduce_graph(root, repro.stage_target(root, cohort, stage), {OUTER_RUN: str(flow_run.id)})
    repro.tell_restored(root, cohort, record)
    return record
