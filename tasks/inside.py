"""Adapters of the inside comparison: the baselines of a site, and its test cases under every model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from fedsilo.errors import DataError
from fedsilo.federation.records import INSIDE
from tasks import progress, rounds, scoring, turns, workers
from tasks.federation import Federation

DRAWN = ("global", "inside")
"""Methods whose outlines stand in the report."""

FOLD = "fold-"
"""Before the names of folds that are compared with the inside model."""


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
            workers.run(turns.site_turn, site=site, round_index=round_index, federation=alone, asked=None)
        rounds.follow(alone, round_index)
        record = journal.site_record(site, round_index)
        progress.advance(site=site, round_index=round_index, loss=record.train_loss, dice=record.val_dice_inside)
    workers.run(turns.site_validation, site=site, round_index=num_rounds, federation=alone)
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
def collect(parts: list[Path], federation: Federation) -> Path:
    """Join the sites' tables and pictures; without baselines their folder, an output of the stage, is empty."""
    federation.paths.baselines_dir.mkdir(parents=True, exist_ok=True)
    return scoring.collect_parts(federation, "inside", parts)


def finetune_site(*, site: str, federation: Federation, device: str) -> Path:
    """Train the global model further at one site, at the rate of the last round; runs in a worker process.

    Saves the model after ``inside.finetune_epochs``, and that of the epoch, from 1 to ``inside.finetune_best_of``, with the
    best Dice on the site's own validation cases; whichever is asked for.
    """
    from fedsilo.federation import states
    from fedsilo.segmentation import training

    params, paths, inside = federation.params.federate, federation.paths, federation.params.inside
    data = federation.inputs(site)
    model = rounds.build_network(federation).to(device)
    states.restore(model, states.load(_model_path(federation, site, "global")))
    stretch = training.Stretch(
        data=data.training,
        epochs=1,
        rate=training.learning_rate(params.optimizer, round_index=params.rounds - 1, rounds=params.rounds),
        annotated=data.annotated,
        params=params,
        stream=training.Stream(federation.params.seed, "finetune", site, params.rounds),
        remapper=turns.final_remapper(federation, site, data, device),
        amp=federation.params.runtime.amp,
    )
    last = {"finetuned": inside.finetune_epochs, "finetuned_best": inside.finetune_best_of}
    last = {method: epochs for method, epochs in last.items() if method in inside.methods}
    moments, best = None, -math.inf
    for epoch in range(1, max(last.values()) + 1):
        stream = replace(stretch.stream, round_index=params.rounds + epoch - 1)
        moments = training.train(model, replace(stretch, stream=stream), initial_moments=moments).moments
        if epoch == last.get("finetuned"):
            states.save(states.snapshot(model), paths.baseline_state(site, "finetuned"))
        if epoch <= last.get("finetuned_best", 0):
            dice = turns.validate(model, data, federation, device)
            if epoch == 1 or (dice is not None and dice > best):
                best = -math.inf if dice is None else dice
                states.save(states.snapshot(model), paths.baseline_state(site, "finetuned_best"))
    return paths.baseline_state(site, "finetuned").parent


def evaluate_site(*, site: str, federation: Federation, device: str) -> Path:
    """Predict and score one site's test cases with every model; runs in a worker process."""
    from fedsilo import files
    from fedsilo.cohort import preprocess
    from fedsilo.federation import states
    from tasks import sites

    record = files.read_json(federation.paths.federation_record)
    methods = (*federation.params.inside.methods, *_other_folds(federation))
    models = {method: _model_path(federation, site, method) for method in methods}
    loaded = {method: states.load(path) for method, path in models.items()}
    hashes = {method: files.sha256_file(path) for method, path in models.items()}
    chosen = _rounds(record, site)
    drawn = federation.roster.site(site).show_images
    predictor = scoring.predictor(federation, device)
    scored = []
    for row in sites.rows_of(federation.paths.prepared_site(site), "test"):
        case = preprocess.load(federation.paths.prepared_site(site) / row.file)
        outcomes = []
        for method, state in loaded.items():
            prediction = scoring.Prediction(method, predictor.predict(case.image, state), hashes[method], chosen.get(method))
            shown = drawn and method in DRAWN
            outcomes.append(scoring.score(federation, site, row, case, prediction, drawn=shown))
        scored.append(scoring.ScoredCase(row, outcomes))
    return scoring.write_part(federation, "inside", site, scored)


def _other_folds(federation: Federation) -> tuple[str, ...]:
    """Name the methods that stand for other averages of a site's rounds than its inside model."""
    return tuple(f"{FOLD}{fold}" for fold in federation.params.federate.folds if fold != INSIDE)


def _model_path(federation: Federation, site: str, method: str) -> Path:
    """Find the state that a method predicts with."""
    paths = federation.paths
    if method.startswith(FOLD):
        return paths.fold_state(site, method.removeprefix(FOLD))
    if method == "global":
        return paths.held_state(site) if paths.held_state(site).exists() else paths.global_state
    return paths.inside_state(site) if method == "inside" else paths.baseline_state(site, method)


def _rounds(record: dict[str, object], site: str) -> dict[str, int]:
    """Read of which round the federation's own models of a site are.

    Raises:
        DataError: The record is damaged.
    """
    try:
        folds = {f"{FOLD}{fold}": by_site for fold, by_site in dict(record["fold_rounds"]).items()}  # type: ignore[call-overload]  # checked here
        chosen = {method: int(by_site[site]) for method, by_site in {"inside": record["inside_rounds"], **folds}.items()}
        return {"global": int(str(record["global_round"])), **chosen}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"federation.json is damaged: {error}") from error
