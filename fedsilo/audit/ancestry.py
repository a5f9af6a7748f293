"""Where a model comes from, by the events of a verified log alone: rounds back to the first state, data, code, people, keys.

A global model is the state that an aggregation made, from the state before it and the updates that counted; so the way back is a
chain of hashes. An inside model is known with the states over which its site folded.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fedsilo.audit import forms
from fedsilo.audit.documents import Approval, Change, Release
from fedsilo.audit.documents import build as build_document
from fedsilo.audit.events import MODEL_KINDS, Artifact, Environment, Event
from fedsilo.audit.origin import Act, Ancestry, Counted, Data, Folded, KeyHeld, Made, Named, Refused, Round, SiteCode
from fedsilo.audit.register import Register
from fedsilo.audit.state import run_of

INSIDE = "/inside/"


class _Index:
    """A log's events by what an ancestry asks for; every list is in the order of the log."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.aggregates: dict[str, list[Event]] = {}
        self.openings: dict[tuple[str, int | None], list[Event]] = {}
        self.parts: dict[int | None, list[Event]] = {}
        self.accepts: dict[str, list[Event]] = {}
        for event in events:
            name, after = (event.subject.name, event.subject.after or "") if event.subject else ("", "")
            if event.kind == "aggregate":
                self.aggregates.setdefault(after, []).append(event)
            elif event.kind == "round.open":
                self.openings.setdefault((run_of(name), event.round_index), []).append(event)
            elif event.kind in ("update.submit", "update.reject", "update.missing"):
                self.parts.setdefault(event.round_index, []).append(event)
            elif event.kind == "data.accept":
                for key in {after, event.site or ""}:
                    self.accepts.setdefault(key, []).append(event)

    def aggregate(self, state: str, before: int) -> Event | None:
        """Give the last aggregation before a place that made a state."""
        return _last(self.aggregates.get(state, ()), before)

    def opening(self, aggregate: Event) -> Event | None:
        """Give the opening of an aggregation's round."""
        run = run_of(aggregate.subject.name) if aggregate.subject else ""
        found = (_last(self.openings.get((name, aggregate.round_index), ()), aggregate.seq) for name in {run, ""})
        return max(filter(None, found), key=lambda event: event.seq, default=None)

    def of_round(self, aggregate: Event, opening: Event | None) -> Iterator[Event]:
        """Give what was said of updates between a round's opening and its aggregation; without a subject it is of any run."""
        run = run_of(aggregate.subject.name) if aggregate.subject else ""
        told = self.parts.get(aggregate.round_index, [])
        start = 0 if opening is None else bisect_left(told, opening.seq, key=lambda event: event.seq)
        for event in told[start : bisect_left(told, aggregate.seq, key=lambda event: event.seq)]:
            if event.subject is None or opening is None or not run or run_of(event.subject.name) == run:
                yield event

    def accepted(self, site: str, data: str | None, before: int) -> Event | None:
        """Give the last acceptance of data with a hash; of a site's data if no hash is known."""
        return _last(self.accepts.get(site if data is None else f"sha256:{data}", ()), before)


def trace(model: str, events: Sequence[Event], register: Register) -> Ancestry | None:
    """Find where a model comes from.

    Args:
        model: Hash of its file, ``sha256:`` and 64 hexadecimal digits.
        events: Of a verified log, all of them.
        register: Keys at its end.

    Returns:
        None if the log says nothing of the model.
    """
    said = [event for event in events if event.subject and event.subject.kind == "model" and event.subject.after == model]
    if not said:
        return None
    index, last = _Index(events), said[-1].seq + 1
    told = _fold(said)
    states = [] if told is None else [f"sha256:{entry.sha256}" for entry in told.inputs]
    made_by = {state: index.aggregate(state, last) for state in states}
    newest = max((event for event in made_by.values() if event), key=lambda event: event.seq, default=None)
    start = model if told is None else newest.subject.after if newest and newest.subject else None
    aggregates = list(_back(index, start, last)) if start else []
    openings = [index.opening(event) for event in aggregates]
    pairs = [(event, opening, _round(index, event, opening)) for event, opening in zip(aggregates, openings, strict=True)]
    rounds = tuple(entry for _, _, entry in pairs)
    data, accepts = _data(index, rounds)
    way = sorted({event.seq: event for event in (*said, *aggregates, *filter(None, openings), *accepts)}.items())
    way_events = [event for _, event in way]
    submits = [events[entry.line - 1] for part in rounds for entry in part.updates if entry.line is not None]
    name = said[-1].subject.name if said[-1].subject else ""
    first = aggregates[0].subject.before if aggregates and aggregates[0].subject else start
    return Ancestry(
        model=model,
        sort="global" if told is None else "inside",
        names=tuple(dict.fromkeys(event.subject.name for event in said if event.subject)),
        run=_run(told, aggregates, name),
        site=None if told is None else (told.site or name.rpartition("/")[2]),
        first=first,
        rounds=rounds,
        folded=tuple(Folded(state, event.round_index if event else None) for state, event in made_by.items()),
        data=data,
        inputs=_inputs((opening, event.round_index) for event, opening, _ in pairs if opening),
        made=_made(way_events),
        site_code=tuple(dict.fromkeys(filter(None, map(_site_code, submits)))),
        acts=tuple(_act(event, register) for event in said if event.kind in MODEL_KINDS),
        keys=_keys((*way_events, *submits), register),
    )


def _fold(said: Sequence[Event]) -> Event | None:
    """Give the event in which a site told of its inside model, if it is one: the last with the states that it was folded over."""
    inside = [event for event in said if event.subject and INSIDE in event.subject.name and event.kind == "evaluate"]
    return next((event for event in reversed(inside) if event.inputs), inside[-1] if inside else None)


def _run(told: Event | None, aggregates: Sequence[Event], name: str) -> str:
    """Name the run: by the site's word, the aggregations, or the name under which the model was spoken of."""
    if told is not None and told.subject:
        return told.subject.name.partition(INSIDE)[0]
    return run_of(aggregates[-1].subject.name if aggregates and aggregates[-1].subject else name)


def _last(events: Sequence[Event], before: int) -> Event | None:
    """Give the last event before a place."""
    place = bisect_left(events, before, key=lambda event: event.seq)
    return events[place - 1] if place else None


def _back(index: _Index, state: str, before: int) -> list[Event]:
    """Follow a state back from aggregation to aggregation; the oldest first."""
    found: list[Event] = []
    at: str | None = state
    while at is not None and (event := index.aggregate(at, before)) is not None and event.subject is not None:
        found.append(event)
        at, before = event.subject.before, event.seq
    return found[::-1]


def _round(index: _Index, aggregate: Event, opening: Event | None) -> Round:
    told = list(index.of_round(aggregate, opening))
    submits = {(event.site, event.subject.after): event for event in told if event.kind == "update.submit" and event.subject}
    subject = aggregate.subject
    return Round(
        index=aggregate.round_index,
        line=aggregate.seq + 1,
        ts=aggregate.ts,
        before=subject.before if subject else None,
        after=(subject.after if subject else None) or "",
        rule=aggregate.decision.verdict if aggregate.decision else None,
        updates=tuple(_counted(entry, submits.get((entry.name, f"sha256:{entry.sha256}"))) for entry in aggregate.inputs),
        refused=tuple(
            Refused(_site(event), event.decision.verdict if event.decision else "", event.seq + 1)
            for event in told
            if event.kind == "update.reject"
        ),
        missing=tuple(dict.fromkeys(_site(event) for event in told if event.kind == "update.missing")),
    )


def _site(event: Event) -> str:
    """Name the site of an event: its own field, or the end of its subject's name."""
    return event.site or (event.subject.name.rpartition("/")[2] if event.subject else "")


def _counted(entry: Artifact, submit: Event | None) -> Counted:
    manifest = submit.attached if submit is not None and submit.attached else {}
    cases = manifest.get("num_cases")
    return Counted(
        site=entry.name,
        sha256=entry.sha256,
        line=None if submit is None else submit.seq + 1,
        num_cases=cases if type(cases) is int else None,
        data=_text(_part(manifest, "data"), "manifest_sha256"),
        members=_members(_part(manifest, "data").get("sites")),
    )


def _members(sites: object) -> tuple[Artifact, ...]:
    """Read the sites that a manifest names with the hashes of their data."""
    told = sites if isinstance(sites, list) else []
    return tuple(forms.build(Artifact, entry) for entry in told if forms.flaw(Artifact, entry) is None)


def _part(record: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Give an object inside an open record; empty if there is none."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _text(record: Mapping[str, object], name: str) -> str | None:
    found = record.get(name)
    return found if isinstance(found, str) else None


def _data(index: _Index, rounds: Sequence[Round]) -> tuple[tuple[Data, ...], list[Event]]:
    """Say on which data sites trained in which rounds, with the events that accepted them."""
    found: dict[tuple[str, str], list[tuple[Round, int | None, Event | None]]] = {}
    for part in rounds:
        for entry in part.updates:
            held: list[tuple[str, str | None, int | None]] = [(member.name, member.sha256, None) for member in entry.members]
            for site, data, cases in held or [(entry.site, entry.data, entry.num_cases)]:
                accept = index.accepted(site, data, part.line - 1)
                of_site = accept.subject.after if accept and accept.subject else None
                if known := data or (of_site or "").removeprefix("sha256:"):
                    found.setdefault((site, known), []).append((part, cases, accept))
    trained = [
        Data(
            site=site,
            sha256=sha256,
            line=accept.seq + 1 if (accept := told[-1][2]) else None,
            ts=accept.ts if accept else None,
            num_cases=max((cases for _, cases, _ in told if cases is not None), default=None),
            rounds=tuple(part.index for part, _, _ in told if part.index is not None),
        )
        for (site, sha256), told in sorted(found.items())
    ]
    return tuple(trained), [event for told in found.values() for _, _, event in told if event]


def _inputs(openings: Iterable[tuple[Event, int | None]]) -> tuple[Named, ...]:
    found: dict[tuple[str, str], list[int]] = {}
    for opening, index in openings:
        for entry in opening.inputs:
            found.setdefault((entry.name, entry.sha256), []).extend([] if index is None else [index])
    return tuple(Named(name, sha256, tuple(indices)) for (name, sha256), indices in found.items())


def _made(events: Sequence[Event]) -> tuple[Made, ...]:
    found: dict[Environment, list[int]] = {}
    for event in events:
        if event.env is not None:
            found.setdefault(event.env, []).append(event.seq + 1)
    return tuple(Made(env, lines[0], lines[-1]) for env, lines in found.items())


def _site_code(event: Event) -> SiteCode | None:
    """Say what code a manifest names, if it does in the form of an environment."""
    code = {**_part(event.attached or {}, "code"), "site": _site(event)}
    told = len(code) > 1 and forms.flaw(SiteCode, code, closed=False) is None
    return forms.build(SiteCode, code) if told else None


def _act(event: Event, register: Register) -> Act:
    document = None if event.attached is None else build_document(event.attached)
    signed = register.get(str((event.attached or {}).get("key")))
    person = (signed.entry.actor, signed.entry.actor_name) if signed else (event.actor, event.actor_name)
    decision = event.decision
    return Act(
        kind=event.kind,
        line=event.seq + 1,
        ts=event.ts,
        name=event.subject.name if event.subject else "",
        actor=event.actor,
        person=person[0],
        person_name=person[1],
        role=event.role,
        meaning=event.meaning,
        gate=decision.gate if decision else None,
        verdict=decision.verdict if decision else None,
        metrics_ref=decision.metrics_ref if decision else None,
        reason=document.reason if isinstance(document, Approval | Release | Change) else event.why.text,
        missing=document.missing if isinstance(document, Approval) else None,
    )


def _keys(events: Iterable[Event], register: Register) -> tuple[KeyHeld, ...]:
    names = {event.key for event in events} | {str(event.attached["key"]) for event in events if event.attached}
    held = [KeyHeld(name, *_holder(register, name)) for name in names if name in register]
    return tuple(sorted(held, key=lambda key: (key.actor, key.key)))


def _holder(register: Register, name: str) -> tuple[str, str, tuple[str, ...], str | None]:
    entry = register[name].entry
    return entry.actor, entry.actor_name, entry.roles, register[name].revoked_at
