"""Train one model across the inside sites, and an inside model at each."""

import sys
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING

from prefect import flow, unmapped

from flows import cli, environment
from tasks import federate, locks, progress, workers
from tasks.federation import Federation

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture

    from fedsilo.federation.journal import SiteRecord


@flow(
    name="federate",
    flow_run_name="federate {run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
)
def federate_sites(federations: tuple[Federation, ...], run: str) -> None:
    """Run the rounds that are left of each federation, in turn, then save the selected models.

    While one federation's round is averaged, the sites of the others train.
    """
    rounds, sites = federations[0].params.federate.rounds, federations[0].sites  # they differ in their seeds alone
    starts = [federate.open_journal(federation) for federation in federations]
    total, done = len(federations) * rounds * len(sites), sum(starts) * len(sites)
    with progress.view(total, f"federate {run}", done=done) as advance:
        waiting = deque(
            _submit(federation, start) for federation, start in zip(federations, starts, strict=True) if start < rounds
        )
        while waiting:
            federation, round_index, futures = waiting.popleft()
            for future in futures:
                turn = future.result()
                advance(site=turn.site, round_index=round_index, loss=turn.train_loss, dice=turn.val_dice_inside)
            federate.aggregate_round(round_index, federation)
            if round_index + 1 < rounds:
                waiting.append(_submit(federation, round_index + 1))
    for validated in [
        federate.validate_site.map(federation.sites, unmapped(rounds), unmapped(federation)) for federation in federations
    ]:
        validated.result()
    for federation in federations:
        federate.finish(federation)


def _submit(federation: Federation, round_index: int) -> tuple[Federation, int, "list[PrefectFuture[SiteRecord]]"]:
    """Let the sites of a federation take their turns in a round."""
    return federation, round_index, [federate.train_site.submit(site, round_index, federation) for site in federation.sites]


def body(run: cli.Run) -> None:
    """Hold the runs' folders and a process a site while the flow runs."""
    federations = tuple(Federation(roster=repeat.roster, params=repeat.params, paths=repeat.paths) for repeat in run.repeats())
    runtime = run.params.runtime
    with ExitStack() as held:
        for federation in federations:
            held.enter_context(locks.hold_folder(federation.paths.checkpoints_dir))
        held.enter_context(workers.pool(runtime.parallel_sites, runtime.device, preload=workers.NETWORKS))
        federate_sites(federations, run.paths.run)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv, repeatable=True)


if __name__ == "__main__":
    sys.exit(main())
