"""Compare each site's new cases with those that the champion knew: features stay at the site, statistics are reported."""

import sys
from argparse import Namespace
from pathlib import Path

from prefect import flow, unmapped

from fedsilo.evaluation import pccp
from flows import cli, environment
from tasks import drift, locks, trails, workers
from tasks.drift import Watch
from tasks.federation import Federation


@flow(
    name="drift",
    flow_run_name="drift of {watch.federation.roster.name}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def watch_cohort(watch: Watch, sites: list[str], *, remember: bool) -> None:
    """Remember the cases of all sites, or look for drift at each."""
    if remember:
        drift.remember.map(sites, unmapped(watch)).result()
    else:
        drift.look.map(sites, unmapped(watch)).result()


def watch_sites(watch: Watch, sites: list[str], *, remember: bool) -> None:
    """Hold the cohort's folder, its trail and a process a site while the flow runs."""
    federation = watch.federation
    names, runtime = sorted(site.name for site in federation.roster.sites), federation.params.runtime
    with (
        locks.hold_folder(federation.paths.checkpoints_dir),
        workers.pool(runtime.parallel_sites, runtime.device, preload=workers.NETWORKS if watch.predict else workers.VOLUMES),
        trails.held(federation.paths, names),
    ):
        watch_cohort(watch, sites, remember=remember)


def body(run: cli.Run, options: Namespace) -> None:
    """Watch one site of a cohort, or all."""
    federation = Federation(roster=run.standing, params=run.params, paths=run.paths)
    watch = Watch(federation, pccp.load(options.pccp).triggers.drift, predict=options.predict)
    names = sorted(site.name for site in federation.roster.sites)
    watch_sites(watch, [federation.roster.site(options.site).name] if options.site else names, remember=options.remember)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--site", help="one site of the cohort (default: all)")
    parser.add_argument("--remember", action="store_true", help="take what sites have now as what the champion knows")
    parser.add_argument("--predict", action="store_true", help="also compare what the run's global model predicts")
    parser.add_argument("--pccp", type=Path, default=Path("pccp.yaml"), help="policy file (default: %(default)s)")
    options = parser.parse_args(argv)
    return cli.guard(lambda: body(cli.resolve(options), options))


if __name__ == "__main__":
    sys.exit(main())
