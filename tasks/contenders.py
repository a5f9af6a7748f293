"""A run whose global model a gate judges: its scores, what they were made on, and what the model is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsilo.errors import DataError
from fedsilo.params import Params
from tasks import model_events, trails
from tasks.federation import Federation
from tasks.paths import RunPaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedsilo.audit.events import Event
    from fedsilo.cohort.roster import Roster
    from fedsilo.evaluation.pairs import Scored
    from fedsilo.evaluation.pccp import Make, MethodParams

PHASES = ("inside", "outside")
"""Whose cases tables are looked at."""
PREPARE = "prepare"


@dataclass(frozen=True)
class Contender:
    """A run whose global model is judged, and the params that it says it was trained with."""

    paths: RunPaths
    params: Params

    @property
    def name(self) -> str:
        """Give the model's name, as the trail has it."""
        return f"{self.paths.run}/global"


def scored(contender: Contender, told: Sequence[Event]) -> Scored:
    """Read a run's scores, and what the trail says of the patients that they are of.

    Args:
        contender: The run.
        told: Events `evaluate` of the federation.

    Raises:
        DataError: A file is missing or damaged.
    """
    import pandas

    from fedsilo import files
    from fedsilo.evaluation import cases
    from fedsilo.evaluation.pairs import Scored

    tables = [cases.read(contender.paths.cases_table(phase)) for phase in PHASES]
    holdout: dict[str, str] = {}
    for phase in PHASES:
        for event in _of_table(contender, phase, told):
            of_sites = (entry for entry in event.inputs if entry.name.startswith(model_events.HOLDOUT))
            holdout |= {entry.name.removeprefix(model_events.HOLDOUT): entry.sha256 for entry in of_sites}
    return Scored(files.sha256_file(contender.paths.global_state), pandas.concat(tables, ignore_index=True), holdout)


def make(contender: Contender, scores: Scored, roster: Roster, told: Sequence[Event], methods: MethodParams) -> Make:
    """Say what a run's model is made of, by its record, its scores and the trail.

    Args:
        contender: The run.
        scores: Its scores.
        roster: Of the cohort now.
        told: Events `evaluate` and `data.accept` of the federation.
        methods: What predicts where the model is in use.

    Raises:
        DataError: The record is damaged or of another model, or the run was made with other params than those given for it.
    """
    from fedsilo import files
    from fedsilo.evaluation.pccp import Make
    from tasks import rounds

    path = contender.paths.federation_record
    record = files.read_json(path)
    try:
        organs, data = tuple(record["identity"]["organs"]), dict(record["identity"]["manifest_sha256"])  # type: ignore[index]  # checked here
        trained_with, model = record["identity"]["params_sha256"], record["model_sha256"]["global"]  # type: ignore[index]  # checked here
        params = contender.params.model_copy(update={"seed": int(str(record["seed"]))})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if model != scores.model:
        raise DataError(f"{path} is the record of another model than {contender.paths.global_state}")
    if rounds.params_sha256(Federation(roster, params, contender.paths)) != trained_with:
        raise DataError(f"run {contender.paths.run} was trained with other params than those given for it")
    given = {
        entry.name.removeprefix(trails.PARAMS): entry.sha256
        for section in (PREPARE, *methods.phases)
        for entry in trails.params_section(params, section)
    }
    known = {PREPARE: _prepared(data, told)}
    for phase in methods.phases:
        learned = f"{phase}.{methods.of(phase)}"
        for part in (phase, learned) if learned in given else (phase,):
            known[part] = _scored_with(contender, phase, part, told)
    for section, hashes in known.items():
        if hashes - {None, given[section]}:
            raise DataError(f"run {contender.paths.run} was made with other params of {section} than those given for it")
    # a site that joined after the training, or left since, is told by the record; tables have the roles of today
    sites = {site: "inside" if site in data else "outside" for site in (*scores.table["site"].unique(), *data)}
    return Make(params, organs, sites, data, frozenset(section for section, hashes in known.items() if None in hashes))  # type: ignore[arg-type]  # roles


def _prepared(data: Mapping[str, str], told: Sequence[Event]) -> set[str | None]:
    """List the hashes of params with which a model's data were prepared; None for a site of which nothing says so."""
    found: dict[str, str | None] = dict.fromkeys(data)
    for event in told:
        site = event.site or ""
        if event.kind == "data.accept" and event.subject and event.subject.after == f"sha256:{data.get(site)}":
            found[site] = _params(event, PREPARE) or found[site]
    return set(found.values())


def _scored_with(contender: Contender, phase: str, part: str, told: Sequence[Event]) -> set[str | None]:
    """Give the hash of a part of the params with which a run's table of a phase was made last; None if nothing says so."""
    found = [sha256 for event in _of_table(contender, phase, told) if (sha256 := _params(event, part))]
    return {found[-1] if found else None}


def _params(event: Event, section: str) -> str | None:
    return next((entry.sha256 for entry in event.inputs if entry.name == f"{trails.PARAMS}{section}"), None)


def _of_table(contender: Contender, phase: str, told: Sequence[Event]) -> Iterator[Event]:
    """Find what the trail says of a run's model and its table of a phase as it is now."""
    table, model = trails.artifact(contender.paths.cases_table(phase)).sha256, trails.hashed(contender.paths.global_state)
    for event in told:
        of_model = event.kind == "evaluate" and event.subject and event.subject.after == model
        if of_model and any(output.sha256 == table for output in event.outputs):
            yield event
