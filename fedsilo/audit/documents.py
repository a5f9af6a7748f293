"""Signed documents that events carry: an order, an update's manifest, an approval, a release, a change.

A person need not be at the server: they sign a document, the server attaches it to the event. The document says for itself
what it allows, so that it lends its authority to one event and no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsilo.audit import canonical, forms
from fedsilo.audit.events import CHANGE_KINDS, Subject
from fedsilo.audit.keys import Signer


@dataclass(frozen=True)
class Seen:
    """The newest state of the federation's log that a site knew when it signed: it witnesses the lines up to there."""

    size: int = field(metadata=forms.COUNT)
    root: str = field(metadata=forms.HASH)


@dataclass(frozen=True)
class Order:
    """A server's order to a site; other fields may stand beside these."""

    federation: str = field(metadata=forms.IDENTIFIER)


@dataclass(frozen=True)
class Update:
    """A site's manifest of an update; other fields may stand beside these."""

    federation: str = field(metadata=forms.IDENTIFIER)
    site: str = field(metadata=forms.IDENTIFIER)
    round_index: int = field(metadata=forms.named("round", forms.COUNT))
    file_sha256: str = field(metadata=forms.HEX)
    seen: Seen | None = field(default=None, metadata=forms.part(Seen))


@dataclass(frozen=True)
class Approval:
    """A person's yes or no to a candidate, on a verdict whose file has this hash.

    A yes to a candidate whose verdict is inconclusive names what evidence is ``missing``: the person answers for it.
    """

    federation: str = field(metadata=forms.IDENTIFIER)
    candidate: str = field(metadata=forms.HASH)
    verdict: str = field(metadata=forms.HASH)
    decision: str = field(metadata=forms.one_of("approve", "reject"))
    meaning: str = field(metadata=forms.one_of("review", "approval", "responsibility", "authorship"))
    reason: str = field(metadata=forms.TEXT)
    created: str = field(metadata=forms.TIME)
    missing: str | None = field(default=None, metadata=forms.TEXT)


@dataclass(frozen=True)
class Release:
    """A person's word that a model goes into use, or that an earlier one comes back."""

    federation: str = field(metadata=forms.IDENTIFIER)
    event: str = field(metadata=forms.one_of("promote", "rollback", "deploy.shadow", "deploy.canary"))
    model: str = field(metadata=forms.SHORT)
    candidate: str = field(metadata=forms.HASH)
    reason: str = field(metadata=forms.TEXT)
    created: str = field(metadata=forms.TIME)


@dataclass(frozen=True)
class Change:
    """An admin's word for a change of keys or configuration; ``content`` is what the subject's ``after`` is the hash of."""

    federation: str = field(metadata=forms.IDENTIFIER)
    event: str = field(metadata=forms.one_of(*sorted(CHANGE_KINDS)))
    subject: Subject = field(metadata=forms.part(Subject))
    reason: str = field(metadata=forms.TEXT)
    created: str = field(metadata=forms.TIME)
    content: Mapping[str, object] | None = field(default=None, metadata=forms.OBJECT)


Document = Order | Update | Approval | Release | Change


@dataclass(frozen=True)
class Kind:
    """What a type of document is: its record, who signs it, the events that it is attached to, whether it may say more."""

    record: type[Document]
    role: str
    events: frozenset[str]
    closed: bool = True


TYPES: Mapping[str, Kind] = {
    "order": Kind(Order, "server", frozenset({"order.accept", "order.refuse"}), closed=False),
    "update": Kind(Update, "site", frozenset({"update.submit", "update.reject"}), closed=False),
    "approval": Kind(Approval, "approver", frozenset({"approve", "reject"})),
    "release": Kind(Release, "promoter", frozenset({"promote", "rollback", "deploy.shadow", "deploy.canary"})),
    "change": Kind(Change, "admin", CHANGE_KINDS),
}
ENVELOPE = ("type", "key", "sig")


@dataclass(frozen=True)
class Envelope:
    """What every document has around its own fields."""

    type: str = field(metadata=forms.one_of(*TYPES))
    key: str = field(metadata=forms.KEY)
    sig: str = field(metadata=forms.SIGNATURE)


def domain(kind: str) -> bytes:
    """Domain of a type of document's signatures."""
    return f"fedsilo-{kind}/v1\0".encode()


def sign(document: Document, signer: Signer, more: Mapping[str, object] | None = None) -> dict[str, object]:
    """Sign a document; an order or an update may say ``more`` than its own fields.

    Raises:
        DataError: Something in it has no canonical form.
    """
    kind = next(name for name, entry in TYPES.items() if isinstance(document, entry.record))
    record = {**(more or {}), **forms.plain(document), "type": kind, "key": signer.key}
    return {**record, "sig": signer.sign(domain(kind), record)}


def flaw(record: Mapping[str, object], event_kind: str) -> str | None:
    """Say what is wrong with the form of a document that is attached to an event."""
    found = forms.flaw(Envelope, dict(record), "attached", closed=False)
    if found:
        return found
    kind = TYPES[str(record["type"])]
    if event_kind not in kind.events:
        return f"a document of the type {record['type']} cannot be attached to {event_kind}"
    own = {name: value for name, value in record.items() if name not in ENVELOPE}
    return forms.flaw(kind.record, own, "attached", closed=kind.closed)


def build(record: Mapping[str, object]) -> Document:
    """Make a document of JSON that has its form."""
    return forms.build(TYPES[str(record["type"])].record, record)


def content_hash(content: Mapping[str, object]) -> str:
    """Hash the content of a change, as its subject names it."""
    return canonical.digest(canonical.dumps(content))
