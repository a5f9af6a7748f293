"""Compare models at the outside sites: global, ensemble, soup and test-time routing, adapted to each case without labels."""

import sys

from prefect import flow, unmapped

from flows import cli, environment
from tasks import locks, outside, progress, workers
from tasks.federation import Federation


@flow(
    name="outside",
    flow_run_name="outside {federation.paths.run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
)
def compare_outside(federation: Federation) -> None:
    """Adapt to and score every outside site's cases, then join the tables."""
    sites = [site.name for site in federation.roster.outside]
    with progress.view(len(sites), f"outside sites of {federation.paths.run}"):
        parts = outside.evaluate.map(sites, unmapped(federation)).result()
    outside.collect(parts, federation)


def body(run: cli.Run) -> None:
    """Hold the run's folder and a process a site while the flow runs."""
    federation = Federation(roster=run.roster, params=run.params, paths=run.paths)
    federation.require_sites("outside")
    runtime = run.params.runtime
    with (
        locks.hold_folder(run.paths.checkpoints_dir),
        workers.pool(runtime.parallel_sites, runtime.device, preload=workers.NETWORKS),
    ):
        compare_outside(federation)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv)


if __name__ == "__main__":
    sys.exit(main())
