"""What a line of the trail may say: a closed list of kinds and of fields."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedsilo.audit import forms

VERSION = 1
GENESIS = f"sha256:{'0' * 64}"

KINDS = (
    *("log.open", "log.recover", "log.rotate", "key.add", "key.revoke", "config.change"),
    *("data.validate", "data.accept", "data.quarantine", "drift.report", "retrain.decision", "pccp.check"),
    *("round.open", "order.accept", "order.refuse", "update.submit", "update.reject", "update.missing", "aggregate"),
    *("evaluate", "gate.verdict", "approve", "reject", "promote", "rollback", "deploy.shadow", "deploy.canary"),
    *("run.restored", "incident", "erasure", "export"),
)
MODEL_KINDS = frozenset(
    {"evaluate", "gate.verdict", "approve", "reject", "promote", "rollback", "deploy.shadow", "deploy.canary"}
)
"""Kinds whose subject is a model; ``after`` is the hash of the model that they are about."""
CHANGE_KINDS = frozenset({"key.add", "key.revoke", "config.change", "log.rotate", "erasure"})
"""Kinds that take effect when as many persons as the quorum have signed the same change."""
KEY_KINDS = frozenset({"key.add", "key.revoke"})
PASS, INCONCLUSIVE = "pass", "inconclusive"
VERDICTS = (PASS, "fail", INCONCLUSIVE)
RETRAIN_END, UNANSWERED = "retrain.end", "unanswered"
"""Decision of a `retrain.decision` that closes a retraining, and how it ends whose candidate nobody approved in time."""
CHAMPION = "champion"
"""Input of a `gate.verdict` or `deploy.shadow`: the model in use with which it compares; left out if none was."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "log.open": ("subject",),
    "log.recover": ("subject",),
    "data.validate": ("site",),
    "data.accept": ("site", "subject"),
    "data.quarantine": ("site",),
    "retrain.decision": ("decision",),
    "pccp.check": ("decision",),
    "round.open": ("round",),
    "order.accept": ("site", "round"),
    "order.refuse": ("site",),
    "update.submit": ("site", "round", "subject"),
    "update.reject": ("round", "decision"),
    "update.missing": ("site", "round"),
    "aggregate": ("round", "subject"),
    "gate.verdict": ("decision",),
    "approve": ("meaning", "attached"),
    "reject": ("meaning", "attached"),
    "run.restored": ("outputs",),
    "export": ("outputs",),
    **dict.fromkeys(CHANGE_KINDS, ("subject", "attached")),
}
"""Fields that a kind cannot do without, beside those that all need and a model for :data:`MODEL_KINDS`."""


@dataclass(frozen=True)
class Why:
    """The reason: an id of the request, order or schedule behind it, and a sentence."""

    request: str = field(metadata=forms.SHORT)
    text: str = field(metadata=forms.TEXT)


@dataclass(frozen=True)
class Subject:
    """What it is about, with its hash before and after; a new thing has no ``before``, one that is gone no ``after``."""

    kind: str = field(metadata=forms.IDENTIFIER)
    name: str = field(metadata=forms.SHORT)
    before: str | None = field(default=None, metadata=forms.HASH)
    after: str | None = field(default=None, metadata=forms.HASH)


@dataclass(frozen=True)
class Artifact:
    """A file or folder that went in or came out."""

    name: str = field(metadata=forms.TEXT)
    sha256: str = field(metadata=forms.HEX)


@dataclass(frozen=True)
class Environment:
    """What code ran, on what."""

    git: str | None = field(default=None, metadata=forms.COMMIT)
    dirty: bool | None = field(default=None, metadata=forms.FLAG)
    dvc_lock_sha256: str | None = field(default=None, metadata=forms.HEX)
    constraints_sha256: str | None = field(default=None, metadata=forms.HEX)
    image: str | None = field(default=None, metadata=forms.SHORT)
    python: str | None = field(default=None, metadata=forms.SHORT)
    torch: str | None = field(default=None, metadata=forms.SHORT)
    cuda: str | None = field(default=None, metadata=forms.SHORT)
    host_pseudonym: str | None = field(default=None, metadata=forms.SHORT)


@dataclass(frozen=True)
class PrefectRun:
    """Where Prefect shows the run."""

    flow_run: str = field(metadata=forms.SHORT)
    deployment: str | None = field(default=None, metadata=forms.SHORT)
    version: str | None = field(default=None, metadata=forms.SHORT)


@dataclass(frozen=True)
class Decision:
    """What was decided by which rule; ``metrics_ref`` is the hash of the file with its numbers."""

    gate: str = field(metadata=forms.SHORT)
    verdict: str = field(metadata=forms.SHORT)
    metrics_ref: str | None = field(default=None, metadata=forms.HASH)


@dataclass(frozen=True)
class Draft:
    """An event as its author knows it; the trail adds who, when and where.

    Attributes:
        kind: One of :data:`KINDS`.
        why: The reason.
        site: Site that it concerns.
        round_index: Round that it concerns, from 0.
        meaning: What a person's signature means (21 CFR 11.50).
        subject: What it is about.
        inputs: What went in.
        outputs: What came out.
        env: What code ran, on what.
        prefect: Where Prefect shows the run.
        decision: What was decided.
        attached: A signed document (:mod:`fedsilo.audit.documents`) that lends it authority or evidence.
    """

    kind: str = field(metadata=forms.named("event", forms.one_of(*KINDS)))
    why: Why = field(metadata=forms.part(Why))
    site: str | None = field(default=None, metadata=forms.IDENTIFIER)
    round_index: int | None = field(default=None, metadata=forms.named("round", forms.COUNT))
    meaning: str | None = field(default=None, metadata=forms.one_of("review", "approval", "responsibility", "authorship"))
    subject: Subject | None = field(default=None, metadata=forms.part(Subject))
    inputs: tuple[Artifact, ...] = field(default=(), metadata=forms.parts(Artifact))
    outputs: tuple[Artifact, ...] = field(default=(), metadata=forms.parts(Artifact))
    env: Environment | None = field(default=None, metadata=forms.part(Environment))
    prefect: PrefectRun | None = field(default=None, metadata=forms.part(PrefectRun))
    decision: Decision | None = field(default=None, metadata=forms.part(Decision))
    attached: Mapping[str, object] | None = field(default=None, metadata=forms.OBJECT)


@dataclass(frozen=True, kw_only=True)
class Event(Draft):
    """A line of a log.

    Attributes:
        v: Version of the format.
        seq: Place in the log, from 0.
        ts: When, UTC, by the system that wrote it.
        clock_held: The clock stood behind the line before, so ``ts`` is that line's and a microsecond.
        log: ``federation/log``.
        actor: Who, as the key register knows the signer.
        actor_name: Their name in print.
        role: In which of their roles.
        key: Name of the key that signed.
        prev: Leaf hash of the line before; 64 zeros for the first.
        sig: Signature over all other fields.
    """

    v: int = field(metadata=forms.of(str(VERSION), lambda value: type(value) is int and value == VERSION))
    seq: int = field(metadata=forms.COUNT)
    ts: str = field(metadata=forms.TIME)
    clock_held: bool = field(default=False, metadata=forms.YES)
    log: str = field(metadata=forms.LOG)
    actor: str = field(metadata=forms.IDENTIFIER)
    actor_name: str = field(metadata=forms.SHORT)
    role: str = field(metadata=forms.IDENTIFIER)
    key: str = field(metadata=forms.KEY)
    prev: str = field(metadata=forms.HASH)
    sig: str = field(metadata=forms.SIGNATURE)


def kind_flaw(event: Draft, given: Collection[str]) -> str | None:
    """Say what an event, of whose fields these are ``given``, lacks that its kind needs."""
    missing = [name for name in NEEDED.get(event.kind, ()) if name not in given]
    if missing:
        return f"{event.kind} needs {missing[0]}"
    if event.kind in MODEL_KINDS and (event.subject is None or event.subject.kind != "model" or event.subject.after is None):
        return f"{event.kind} needs a subject of the kind model with its hash as after"
    if event.kind == "gate.verdict" and event.decision is not None:
        if event.decision.verdict not in VERDICTS:
            return f"the verdict of a gate is one of {', '.join(VERDICTS)}, got {event.decision.verdict}"
        if event.decision.metrics_ref is None:
            return "gate.verdict needs decision.metrics_ref, the hash of the file with its numbers"
    return None
