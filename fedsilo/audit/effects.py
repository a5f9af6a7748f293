"""What a line that passed all checks changes in what is known: keys, candidates, models in use."""

from dataclasses import replace

from fedsilo.audit import forms, merkle
from fedsilo.audit.documents import Change
from fedsilo.audit.events import CHAMPION, CHANGE_KINDS, KEY_KINDS, RETRAIN_END, UNANSWERED, Event
from fedsilo.audit.register import Anchor, KeyEntry, KeyRecord
from fedsilo.audit.state import Candidate, Champion, State, Step


def follow(step: Step) -> State:
    """Give what is known after a line that passed all checks."""
    state, event = step.state, step.event
    acts = {**state.acts, event.key: event.seq}
    if event.attached is not None:
        acts[str(event.attached["key"])] = event.seq
    known = replace(
        state,
        size=state.size + 1,
        prev=f"sha256:{merkle.leaf(step.line).hex()}",
        ts=event.ts,
        acts=acts,
        carried=state.carried.put(step.document_hash, event.seq) if step.document_hash else state.carried,
    )
    if event.kind in CHANGE_KINDS:
        return _follow_change(step, known)
    if event.kind == "round.open":
        return replace(known, rounds=known.rounds.put(step.part, event.seq))
    if event.kind == "update.submit":
        known = replace(known, updates=known.updates.put(step.part, (event.seq, step.model)))
        if step.manifest_hash is None or step.manifest_hash in known.manifests:
            return known
        return replace(known, manifests=known.manifests.put(step.manifest_hash, (event.seq, step.part)))
    return _follow_model(known, event, step.person)


def _follow_change(step: Step, state: State) -> State:
    """Count a person; change the register, or end the log, when the quorum is complete."""
    if not step.takes_effect:
        signed = (*state.pending.get(step.change, ()), step.person)
        return replace(state, pending=state.pending.put(step.change, signed))
    state = replace(state, pending=state.pending.take_out(step.change))
    if step.event.kind == "log.rotate":
        return replace(state, rotated=True)
    content = step.document.content if isinstance(step.document, Change) else None
    if step.event.kind not in KEY_KINDS or content is None:
        return state
    if step.event.kind == "key.add":
        record = KeyRecord(forms.build(KeyEntry, content), since=step.event.ts)
    else:
        anchor = forms.build(Anchor, content)
        record = replace(state.register[step.change[1].name], revoked_at=step.event.ts, anchor=anchor)
        state = _taken_back(state, record.entry.actor)
    return replace(state, register={**state.register, record.entry.key: record})


def _taken_back(state: State, actor: str) -> State:
    """Forget what an actor whose key was revoked approved and signed as far as it has had no effect: it may be a thief's."""
    candidates, pending = state.candidates, state.pending
    for model, candidate in state.candidates.items():
        if actor in candidate.approvers:
            candidates = candidates.put(model, replace(candidate, approvers=_without(candidate.approvers, actor)))
    for change, signed in state.pending.items():
        if actor in signed:
            others = _without(signed, actor)
            pending = pending.put(change, others) if others else pending.take_out(change)
    return replace(state, candidates=candidates, pending=pending)


def _without(actors: tuple[str, ...], actor: str) -> tuple[str, ...]:
    return tuple(other for other in actors if other != actor)


def _follow_model(state: State, event: Event, person: str) -> State:
    """Remember what was said of a model."""
    if event.subject is None or event.subject.after is None:
        return state
    model, name = event.subject.after, event.subject.name
    candidate = state.candidates.get(model, Candidate())
    if event.kind == "gate.verdict" and event.decision is not None:
        compared = next((f"sha256:{entry.sha256}" for entry in event.inputs if entry.name == CHAMPION), None)
        decision = event.decision
        candidate = Candidate(decision.verdict, decision.metrics_ref, rejected=candidate.rejected, champion=compared)
    elif event.kind == "approve":
        candidate = replace(candidate, approvers=tuple(sorted({*candidate.approvers, person})))
    elif event.kind == "reject" or _is_out_of_time(event):
        candidate = replace(candidate, approvers=(), rejected=event.ts, ended=True)
    elif event.kind in ("promote", "rollback"):
        champion = state.champions.get(name, Champion(model, frozenset()))
        in_use = Champion(model, champion.promoted | {model})
        return replace(state, candidates=state.candidates.take_out(model), champions={**state.champions, name: in_use})
    elif event.kind != "evaluate":
        return state
    return replace(state, candidates=state.candidates.put(model, candidate))


def _is_out_of_time(event: Event) -> bool:
    """Say whether a retraining ended since nobody approved its candidate in time, which is a no."""
    decision = event.decision
    return (
        event.kind == "retrain.decision"
        and decision is not None
        and (decision.gate, decision.verdict) == (RETRAIN_END, UNANSWERED)
    )
