"""A site's part of a round, as plain functions over ids, paths and frozen params; tasks wrap them, workers run them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks import keyring, orders, rounds
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from fedsilo.federation.algorithms import Turn
    from fedsilo.federation.records import SiteRecord
    from fedsilo.federation.updates import SiteUpdate
    from fedsilo.params import FederateParams
    from fedsilo.segmentation.remapper import Remapper
    from fedsilo.segmentation.training import Stretch
    from fedsilo.tensors import StateDict
    from tasks.orders import Asked
    from tasks.sites import SiteInputs

VALIDATION_BATCH = 32
"""Slices in one forward pass of a validation."""

VOLUMES = 3
"""Axes of the networks that windows slide for."""


def site_turn(*, site: str, round_index: int, federation: Federation, asked: Asked | None, device: str) -> Path:
    """Train one site from the global state, fold its inside model, and store the update; runs in a worker process.

    The update is signed for the order that the site accepted; without one, as where it trains alone, only its weights are stored.
    """
    from fedsilo import files
    from fedsilo.federation import algorithms, states, updates
    from fedsilo.federation.records import INSIDE, SiteRecord
    from fedsilo.segmentation import latent_size as latent_sizes
    from fedsilo.segmentation import training

    journal, params = federation.journal(), federation.params.federate
    data, last = federation.inputs(site), _last_turn(federation, site, round_index)
    server = journal.read_server(round_index)
    private = _stored(last, "private", federation)
    model = rounds.build_network(federation).to(device)
    names = algorithms.private_entries(model, params.algorithm)
    val_dice_global = None
    if round_index > 0 and round_index % params.validate_every == 0:
        states.restore(model, algorithms.hold(server, private, names))
        val_dice_global = validate(model, data, federation, device)
        journal.write_validation(site, round_index, val_dice_global)
    stretch = _stretch(federation, site, round_index, data, device)
    remapped = None
    if stretch.remapper is not None:
        if last is not None:
            stretch.remapper.restore(states.load(journal.remapper_path(site, last.round_index), last.remapper_sha256))
        remapped = training.train_remapper(stretch.remapper, data.training, params=params, stream=stretch.stream)
    turn = algorithms.take_turn(
        model,
        server=server,
        private=private,
        algorithm=params.algorithm,
        stretch=stretch,
        initial_moments=_stored(last, "moments", federation),
    )
    latent_size = None
    if stretch.remapper is not None and params.weighting == "latent":
        measured = latent_sizes.measure(stretch.remapper.flow, data.training.cases, data.validation)
        latent_size = measured.size(params.latent_weights.size)
    folds = _fold(model, turn, last, federation=federation, data=data, device=device)
    val_dice_folds: dict[str, float | None] = dict.fromkeys(folds)
    if round_index == params.rounds - 1 or (round_index + 1) % params.validate_every == 0:
        for name, state in folds.items():
            states.restore(model, state)
            val_dice_folds[name] = validate(model, data, federation, device)
    update = updates.SiteUpdate(
        site=site,
        round_index=round_index,
        base_sha256=journal.server_record(round_index).sha256,
        num_cases=data.num_cases,
        num_slices=data.num_slices,
        train_loss=turn.mean_loss,
        val_dice_global=val_dice_global,
        val_dice_inside=val_dice_folds[INSIDE],
        latent_size=latent_size,
        state=algorithms.withhold(turn.local, server, names),
    )
    manifest = _store(update, federation, asked)
    weights = journal.weights_path(site, round_index)
    keep = params.optimizer.moments == "keep"
    remapper_path = journal.remapper_path(site, round_index)
    journal.write_site(
        SiteRecord(
            site=site,
            round_index=round_index,
            num_cases=data.num_cases,
            num_slices=data.num_slices,
            train_loss=turn.mean_loss,
            val_dice_folds=val_dice_folds,
            update_sha256=files.sha256_file(weights),
            update_bytes=weights.stat().st_size,
            manifest_sha256=None if manifest is None else files.sha256_file(manifest),
            fold_sha256={name: states.save(state, journal.fold_path(site, round_index, name)) for name, state in folds.items()},
            private_sha256=states.save(turn.private, journal.private_path(site, round_index)) if turn.private else None,
            moments_sha256=states.save(turn.moments, journal.moments_path(site, round_index)) if keep else None,
            latent_size=latent_size,
            remapper_sha256=states.save(stretch.remapper.state(), remapper_path) if stretch.remapper else None,
            remapper=asdict(remapped) if remapped else None,
        )
    )
    return weights


def _store(update: SiteUpdate, federation: Federation, asked: Asked | None) -> Path | None:
    """Store what leaves a site; return the manifest that it signed, if it was asked by an order."""
    from fedsilo.federation import manifests, states

    journal = federation.journal()
    if asked is None:
        states.save(update.state, journal.weights_path(update.site, update.round_index))
        return None
    folder, signer = journal.update_dir(update.site, update.round_index), keyring.signer(federation.audit, update.site)
    return manifests.save(update, folder, orders.attestation(federation, update.site, asked), signer)


def site_validation(*, site: str, round_index: int, federation: Federation, device: str) -> Path:
    """Score a global state, as the site has it, on the site's validation split and record it; runs in a worker process."""
    from fedsilo.federation import states

    data = federation.inputs(site)
    model = rounds.build_network(federation).to(device)
    states.restore(model, held_state(federation, site, round_index, model))
    return federation.journal().write_validation(site, round_index, validate(model, data, federation, device))


def site_score(*, site: str, round_index: int, state: Path, score: Path, federation: Federation, device: str) -> Path:
    """Score a state that could open a round, as the site would have it, on its validation split; runs in a worker process."""
    from fedsilo import files
    from fedsilo.federation import states

    model = rounds.build_network(federation).to(device)
    states.restore(model, held_state(federation, site, round_index, model, server=states.load(state)))
    return files.write_json(score, {"dice": validate(model, federation.inputs(site), federation, device)})


def held_state(
    federation: Federation, site: str, round_index: int, model: nn.Module, *, server: StateDict | None = None
) -> StateDict:
    """Give a global state, else the one that opens a round, as a site has it: with the private entries of its last turn."""
    from fedsilo.federation import algorithms

    last = _last_turn(federation, site, round_index)
    names = algorithms.private_entries(model, federation.params.federate.algorithm)
    server = federation.journal().read_server(round_index) if server is None else server
    return algorithms.hold(server, _stored(last, "private", federation), names)


def _last_turn(federation: Federation, site: str, round_index: int) -> SiteRecord | None:
    """Read the record of a site's last turn before a round; None before its first."""
    journal = federation.journal()
    turns = journal.turns(site, round_index)
    return journal.site_record(site, turns[-1]) if turns else None


def _stored(turn: SiteRecord | None, kind: Literal["private", "moments"], federation: Federation) -> StateDict | None:
    """Read what a site kept of a turn; None if it kept nothing of the kind."""
    from fedsilo.federation import states

    if turn is None:
        return None
    journal = federation.journal()
    find = {"private": (journal.private_path, turn.private_sha256), "moments": (journal.moments_path, turn.moments_sha256)}
    path, sha256 = find[kind]
    return None if sha256 is None else states.load(path(turn.site, turn.round_index), sha256)


def _stretch(federation: Federation, site: str, round_index: int, data: SiteInputs, device: str) -> Stretch:
    """Describe a round's local training; its remapper is as it starts."""
    from fedsilo.segmentation import training

    params = federation.params.federate
    return training.Stretch(
        data=data.training,
        epochs=params.local_epochs,
        rate=training.learning_rate(params.optimizer, round_index=round_index, rounds=params.rounds),
        annotated=data.annotated,
        params=params,
        stream=training.Stream(federation.params.seed, "federate", site, round_index),
        remapper=build_remapper(federation, site, device),
        amp=federation.params.runtime.amp,
    )


def _fold(
    model: nn.Module, turn: Turn, last: SiteRecord | None, *, federation: Federation, data: SiteInputs, device: str
) -> Mapping[str, StateDict]:
    """Average the site's rounds, once for each fold; where the algorithm has a model of the site, that is its inside model."""
    from fedsilo.federation import inside, states
    from fedsilo.federation.records import INSIDE
    from fedsilo.segmentation import network, norm_statistics

    params, journal = federation.params.federate, federation.journal()
    folds: dict[str, StateDict] = {}
    for name, fold in params.folds.items():
        if name == INSIDE and turn.personal is not None:
            folds[name] = turn.personal
            continue
        history = None
        if last is not None:
            history = states.load(journal.fold_path(last.site, last.round_index, name), last.fold_sha256[name])
        latest = frozenset[str]() if fold.buffers == "fold" else inside.statistics_entries(states.roles(model))
        folds[name] = inside.fold(history, turn.local, momentum=fold.momentum, latest=latest)
        if fold.buffers == "recompute":
            states.restore(model, folds[name])
            norm_statistics.recompute(
                model,
                data.training.cases,
                spatial_dims=params.network.spatial_dims,
                divisor=network.divisor(params.network),
                batch_size=VALIDATION_BATCH,
                device=device,
            )
            folds[name] = states.snapshot(model)
    return folds


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
        for round_index in federation.turns(site):
            stream = training.Stream(federation.params.seed, "federate", site, round_index)
            training.train_remapper(remapper, data.training, params=params, stream=stream)
    return remapper


def validate(model: nn.Module, data: SiteInputs, federation: Federation, device: str) -> float | None:
    """Score a model on a site's validation cases."""
    from fedsilo.segmentation import network, validation

    params = federation.params.federate
    return validation.mean_dice(
        model,
        data.validation,
        annotated=data.annotated,
        spatial_dims=params.network.spatial_dims,
        divisor=network.divisor(params.network),
        batch_size=prediction_batch(params),
        device=device,
        window=window_zyx(params),
    )


def window_zyx(params: FederateParams) -> tuple[int, int, int] | None:
    """Give the windows that volumes are predicted in, to choose a round as to score it: training's patches; None in 2D."""
    return params.patch_zyx if params.network.spatial_dims == VOLUMES else None


def prediction_batch(params: FederateParams) -> int:
    """Say how many slices or windows are predicted at a time: of windows as many as training has in memory."""
    return params.batch_size if params.network.spatial_dims == VOLUMES else VALIDATION_BATCH
