"""Adapters of the federation: a site's turn in a round, the server's step, and the results at the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo.errors import DeadlineError, LostError, OrderRefusedError, QuorumError
from tasks import admitting, model_events, orders, rounds, turns, vetoing, workers
from tasks.federation import Federation

if TYPE_CHECKING:
    from fedsilo.federation.records import ServerRecord, SiteRecord
    from tasks.orders import Asked


@task(name="open journal", task_run_name="open journal", cache_policy=NO_CACHE, persist_result=False)
def open_journal(federation: Federation) -> int:
    """Open or continue the journal; return the round to go on with."""
    opened = rounds.open_journal(federation)
    for warning in opened.warnings:
        get_run_logger().warning(warning)
    get_run_logger().info("round %d of %d", opened.round_index, federation.params.federate.rounds)
    return opened.round_index


@task(name="open round", task_run_name="open round {round_index}", cache_policy=NO_CACHE, persist_result=False)
def open_round(round_index: int, federation: Federation) -> list[str]:
    """Order the sites of a round to train; return their names."""
    return orders.open_round(federation, round_index)


@task(name="train site", task_run_name="{site}: round {round_index}", cache_policy=NO_CACHE, persist_result=False)
def train_site(site: str, round_index: int, federation: Federation) -> SiteRecord | None:
    """Let one site check its order and take its turn, unless it has already; return its record, or None if it is lost."""
    journal, logger = federation.journal(), get_run_logger()
    finished = journal.site_done(site, round_index)
    if finished:
        logger.info("%s round %d: finished before", site, round_index)
    else:
        try:
            asked = orders.accept(federation, site, round_index)
            _take_turn(site, round_index, federation, asked)
        except (OrderRefusedError, LostError) as error:
            logger.warning("%s round %d: no update: %s", site, round_index, error)
            journal.intake.write_absence(site, round_index, str(error))
            return None
    orders.submit(federation, site, round_index, again=finished)
    record = journal.site_record(site, round_index)
    logger.info(
        "%s round %d: loss %.3f, inside Dice %s", site, round_index, record.train_loss, _cell(record.val_dice_inside) or "-"
    )
    return record


def _take_turn(site: str, round_index: int, federation: Federation, asked: Asked) -> None:
    """Train a site in a process of its own; one that dies is given a second."""
    try:
        _turn(site, round_index, federation, asked)
    except DeadlineError:
        raise
    except LostError as error:
        get_run_logger().warning("%s round %d: %s; once more", site, round_index, error)
        _turn(site, round_index, federation, asked)


def _turn(site: str, round_index: int, federation: Federation, asked: Asked) -> None:
    """Train a site in a process of its own, for as long as a turn may take."""
    minutes = federation.params.federate.deadline_minutes
    seconds = None if minutes is None else 60 * minutes
    workers.run(turns.site_turn, deadline_seconds=seconds, site=site, round_index=round_index, federation=federation, asked=asked)


@task(name="validate site", task_run_name="{site}: validate round {round_index}", cache_policy=NO_CACHE, persist_result=False)
def validate_site(site: str, round_index: int, federation: Federation) -> Path:
    """Score the global state that would open a round on one site's validation split."""
    return workers.run(turns.site_validation, site=site, round_index=round_index, federation=federation)


@task(name="aggregate", task_run_name="aggregate round {round_index}", cache_policy=NO_CACHE, persist_result=False)
def aggregate_round(round_index: int, federation: Federation) -> Path:
    """Admit a round's updates and average those that count into the state that opens the next round."""
    admitted = admitting.admit(federation, round_index)
    decision = admitted.decision
    left_out = {site: refusal.reason for site, refusal in decision.refused.items()}
    left_out |= {site: f"{site} is missing: {reason}" for site, reason in decision.missing.items()}
    for reason in left_out.values():
        get_run_logger().warning("round %d: %s; it goes on with %d updates", round_index, reason, len(decision.admitted))
    record = admitting.aggregate(federation, round_index, admitted)
    path = federation.journal().server_path(round_index + 1)
    rows: list[dict[str, object]] = [
        {
            "round": round_index,
            "site": update.site,
            "cases": update.num_cases,
            "weight": round(record.weights[update.site], 4),
            "share of the step": round(record.shares[update.site], 4),
            "loss": round(update.train_loss, 4),
            "validation Dice, global": update.val_dice_global,
            "validation Dice, inside": update.val_dice_inside,
            "norm of the update": round(record.delta_norms[update.site], 4),
            "left out": None,
        }
        for update in admitted.counting
    ]
    rows += [{"round": round_index, "site": site, "left out": reason} for site, reason in sorted(left_out.items())]
    compared = "" if decision.compared else "; too few updates to compare them with each other"
    create_table_artifact(
        key=f"round-report-{federation.paths.artifact_suffix}",
        table=rows,
        description=f"Round {round_index} of {federation.params.federate.rounds}; state in `{path}`{compared}",
    )
    return path


def veto_is_due(round_index: int, federation: Federation) -> bool:
    """Say whether sites are still to judge the state that a round led to."""
    return vetoing.due(federation, round_index)


@task(name="begin veto", task_run_name="judge round {round_index}", cache_policy=NO_CACHE, persist_result=False)
def begin_veto(round_index: int, federation: Federation) -> None:
    """Make sure that the state to judge is made of the updates that count."""
    vetoing.begin(federation, round_index)


@task(name="draw up", task_run_name="states without one update, round {round_index}", cache_policy=NO_CACHE, persist_result=False)
def draw_up_without(round_index: int, federation: Federation) -> list[tuple[str, str]]:
    """If a site lost, make the state without each update; return who is to score which."""
    return vetoing.draw_up(federation, round_index)


@task(name="score", task_run_name="{site}: without {left_out}", cache_policy=NO_CACHE, persist_result=False)
def score_without(site: str, left_out: str, round_index: int, federation: Federation) -> Path:
    """Let a site score the state without another's update."""
    return workers.run(
        turns.site_score,
        site=site,
        round_index=round_index + 1,
        state=vetoing.without_path(federation, round_index, left_out),
        score=vetoing.score_path(federation, round_index, left_out, site),
        federation=federation,
    )


@task(name="settle veto", task_run_name="settle round {round_index}", cache_policy=NO_CACHE, persist_result=False)
def settle_veto(round_index: int, federation: Federation) -> None:
    """Leave out the update that did harm, if there is one."""
    verdict = vetoing.settle(federation, round_index)
    if verdict.losses:
        lost = ", ".join(f"{site} by {loss:.3f}" for site, loss in verdict.losses.items())
        get_run_logger().warning(
            "round %d: validation Dice fell at %s; left out: %s", round_index, lost, verdict.suspect or "none"
        )


@task(name="finish", task_run_name="select and save models", cache_policy=NO_CACHE, persist_result=False)
def finish(federation: Federation) -> Path:
    """Write the selected global and inside models, the rounds table and the federation's record."""
    from fedsilo import files
    from fedsilo.federation import states
    from fedsilo.federation.records import INSIDE

    journal, paths, params = federation.journal(), federation.paths, federation.params
    num_rounds = params.federate.rounds
    _refuse_without_turn(federation)
    best_global = journal.best_global(num_rounds)
    best_folds = {
        fold: {site: journal.best_fold(site, num_rounds - 1, fold) for site in federation.sites} for fold in params.federate.folds
    }
    shutil.rmtree(paths.inside_state("x").parent, ignore_errors=True)
    hashes = _save_global(federation, best_global)
    for fold, best in best_folds.items():
        for site, round_index in best.items():
            sha256 = journal.site_record(site, round_index).fold_sha256[fold]
            path = paths.inside_state(site) if fold == INSIDE else paths.fold_state(site, fold)
            hashes[path.relative_to(paths.run_dir).with_suffix("").as_posix()] = states.save(
                states.load(journal.fold_path(site, round_index, fold), sha256), path
            )
    _write_rounds(federation, best_global, best_folds[INSIDE])
    model_events.selected(federation, global_round=best_global, inside_rounds=best_folds[INSIDE])
    reference = states.load(paths.global_state)
    record: dict[str, object] = {
        "cohort": federation.roster.name,
        "run": paths.run,
        "seed": params.seed,
        "rounds": num_rounds,
        "global_round": best_global - 1,
        "inside_rounds": best_folds[INSIDE],
        "fold_rounds": {fold: best for fold, best in best_folds.items() if fold != INSIDE},
        "model_sha256": hashes,
        "num_parameters": sum(value.numel() for name, value in reference.items() if "running_" not in name),
        "in_channels": rounds.in_channels(federation),
        "num_classes": federation.num_classes,
        "network": params.federate.network.model_dump(mode="json"),
        "identity": rounds.identity(federation),
    }
    get_run_logger().info("global model of round %d; %s", best_global - 1, paths.run_dir)
    return files.write_json(paths.federation_record, record)


def _refuse_without_turn(federation: Federation) -> None:
    """Refuse to go on with a site none of whose updates counted: it has no inside model.

    Raises:
        QuorumError: Names the sites.
    """
    journal, num_rounds = federation.journal(), federation.params.federate.rounds
    names = [site for site in federation.sites if not journal.turns(site, num_rounds)]
    if names:
        raise QuorumError(
            f"{', '.join(names)}: counted in none of {num_rounds} rounds and has no inside model; leave it out of inside"
        )


def _save_global(federation: Federation, round_index: int) -> dict[str, str]:
    """Save the global state that opens a round, for sites that took no part and, if it differs, for each that did."""
    from fedsilo.federation import algorithms, states

    journal, paths = federation.journal(), federation.paths
    network, algorithm = rounds.build_network(federation), federation.params.federate.algorithm
    names, roles = algorithms.private_entries(network, algorithm), states.roles(network)
    if not names:
        return {"global": states.save(journal.read_server(round_index), paths.global_state)}
    held = {site: turns.held_state(federation, site, round_index, network) for site in federation.sites}
    cases = [
        float(journal.site_record(site, journal.turns(site, federation.params.federate.rounds)[-1]).num_cases) for site in held
    ]
    server = journal.read_server(round_index)
    hashes = {"global": states.save(algorithms.for_outside(server, list(held.values()), cases, roles, names), paths.global_state)}
    return hashes | {f"inside/held/{site}": states.save(state, paths.held_state(site)) for site, state in held.items()}


def _write_rounds(federation: Federation, best_global: int, best_inside: dict[str, int]) -> None:
    """Write rounds.csv: a row a round and site, in that order; val_dice_global is of the state the round led to."""
    from fedsilo import files

    journal = federation.journal()
    columns = (
        "round,site,num_cases,num_slices,weight,share,train_loss,val_dice_global,val_dice_inside,"
        "update_norm,update_bytes,latent_size,selected_global,selected_inside"
    )
    lines = [columns]
    for round_index in range(federation.params.federate.rounds):
        server = journal.server_record(round_index + 1)
        for site in federation.taking_part(round_index):
            values = _round_values(federation, site, round_index, server)
            values += [int(round_index + 1 == best_global), int(round_index == best_inside[site])]
            lines.append(",".join(_cell(value) for value in values))
    files.write_text(federation.paths.rounds_table, "\n".join(lines) + "\n")


def _round_values(federation: Federation, site: str, round_index: int, server: ServerRecord) -> list[object]:
    """List what a site did in a round; a site that was refused has no weight, of one that is missing nothing is known."""
    journal = federation.journal()
    decision = journal.intake.decision(round_index)
    validated = journal.validation(site, round_index + 1)
    if decision is not None and site in decision.missing:
        return [round_index, site, None, None, None, None, None, validated, None, None, None, None]
    record = journal.site_record(site, round_index)
    return [
        round_index,
        site,
        record.num_cases,
        record.num_slices,
        server.weights.get(site),
        server.shares.get(site),
        record.train_loss,
        validated,
        record.val_dice_inside,
        server.update_norms.get(site),
        record.update_bytes,
        record.latent_size,
    ]


def _cell(value: object) -> str:
    """Write a number for a table."""
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)
