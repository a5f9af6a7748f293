"""Write the report: one self-contained page, metrics.json and plots."""

import sys

from prefect import flow

from flows import cli, environment
from tasks import report
from tasks.federation import Federation


@flow(
    name="report",
    flow_run_name="report {federation.paths.run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
)
def write_report(federation: Federation) -> None:
    """Build the report from the result tables."""
    report.build_report(federation)


def body(run: cli.Run) -> None:
    """Run the flow."""
    federation = Federation(roster=run.roster, params=run.params, paths=run.paths)
    federation.require_sites("report")
    write_report(federation)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv)


if __name__ == "__main__":
    sys.exit(main())
