"""Render the embedded phantom cohort in nnU-Net raw layout."""

import sys
from pathlib import Path

from prefect import flow, unmapped

from fedsilo.cohort.roster import Roster
from fedsilo.params import Params
from flows import cli, environment
from tasks import phantoms, workers


@flow(
    name="phantoms",
    flow_run_name="phantoms {roster.name}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def render_cohort(roster: Roster, params: Params, root: Path) -> None:
    """Render every site of a cohort."""
    sites = list(roster.sites)
    phantoms.check(sites)
    phantoms.render_site.map(sites, unmapped(params.phantoms), unmapped(root), unmapped(params.seed)).result()


def body(run: cli.Run) -> None:
    """Hold a process a site while the flow runs."""
    with workers.pool(run.params.runtime.parallel_sites, "cpu", preload=workers.ARRAYS):
        render_cohort(run.roster, run.params, run.data_root)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv)


if __name__ == "__main__":
    sys.exit(main())
