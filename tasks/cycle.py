"""A retraining as the trail has it: a decision opens it, an end closes it, and all between is found again after a crash."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedsilo.audit import releases, verifier
from fedsilo.audit.events import INCONCLUSIVE, PASS, RETRAIN_END, Decision, Subject
from fedsilo.audit.order_checks import OVERRIDE
from fedsilo.audit.state import Candidate
from fedsilo.errors import DataError
from tasks import audit, versions
from tasks.audit import Books

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta
    from pathlib import Path

    from fedsilo.audit.events import Event
    from tasks.release_paths import ReleasePaths
    from tasks.trails import Scribe

PROMOTED, UNCHANGED, FAILED, KEPT, REJECTED = "promoted", "unchanged", "failed", "kept", "rejected"
"""How a retraining ends beside ``UNANSWERED``: its model is in use; it is the one in use; the gate failed it; the gate was not
sure; a person said no."""


def opened_by(events: Iterable[Event]) -> Event | None:
    """Find the decision that opened the retraining that is under way, among events in order; None if none is.

    A second yes before the end, by `python -m flows.decide`, opens nothing: what persons said since the first one still counts.
    """
    found = None
    for event in events:
        if event.kind != "retrain.decision" or event.decision is None:
            continue
        if event.decision.gate == RETRAIN_END:
            found = None
        elif event.decision.verdict == "yes":
            found = found or event
    return found


def end(scribe: Scribe, how: str, text: str, *, model: str, name: str) -> None:
    """Close the retraining that is under way.

    Args:
        scribe: Of the federation's open trail.
        how: One of the ends.
        text: Why, in a line.
        model: Hash of its candidate.
        name: Of the candidate, ``<run>/global``.
    """
    scribe.append("retrain.decision", text, subject=Subject("model", name, after=model), decision=Decision(RETRAIN_END, how))


def champion(scribe: Scribe, federation: str) -> str | None:
    """Give the hash of the model in use; None if none is."""
    found = scribe.opened.state.champions.get(releases.name_of(federation))
    return None if found is None else found.current


def promotion_since(events: Iterable[Event], opened: Event, name: str) -> Event | None:
    """Find the first promotion after the decision that opened a retraining, also one by hand; it leaves nothing to promote.

    Args:
        events: Of the trail, in order.
        opened: The decision.
        name: Of the model in use, as the trail has it.
    """
    later = (event for event in events if event.kind == "promote" and event.seq > opened.seq)
    return next((event for event in later if event.subject and event.subject.name == name), None)


def verdict_since(events: Iterable[Event], opened: Event, model: str) -> Event | None:
    """Find what the gate said last of a model since a retraining was opened."""
    told = [event for event in events if event.kind == "gate.verdict" and event.seq > opened.seq and _about(event, model)]
    return told[-1] if told else None


def is_awaited(verdict: Event | None, champion: str | None) -> bool:
    """Say whether persons are asked about a model by this verdict, so that it must stay in its place until they answered.

    Args:
        verdict: The gate's last on the model, in this retraining.
        champion: Hash of the model in use now; a verdict beside another asks nobody any more.
    """
    if verdict is None or verdict.decision is None:
        return False
    if champion is None:
        return verdict.decision.verdict == INCONCLUSIVE
    beside = any(entry.sha256 == champion.removeprefix("sha256:") for entry in verdict.inputs)
    return beside and verdict.decision.verdict == PASS


def is_rejected(events: Iterable[Event], verdict: Event, model: str) -> bool:
    """Say whether a person said no to a model since a verdict on it; what others say afterwards does not undo that."""
    return any(event.kind == "reject" and event.seq > verdict.seq and _about(event, model) for event in events)


def _about(event: Event, model: str) -> bool:
    return event.subject is not None and event.subject.after == model


def answer(scribe: Scribe, opened: Event, model: str, within: timedelta) -> str | None:
    """Say what persons answered since a retraining was opened.

    Signatures and persons were checked when the answers were appended; what was said before the retraining does not count.

    Args:
        scribe: Of the federation's open trail.
        opened: The decision that opened it.
        model: Hash of the candidate.
        within: How long after the gate's verdict they may answer.

    Returns:
        ``approve`` if enough did in time, ``reject`` if one did, ``nobody`` if too few did in time, None so far.
    """
    told = scribe.events("gate.verdict", "approve", "reject")
    given = [event for event in told if event.kind != "gate.verdict" and event.seq > opened.seq and _about(event, model)]
    asked = verdict_since(told, opened, model) or opened
    if is_rejected(told, asked, model):
        return "reject"
    candidate = scribe.opened.state.candidates.get(model, Candidate())
    deadline = datetime.fromisoformat(asked.ts) + within
    approved = [event for event in given if event.kind == "approve" and datetime.fromisoformat(event.ts) <= deadline]
    keys = {str(event.attached["key"]) for event in approved if event.attached}
    lately = {scribe.register[key].entry.actor for key in keys} & set(candidate.approvers)
    if len(lately) >= needed(scribe, model):
        return "approve"
    return "nobody" if datetime.now(UTC) > deadline else None


def needed(scribe: Scribe, model: str) -> int:
    """Say how many persons must approve a model by its last verdict.

    Raises:
        DataError: The gate failed it, or has said nothing of it.
    """
    verdict = scribe.opened.state.candidates.get(model, Candidate()).verdict
    if verdict not in (PASS, INCONCLUSIVE):
        raise DataError(f"{model} cannot be approved: its verdict is {verdict or 'missing'}")
    approvals = scribe.founding.policy.approvals
    return approvals if verdict == PASS else max(approvals, OVERRIDE)


def reason_of(decision: Event) -> str:
    """Give the reason of a decision, ``KIND: WORDS`` as the gate reads it: what fired, or what a person said who asked for it."""
    return decision.why.text.partition(": ")[2].removeprefix("manual: ")


def next_version(paths: ReleasePaths) -> str:
    """Name the version after the newest: its next minor; ``v1.0.0`` is the first."""
    prefix = releases.version_tag(paths.artifact, "")
    known = [name.removeprefix(prefix) for name in versions.tags(paths.workspace, prefix)]
    numbers = [tuple(map(int, found.groups())) for found in map(releases.VERSION_TEXT.fullmatch, known) if found]
    if not numbers:
        return "v1.0.0"
    major, minor, _ = max(numbers)
    return f"v{major}.{minor + 1}.0"


def check_committed(workspace: Path, paths: Sequence[Path]) -> None:
    """Refuse to train what no commit names: the plan, the params, the cohort file, code and data must be committed.

    Args:
        workspace: Root of the repository.
        paths: Files that must be in the last commit as they are.

    Raises:
        DataError: Something is not; names it.
    """
    versions.check_repository(workspace)
    root = workspace.resolve()
    loose = [path for path in paths if not (path.resolve().is_relative_to(root) and versions.is_committed(root, path.resolve()))]
    if loose:
        raise DataError(f"commit first what is trained with: {', '.join(map(str, loose))}")
    changed = versions.changed(workspace)
    if changed:
        raise DataError(f"commit first what is trained with: {', '.join(changed)}")


def is_open(scribe: Scribe) -> Event | None:
    """Find the retraining that is under way."""
    return opened_by(scribe.events("retrain.decision"))


def outlook(paths: ReleasePaths) -> list[str]:
    """Say where a federation's retraining stands, by its verified trail; nothing is written.

    Raises:
        AuditRefusedError: The trail is refused.
        DataError: It cannot be checked.
    """
    if not paths.audit.founding.is_file():
        return ["nobody has founded the federation: the first phase makes demo keys for it"]
    held, verdict = audit.verify(Books.of_federation(paths.audit))
    events = verifier.read_events(held.content)
    found, opened = verdict.state.champions.get(releases.name_of(paths.federation)), opened_by(events)
    lines = [f"in use: {found.current if found else 'nothing'}"]
    if opened is None:
        return [*lines, "no retraining is under way: prepare, look for drift, decide"]
    lines.append(f"a retraining is under way since {opened.ts}, line {opened.seq + 1}: {reason_of(opened)}")
    later = [event for event in events if event.seq > opened.seq]
    judged = next((event for event in reversed(later) if event.kind == "gate.verdict"), None)
    if judged is None or judged.subject is None or judged.decision is None:
        return [*lines, "its candidate is to be trained and judged"]
    answers = [event.kind for event in later if event.kind in ("approve", "reject") and event.subject == judged.subject]
    said = f"the gate said {judged.decision.verdict} of {judged.subject.after}"
    return [*lines, f"{said}; persons: {', '.join(answers) or 'nobody'}"]
