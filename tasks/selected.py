"""What the trail says at the end of a federation: which round's model was selected, and what each inside model is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsilo.audit.events import Artifact, Decision, Subject
from fedsilo.audit.register import SERVER
from tasks import orders, trails
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Mapping

GATE = "selection"


def tell(federation: Federation, best_global: int, best_inside: Mapping[str, int]) -> None:
    """Let the server say which global model was selected, and each site over which states its inside model was folded.

    Args:
        federation: Whose; its models and its rounds table are in place.
        best_global: Round that the selected global state opens.
        best_inside: By site the round of its selected inside model.
    """
    journal, paths = federation.journal(), federation.paths
    metrics = trails.hashed(paths.rounds_table)
    _say(federation, Subject("model", f"{paths.run}/global", after=trails.hashed(paths.global_state)), best_global - 1, metrics)
    for site, last in best_inside.items():
        subject = Subject("model", f"{paths.run}/inside/{site}", after=trails.hashed(paths.inside_state(site)))
        folded = [journal.server_record(index).sha256 for index in journal.turns(site, last + 1)]
        _say(federation, subject, last, metrics, site=site, inputs=[Artifact(f"{paths.run}/server", sha256) for sha256 in folded])


def _say(
    federation: Federation,
    subject: Subject,
    last: int,
    metrics: str,
    *,
    site: str | None = None,
    inputs: list[Artifact] | None = None,
) -> None:
    """Write the event, unless a run before this one did."""
    scribe = trails.scribe(federation.audit)
    if not orders.told(federation, "evaluate", subject, None, site):
        scribe.append(
            "evaluate",
            "selected by validation",
            actor=site or SERVER,
            site=site,
            subject=subject,
            inputs=inputs or (),
            decision=Decision(GATE, f"round {last}", metrics),
        )
