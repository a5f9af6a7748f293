"""Train one model across the inside sites, and an inside model at each."""

import sys

from prefect import flow, unmapped

from flows import cli, environment
from tasks import federate, locks, progress, workers
from tasks.federation import Federation


@flow(
    name="federate",
    flow_run_name="federate {federation.paths.run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
)
def federate_sites(federation: Federation) -> None:
    """Run the rounds that are left, then save the selected models."""
    rounds, sites = federation.params.federate.rounds, federation.sites
    start = federate.open_journal(federation)
    with progress.view(rounds * len(sites), f"federate {federation.paths.run}", done=start * len(sites)) as advance:
        for round_index in range(start, rounds):
            futures = [federate.train_site.submit(site, round_index, federation) for site in sites]
            turns = [future.result() for future in futures]
            for turn in turns:
                advance(site=turn.site, round_index=round_index, loss=turn.train_loss, dice=turn.val_dice_inside)
            federate.aggregate_round(round_index, federation)
    federate.validate_site.map(sites, unmapped(rounds), unmapped(federation)).result()
    federate.finish(federation)


def body(run: cli.Run) -> None:
    """Hold the run's folder and a process a site while the flow runs."""
    federation = Federation(roster=run.roster, params=run.params, paths=run.paths)
    runtime = run.params.runtime
    with (
        locks.hold_folder(run.paths.checkpoints_dir),
        workers.pool(runtime.parallel_sites, runtime.device, preload=workers.NETWORKS),
    ):
        federate_sites(federation)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv)


if __name__ == "__main__":
    sys.exit(main())
