"""Train one model across the inside sites, and an inside model at each."""

import sys
from collections import deque
from typing import TYPE_CHECKING

from prefect import flow, unmapped

from flows import cli, crew, environment
from tasks import federate, progress
from tasks.federation import Federation

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture

    from fedsilo.federation.records import SiteRecord


@flow(
    name="federate",
    flow_run_name="federate {run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def federate_sites(federations: tuple[Federation, ...], run: str) -> None:
    """Run the rounds that are left of each federation, in turn, then save the selected models.

    While one federation's round is averaged, the sites of the others train.
    """
    rounds = federations[0].params.federate.rounds  # they differ in their seeds alone
    starts = [federate.open_journal(federation) for federation in federations]
    turns = [[len(federation.taking_part(index)) for index in range(rounds)] for federation in federations]
    total, done = sum(map(sum, turns)), sum(sum(counts[:start]) for counts, start in zip(turns, starts, strict=True))
    for federation, start in zip(federations, starts, strict=True):
        if start:
            _judge(federation, start - 1)  # a kill may have come before the sites were asked
    with progress.view(total, f"federate {run}", done=done) as advance:
        waiting = deque(
            _submit(federation, start) for federation, start in zip(federations, starts, strict=True) if start < rounds
        )
        while waiting:
            federation, round_index, futures = waiting.popleft()
            for future in futures:
                turn = future.result()
                if turn is not None:
                    advance(site=turn.site, round_index=round_index, loss=turn.train_loss, dice=turn.val_dice_inside)
            federate.aggregate_round(round_index, federation)
            _judge(federation, round_index)
            if round_index + 1 < rounds:
                waiting.append(_submit(federation, round_index + 1))
    for validated in [
        federate.validate_site.map(federation.sites, unmapped(rounds), unmapped(federation)) for federation in federations
    ]:
        validated.result()
    for federation in federations:
        federate.finish(federation)


def _submit(federation: Federation, round_index: int) -> tuple[Federation, int, "list[PrefectFuture[SiteRecord | None]]"]:
    """Open a round of a federation and let its sites take their turns."""
    sites = federate.open_round(round_index, federation)
    return federation, round_index, [federate.train_site.submit(site, round_index, federation) for site in sites]


def _judge(federation: Federation, round_index: int) -> None:
    """Let sites veto the state that a round led to, until what it is made of does no harm."""
    while federate.veto_is_due(round_index, federation):
        federate.begin_veto(round_index, federation)
        federate.validate_site.map(federation.sites, unmapped(round_index + 1), unmapped(federation)).result()
        pairs = federate.draw_up_without(round_index, federation)
        for score in [federate.score_without.submit(*pair, round_index, federation) for pair in pairs]:
            score.result()
        federate.settle_veto(round_index, federation)


def body(run: cli.Run) -> None:
    """Train the federation of each seed."""
    with crew.assembled(run) as federations:
        federate_sites(federations, run.paths.run)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv, repeatable=True)


if __name__ == "__main__":
    sys.exit(main())
