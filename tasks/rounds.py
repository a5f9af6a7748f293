"""The server's part of a round, as plain functions over ids, paths and frozen params; tasks wrap them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsilo.errors import ParamsError
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from fedsilo.federation.aggregation import AggregationRecord, Outcome
    from fedsilo.federation.updates import SiteUpdate


@dataclass(frozen=True)
class Opened:
    """Where a federation goes on, and what a person should know about it."""

    round_index: int
    warnings: tuple[str, ...]


def open_journal(federation: Federation) -> Opened:
    """Continue the journal of these params, data and code, or start a new one."""
    from fedsilo.federation import rules, states
    from tasks import sites

    for site in federation.sites:
        sites.annotated_by_all(federation.holdings(site))  # refuses what cannot be trained on before anything is
        if not federation.turns(site):
            rounds, share = federation.params.federate.rounds, federation.params.federate.participation
            raise ParamsError(
                f"site {site} takes part in none of {rounds} rounds at a participation of {share}: raise one of them"
            )
    for round_index in range(federation.params.federate.rounds):
        rules.refuse_impossible(federation.params.federate.aggregation, len(federation.taking_part(round_index)))
    journal = federation.journal()
    warnings = []
    if journal.open(identity(federation)):
        warnings.append(f"{journal.folder} belongs to other params, data or code: starting a new journal")
    point = journal.resume_point(federation.params.federate.rounds)
    warnings.extend(f"checkpoint refused, falling back to the last good one: {reason}" for reason in point.refused)
    if point.round_index == 0:
        journal.write_server(states.snapshot(build_network(federation)), 0)
    return Opened(point.round_index, tuple(warnings))


def aggregate(
    federation: Federation, round_index: int, received: Sequence[SiteUpdate], tell: Callable[[str], object] | None = None
) -> AggregationRecord:
    """Average updates into the state that opens the next round.

    Args:
        federation: Whose.
        round_index: The round that they answer to.
        received: Those that count; their states may stay in their files.
        tell: Called with the next state's hash before it counts.
    """
    from fedsilo.federation import pruning

    journal = federation.journal()
    made, sizes = step(federation, round_index, received)
    journal.write_server(made.state, round_index + 1, made=made.record, moments=made.moments, latent_sizes=sizes, tell=tell)
    pruning.prune(journal, round_index + 1)
    return made.record


def step(federation: Federation, round_index: int, received: Sequence[SiteUpdate]) -> tuple[Outcome, dict[str, float]]:
    """Average updates; return what comes of it, and the sites' smoothed latent sizes if they are weighted by them."""
    from fedsilo.federation import aggregation, states

    journal = federation.journal()
    weights, sizes = _weigh(federation, received, journal.server_record(round_index).latent_sizes)
    made = aggregation.step(
        journal.read_server(round_index),
        received,
        weights=weights,
        roles=states.roles(build_network(federation)),
        params=federation.params.federate.aggregation,
        moments=journal.read_moments(round_index),
    )
    return made, sizes


def follow(federation: Federation, round_index: int) -> AggregationRecord:
    """Take the step of a federation of one site that trains alone, under no order."""
    from fedsilo.federation.stored_state import StoredState
    from fedsilo.federation.updates import SiteUpdate

    journal = federation.journal()
    (site,) = federation.sites
    record = journal.site_record(site, round_index)
    update = SiteUpdate(
        site=site,
        round_index=round_index,
        base_sha256=journal.server_record(round_index).sha256,
        num_cases=record.num_cases,
        num_slices=record.num_slices,
        train_loss=record.train_loss,
        val_dice_global=journal.validation(site, round_index),
        val_dice_inside=record.val_dice_inside,
        latent_size=record.latent_size,
        state=StoredState(journal.weights_path(site, round_index)),
    )
    return aggregate(federation, round_index, [update])


def _weigh(
    federation: Federation, received: Sequence[SiteUpdate], previous: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Weigh a round's sites; also return their smoothed latent sizes, if they are weighted by them."""
    from fedsilo.federation import aggregation, latent_weights

    params = federation.params.federate
    if params.weighting != "latent":
        return aggregation.site_weights(received, params.weighting), {}
    chosen = params.latent_weights
    sizes = latent_weights.smooth(aggregation.latent_sizes(received), previous, history=chosen.history)
    modalities = {site: federation.modalities(site) for site in sizes}
    return latent_weights.weights(sizes, modalities, rule=chosen.modalities), sizes


def build_network(federation: Federation) -> nn.Module:
    """Build the federation's network; its weights are overwritten by the caller."""
    from fedsilo import seeds
    from fedsilo.segmentation import network

    return network.build(
        federation.params.federate.network,
        num_classes=federation.num_classes,
        in_channels=in_channels(federation),
        generator=seeds.generator(federation.params.seed, "init"),
    )


def in_channels(federation: Federation) -> int:
    """Count image channels at the first participant's first site; every site must have as many."""
    from tasks import sites

    return sites.in_channels(federation.holdings(federation.sites[0])[0].folder)


def identity(federation: Federation) -> dict[str, object]:
    """Describe what a federation is made from: params, roster, data and code; equal identities give equal bits."""
    import torch

    from fedsilo import files
    from tasks import sites

    code = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(path for package in ("fedsilo", "tasks", "flows") for path in (root / package).rglob("*.py")):
        code.update(f"{path.relative_to(root)}:{files.sha256_file(path)}\n".encode())
    members = sorted({member for held in federation.members.values() for member in held})
    inputs = {site: files.sha256_file(sites.manifest_path(federation.paths.prepared_site(site))) for site in members}
    return {
        "params_sha256": params_sha256(federation),
        "organs": list(federation.roster.organs),
        "manifest_sha256": inputs,
        "code_sha256": code.hexdigest(),
        "torch": torch.__version__,
    }


def params_sha256(federation: Federation) -> str:
    """Hash the params that decide bits; hex."""
    params = {"seed": federation.params.seed, "federate": federation.params.federate.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
