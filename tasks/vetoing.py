"""The sites' veto of a round's step: sites score the new state, and the update that did harm is left out of another step.

Files, beside the round's others in ``intake/<round>/veto/``: ``without/<site>.safetensors``, the state without a site's update;
``scores/<left out>/<site>.json``; ``verdict.json``, once nobody vetoes any more.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsilo import files
from fedsilo.audit.events import Subject
from fedsilo.errors import ParamsError, QuorumError
from tasks import admitting, rounds, trails
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsilo.federation.veto import Verdict

CHECK = "veto"


def due(federation: Federation, round_index: int) -> bool:
    """Say whether sites are still to judge the state that a round led to."""
    asked = federation.params.federate.admission.veto_margin is not None
    return asked and not (folder(federation, round_index) / "verdict.json").exists()


def folder(federation: Federation, round_index: int) -> Path:
    """Folder of a round's veto."""
    return federation.journal().intake.round_dir(round_index) / CHECK


def without_path(federation: Federation, round_index: int, left_out: str) -> Path:
    """File of the state without a site's update."""
    return folder(federation, round_index) / "without" / f"{left_out}.safetensors"


def score_path(federation: Federation, round_index: int, left_out: str, site: str) -> Path:
    """File of a site's score of that state."""
    return folder(federation, round_index) / "scores" / left_out / f"{site}.json"


def begin(federation: Federation, round_index: int) -> None:
    """Make the step of a round again if it was decided to leave an update out, and a kill came between."""
    journal = federation.journal()
    decision = journal.intake.decision(round_index)
    if decision is not None and decision.admitted.keys() != journal.server_record(round_index + 1).weights.keys():
        _step_again(federation, round_index)


def draw_up(federation: Federation, round_index: int) -> list[tuple[str, str]]:
    """If a site lost more than the margin, make the state without each update.

    Returns:
        Pairs of a site and whose update is left out of the state that it is to score; none if nobody lost.
    """
    from fedsilo.federation import states, veto

    before, now = best_scores(federation, round_index), _scores(federation, round_index + 1)
    if not veto.losses(before, now, margin=_margin(federation)):
        return []
    admitted = admitting.admit(federation, round_index)
    if len(admitted.counting) == 1:
        return []
    for left_out in admitted.counting:
        others = [update for update in admitted.counting if update.site != left_out.site]
        outcome, _ = rounds.step(with_possible_rule(federation, len(others)), round_index, others)
        states.save(outcome.state, without_path(federation, round_index, left_out.site))
    judges = [site for site in federation.sites if now[site] is not None]
    return [(site, update.site) for update in admitted.counting for site in judges]


def settle(federation: Federation, round_index: int) -> Verdict:
    """Find whose update did harm, and make the step again without it; if there is none, the state stands.

    Raises:
        QuorumError: Too few updates are left. The round is undone: the suspect's site trains it anew the next time.
        AuditRefusedError: The federation's log is refused.
        OutputError: A file cannot be written.
    """
    from fedsilo.federation import veto

    before, now = best_scores(federation, round_index), _scores(federation, round_index + 1)
    verdict = veto.judge(before, now, _without(federation, round_index), margin=_margin(federation))
    told = ", ".join(f"{site} -{loss:.3f}" for site, loss in verdict.losses.items())
    if verdict.suspect is None:
        if verdict.losses:
            text = f"validation Dice fell ({told}) and no single update explains it; the state stands"
            subject = Subject("model", f"{federation.paths.run}/server", after=f"sha256:{_state_sha256(federation, round_index)}")
            trails.scribe(federation.audit).append("incident", text, round_index=round_index, subject=subject)
        files.write_json(folder(federation, round_index) / "verdict.json", asdict(verdict))
        shutil.rmtree(folder(federation, round_index) / "without", ignore_errors=True)
        return verdict
    _leave_out(federation, round_index, verdict.suspect, f"without it the others' validation Dice recovers; it fell ({told})")
    return verdict


def _leave_out(federation: Federation, round_index: int, suspect: str, reason: str) -> None:
    """Refuse an update that had counted."""
    from fedsilo.federation.admission import Refusal

    journal = federation.journal()
    decision = journal.intake.decision(round_index)
    if decision is None:
        raise RuntimeError(f"round {round_index} has a state and no decision")
    refusal = Refusal(CHECK, f"update of {suspect!r}: {reason}")
    admitted = {site: sha256 for site, sha256 in decision.admitted.items() if site != suspect}
    left = replace(decision, admitted=admitted, refused={**decision.refused, suspect: refusal})
    for site in federation.sites:
        (journal.site_dir(site, round_index + 1) / "validation.json").unlink(missing_ok=True)
    shutil.rmtree(folder(federation, round_index), ignore_errors=True)
    short = admitting.short_of(federation, left)
    if short is None:
        journal.intake.write_decision(round_index, left)
        _step_again(federation, round_index)
        return
    trails.scribe(federation.audit).append("incident", f"{refusal.reason}; {short}", site=suspect, round_index=round_index)
    journal.server_path(round_index + 1).with_suffix(".json").unlink()
    journal.intake.drop_decision(round_index)
    journal.forget(suspect, round_index)
    raise QuorumError(f"round {round_index}: {short}")


def _step_again(federation: Federation, round_index: int) -> None:
    """Average what counts now."""
    admitting.aggregate(federation, round_index, admitting.admit(federation, round_index))


def best_scores(federation: Federation, round_index: int) -> dict[str, float | None]:
    """Read the best that each site said of the states up to the one that opens a round: many small losses are a large one."""
    rounds_scores = [_scores(federation, index) for index in range(round_index + 1)]
    known = {site: [found for scores in rounds_scores if (found := scores[site]) is not None] for site in federation.sites}
    return {site: max(values, default=None) for site, values in known.items()}


def with_possible_rule(federation: Federation, num_updates: int) -> Federation:
    """Keep the rule if it can work with so few updates, else average."""
    from fedsilo.federation import rules

    params = federation.params.federate.aggregation
    try:
        rules.refuse_impossible(params, num_updates)
    except ParamsError:
        plain = params.model_copy(update={"rule": "average", "nearest_mixing": False})
        federate = federation.params.federate.model_copy(update={"aggregation": plain})
        return replace(federation, params=federation.params.model_copy(update={"federate": federate}))
    return federation


def _margin(federation: Federation) -> float:
    margin = federation.params.federate.admission.veto_margin
    if margin is None:
        raise RuntimeError("there is no veto")
    return margin


def _scores(federation: Federation, round_index: int) -> dict[str, float | None]:
    """Read what the sites say of the state that opens a round."""
    journal = federation.journal()
    return {site: journal.validation(site, round_index) for site in federation.sites}


def _without(federation: Federation, round_index: int) -> Mapping[str, Mapping[str, float | None]]:
    """Read what the sites say of the states without one update."""
    from fedsilo.federation import records

    found: dict[str, dict[str, float | None]] = {}
    for path in sorted((folder(federation, round_index) / "scores").glob("*/*.json")):
        dice = records.read(path).get("dice")
        found.setdefault(path.parent.name, {})[path.stem] = None if dice is None else float(str(dice))
    return found


def _state_sha256(federation: Federation, round_index: int) -> str:
    return federation.journal().server_record(round_index + 1).sha256
