"""Compare the global models of several runs on the test cases of all sites of their cohort: runs/<--run>/cases.csv."""

import sys
from argparse import Namespace

from prefect import flow, unmapped

from flows import cli, environment
from tasks import compare, locks, progress, trails, workers
from tasks.compare import Comparison
from tasks.federation import Federation


@flow(
    name="compare",
    flow_run_name="compare runs of {comparison.federation.roster.name}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def compare_runs(comparison: Comparison) -> None:
    """Score every site's test cases under every run, then join the tables."""
    sites = comparison.sites
    with progress.view(len(sites), f"test cases of {comparison.federation.roster.name}"):
        parts = compare.evaluate.map(sites, unmapped(comparison)).result()
    compare.collect(parts, comparison)


def body(run: cli.Run, options: Namespace) -> None:
    """Hold the comparison's folder, the trail and a process a site while the flow runs."""
    comparison = Comparison(
        federation=Federation(roster=run.standing, params=run.params, paths=run.paths, surfaces=run.surfaces),
        runs=compare.find_runs(run.paths.workspace, options.runs),
    )
    runtime = run.params.runtime
    with (
        locks.hold_folder(run.paths.checkpoints_dir),
        workers.pool(runtime.parallel_sites, runtime.device, preload=workers.NETWORKS, shared=runtime.device_slots),
        trails.held(run.paths, comparison.sites),
    ):
        compare_runs(comparison)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="folders in runs/, or patterns: fedgin/*")
    cli.add_metrics(parser)
    options = parser.parse_args(argv)
    return cli.guard(lambda: body(cli.resolve(options), options))


if __name__ == "__main__":
    sys.exit(main())
