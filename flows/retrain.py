"""Bring a cohort's models and report up to date with data, params and code; scheduled by prefect.yaml."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prefect import flow, get_run_logger
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
    record = repro.reproduce_graph(Path(workspace), repro.target_of(Path(workspace), cohort), variables)
    for outcome in ("executed", "restored", "skipped"):
        get_run_logger().info("%s: %s", outcome, ", ".join(record.with_outcome(outcome)) or "none")
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow once, here."""
    options = parser(__doc__).parse_args(argv)
    return cli.guard(lambda: retrain(options.cohort, options.workspace))


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of the commands that reproduce a whole cohort."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--cohort", default="demo", help="name of a file in cohorts/, without .yaml (default: %(default)s)")
    made.add_argument("--workspace", default=".", help="folder of the repository (default: here)")
    return made


if __name__ == "__main__":
    sys.exit(main())
