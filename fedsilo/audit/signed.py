"""Folders under a manifest that a server signed: what a pack and a release share."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from fedsilo import files
from fedsilo.audit import canonical, forms, keys
from fedsilo.audit.events import Artifact
from fedsilo.audit.register import SERVER, Register
from fedsilo.errors import AuditRefusedError

MANIFEST = "manifest.json"

RecordT = TypeVar("RecordT")


def write(folder: Path, record: Mapping[str, object]) -> Path:
    """Write a signed manifest: one line in canonical form.

    Raises:
        OutputError: It cannot be written.
    """
    return files.write_bytes(folder / MANIFEST, canonical.dumps(record) + b"\n")


def read(folder: Path, kind: type[RecordT], where: str) -> tuple[RecordT, Mapping[str, object]]:
    """Read a manifest in its form; nothing of it is checked by that.

    Args:
        folder: That has it.
        kind: Its form.
        where: Named by a refusal.

    Raises:
        AuditRefusedError: It is not in its form.
        DataError: There is none.
    """
    record = canonical.read(folder / MANIFEST)
    found = canonical.flaw(record) or forms.flaw(kind, record)
    if found is None and canonical.dumps(record) + b"\n" != (folder / MANIFEST).read_bytes():
        found = "it is not one line in canonical form"
    if found:
        raise AuditRefusedError("schema", where, 1, found)
    return forms.build(kind, record), record


def check_signature(record: Mapping[str, object], domain: bytes, register: Register, *, where: str, whose: str) -> None:
    """Check that a server signed a manifest while its key was valid.

    Args:
        record: As :func:`read` gave it, with ``key`` and ``created``.
        domain: What the signature is for.
        register: Keys that may have signed.
        where: Named by a refusal.
        whose: Whose register it is, in words.

    Raises:
        AuditRefusedError: No server of the register signed it then.
    """
    key, created = str(record["key"]), str(record["created"])
    signer = register.get(key)
    if signer is None or SERVER not in signer.entry.roles:
        raise AuditRefusedError("unknown-key", where, 1, f"{key} is no key of a server of the {whose}")
    if not signer.valid_at(created):
        raise AuditRefusedError("key-validity", where, 1, f"{key} was not valid at {created}")
    if not keys.signed_by(signer.entry.public, domain, record):
        raise AuditRefusedError("signature", where, 1, "the signature is not over this manifest")


def check_files(folder: Path, listed: Iterable[Artifact], where: str) -> None:
    """Compare files with what a manifest says of them.

    Raises:
        AuditRefusedError: One is missing, or another.
    """
    for entry in listed:
        path = folder / entry.name
        if not path.is_file() or files.sha256_file(path) != entry.sha256:
            raise AuditRefusedError("artifact", where, 1, f"{entry.name} is missing, or not what was signed")
