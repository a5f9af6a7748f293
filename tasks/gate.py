"""Adapter of the gate: two runs, their cases tables and the hold-out to one verdict file, and what the trail says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo.audit.events import CHAMPION, Artifact, Decision, Subject
from fedsilo.audit.state import Candidate
from fedsilo.errors import DataError
from tasks import contenders, model_events, trails
from tasks.contenders import Contender
from tasks.paths import AuditPaths, RunPaths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedsilo.audit.events import Event
    from fedsilo.cohort.roster import Roster
    from fedsilo.evaluation.pairs import Holdout
    from fedsilo.evaluation.verdict import Verdict
    from tasks.trails import Scribe

GATE, PCCP = "gate", "pccp"
JUDGES = ("gate", "noninferiority", "pairs", "pccp", "statistics", "verdict")
"""Modules of fedsilo/evaluation that a verdict comes from."""

COLUMNS = ("site", "organ", "patients", "mean", "low", "high", "limit", "verdict")
WIDTHS = (12, 14, 13, 10, 10, 10, 9, 13)


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
    told = scribe.events("data.accept", "evaluate", "gate.verdict")
    methods = plan.gate.methods
    candidate = contenders.scored(question.candidate, told)
    made = contenders.make(question.candidate, candidate, question.roster, told, methods)
    champion, changes = None, ChangeCheck(())
    if question.champion is not None:
        champion = contenders.scored(question.champion, told)
        before = contenders.make(question.champion, champion, question.roster, told, methods)
        changes = pccp.check_changes(before, made, plan.changes, methods=methods)
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
    _tell(question, found, path)
    get_run_logger().info("%s: %s", found.verdict, path)
    create_markdown_artifact(
        key=f"gate-{question.paths.artifact_suffix}",
        markdown=f"```\n{summary(path)[1]}```\n",
        description=f"{found.verdict}: {question.candidate.name}",
    )
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


def _holdout(question: Question, candidate: str, told: Sequence[Event]) -> Holdout:
    """Say on which patients models are judged now: the test cases of every site, and how many other candidates each judged.

    Raises:
        DataError: A site was not prepared.
    """
    from fedsilo.evaluation.pairs import Holdout, Site
    from tasks import sites

    folders = {site.name: question.paths.prepared_site(site.name) for site in question.roster.sites}
    organs = question.roster.organs
    sha256 = {name: model_events.holdout_sha256(folder) for name, folder in folders.items()}
    return Holdout(
        sites={site.name: Site(site.role, site.modality) for site in question.roster.sites},
        cases={
            name: {row.case: frozenset(organs[value] for value in sites.annotated(row)) for row in sites.rows_of(folder, "test")}
            for name, folder in folders.items()
        },
        sha256=sha256,
        uses={site: len(_judged_on(site, found, told) - {f"sha256:{candidate}"}) for site, found in sha256.items()},
    )


def _judged_on(site: str, sha256: str, told: Sequence[Event]) -> set[str | None]:
    """List the models on which there was a verdict by a site's test cases as they are now."""
    used = Artifact(f"{model_events.HOLDOUT}{site}", sha256)
    return {event.subject.after for event in told if event.kind == "gate.verdict" and event.subject and used in event.inputs}


def _tell(question: Question, found: Verdict, path: Path) -> None:
    """Say in the trail whether the candidate is inside the plan, and what the gate found."""
    scribe, paths = trails.scribe(question.paths.audit), question.paths
    subject = Subject("model", question.candidate.name, after=f"sha256:{found.candidate}")
    decision = Decision(GATE, found.verdict, trails.hashed(path))
    known = scribe.opened.state.candidates.get(str(subject.after), Candidate())
    if (known.verdict, known.metrics_ref) == (decision.verdict, decision.metrics_ref) and not known.ended:
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
    judged = [contender for contender in (question.champion, question.candidate) if contender is not None]
    tables = [contender.paths.cases_table(phase) for contender in judged for phase in contenders.PHASES]
    scribe.append(
        "gate.verdict",
        f"{found.verdict}: {', '.join(found.decided_by) or 'all rules'}",
        subject=subject,
        inputs=[
            *(Artifact(CHAMPION, entry.sha256) for entry in compared),
            *(Artifact(f"{model_events.HOLDOUT}{site}", sha256) for site, sha256 in found.holdout_sites.items()),
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
    scribe = trails.scribe(paths.audit)
    told = [event for event in scribe.events("gate.verdict") if event.subject and event.subject.after == model]
    if not told:
        raise DataError(f"the gate has given no verdict on {model}")
    return scribe.output(told[-1])


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
