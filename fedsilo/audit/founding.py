"""How a federation begins: its first keys and its policy, signed by as many of its admins as its quorum asks for.

A founding is a JSON file. What is signed is its canonical form without ``signatures``, so its layout may differ; its hash is
what strangers compare over another channel, and which the first line of every log names.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, forms, keys
from fedsilo.audit.keys import FOUNDING_DOMAIN, Signer
from fedsilo.audit.register import ADMIN, SERVER, KeyEntry, KeyRecord, Register, entry_flaw
from fedsilo.errors import DataError


@dataclass(frozen=True)
class Policy:
    """How many persons it takes.

    Attributes:
        quorum: Admins who must sign the founding, and each change of keys or configuration.
        approvals: Approvers who must sign before a model is promoted.
        separate_promoter: Whether a person who approved a model may not promote it.
    """

    quorum: int = field(metadata=forms.COUNT)
    approvals: int = field(metadata=forms.COUNT)
    separate_promoter: bool = field(metadata=forms.FLAG)


@dataclass(frozen=True)
class Signature:
    """One admin's signature."""

    key: str = field(metadata=forms.KEY)
    sig: str = field(metadata=forms.SIGNATURE)


@dataclass(frozen=True)
class Founding:
    """A federation's beginning."""

    federation: str = field(metadata=forms.IDENTIFIER)
    created: str = field(metadata=forms.TIME)
    policy: Policy = field(metadata=forms.part(Policy))
    keys: tuple[KeyEntry, ...] = field(metadata=forms.parts(KeyEntry))
    signatures: tuple[Signature, ...] = field(default=(), metadata=forms.parts(Signature))

    @functools.cached_property
    def statement(self) -> dict[str, object]:
        """What is signed."""
        return {name: value for name, value in forms.plain(self).items() if name != "signatures"}

    @functools.cached_property
    def digest(self) -> str:
        """Hash of what is signed."""
        return canonical.digest(canonical.dumps(self.statement))

    @functools.cached_property
    def register(self) -> Register:
        """The first keys."""
        return {entry.key: KeyRecord(entry, since=entry.not_before) for entry in self.keys}


def draw_up(federation: str, entries: Iterable[KeyEntry], *, policy: Policy, created: str) -> Founding:
    """Write a founding that nobody has signed yet.

    Raises:
        DataError: Its keys cannot keep its policy, or something is not as it should be.
    """
    ordered = tuple(sorted(entries, key=lambda entry: entry.key))
    made = Founding(federation=federation, created=created, policy=policy, keys=ordered)
    return _checked(forms.plain(made), "the founding")


def sign(founding: Founding, signer: Signer) -> Founding:
    """Add one admin's signature; one that is there is replaced.

    Raises:
        DataError: The key is not that of one of its admins.
    """
    record = founding.register.get(signer.key)
    if record is None or ADMIN not in record.entry.roles:
        raise DataError(f"{signer.key} is no key of an admin of {founding.federation}")
    others = [signature for signature in founding.signatures if signature.key != signer.key]
    own = Signature(signer.key, signer.sign(FOUNDING_DOMAIN, founding.statement))
    signatures = tuple(sorted([*others, own], key=lambda signature: signature.key))
    return Founding(founding.federation, founding.created, founding.policy, founding.keys, signatures)


def write(founding: Founding, path: Path) -> Path:
    """Store a founding.

    Raises:
        OutputError: It cannot be written.
    """
    return files.write_json(path, forms.plain(founding))


def read(path: Path) -> Founding:
    """Read a founding that its quorum has signed.

    Raises:
        DataError: It is missing, not as it should be, or lacks signatures.
    """
    founding = read_unsigned(path)
    admins = {signature.key: founding.register[signature.key].entry.actor for signature in founding.signatures}
    if len(set(admins.values())) < founding.policy.quorum:
        raise DataError(f"{path} is signed by {len(set(admins.values()))} admins, its quorum is {founding.policy.quorum}")
    return founding


def read_unsigned(path: Path) -> Founding:
    """Read a founding that may lack signatures; those it has must be right.

    Raises:
        DataError: It is missing or not as it should be.
    """
    return _checked(canonical.read(path), str(path))


def _checked(record: Mapping[str, object], where: str) -> Founding:
    """Make a founding of JSON that keeps all rules but the quorum of signatures."""
    found = canonical.flaw(record) or forms.flaw(Founding, record)
    if found:
        raise DataError(f"cannot use {where}: {found}")
    founding = forms.build(Founding, record)
    for entry in founding.keys:
        if found := entry_flaw(forms.plain(entry)):
            raise DataError(f"cannot use {where}: the key of {entry.actor}: {found}")
    admins = {entry.actor for entry in founding.keys if ADMIN in entry.roles}
    if not 1 <= founding.policy.quorum <= len(admins):
        raise DataError(f"cannot use {where}: the quorum is {founding.policy.quorum}, there are {len(admins)} admins")
    if founding.policy.approvals < 1:
        raise DataError(f"cannot use {where}: a promotion needs at least one approval")
    if len(founding.register) < len(founding.keys):
        raise DataError(f"cannot use {where}: a key stands in it twice")
    if not any(entry.roles == (SERVER,) for entry in founding.keys):
        raise DataError(f"cannot use {where}: it has no key of a server, which opens the log")
    for signature in founding.signatures:
        _check_signature(founding, signature, where)
    return founding


def _check_signature(founding: Founding, signature: Signature, where: str) -> None:
    record = founding.register.get(signature.key)
    if record is None or ADMIN not in record.entry.roles:
        raise DataError(f"cannot use {where}: {signature.key} signed it and is no key of an admin")
    if not keys.signed_by(record.entry.public, FOUNDING_DOMAIN, {**founding.statement, "sig": signature.sig}):
        raise DataError(f"cannot use {where}: the signature of {record.entry.actor} is not over this founding")
