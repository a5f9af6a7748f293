"""A person's yes or no on its way: drawn up to be signed, carried by a form or a file, too late, given before a promotion.

Whether an approval counts is decided by the trail that it is appended to (:mod:`fedsilo.audit.order_checks`) and by nobody else.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from fedsilo.audit import canonical, documents, forms
from fedsilo.audit.documents import Approval
from fedsilo.audit.events import Event
from fedsilo.errors import DataError

APPROVAL = "approval"
HOURS = 72
"""How long a document waits for its line unless somebody says otherwise; later it is a no."""


def text(approval: Approval, key: str) -> str:
    """Write what a person is asked to sign with a key: what it says, and in the last line the bytes that are signed.

    They stand behind the domain ``fedsilo-approval/v1``, which ends in NUL (docs/audit.md).
    """
    said = forms.plain(approval)
    lines = [
        f"{name}: {said[name]}" for name in ("decision", "candidate", "verdict", "meaning", "reason", "missing") if name in said
    ]
    return "\n".join([*lines, canonical.dumps({**said, "type": APPROVAL, "key": key}).decode("ascii"), ""])


def read(content: bytes) -> dict[str, object]:
    """Read a signed approval as it was carried.

    Raises:
        DataError: It is no JSON, or has not the form of a signed approval.
    """
    record = canonical.loads(content)
    found = canonical.flaw(record) or (None if record.get("type") == APPROVAL else "it is no signed approval")
    found = found or documents.flaw(record, str(record.get("decision")))
    if found:
        raise DataError(f"cannot use the document: {found}")
    return record


def from_form(decision: str, reason: str, signature: str) -> dict[str, object]:
    """Read what a person entered into a form, whose ``signature`` is the whole signed document.

    The form transports: what its other fields say must be what was signed.

    Raises:
        DataError: It is not.
    """
    record = read(signature.encode())
    for name, entered in (("decision", decision), ("reason", reason)):
        if record[name] != entered:
            raise DataError(f"the {name} that was entered is not the one that was signed: {json.dumps(record[name])}")
    return record


def check_in_time(record: Mapping[str, object], now: datetime, hours: int) -> None:
    """Refuse a document that waited too long.

    Raises:
        DataError: It was created more than ``hours`` before ``now``.
    """
    created = datetime.fromisoformat(str(record["created"]))
    if now - created > timedelta(hours=hours):
        raise DataError(f"the document is of {record['created']} and expired after {hours} hours: sign anew")


def verdict_on(events: Sequence[Event], model: str) -> Event | None:
    """Find the gate's last verdict on a model."""
    return next((event for event in reversed(events) if event.kind == "gate.verdict" and _about(event, model)), None)


def given(events: Sequence[Event], model: str, approvers: Sequence[str]) -> tuple[dict[str, object], ...]:
    """Give the documents by which a model is approved.

    Args:
        events: Of a verified log, up to the promotion.
        model: Its hash.
        approvers: Keys of those whose approval counts at that point.
    """
    last: dict[str, dict[str, object]] = {}
    for event in events:
        if event.kind == "approve" and _about(event, model) and event.attached is not None:
            last[str(event.attached["key"])] = dict(event.attached)
    return tuple(last[key] for key in sorted(last) if key in approvers)


def _about(event: Event, model: str) -> bool:
    return event.subject is not None and event.subject.after == model
