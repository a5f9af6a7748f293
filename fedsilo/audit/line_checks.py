"""Checks of one line by itself: its form, its place in the log, its signer. Each says what is wrong, or nothing."""

from datetime import datetime, timedelta

from fedsilo.audit import canonical, documents, events, forms, keys
from fedsilo.audit.keys import EVENT_DOMAIN
from fedsilo.audit.register import SITE
from fedsilo.audit.state import Step

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far clocks may differ; beyond it something is wrong that a person must look at."""


def plain_values(step: Step) -> str | None:
    """Values have a canonical form."""
    return canonical.flaw(step.fields)


def event_form(step: Step) -> str | None:
    """Fields are those of an event, each in its form."""
    return forms.flaw(events.Event, step.fields)


def kind_form(step: Step) -> str | None:
    """The event has what its kind needs."""
    return events.kind_flaw(step.event, step.fields)


def document_form(step: Step) -> str | None:
    """An attached document has the form of its type, which may be attached to this kind."""
    return None if step.event.attached is None else documents.flaw(step.event.attached, step.event.kind)


def canonical_line(step: Step) -> str | None:
    """The line is its canonical form, byte for byte."""
    return None if canonical.dumps(step.fields) == step.line else "the line is not in canonical form"


def own_log(step: Step) -> str | None:
    """The line is of this log."""
    found, expected = step.event.log, step.setting.log
    return None if found == expected else f"the line is of {found}"


def place(step: Step) -> str | None:
    """The line counts on."""
    found, expected = step.event.seq, step.state.size
    return None if found == expected else f"seq is {found}, expected {expected}"


def chain(step: Step) -> str | None:
    """The line names the hash of the line before."""
    found, expected = step.event.prev, step.state.prev
    return None if found == expected else f"prev is {found}, expected {expected}"


def later(step: Step) -> str | None:
    """The line is later than the line before."""
    found, before = step.event.ts, step.state.ts
    return None if found > before else f"ts is {found}, the line before is of {before}"


def held_clock(step: Step) -> str | None:
    """A clock that was held stands a microsecond after the line before."""
    if not step.event.clock_held:
        return None
    expected = after(step.state.ts) if step.state.ts else "no held clock in the first line"
    return None if step.event.ts == expected else f"clock_held with ts {step.event.ts}, expected {expected}"


def after(ts: str) -> str:
    """Give the time a microsecond later.

    Example:
        >>> after("2026-12-31T23:59:59.999999Z")
        '2027-01-01T00:00:00.000000Z'
    """
    return (datetime.strptime(ts, TIME_FORMAT) + timedelta(microseconds=1)).strftime(TIME_FORMAT)  # noqa: DTZ007  # Z is UTC


def known_key(step: Step) -> str | None:
    """The signing key is in the register."""
    return None if step.signer else f"{step.event.key} is not in the register"


def own_name(step: Step) -> str | None:
    """Actor and printed name are those of the key."""
    if step.signer is None:
        return None
    found = (step.event.actor, step.event.actor_name)
    expected = (step.signer.entry.actor, step.signer.entry.actor_name)
    return None if found == expected else f"actor {found}, the key is of {expected}"


def own_role(step: Step) -> str | None:
    """The role is one of the key."""
    if step.signer is None or step.event.role in step.signer.entry.roles:
        return None
    return f"role {step.event.role}, the key has {', '.join(step.signer.entry.roles)}"


def own_site(step: Step) -> str | None:
    """A site signs for itself."""
    if step.signer is None or step.event.role != SITE or step.event.site in (None, step.signer.entry.site):
        return None
    return f"site {step.event.site}, the key is of {step.signer.entry.site}"


def key_in_time(step: Step) -> str | None:
    """The key was valid when the line was written."""
    if step.signer is None or step.signer.valid_at(step.event.ts):
        return None
    return _out_of_time(step.event.key, step.event.ts)


def event_signature(step: Step) -> str | None:
    """The signature is that of the key over this event."""
    if step.signer is None or step.trusted:
        return None
    good = keys.signed_by(step.signer.entry.public, EVENT_DOMAIN, step.fields)
    return None if good else f"the signature is not one of {step.event.key} over this event"


def known_document_key(step: Step) -> str | None:
    """The key that signed the attached document is in the register."""
    attached = step.event.attached
    return None if attached is None or step.document_signer else f"{attached['key']} is not in the register"


def document_key_in_time(step: Step) -> str | None:
    """The key of the attached document was valid when the line was written."""
    if step.document_signer is None or step.document_signer.valid_at(step.event.ts):
        return None
    return _out_of_time(step.document_signer.entry.key, step.event.ts)


def document_signature(step: Step) -> str | None:
    """The signature of the attached document is that of its key."""
    attached = step.event.attached
    if attached is None or step.document_signer is None or step.trusted:
        return None
    good = keys.signed_by(step.document_signer.entry.public, documents.domain(str(attached["type"])), attached)
    return None if good else f"the signature of the attached document is not one of {attached['key']} over it"


def _out_of_time(key: str, ts: str) -> str:
    return f"{key} was not valid at {ts}"
