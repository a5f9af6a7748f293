"""Who may sign what: keys with their actors, roles and times, and the roles with their kinds of events."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsilo.audit import forms, keys

MAY_SIGN: Mapping[str, frozenset[str]] = {
    "server": frozenset(
        {
            *("log.open", "log.recover", "round.open", "update.reject", "update.missing", "aggregate", "evaluate"),
            *("gate.verdict", "run.restored", "retrain.decision", "pccp.check", "drift.report", "incident"),
        }
    ),
    "site": frozenset(
        {
            *("data.validate", "data.accept", "data.quarantine", "order.accept", "order.refuse", "update.submit"),
            *("evaluate", "drift.report", "incident"),
        }
    ),
    "approver": frozenset({"approve", "reject"}),
    "promoter": frozenset({"promote", "rollback", "deploy.shadow", "deploy.canary"}),
    "admin": frozenset({"key.add", "key.revoke", "config.change", "log.rotate", "erasure"}),
    "auditor": frozenset({"export", "incident"}),
}
SERVER, SITE, ADMIN = "server", "site", "admin"
MACHINES, PERSONS = (SERVER, SITE), ("approver", "promoter", ADMIN, "auditor")
OWN_LOG = frozenset({"log.open", "log.recover"})
"""Kinds that a site signs too, in its own log."""
FEDERATION_LOG = "federation"


def _are_roles(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return value in ([SERVER], [SITE]) or value == [role for role in PERSONS if role in value]


@dataclass(frozen=True)
class KeyEntry:
    """A key as persons signed it.

    A machine's key has one role, ``server`` or ``site``; a person's any of ``approver``, ``promoter``, ``admin`` and
    ``auditor``, in this order. A site's key is for one site.
    """

    actor: str = field(metadata=forms.IDENTIFIER)
    actor_name: str = field(metadata=forms.SHORT)
    public: str = field(metadata=forms.PUBLIC)
    roles: tuple[str, ...] = field(
        metadata=forms.of(f"[server], [site], or some of {', '.join(PERSONS)} in this order", _are_roles)
    )
    not_before: str = field(metadata=forms.TIME)
    not_after: str = field(metadata=forms.TIME)
    site: str | None = field(default=None, metadata=forms.IDENTIFIER)

    @property
    def key(self) -> str:
        """Name of the key."""
        return keys.name_of(self.public)


@dataclass(frozen=True)
class Anchor:
    """What of a log a revocation leaves standing: the acts of the key in its first ``size`` lines, which have this root."""

    size: int = field(metadata=forms.COUNT)
    root: str = field(metadata=forms.HASH)


@dataclass(frozen=True)
class KeyRecord:
    """A key in the register: usable from ``since`` until ``revoked_at``, both times of events."""

    entry: KeyEntry
    since: str
    revoked_at: str | None = None
    anchor: Anchor | None = None

    def valid_at(self, ts: str) -> bool:
        """Say whether what the key signs at a time counts; times of one format sort as text."""
        begins, ends = max(self.entry.not_before, self.since), min(self.entry.not_after, self.revoked_at or self.entry.not_after)
        return begins <= ts < ends


Register = Mapping[str, KeyRecord]
"""Keys by their names."""


def entry_flaw(value: object) -> str | None:
    """Say what is wrong with a key's entry in JSON."""
    found = forms.flaw(KeyEntry, value)
    if found is None and isinstance(value, dict):
        if (value["roles"] == [SITE]) != ("site" in value):
            return "site must stand in the entry of a site's key, and in no other"
        if value.get("site") == FEDERATION_LOG:
            return f"no site can have the name {FEDERATION_LOG}, which is that of the federation's log"
        if keys.is_weak(value["public"]):
            return "public is a point of small order, as which anybody can sign"
        if value["not_before"] >= value["not_after"]:
            return "not_after must be later than not_before"
    return found


def may_sign(entry: KeyEntry, role: str, kind: str, log: str) -> bool:
    """Say whether a key may sign a kind of event of a log in a role, by the table and by what a site may do in its own log."""
    name = log.partition("/")[2]
    if role == SITE and kind in OWN_LOG:
        return name == entry.site
    if role == SITE and name not in (FEDERATION_LOG, entry.site):
        return False
    return role in entry.roles and kind in MAY_SIGN.get(role, frozenset())
