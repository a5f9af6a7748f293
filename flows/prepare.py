"""Measure every site's cases, check the data contract, split by patient and prepare the cases."""

import sys

from prefect import flow, unmapped

from flows import cli, environment
from tasks import locks, prepare, trails, workers
from tasks.judging import Preparation


@flow(
    name="prepare",
    flow_run_name="prepare {preparation.roster.name}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def prepare_cohort(preparation: Preparation) -> None:
    """Prepare every site of a cohort, if all of them keep the contract."""
    sites = preparation.sites
    prepare.measure.map(sites, unmapped(preparation)).result()
    prepare.check(preparation)
    prepare.prepare.map(sites, unmapped(preparation)).result()


def body(run: cli.Run) -> None:
    """Hold the cohort's folder, its trail and a process a site while the flow runs."""
    preparation = Preparation(roster=run.roster, params=run.params, paths=run.paths, data_root=run.data_root)
    with (
        locks.hold_folder(run.paths.checkpoints_dir),
        workers.pool(run.params.runtime.parallel_sites, "cpu", preload=workers.VOLUMES),
        trails.held(run.paths, preparation.sites),
    ):
        prepare_cohort(preparation)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--fix", action="store_true", help="undo rounding errors of exports; short for --set prepare.fix=true")
    options = parser.parse_args(argv)
    if options.fix:
        options.set.append("prepare.fix=true")
    return cli.guard(lambda: body(cli.resolve(options)))


if __name__ == "__main__":
    sys.exit(main())
