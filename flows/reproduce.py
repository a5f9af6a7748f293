"""Bring a cohort's models and report, or a study's tables, up to date with data, params and code: `dvc repro` as a flow."""

import sys
from collections.abc import Sequence

from prefect import flow
from prefect.runtime import flow_run

from flows import cli, environment, notices
from tasks import repro
from tasks.paths import OUTER_RUN
from tasks.repro import Reproduction


def _name() -> str:
    """Name a run after what it reproduces."""
    parameters = flow_run.parameters
    return f"reproduce {parameters.get('study') or parameters['cohort']}"


@flow(
    name="reproduce",
    flow_run_name=_name,
    timeout_seconds=notices.LONGEST_SECONDS,
    on_failure=[notices.tell],
    on_crashed=[notices.tell],
    persist_result=False,
)
def reproduce(cohort: str = "demo", workspace: str = ".", study: str | None = None) -> Reproduction:
    """Run ``dvc repro`` for one cohort or study under the workspace's lock and say what was executed, restored or skipped.

    Running it again changes nothing: DVC skips every stage whose inputs are the same.

    Args:
        cohort: Name of a file in ``cohorts/``, without its ending.
        workspace: Folder of the repository; a run of a deployment has no choice.
        study: Name of a folder in ``studies/``, to reproduce instead of a cohort.

    Raises:
        ParamsError: There is no such cohort or study.
        FedsiloError: Another run holds the workspace, or a stage failed.
    """
    variables = {OUTER_RUN: str(flow_run.id)}
    root = environment.workspace(workspace)
    target = repro.target_of(root, cohort) if study is None else repro.study_target(root, study)
    record = repro.reproduce_graph(root, target, variables)
    if study is None:
        repro.tell_restored(root, cohort, record)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow once, here."""
    options = cli.cohort_parser(__doc__).parse_args(argv)
    return cli.guard(lambda: reproduce(options.cohort, options.workspace, options.study))


if __name__ == "__main__":
    sys.exit(main())
