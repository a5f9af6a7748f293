"""The steps of a round, as plain functions over ids, paths and frozen params; tasks wrap them, workers run them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from fedsilo.federation.aggregation import AggregationRecord
    from fedsilo.federation.updates import SiteUpdate
    from fedsilo.segmentation.remapper import Remapper
    from tasks.sites import SiteInputs

VALIDATION_BATCH = 32
"""Slices in one forward pass of a validation."""


@dataclass(frozen=True)
class Opened:
    """Where a federation goes on, and what a person should know about it."""

    round_index: int
    warnings: tuple[str, ...]


def open_journal(federation: Federation) -> Opened:
    """Continue the journal of these params, data and code, or start a new one."""
    from fedsilo.federation import states
    from tasks import sites

    for site in federation.sites:
        sites.annotated_by_all(federation.holdings(site))  # refuses what cannot be trained on before anything is
    journal = federation.journal()
    warnings = []
    if journal.open(identity(federation)):
        warnings.append(f"{journal.folder} belongs to other params, data or code: starting a new journal")
    point = journal.resume_point(federation.params.federate.rounds)
    warnings.extend(f"checkpoint refused, falling back to the last good one: {reason}" for reason in point.refused)
    if point.round_index == 0:
        journal.write_server(states.snapshot(build_network(federation)), 0, weights={}, update_norms={}, latent_sizes={})
    return Opened(point.round_index, tuple(warnings))


def site_turn(*, site: str, round_index: int, federation: Federation, device: str) -> Path:
    """Train one site from the global state, fold its inside model, and store the update; runs in a worker process."""
    from fedsilo import files
    from fedsilo.federation import inside, states, updates
    from fedsilo.federation.journal import SiteRecord
    from fedsilo.segmentation import latent_size as latent_sizes
    from fedsilo.segmentation import training

    journal, params = federation.journal(), federation.params.federate
    data = federation.inputs(site)
    server = journal.read_server(round_index)
    model = build_network(federation).to(device)
    states.restore(model, server)
    validate = round_index > 0 and round_index % params.validate_every == 0
    val_dice_global = _validate(model, data, federation, device) if validate else None
    if validate:
        journal.write_validation(site, round_index, val_dice_global)
    keep = params.optimizer.moments == "keep"
    moments = None
    if keep and round_index > 0:
        moments = states.load(
            journal.moments_path(site, round_index - 1), journal.site_record(site, round_index - 1).moments_sha256
        )
    remapper = build_remapper(federation, site, device)
    if remapper is not None and round_index > 0:
        record = journal.site_record(site, round_index - 1)
        remapper.restore(states.load(journal.remapper_path(site, round_index - 1), record.remapper_sha256))
    trained = training.train(
        model,
        data.training,
        epochs=params.local_epochs,
        rate=training.learning_rate(params.optimizer, round_index=round_index, rounds=params.rounds),
        annotated=data.annotated,
        params=params,
        stream=training.Stream(federation.params.seed, "federate", site, round_index),
        initial_moments=moments,
        remapper=remapper,
        amp=federation.params.runtime.amp,
    )
    local = states.snapshot(model)
    latent_size = None
    if remapper is not None and params.weighting == "latent":
        measured = latent_sizes.measure(remapper.flow, data.training.cases, data.validation)
        latent_size = measured.size(params.latent_weights.size)
    history = None
    if round_index > 0:
        record = journal.site_record(site, round_index - 1)
        history = states.load(journal.inside_path(site, round_index - 1), record.inside_sha256)
    personal = inside.fold(history, local, momentum=params.momentum)
    states.restore(model, personal)
    last = round_index == params.rounds - 1
    validate_inside = last or (round_index + 1) % params.validate_every == 0
    val_dice_inside = _validate(model, data, federation, device) if validate_inside else None
    update = updates.SiteUpdate(
        site=site,
        round_index=round_index,
        base_sha256=states.digest(server),
        num_cases=data.num_cases,
        num_slices=data.num_slices,
        train_loss=trained.mean_loss,
        val_dice_global=val_dice_global,
        val_dice_inside=val_dice_inside,
        latent_size=latent_size,
        state=local,
    )
    manifest = updates.save(update, journal.update_dir(site, round_index))
    inside_sha256 = states.save(personal, journal.inside_path(site, round_index))
    moments_sha256 = states.save(trained.moments, journal.moments_path(site, round_index)) if keep else None
    remapper_sha256 = states.save(remapper.state(), journal.remapper_path(site, round_index)) if remapper else None
    journal.write_site(
        SiteRecord(
            site=site,
            round_index=round_index,
            num_cases=data.num_cases,
            num_slices=data.num_slices,
            train_loss=trained.mean_loss,
            val_dice_inside=val_dice_inside,
            update_sha256=files.sha256_file(manifest),
            update_bytes=manifest.with_suffix(".safetensors").stat().st_size,
            inside_sha256=inside_sha256,
            moments_sha256=moments_sha256,
            latent_size=latent_size,
            remapper_sha256=remapper_sha256,
            remapper=asdict(trained.remapper) if trained.remapper else None,
        )
    )
    return manifest


def site_validation(*, site: str, round_index: int, federation: Federation, device: str) -> Path:
    """Score a global state on a site's validation split and record it; runs in a worker process."""
    from fedsilo.federation import states

    journal = federation.journal()
    data = federation.inputs(site)
    model = build_network(federation).to(device)
    states.restore(model, journal.read_server(round_index))
    return journal.write_validation(site, round_index, _validate(model, data, federation, device))


def aggregate(federation: Federation, round_index: int) -> tuple[list[SiteUpdate], AggregationRecord]:
    """Admit a round's updates and average them into the state that opens the next round."""
    from fedsilo.federation import aggregation, states, updates

    journal = federation.journal()
    server = journal.read_server(round_index)
    received = [updates.load(journal.update_manifest(site, round_index)) for site in federation.sites]
    roles = states.roles(build_network(federation))
    base = states.digest(server)
    for update in received:
        updates.admit(
            update,
            expected_sites=federation.sites,
            round_index=round_index,
            base_sha256=base,
            reference_state=server,
            roles=roles,
        )
    weights, sizes = _weigh(federation, received, journal.server_record(round_index).latent_sizes)
    state, record = aggregation.step(server, received, weights=weights, roles=roles)
    journal.write_server(state, round_index + 1, weights=record.weights, update_norms=record.delta_norms, latent_sizes=sizes)
    journal.prune(round_index + 1)
    return received, record


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


def build_remapper(federation: Federation, site: str, device: str) -> Remapper | None:
    """Build a site's learned remapping as it starts; None if the params need none."""
    import torch

    from fedsilo import seeds
    from fedsilo.segmentation import appearance
    from fedsilo.segmentation.remapper import Remapper

    params = federation.params.federate
    if params.appearance.method not in appearance.LEARNED:
        return None
    return Remapper(
        spatial_dims=params.network.spatial_dims,
        num_classes=federation.num_classes,
        generator=seeds.generator(federation.params.seed, "remapper", site),
        device=torch.device(device),
    )


def final_remapper(federation: Federation, site: str, data: SiteInputs, device: str) -> Remapper | None:
    """Train a site's learned remapping anew to what it was after the last round: it depends on the site's data alone."""
    from fedsilo.segmentation import training

    remapper, params = build_remapper(federation, site, device), federation.params.federate
    if remapper is not None:
        for round_index in range(params.rounds):
            stream = training.Stream(federation.params.seed, "federate", site, round_index)
            training.train_remapper(remapper, data.training, params=params, stream=stream)
    return remapper


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


def _validate(model: nn.Module, data: SiteInputs, federation: Federation, device: str) -> float | None:
    """Score a model on a site's validation cases."""
    from fedsilo.segmentation import network, validation

    params = federation.params.federate
    return validation.mean_dice(
        model,
        data.validation,
        annotated=data.annotated,
        spatial_dims=params.network.spatial_dims,
        divisor=network.divisor(params.network),
        batch_size=VALIDATION_BATCH,
        device=device,
    )


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
    params = {"seed": federation.params.seed, "federate": federation.params.federate.model_dump(mode="json")}
    return {
        "params_sha256": hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest(),
        "organs": list(federation.roster.organs),
        "manifest_sha256": inputs,
        "code_sha256": code.hexdigest(),
        "torch": torch.__version__,
    }
