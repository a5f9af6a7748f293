"""Adapters of the inside comparison: the baselines of a site, and its test cases under every model."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks import progress, rounds, workers
from tasks.paths import RunPaths
from tasks.rounds import Federation

METHODS = ("global", "inside", "local", "finetuned")


@task(name="train alone", task_run_name="{site}: train alone", cache_policy=NO_CACHE, persist_result=False)
def train_alone(site: str, federation: Federation) -> Path:
    """Train the local-only model of a site, as many epochs as the federation had, and keep its best validated round."""
    from fedsilo.federation import states

    alone = federation.alone(site)
    journal, num_rounds = alone.journal(), alone.params.federate.rounds
    opened = rounds.open_journal(alone)
    for warning in opened.warnings:
        get_run_logger().warning(warning)
    for round_index in range(opened.round_index, num_rounds):
        if not journal.site_done(site, round_index):
            workers.run(rounds.site_turn, site=site, round_index=round_index, federation=alone)
        rounds.aggregate(alone, round_index)
        record = journal.site_record(site, round_index)
        progress.advance(site=site, round_index=round_index, loss=record.train_loss, dice=record.val_dice_inside)
    workers.run(rounds.site_validation, site=site, round_index=num_rounds, federation=alone)
    best = journal.best_global(num_rounds)
    path = federation.paths.baseline_state(site, "local")
    states.save(journal.read_server(best), path)
    get_run_logger().info("%s alone: round %d of %d", site, best - 1, num_rounds)
    return path


@task(name="fine-tune", task_run_name="{site}: fine-tune the global model", cache_policy=NO_CACHE, persist_result=False)
def finetune(site: str, federation: Federation) -> Path:
    """Fine-tune the global model at a site (FedAvg + FT)."""
    path = workers.run(finetune_site, site=site, federation=federation)
    get_run_logger().info("%s: fine-tuned, %s", site, path.name)
    return path


@task(name="evaluate", task_run_name="{site}: test cases", cache_policy=NO_CACHE, persist_result=False)
def evaluate(site: str, federation: Federation) -> Path:
    """Score every method on a site's test cases."""
    path = workers.run(evaluate_site, site=site, federation=federation)
    get_run_logger().info("%s: scored, %s", site, path.name)
    return path


@task(name="collect", task_run_name="collect cases", cache_policy=NO_CACHE, persist_result=False)
def collect(parts: list[Path], paths: RunPaths) -> Path:
    """Join the sites' tables."""
    from fedsilo.evaluation import cases, overlays

    folder = paths.phase_dir("inside")
    overlays.write_index([entry for part in sorted(parts) for entry in overlays.read_index(part.with_suffix(".overlays.csv"))], folder)
    table = cases.join(sorted(parts), paths.cases_table("inside"))
    for part in parts:
        part.unlink()
        part.with_suffix(".overlays.csv").unlink()
    return table
