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
    persist_result=False,
)
def write_report(federation: Federation, stopped: tuple[str, ...]) -> None:
    """Build the report from the result tables."""
    report.build_report(federation, stopped)


def body(run: cli.Run) -> None:
    """Run the flow."""
    federation = Federation(roster=run.standing, params=run.params, paths=run.paths)
    federation.require_sites("report")
    left = {site.name for site in federation.roster.sites}
    write_report(federation, tuple(site.name for site in run.roster.sites if site.name not in left))


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv)


if __name__ == "__main__":
    sys.exit(main())
