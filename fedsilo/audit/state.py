"""What is known after some lines of a log, and what one more line is checked against."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsilo.audit import canonical, documents, forms
from fedsilo.audit.documents import Document
from fedsilo.audit.events import GENESIS, KEY_KINDS, Event, Subject
from fedsilo.audit.founding import Founding
from fedsilo.audit.grown import Grown
from fedsilo.audit.merkle import Tree
from fedsilo.audit.register import FEDERATION_LOG, MAY_SIGN, PERSONS, SERVER, KeyRecord, Register, may_sign

Pending = tuple[str, Subject]
"""A change that persons sign: a kind of event and its subject."""
Part = tuple[str, int]
"""What happens once in a round: the name of a run or of its subject, and the round."""


@dataclass(frozen=True)
class Setting:
    """What a log is checked against.

    Attributes:
        log: ``federation/log``.
        founding: How the federation began.
        register: Keys before the first line.
        trusted_size: Lines whose signatures the caller has checked before; a checkpoint must say that they are the same.
    """

    log: str
    founding: Founding
    register: Register
    trusted_size: int = 0

    @property
    def of_federation(self) -> bool:
        """Whether it is the federation's own log, the only one where keys change."""
        return self.log.partition("/")[2] == FEDERATION_LOG


@dataclass(frozen=True)
class Candidate:
    """What has been said of a model: the gate's last verdict, who approved since, and when it was last rejected.

    ``champion`` is the model with which the verdict compares it; ``ended`` says that it was rejected since the verdict. To leave
    a model unanswered until a retraining ends is to reject it.
    """

    verdict: str | None = None
    metrics_ref: str | None = None
    approvers: tuple[str, ...] = ()
    rejected: str = ""
    champion: str | None = None
    ended: bool = False


@dataclass(frozen=True)
class Champion:
    """The model in use under a name, and all that were."""

    current: str
    promoted: frozenset[str]


@dataclass(frozen=True)
class State:
    """What is known after ``size`` lines.

    Attributes:
        size: Lines so far.
        prev: Leaf hash of the last line.
        ts: Time of the last line.
        register: Keys.
        acts: By key the place of the last line that it signed, or a document of which it signed.
        pending: Who has signed a change that has not taken effect.
        carried: Hashes of persons' documents that were attached, with the lines' places.
        rounds: By run and round the place of the line that opened it last.
        updates: By update and round the place of the last line that submitted it, and its file's hash.
        manifests: By hash of a site's manifest the place of the line that submitted it first, and the update and round.
        candidates: By model hash; a candidate is known from its evaluation on.
        champions: By model name.
        rotated: Whether the log has ended.
    """

    register: Register
    size: int = 0
    prev: str = GENESIS
    ts: str = ""
    acts: Mapping[str, int] = field(default_factory=dict)
    pending: Grown[Pending, tuple[str, ...]] = field(default_factory=Grown)
    carried: Grown[str, int] = field(default_factory=Grown)
    rounds: Grown[Part, int] = field(default_factory=Grown)
    updates: Grown[Part, tuple[int, str]] = field(default_factory=Grown)
    manifests: Grown[str, tuple[int, Part]] = field(default_factory=Grown)
    candidates: Grown[str, Candidate] = field(default_factory=Grown)
    champions: Mapping[str, Champion] = field(default_factory=dict)
    rotated: bool = False


@dataclass(frozen=True)
class Step:
    """One more line: its bytes, its JSON, what is known before it, and the tree over the lines before it at least."""

    line: bytes
    fields: Mapping[str, object]
    state: State
    setting: Setting
    tree: Tree

    @functools.cached_property
    def event(self) -> Event:
        """The line as an event; its form has been checked."""
        return forms.build(Event, self.fields)

    @property
    def trusted(self) -> bool:
        """Whether its signatures are taken on trust; never those of changes of keys, by which a checkpoint is believed."""
        return self.state.size < self.setting.trusted_size and self.event.kind not in KEY_KINDS

    @functools.cached_property
    def signer(self) -> KeyRecord | None:
        """Whose key signed the event."""
        return self.state.register.get(self.event.key)

    @functools.cached_property
    def document(self) -> Document | None:
        """The attached document."""
        return None if self.event.attached is None else documents.build(self.event.attached)

    @functools.cached_property
    def document_kind(self) -> documents.Kind:
        """The attached document's type."""
        return documents.TYPES[str((self.event.attached or {}).get("type"))]

    @functools.cached_property
    def document_signer(self) -> KeyRecord | None:
        """Whose key signed the attached document."""
        return self.state.register.get(str((self.event.attached or {}).get("key")))

    @functools.cached_property
    def lends(self) -> bool:
        """Whether the attached document lends its signer's authority to the event."""
        return self.document is not None and self.event.kind in MAY_SIGN[self.document_kind.role]

    @functools.cached_property
    def person(self) -> str:
        """Actor on whose authority the event stands."""
        signer = self.document_signer if self.lends else self.signer
        return self.event.actor if signer is None else signer.entry.actor

    @functools.cached_property
    def document_hash(self) -> str | None:
        """Hash of an attached document that lends a person's authority, which it does once."""
        return self._lent if self.event.attached and self.document_kind.role in PERSONS else None

    @functools.cached_property
    def manifest_hash(self) -> str | None:
        """Hash of an attached manifest by which a site submits an update."""
        return self._lent if self.event.attached and self.event.kind == "update.submit" else None

    @property
    def _lent(self) -> str | None:
        return canonical.digest(canonical.dumps(self.event.attached)) if self.event.attached and self.lends else None

    @functools.cached_property
    def authorised(self) -> bool:
        """Whether the signer may sign this kind, or a server carries a document that lends the authority."""
        event = self.event
        if self.signer is not None and may_sign(self.signer.entry, event.role, event.kind, event.log):
            return True
        return self.lends and event.role == SERVER

    @property
    def change(self) -> Pending:
        """The change that persons sign with it."""
        return self.event.kind, self.event.subject or Subject("", "")

    @property
    def part(self) -> Part:
        """What part of which round it is about: of a run's, or of an update's."""
        name = self.event.subject.name if self.event.subject else ""
        return run_of(name) if self.event.kind == "round.open" else name, self.event.round_index or 0

    @property
    def reopened(self) -> int:
        """Place of the line that opened the round of this update last, -1 if none did; one that names no run opens all."""
        name, index = self.part
        return max(self.state.rounds.get((run, index), -1) for run in (run_of(name), ""))

    @property
    def takes_effect(self) -> bool:
        """Whether it completes the quorum of a change."""
        return len(self.state.pending.get(self.change, ())) + 1 >= self.setting.founding.policy.quorum

    @property
    def model(self) -> str:
        """Hash of the model that it is about."""
        return (self.event.subject.after if self.event.subject else None) or ""


def run_of(name: str) -> str:
    """Give the run of a subject's name: all before its last slash.

    Example:
        >>> run_of("study/run/site-a")
        'study/run'
    """
    return name.rpartition("/")[0]
