"""Adapters of the inside comparison: the baselines of a site, and its test cases under every model."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from fedsilo.errors import DataError
from tasks import progress, rounds, scoring, workers
from tasks.federation import Federation

DRAWN = ("global", "inside")
"""Methods whose outlines stand in the report."""


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
def collect(parts: list[Path], federation: Federation) -> Path:
    """Join the sites' tables and pictures."""
    return scoring.collect_parts(federation, "inside", parts)


def finetune_site(*, site: str, federation: Federation, device: str) -> Path:
    """Train the global model further at one site, at the rate of the last round; runs in a worker process."""
    from fedsilo.federation import states
    from fedsilo.segmentation import training

    params, paths = federation.params.federate, federation.paths
    data = federation.inputs(site)
    model = rounds.build_network(federation).to(device)
    states.restore(model, states.load(paths.global_state))
    training.train(
        model,
        data.training,
        epochs=federation.params.inside.finetune_epochs,
        rate=training.learning_rate(params.optimizer, round_index=params.rounds - 1, rounds=params.rounds),
        annotated=data.annotated,
        params=params,
        stream=training.Stream(federation.params.seed, "finetune", site, params.rounds),
        remapper=rounds.final_remapper(federation, site, data, device),
        amp=federation.params.runtime.amp,
    )
    path = paths.baseline_state(site, "finetuned")
    states.save(states.snapshot(model), path)
    return path


def evaluate_site(*, site: str, federation: Federation, device: str) -> Path:
    """Predict and score one site's test cases with every model; runs in a worker process."""
    from fedsilo import files
    from fedsilo.cohort import preprocess
    from fedsilo.federation import states
    from tasks import sites

    record = files.read_json(federation.paths.federation_record)
    models = {method: _model_path(federation, site, method) for method in federation.params.inside.methods}
    loaded = {method: states.load(path) for method, path in models.items()}
    hashes = {method: files.sha256_file(path) for method, path in models.items()}
    chosen = {"global": int(str(record["global_round"])), "inside": _inside_round(record, site)}
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


def _model_path(federation: Federation, site: str, method: str) -> Path:
    """Find the state that a method predicts with."""
    if method == "global":
        return federation.paths.global_state
    return federation.paths.inside_state(site) if method == "inside" else federation.paths.baseline_state(site, method)


def _inside_round(record: dict[str, object], site: str) -> int:
    """Read the round of a site's inside model."""
    rounds_by_site = record["inside_rounds"]
    if not isinstance(rounds_by_site, dict):
        raise DataError(f"federation.json is damaged: inside_rounds is {rounds_by_site!r}")
    return int(rounds_by_site[site])
