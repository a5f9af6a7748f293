"""Checkpoints: a signed statement that a log of so many lines has this root; whoever keeps one can tell if the log was rewritten.

A checkpoint is one line of JSON in canonical form, in ``<folder>/<size>.json``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, forms
from fedsilo.audit.keys import CHECKPOINT_DOMAIN, Signer
from fedsilo.errors import AuditRefusedError, DataError

MAX_BYTES = 4096


@dataclass(frozen=True)
class Checkpoint:
    """A log's size and root at a time, signed by a server, or by a site for its own log."""

    log: str = field(metadata=forms.LOG)
    size: int = field(metadata=forms.of("a whole number of at least 1", lambda value: type(value) is int and value >= 1))
    root: str = field(metadata=forms.HASH)
    ts: str = field(metadata=forms.TIME)
    key: str = field(metadata=forms.KEY)
    sig: str = field(metadata=forms.SIGNATURE)


def sign(log: str, size: int, root: bytes, *, ts: str, signer: Signer) -> Checkpoint:
    """State a log's size and root."""
    record: dict[str, object] = {"log": log, "size": size, "root": f"sha256:{root.hex()}", "ts": ts, "key": signer.key}
    return forms.build(Checkpoint, {**record, "sig": signer.sign(CHECKPOINT_DOMAIN, record)})


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    """Store a checkpoint.

    Raises:
        OutputError: It cannot be written.
    """
    return files.write_bytes(folder / f"{checkpoint.size}.json", canonical.dumps(forms.plain(checkpoint)) + b"\n")


def find(path: Path) -> tuple[Checkpoint, ...]:
    """Read the checkpoint of a file, or those of a folder by their sizes; none if there is neither.

    Raises:
        AuditRefusedError: One is not as it should be.
        DataError: One cannot be read.
    """
    try:
        if path.is_dir():
            found = sorted(entry for entry in path.iterdir() if entry.suffix == ".json")
        else:
            found = [path] if path.exists() else []
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    return ordered(_read(entry) for entry in found)


def ordered(found: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Sort checkpoints by their sizes, those of one size in any order that stays."""
    return tuple(sorted(found, key=lambda checkpoint: (checkpoint.size, checkpoint.root, checkpoint.ts, checkpoint.sig)))


def newest(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """Give the checkpoint of most lines."""
    return max(checkpoints, key=lambda checkpoint: checkpoint.size, default=None)


def parse(content: bytes, where: str) -> Checkpoint:
    """Read a checkpoint from its line.

    Raises:
        AuditRefusedError: It is not as it should be.
    """
    try:
        record = canonical.loads(content)
    except DataError as error:
        raise AuditRefusedError("parse", where, 1, str(error)) from None
    for code, reason in (
        ("parse", canonical.flaw(record)),
        ("schema", forms.flaw(Checkpoint, record)),
        ("not-canonical", None if content == canonical.dumps(record) + b"\n" else "it is not one line in canonical form"),
    ):
        if reason:
            raise AuditRefusedError(code, where, 1, reason)
    return forms.build(Checkpoint, record)


def _read(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as handle:
            return parse(handle.read(MAX_BYTES), path.name)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
