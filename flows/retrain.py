"""Bring a cohort's models and report up to date with data, params and code; scheduled by prefect.yaml."""

import sys
from collections.abc import Sequence
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows import cli, environment
from tasks import repro
from tasks.repro import Reproduction


@flow(name="retrain", flow_run_name="retrain {cohort}", persist_result=False)
def retrain(cohort: str = "demo", workspace: str = ".") -> Reproduction:
    """Run ``dvc repro`` for one cohort under the workspace's lock and say what was executed, restored or skipped.

    Running it again changes nothing: DVC skips every stage whose inputs are the same.

    Args:
        cohort: Name of a file in ``cohorts/``, without its ending.
        workspace: Folder of the repository.

    Raises:
        ParamsError: There is no such cohort.
        FedsiloError: Another run holds the workspace, or a stage failed.
    """
    variables = {environment.OUTER_RUN: str(flow_run.id)}
    return repro.reproduce_graph(Path(workspace), repro.target_of(Path(workspace), cohort), variables)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow once, here."""
    options = cli.cohort_parser(__doc__).parse_args(argv)
    return cli.guard(lambda: retrain(options.cohort, options.workspace))


if __name__ == "__main__":
    sys.exit(main())
