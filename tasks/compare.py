"""Adapters of the comparison of runs: every test case of every site under the global models of several runs."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from fedsilo.errors import DataError
from tasks import model_events, progress, scoring, workers
from tasks.federation import Federation
from tasks.paths import RunPaths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsilo.tensors import StateDict


PATTERN = re.compile(r"[a-z0-9*?\[\]!_-]{1,80}(/[a-z0-9*?\[\]!_-]{1,80})?")
"""Names of runs and what stands for several."""


@dataclass(frozen=True)
class Comparison:
    """Which runs are compared, over whose cases.

    ``federation`` has the cohort, the network and the place of the results; who trained is each run's own affair.
    """

    federation: Federation
    runs: tuple[str, ...]

    @property
    def sites(self) -> list[str]:
        """All sites by name, inside and outside."""
        return sorted(site.name for site in self.federation.roster.sites)

    def paths(self, run: str) -> RunPaths:
        """Say where a run's files lie."""
        return replace(self.federation.paths, run=run)

    @property
    def parts_dir(self) -> Path:
        """Folder of the sites' tables until they are collected; beside the checkpoints, never an output."""
        return self.federation.paths.checkpoints_dir / "compare-parts"


@dataclass(frozen=True)
class _Model:
    """A run's global model, and the federation that its rows name."""

    federation: Federation
    state: StateDict
    sha256: str
    round_index: int


@task(name="evaluate runs", task_run_name="{site}: test cases", cache_policy=NO_CACHE, persist_result=False)
def evaluate(site: str, comparison: Comparison) -> Path:
    """Score every run's global model on a site's test cases."""
    path = workers.run(evaluate_site, site=site, comparison=comparison)
    progress.advance(site=site)
    get_run_logger().info("%s: scored under %d runs", site, len(comparison.runs))
    return path


@task(name="collect runs", task_run_name="collect cases", cache_policy=NO_CACHE, persist_result=False)
def collect(parts: list[Path], comparison: Comparison) -> Path:
    """Join the sites' tables."""
    from fedsilo.evaluation import cases

    table = cases.join(parts, comparison.federation.paths.compared_table)
    shutil.rmtree(comparison.parts_dir)
    models = {f"{run}/global": comparison.paths(run).global_state for run in comparison.runs}
    model_events.scored(comparison.federation, "compare", table, models)
    get_run_logger().info("%s", table)
    return table


def evaluate_site(*, site: str, comparison: Comparison, device: str) -> Path:
    """Predict and score one site's test cases with every run's global model; runs in a worker process."""
    from fedsilo.cohort import preprocess
    from fedsilo.evaluation import cases
    from tasks import sites

    folder = comparison.federation.paths.prepared_site(site)
    models = {run: _model(comparison, run) for run in comparison.runs}
    predictor = scoring.predictor(comparison.federation, device)
    rows = []
    for row in sites.rows_of(folder, "test"):
        case = preprocess.load(folder / row.file)
        for run, model in models.items():
            prediction = scoring.Prediction(run, predictor.predict(case.image, model.state), model.sha256, model.round_index)
            outcome = scoring.score(model.federation, site, row, case, prediction, drawn=False)
            rows += outcome.rows
    return cases.write(rows, comparison.parts_dir / f"{site}.csv")


def _model(comparison: Comparison, run: str) -> _Model:
    """Load a run's global model, checked against its record.

    Raises:
        DataError: The run's record is damaged, of another cohort, of other organs, or of data that were prepared differently:
            its test cases may be ones that it was trained on.
        CheckpointError: The model is not the recorded one.
    """
    from fedsilo import files
    from fedsilo.federation import states
    from tasks import sites

    base, paths = comparison.federation, comparison.paths(run)
    record = files.read_json(paths.federation_record)
    try:
        cohort, organs, trained_on = record["cohort"], record["identity"]["organs"], record["identity"]["manifest_sha256"]  # type: ignore[index]  # checked here
        sha256, seed, round_index = record["model_sha256"]["global"], int(record["seed"]), int(record["global_round"])  # type: ignore[call-overload, index]  # checked here
        members = dict(trained_on)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{paths.federation_record} is damaged: {error}") from error
    if (cohort, organs) != (base.roster.name, list(base.roster.organs)):
        raise DataError(f"run {run} is of cohort {cohort} with {organs}, expected {base.roster.name} with {base.roster.organs}")
    for site, manifest_sha256 in members.items():
        if files.sha256_file(sites.manifest_path(base.paths.prepared_site(site))) != manifest_sha256:
            raise DataError(f"run {run} was trained on other preparations of {site} than those in data/prepared")
    params = base.params.model_copy(update={"seed": seed})
    return _Model(replace(base, params=params, paths=paths), states.load(paths.global_state, sha256), sha256, round_index)


def find_runs(workspace: Path, patterns: Sequence[str]) -> tuple[str, ...]:
    """List the runs that names or patterns mean, sorted.

    Raises:
        DataError: A pattern means no run, or one that has not ended.
    """
    root = workspace / "runs"
    found: set[str] = set()
    for pattern in patterns:
        if not PATTERN.fullmatch(pattern):
            raise DataError(f"cannot use {pattern!r} as a run: expected a name or pattern below {root}")
        folders = [path for path in root.glob(pattern) if path.is_dir()]
        if not folders:
            raise DataError(f"{root} has no run {pattern}")
        for folder in folders:
            if not (folder / "federation.json").is_file():
                raise DataError(f"run {folder.relative_to(root)} has not ended: it has no federation.json")
        found |= {folder.relative_to(root).as_posix() for folder in folders}
    return tuple(sorted(found))
