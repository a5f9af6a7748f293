"""Adapters of the decision to train again: evidence from the trail, from DVC and from the sites' reports."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo import files
from fedsilo.audit import releases
from fedsilo.audit.events import Decision
from fedsilo.cohort.roster import Roster
from fedsilo.errors import DataError
from fedsilo.trigger_params import TriggerPolicy
from tasks import trails, versioned, versions
from tasks.drift_paths import DriftPaths
from tasks.paths import RunPaths
from tasks.release_paths import ReleasePaths

if TYPE_CHECKING:
    from fedsilo.audit.events import Event
    from fedsilo.evaluation.triggers import Decay, News
    from tasks.trails import Scribe

RULE = "retrain"
KINDS = ("promote", "rollback", "retrain.decision")


@dataclass(frozen=True)
class Question:
    """Whether to train a cohort's federation again.

    ``champion`` is the commit with the champion's data, empty for that of the version in use; ``audited`` a file with scores of
    labelled cases in use.
    """

    roster: Roster
    paths: RunPaths
    policy: TriggerPolicy
    champion: str = ""
    manual: str = ""
    upstream: str = ""
    audited: Path | None = None


@task(name="decide", task_run_name="decide whether to train again", cache_policy=NO_CACHE, persist_result=False)
def decide(question: Question) -> Path:
    """Decide whether to train again, write the decision with its evidence and tell the trail, also of a no."""
    from fedsilo.evaluation import drift_reports, triggers
    from fedsilo.evaluation.triggers import Evidence

    scribe, paths = trails.scribe(question.paths.audit), DriftPaths(question.paths)
    told = scribe.events(*KINDS)
    promoted = [event for event in told if event.kind in ("promote", "rollback")]
    retrained = [event for event in told if event.decision is not None and event.decision.verdict == "yes"]
    sites = sorted(site.name for site in question.roster.sites)
    reports = [path for site in sites for path in paths.reports(site)]
    commit = question.champion or champion_tag(question, promoted)
    evidence = Evidence(
        now=datetime.now(UTC),
        champion_since=_time(promoted[-1]) if promoted else None,
        last_retrained=_time(retrained[-1]) if retrained else None,
        news=tuple(news_of(question, site, commit) for site in sites),
        reports=tuple(drift_reports.read(path) for path in reports),
        decay=audited_scores(question, sites),
        manual=question.manual,
        upstream=question.upstream,
    )
    decision = triggers.decide(evidence, question.policy)
    content = {
        "decision": asdict(decision),
        "now": evidence.now.isoformat(),
        "champion_since": evidence.champion_since and evidence.champion_since.isoformat(),
        "last_retrained": evidence.last_retrained and evidence.last_retrained.isoformat(),
        "news": [asdict(entry) for entry in evidence.news],
        "decay": [asdict(entry) for entry in evidence.decay],
        "reports": {path.relative_to(question.paths.workspace).as_posix(): files.sha256_file(path) for path in reports},
        "policy": question.policy.model_dump(mode="json"),
    }
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = files.write_text(paths.decisions_dir / f"{name}.json", text)
    _tell(scribe, path, verdict=decision.verdict, text=f"{decision.verdict}: {decision.why}", reports=reports, question=question)
    get_run_logger().info("%s: %s, %s", decision.verdict, decision.why, path)
    create_table_artifact(
        key=f"retraining-{question.paths.artifact_suffix}",
        table=[{"site": entry.site, "known": entry.known, "new": entry.new} for entry in evidence.news],
        description=f"{decision.verdict}: {decision.why}",
    )
    return path


def _tell(scribe: Scribe, path: Path, *, verdict: str, text: str, reports: list[Path], question: Question) -> None:
    """Write the decision into the trail."""
    root = question.paths.workspace
    scribe.append(
        "retrain.decision",
        text,
        inputs=[trails.artifact(report, report.relative_to(root).as_posix()) for report in reports],
        outputs=[trails.artifact(path, path.relative_to(root).as_posix())],
        decision=Decision(RULE, verdict, trails.hashed(path)),
    )


def news_of(question: Question, site: str, commit: str) -> News:
    """Count a site's cases that the champion knew, and those that came since, by the manifests that DVC versions.

    Cases are compared by the hash of their images; without a champion none is known.

    Raises:
        DataError: A manifest is damaged, or DVC has lost the champion's.
    """
    from fedsilo.cohort import manifest
    from fedsilo.evaluation.triggers import News

    path = question.paths.prepared_site(site) / "manifest.csv"
    now = {row.content_hash for row in manifest.read(path)} if path.is_file() else set()
    known: set[str] = set()
    if commit:
        inner = path.relative_to(question.paths.workspace).as_posix()
        content = versioned.read_at(question.paths.workspace, inner, commit)
        if content is not None:
            kept = files.write_bytes(question.paths.checkpoints_dir / "retrain" / site / "manifest.csv", content)
            known = {row.content_hash for row in manifest.read(kept)}
    return News(site, known=len(known), new=len(now - known))


def verdict_of(path: Path) -> str:
    """Read ``yes`` or ``no`` of a decision.

    Raises:
        DataError: The file is damaged.
    """
    decision = files.read_json(path).get("decision")
    if not isinstance(decision, dict) or decision.get("verdict") not in ("yes", "no"):
        raise DataError(f"cannot use {path}: expected a decision of yes or no")
    return str(decision["verdict"])


def reason_of(path: Path) -> str:
    """Read why a decision is as it is.

    Raises:
        DataError: The file is damaged.
    """
    decision = files.read_json(path).get("decision")
    if not isinstance(decision, dict) or not isinstance(decision.get("why"), str):
        raise DataError(f"cannot use {path}: expected a decision with its reason")
    return str(decision["why"])


def audited_scores(question: Question, sites: list[str]) -> tuple[Decay, ...]:
    """Sum up the scores of labelled cases in use, by site: {site: {"mean", "deviation", "scores"}}."""
    from fedsilo.evaluation import triggers

    if question.audited is None:
        return ()
    found = []
    for site, entry in sorted(files.read_json(question.audited).items()):
        if site not in sites or not isinstance(entry, dict) or entry.keys() != {"mean", "deviation", "scores"}:
            raise DataError(f"cannot use {question.audited}: expected mean, deviation and scores by site, got {site!r:.40}")
        numbers = [entry["mean"], entry["deviation"], *(entry["scores"] if isinstance(entry["scores"], list) else [None])]
        if not all(type(value) in (int, float) for value in numbers):
            raise DataError(f"cannot use {question.audited}: expected numbers of {site}")
        mean, deviation, *scores = (float(value) for value in numbers)
        found.append(triggers.decay_of(scores, question.policy, site=site, mean=mean, deviation=deviation))
    return tuple(found)


def champion_tag(question: Question, promoted: list[Event]) -> str:
    """Name the tag of the version in use, whose commit has the data that it knew; empty without one.

    It was made when the version was promoted, with the release in the same commit: the event itself was written before that
    commit, and a rollback long after it.

    Raises:
        DataError: The trail names no version, or its tag is not here.
    """
    if not promoted:
        return ""
    paths = ReleasePaths(question.paths.workspace, question.roster.name)
    named = [Path(entry.name) for entry in promoted[-1].outputs if entry.name.endswith(f"/{releases.MANIFEST}")]
    if not named:
        raise DataError("the trail does not say which version is in use; name the commit with its data by --champion")
    tag = releases.version_tag(paths.artifact, named[0].parent.name)
    if tag not in versions.tags(paths.workspace, tag):
        raise DataError(f"there is no tag {tag} in {paths.workspace}; fetch it, or name the commit with its data by --champion")
    return tag


def _time(event: Event) -> datetime:
    return datetime.fromisoformat(event.ts)
