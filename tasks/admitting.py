"""The server's part between a round's turns and its step: which updates count, and what the trail says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsilo.audit.events import Artifact, Subject
from fedsilo.audit.events import Decision as Decided
from fedsilo.errors import CheckpointError, ParamsError, QuorumError
from tasks import orders, rounds, trails
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsilo.audit.documents import Seen
    from fedsilo.federation.admission import Refusal
    from fedsilo.federation.aggregation import AggregationRecord
    from fedsilo.federation.intake import Decision
    from fedsilo.federation.update_checks import Asked, Offer, Round
    from fedsilo.federation.updates import SiteUpdate
    from fedsilo.tensors import StateDict

GATE = "admission"
UNSIGNED = frozenset({"size", "manifest", "signature", "membership", "key-validity", "federation"})
"""Checks whose refusals leave the manifest out of the trail: nothing says that it is the site's, or of this federation."""


def quorum(federation: Federation, num_asked: int) -> int:
    """Count the updates that must count of a round: a share of those asked, rounded up, at least one."""
    return max(1, math.ceil(round(federation.params.federate.admission.quorum * num_asked, 6)))


@dataclass(frozen=True)
class Admitted:
    """The updates of a round that count, and what became of the others.

    ``fresh``: decided just now, so that the trail has nothing of it; else whoever worked at the round before may have told.
    """

    decision: Decision
    counting: tuple[SiteUpdate, ...]
    fresh: bool


def admit(federation: Federation, round_index: int) -> Admitted:
    """Decide which updates of a round count, and open these; their states stay in their files.

    A decision is made once: whoever goes on with the round finds it.

    Raises:
        QuorumError: Too few count. Nothing is decided, and the refused sites train the round anew the next time.
        CheckpointError: An update that counts is no longer what it was.
        AuditRefusedError: The federation's log is refused.
        OutputError: A file cannot be written.
    """
    journal = federation.journal()
    decision = journal.intake.decision(round_index)
    admitted = _decide(federation, round_index) if decision is None else _reopen(federation, round_index, decision)
    decision = admitted.decision
    _tell(federation, round_index, admitted)
    reason = short_of(federation, decision)
    if reason is not None:
        for site in decision.refused:
            journal.forget(site, round_index)
        raise QuorumError(f"round {round_index}: {reason}")
    return admitted


def _decide(federation: Federation, round_index: int) -> Admitted:
    """Put what came through all checks; the decision is kept if enough count."""
    from fedsilo.federation import admission
    from fedsilo.federation.intake import Decision

    intake, asked = federation.journal().intake, federation.taking_part(round_index)
    offers = _offers(federation, round_index, asked)
    limits, history = federation.params.federate.admission, intake.history(round_index)
    verdict = admission.admit(offers, _known(federation, round_index, asked), limits, history)
    came = {offer.site for offer in offers}
    decision = Decision(
        admitted={site: _weights_sha256(update) for site, update in verdict.admitted.items()},
        refused=verdict.refused,
        missing={site: intake.absence(site, round_index) for site in asked if site not in came},
        compared=verdict.compared,
    )
    if short_of(federation, decision) is None:
        intake.write_decision(round_index, decision)
    return Admitted(decision, tuple(verdict.admitted.values()), fresh=True)


def _reopen(federation: Federation, round_index: int, decision: Decision) -> Admitted:
    """Open the updates that were found to count before."""
    from fedsilo.federation.update_checks import Claim

    sites = sorted(decision.admitted)
    known = _known(federation, round_index, sites)
    counting = tuple(Claim(offer, known).update for offer in _offers(federation, round_index, sites))
    _unchanged(round_index, decision, counting)
    return Admitted(decision, counting, fresh=False)


def aggregate(federation: Federation, round_index: int, admitted: Admitted) -> AggregationRecord:
    """Average the updates that count, keep each site's drift, and say in the trail what the next state was made from.

    Raises:
        CheckpointError: An update changed while it was averaged; nothing came of it.
        AuditRefusedError: The federation's log is refused.
        OutputError: A file cannot be written.
    """
    if federation.params.federate.admission.max_drift_ratio is not None:
        _keep_drift(federation, round_index, admitted.counting)

    def tell(sha256: str) -> None:
        _unchanged(round_index, admitted.decision, admitted.counting)
        _tell_step(federation, round_index, admitted, sha256)

    return rounds.aggregate(federation, round_index, admitted.counting, tell)


def _keep_drift(federation: Federation, round_index: int, counting: Sequence[SiteUpdate]) -> None:
    """Add a round to the drift of the sites that counted in it, if there were enough to compare."""
    from fedsilo.federation import comparisons, states
    from fedsilo.federation.comparisons import MIN_SITES, Peers

    journal = federation.journal()
    past = journal.intake.history(round_index)
    by_site = {update.site: update.state for update in counting if len(counting) >= MIN_SITES}
    peers = Peers(journal.read_server(round_index), by_site, states.roles(rounds.build_network(federation)), past.sums)
    num_rounds = {**past.num_rounds, **{site: past.num_rounds.get(site, 0) + 1 for site in by_site}}

    def drift(site: str) -> StateDict:
        return comparisons.drift_sum(peers, site) if site in by_site else past.sums[site]

    journal.intake.write_history(round_index + 1, drift, num_rounds)


def _unchanged(round_index: int, decision: Decision, counting: Sequence[SiteUpdate]) -> None:
    """Refuse updates that are not those that were admitted.

    Raises:
        CheckpointError: One is missing or another.
    """
    if {update.site: _weights_sha256(update) for update in counting} != dict(decision.admitted):
        raise CheckpointError(f"round {round_index}: an update that was admitted is gone or changed")


def short_of(federation: Federation, decision: Decision) -> str | None:
    """Say why a round cannot go on with the updates that count."""
    from fedsilo.federation import rules

    num_asked = len(decision.admitted) + len(decision.refused) + len(decision.missing)
    needed, reasons = quorum(federation, num_asked), [refusal.reason for refusal in decision.refused.values()]
    reasons += [f"{site}: {reason}" for site, reason in decision.missing.items()]
    told = "; ".join(reasons)
    if len(decision.admitted) < needed:
        return f"{len(decision.admitted)} of {num_asked} updates count, expected at least {needed}: {told}"
    try:
        rules.refuse_impossible(federation.params.federate.aggregation, len(decision.admitted))
    except ParamsError as error:
        return f"{len(decision.admitted)} of {num_asked} updates count, and {error}: {told}"
    return None


def _known(federation: Federation, round_index: int, asked: Sequence[str]) -> Round:
    """Gather what the server knows of a round."""
    from fedsilo.federation import states
    from fedsilo.federation.update_checks import Round

    journal = federation.journal()
    return Round(
        federation=federation.audit.federation,
        run=federation.paths.run,
        round_index=round_index,
        asked={site: _asked(federation, site, round_index) for site in asked},
        base=journal.read_server(round_index),
        base_sha256=journal.server_record(round_index).sha256,
        base_bytes=journal.server_path(round_index).stat().st_size,
        roles=states.roles(rounds.build_network(federation)),
        register=trails.scribe(federation.audit).register,
        by_latent_size=federation.params.federate.weighting == "latent",
    )


def _asked(federation: Federation, site: str, round_index: int) -> Asked:
    """Read what a site was asked, and how many cases it has registered: those of the data that it accepted."""
    from fedsilo.audit import canonical
    from fedsilo.federation import orders as ordering
    from fedsilo.federation.update_checks import Asked

    intake = federation.journal().intake
    order = canonical.loads(intake.order_path(site, round_index).read_bytes())
    rows = [row for holding in federation.holdings(site) for row in holding.training_rows()]
    received = intake.received(site, round_index)
    return Asked(
        nonce=str(order["nonce"]),
        order_sha256=ordering.digest(order),
        max_cases=len(rows),
        max_slices=sum(row.num_slices for row in rows),
        first_sha256=None if received is None else received.weights_sha256,
    )


def _offers(federation: Federation, round_index: int, asked: Sequence[str]) -> list[Offer]:
    """List what came."""
    from fedsilo.federation.update_checks import Offer

    journal, found = federation.journal(), []
    for site in asked:
        received, manifest = journal.intake.received(site, round_index), journal.update_manifest(site, round_index)
        if received is not None and manifest.is_file():
            found.append(Offer(site, manifest, journal.weights_path(site, round_index), received.received))
    return found


def _weights_sha256(update: SiteUpdate) -> str:
    """Hash the file of an update's weights, as it is open."""
    from fedsilo.federation.stored_state import StoredState

    if not isinstance(update.state, StoredState):
        raise TypeError(f"the state of {update.site} is in no file")
    return update.state.sha256()


def _tell(federation: Federation, round_index: int, admitted: Admitted) -> None:
    """Say in the trail who was refused and who is missing."""
    for site, refusal in sorted(admitted.decision.refused.items()):
        _tell_refusal(federation, site, round_index, refusal, fresh=admitted.fresh)
    for site, reason in sorted(admitted.decision.missing.items()):
        if admitted.fresh or not orders.told(federation, "update.missing", None, round_index, site):
            trails.scribe(federation.audit).append("update.missing", reason, site=site, round_index=round_index)


def _tell_refusal(federation: Federation, site: str, round_index: int, refusal: Refusal, *, fresh: bool) -> None:
    """Say in the trail why an update was refused; one that differs from what the site sent before is an incident."""
    from fedsilo import files
    from fedsilo.federation import manifests

    journal, scribe = federation.journal(), trails.scribe(federation.audit)
    weights, manifest = journal.weights_path(site, round_index), journal.update_manifest(site, round_index)
    named = refusal.check != "size" and weights.is_file()  # what is too large, or no file, is not read
    after = f"sha256:{files.sha256_file(weights)}" if named else None
    subject = Subject("update", f"{federation.paths.run}/{site}", after=after)
    if not fresh and orders.told(federation, "update.reject", subject, round_index):
        return
    found = None if refusal.check in UNSIGNED else manifests.read(manifest.read_bytes())
    if refusal.check == "duplicate":
        scribe.append("incident", refusal.reason, site=site, round_index=round_index, subject=subject)
    scribe.append(
        "update.reject",
        refusal.reason,
        site=site,
        round_index=round_index,
        subject=subject,
        decision=Decided(GATE, refusal.check),
        attached=found[0] if found is not None and _witnesses(scribe, found[1].seen) else None,
    )


def _witnesses(scribe: trails.Scribe, seen: Seen | None) -> bool:
    """Say whether what a site saw is the beginning of the log; what is not cannot stand in it."""
    return seen is None or (seen.size <= scribe.opened.seen.size and scribe.opened.root(seen.size) == seen.root)


def _tell_step(federation: Federation, round_index: int, admitted: Admitted, sha256: str) -> None:
    """Say in the trail what the next state was made from."""
    before = federation.journal().server_record(round_index).sha256
    subject = Subject("model", f"{federation.paths.run}/server", before=f"sha256:{before}", after=f"sha256:{sha256}")
    if not admitted.fresh and orders.told(federation, "aggregate", subject, round_index):
        return
    rule, counted = federation.params.federate.aggregation.rule, admitted.decision.admitted
    trails.scribe(federation.audit).append(
        "aggregate",
        f"{len(counted)} updates by {rule}",
        round_index=round_index,
        subject=subject,
        inputs=[Artifact(site, weights) for site, weights in sorted(counted.items())],
        decision=Decided("aggregation", rule),
    )
