"""Compare models at the sites that took no part: global, ensemble, soup, router, and what adapts without labels."""

import sys

from prefect import flow

from flows import cli, crew, environment
from tasks import outside, progress
from tasks.federation import Federation


@flow(
    name="outside",
    flow_run_name="outside {run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def compare_outside(federations: tuple[Federation, ...], run: str) -> None:
    """Adapt to and score every outside site's cases, then join the tables."""
    sites = [site.name for site in federations[0].run_roster.outside]  # they differ in their seeds alone
    with progress.view(len(sites) * len(federations), f"outside sites of {run}"):
        scored = [[outside.evaluate.submit(site, federation) for site in sites] for federation in federations]
        for federation, parts in zip(federations, scored, strict=True):
            outside.collect([part.result() for part in parts], federation)


def body(run: cli.Run) -> None:
    """Compare the models of each seed."""
    with crew.assembled(run) as federations:
        for federation in federations:
            federation.require_sites("outside")
        compare_outside(federations, run.paths.run)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv, repeatable=True, scoring=True)


if __name__ == "__main__":
    sys.exit(main())
