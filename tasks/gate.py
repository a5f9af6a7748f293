"""Adapter of the gate: two runs, their cases tables and the hold-out to one verdict file, and what the trail says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from fedsilo.audit.events import Artifact, Decision, Subject
from fedsilo.errors import DataError
from tasks import model_events, trails
from tasks.federation import Federation
from tasks.paths import AuditPaths, RunPaths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedsilo.audit.events import Event
    from fedsilo.cohort.roster import Roster
    from fedsilo.evaluation.pairs import Holdout, Scored
    from fedsilo.evaluation.pccp import Make
    from fedsilo.evaluation.verdict import Verdict
    from fedsilo.params import Params
    from tasks.trails import Scribe

GATE, PCCP, USED = "gate", "pccp", "holdout"
PHASES = ("inside", "outside")
JUDGES = ("gate", "noninferiority", "pairs", "pccp", "statistics", "verdict")
"""Modules of fedsilo/evaluation that a verdict comes from."""

COLUMNS = ("site", "organ", "patients", "mean", "low", "high", "limit", "verdict")
WIDTHS = (12, 14, 13, 10, 10, 10, 9, 13)


@dataclass(frozen=True)
class Contender:
    """A run whose global model is judged, and the params that it says it was trained with."""

    paths: RunPaths
    params: Params

    @property
    def name(self) -> str:
        """Give the model's name, as the trail has it."""
        return f"{self.paths.run}/global"


@dataclass(frozen=True)
class Question:
    """What a gate is asked: candidate against champion over a cohort's hold-out, by a plan and for a reason.

    ``champion`` is None if the trail names no model in use: then there is nothing to compare with, and nothing passes.
    """

    roster: Roster
    champion: Contender | None
    candidate: Contender
    plan: Path
    reason: str

    @property
    def paths(self) -> RunPaths:
        """Files of the candidate's run."""
        return self.candidate.paths


def gates_dir(paths: AuditPaths) -> Path:
    """Folder of a federation's verdicts, beside its log, which names each by its hash; neither is in git."""
    return paths.founding.parent / "gates"


@task(name="judge", task_run_name="judge {question.candidate.name}", cache_policy=NO_CACHE, persist_result=False)
def judge(question: Question) -> Path:
    """Judge a candidate, write the verdict and say so in the trail; judged again, the same is said once.

    Raises:
        DataError: The champion is not the model in use, or is left out though one is; a run's files cannot be used.
        ParamsError: The plan cannot be used.
    """
    from fedsilo import files
    from fedsilo.evaluation import gate, pccp, verdict
    from fedsilo.evaluation.pccp import ChangeCheck

    scribe = trails.scribe(question.paths.audit)
    _check_champion(question, scribe)
    plan = pccp.load(question.plan)
    told = scribe.events("evaluate", "gate.verdict")
    candidate = _scored(question.candidate, told)
    made = _make(question, question.candidate, candidate)
    champion, changes = None, ChangeCheck(())
    if question.champion is not None:
        champion = _scored(question.champion, told)
        changes = pccp.check_changes(_make(question, question.champion, champion), made, plan.changes)
    found = gate.judge(
        champion,
        candidate,
        _holdout(question, candidate.model, told),
        plan.gate,
        changes=changes,
        reason=question.reason,
        code=_code(),
    )
    text = verdict.text(found)
    path = gates_dir(question.paths.audit) / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    files.write_text(path, text)
    _tell(question, found, path, told)
    get_run_logger().info("%s: %s", found.verdict, path)
    return path


def _check_champion(question: Question, scribe: Scribe) -> None:
    """Refuse to compare with any model but the one in use, or with none, once the trail says which that is.

    Raises:
        DataError: It is another, or was left out.
    """
    from fedsilo import files
    from fedsilo.audit import releases

    champion = scribe.opened.state.champions.get(releases.name_of(question.paths.cohort))
    if champion is None:
        return
    if question.champion is None:
        raise DataError(f"in use is {champion.current}: score it and name its run as the champion")
    given = f"sha256:{files.sha256_file(question.champion.paths.global_state)}"
    if champion.current != given:
        raise DataError(f"{question.champion.name} is {given}, in use is {champion.current}: score and name that one")


def _scored(contender: Contender, told: Sequence[Event]) -> Scored:
    """Read a run's scores, and what the trail says of the patients that they are of."""
    import pandas

    from fedsilo import files
    from fedsilo.evaluation import cases
    from fedsilo.evaluation.pairs import Scored

    paths = [contender.paths.cases_table(phase) for phase in PHASES]
    tables = [cases.read(path) for path in paths]
    model = files.sha256_file(contender.paths.global_state)
    holdout: dict[str, str] = {}
    for path in paths:
        sha256 = files.sha256_file(path)
        for event in told:
            of_model = event.kind == "evaluate" and event.subject and event.subject.after == f"sha256:{model}"
            if of_model and any(output.sha256 == sha256 for output in event.outputs):
                of_sites = (entry for entry in event.inputs if entry.name.startswith(model_events.HOLDOUT))
                holdout |= {entry.name.removeprefix(model_events.HOLDOUT): entry.sha256 for entry in of_sites}
    return Scored(model, pandas.concat(tables, ignore_index=True), holdout)


def _make(question: Question, contender: Contender, scored: Scored) -> Make:
    """Say what a run's model is made of, by its record and its scores.

    Raises:
        DataError: The record is damaged or of another model, or the run was trained with other params.
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
    if model != scored.model:
        raise DataError(f"{path} is the record of another model than {contender.paths.global_state}")
    if rounds.params_sha256(Federation(question.roster, params, contender.paths)) != trained_with:
        raise DataError(f"run {contender.paths.run} was trained with other params than those given for it")
    roles = scored.table[["site", "role"]].drop_duplicates()
    return Make(params, organs, dict(zip(roles["site"], roles["role"], strict=True)), data)


def _holdout(question: Question, candidate: str, told: Sequence[Event]) -> Holdout:
    """Say on which patients models are judged now: the test cases of every site, and how many other candidates they judged.

    Raises:
        DataError: A site was not prepared.
    """
    from fedsilo.evaluation.pairs import Holdout, Site
    from tasks import sites

    folders = {site.name: question.paths.prepared_site(site.name) for site in question.roster.sites}
    holdout = Holdout(
        sites={site.name: Site(site.role, site.modality) for site in question.roster.sites},
        cases={name: frozenset(row.case for row in sites.rows_of(folder, "test")) for name, folder in folders.items()},
        sha256={name: model_events.holdout_sha256(folder) for name, folder in folders.items()},
        uses=0,
    )
    judged = {
        event.subject.after
        for event in told
        if event.kind == "gate.verdict" and event.subject and Artifact(USED, holdout.digest) in event.inputs
    }
    return replace(holdout, uses=len(judged - {f"sha256:{candidate}"}))


def _tell(question: Question, found: Verdict, path: Path, told: Sequence[Event]) -> None:
    """Say in the trail whether the candidate is inside the plan, and what the gate found."""
    scribe, paths = trails.scribe(question.paths.audit), question.paths
    subject = Subject("model", question.candidate.name, after=f"sha256:{found.candidate}")
    decision = Decision(GATE, found.verdict, trails.hashed(path))
    said = [event for event in told if event.kind == "gate.verdict" and event.subject and event.subject.after == subject.after]
    if said and said[-1].decision == decision:
        return
    plan = trails.artifact(question.plan, PCCP)
    compared = []
    if question.champion is not None and found.champion is not None:
        compared = [Artifact(question.champion.name, found.champion)]
        changed = ", ".join(change.name for change in found.changes.changes) or "nothing"
        scribe.append(
            "pccp.check",
            f"differs from the champion in {changed}",
            subject=subject,
            inputs=[plan, *compared],
            decision=Decision(PCCP, found.changes.verdict, f"sha256:{plan.sha256}"),
        )
    contenders = [contender for contender in (question.champion, question.candidate) if contender is not None]
    tables = [contender.paths.cases_table(phase) for contender in contenders for phase in PHASES]
    scribe.append(
        "gate.verdict",
        f"{found.verdict}: {', '.join(found.decided_by) or 'all rules'}",
        subject=subject,
        inputs=[
            *compared,
            Artifact(USED, found.holdout),
            plan,
            *(trails.artifact(table, table.relative_to(paths.workspace).as_posix()) for table in tables),
        ],
        outputs=[trails.artifact(path, path.relative_to(paths.workspace).as_posix())],
        decision=decision,
    )


def last_verdict(paths: RunPaths, model: str) -> Path:
    """Find the file of the gate's last verdict on a model, as the open trail names it.

    Raises:
        DataError: There is none, or it is not as the trail says.
    """
    events = trails.scribe(paths.audit).events("gate.verdict")
    told = [event for event in events if event.subject and event.subject.after == model]
    if not told or not told[-1].outputs:
        raise DataError(f"the gate has given no verdict on {model}")
    path = paths.workspace / told[-1].outputs[0].name
    if not path.is_file() or trails.artifact(path).sha256 != told[-1].outputs[0].sha256:
        raise DataError(f"{path} is missing, or not as line {told[-1].seq + 1} of the trail says")
    return path


def _code() -> str:
    """Hash the code that a verdict comes from; hex."""
    from fedsilo import evaluation, files

    folder = Path(str(evaluation.__file__)).parent
    lines = "".join(f"{files.sha256_file(folder / f'{name}.py')}  {name}\n" for name in JUDGES)
    return hashlib.sha256(lines.encode()).hexdigest()


def summary(path: Path) -> tuple[str, str]:
    """Read a verdict; give it with a few lines for people: rules, and what was compared at sites.

    Raises:
        DataError: There is none, or it is damaged.
    """
    from fedsilo import files

    record = files.read_json(path)
    try:
        rules = [f"{rule['verdict']:<14}{rule['name']:<17}{rule['why']}" for rule in record["rules"]]  # type: ignore[attr-defined]  # checked here
        units = [_line(unit) for unit in record["units"] if unit["kind"] == "site" and unit["use"] == GATE]  # type: ignore[attr-defined]  # checked here
        verdict = str(record["verdict"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    table = [COLUMNS, *units] if units else []
    lines = ["", *rules, "", *("".join(map(str.ljust, row, WIDTHS)).rstrip() for row in table)]
    return verdict, "\n".join([*lines, "", f"{verdict}: {path}, sha256 {files.sha256_file(path)}", ""])


def _line(unit: Mapping[str, object]) -> tuple[str, ...]:
    """Write a comparison as cells."""
    patients = f"{unit['num_patients']} of {unit['num_needed']}"
    numbers = (f"{float(str(unit[name])):+.4f}" for name in ("mean", "low", "high"))
    return (str(unit["name"]), str(unit["organ"]), patients, *numbers, f"{-float(str(unit['margin'])):g}", str(unit["verdict"]))
