"""A model that carries its trail: a folder with its file, what it is, and proof that the federation's log speaks of it.

Layout: ``model.safetensors``, ``metadata.json``, ``founding.json``, ``proof.json`` (:mod:`fedsilo.audit.proofs`) and, last,
``manifest.json``: hashes of the others and the log's checkpoint, signed by the server. It takes the founding's hash, told over
another channel, to check a pack, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, forms, proofs, signed
from fedsilo.audit import founding as foundings
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.events import Artifact, Event
from fedsilo.audit.keys import Signer
from fedsilo.errors import AuditRefusedError

DOMAIN = b"fedsilo-pack/v1\0"
MODEL, METADATA, FOUNDING, PROOF = "model.safetensors", "metadata.json", "founding.json", "proof.json"
MANIFEST = signed.MANIFEST
REJECT = "reject"
"""Kind of a line that no pack can rest on."""


@dataclass(frozen=True)
class Manifest:
    """What a server signs of a pack.

    Attributes:
        federation: Whose model it is.
        name: Of the model, as the log has it.
        founding: Hash of the federation's founding.
        files: All other files of the pack.
        checkpoint: Of the log, over the line that proves the model.
        created: When.
        key: Who signed.
        sig: Signature over all other fields.
    """

    federation: str = field(metadata=forms.IDENTIFIER)
    name: str = field(metadata=forms.SHORT)
    founding: str = field(metadata=forms.HASH)
    files: tuple[Artifact, ...] = field(metadata=forms.parts(Artifact))
    checkpoint: Checkpoint = field(metadata=forms.part(Checkpoint))
    created: str = field(metadata=forms.TIME)
    key: str = field(metadata=forms.KEY)
    sig: str = field(metadata=forms.SIGNATURE)


@dataclass(frozen=True)
class Checked:
    """A pack that holds: what its server signed, and what the log says of the model."""

    manifest: Manifest
    event: Event


def sign(folder: Path, name: str, checkpoint: Checkpoint, *, created: str, signer: Signer) -> Path:
    """Sign a folder that has all other files of a pack; the manifest is written last: with it the pack is whole.

    Raises:
        DataError: A file is missing or cannot be used.
        OutputError: The manifest cannot be written.
    """
    founding = foundings.read(folder / FOUNDING)
    listed = [
        {"name": entry, "sha256": files.sha256_file(folder / entry)} for entry in sorted((MODEL, METADATA, FOUNDING, PROOF))
    ]
    record: dict[str, object] = {
        "federation": founding.federation,
        "name": name,
        "founding": founding.digest,
        "files": listed,
        "checkpoint": forms.plain(checkpoint),
        "created": created,
        "key": signer.key,
    }
    return signed.write(folder, {**record, "sig": signer.sign(DOMAIN, record)})


def check(folder: Path, founding_hash: str | None = None) -> Checked:
    """Check a pack offline.

    Args:
        folder: The pack.
        founding_hash: What the founding's hash must be; None: whoever calls compares it.

    Raises:
        AuditRefusedError: Something in it is not as signed; the code ``artifact`` is of its files.
        DataError: A file is missing, or a key was added after the founding.
    """
    manifest, record = _read(folder)
    where = f"{manifest.federation}/{folder.name}"
    founding = foundings.read(folder / FOUNDING)
    if founding.digest != manifest.founding or founding_hash not in (None, founding.digest):
        expected = founding_hash or manifest.founding
        raise AuditRefusedError("wrong-log", where, 1, f"the pack has the founding {founding.digest}, expected {expected}")
    signed.check_signature(record, DOMAIN, founding.register, where=where, whose="founding")
    _check_files(folder, manifest, where)
    event, checkpoint = proofs.check(canonical.read(folder / PROOF), founding)
    if checkpoint != manifest.checkpoint:
        raise AuditRefusedError("checkpoint-root", where, 1, "the proof is under another checkpoint than the manifest's")
    model = next(f"sha256:{entry.sha256}" for entry in manifest.files if entry.name == MODEL)
    subject = event.subject
    if event.kind == REJECT:
        raise AuditRefusedError("artifact", where, 1, f"the line that is proved is of the kind {event.kind}")
    if subject is None or (subject.kind, subject.name, subject.after) != ("model", manifest.name, model):
        raise AuditRefusedError("artifact", where, 1, f"the line that is proved is not about {manifest.name} with this hash")
    return Checked(manifest, event)


def _read(folder: Path) -> tuple[Manifest, Mapping[str, object]]:
    """Read a manifest in its form."""
    manifest, record = signed.read(folder, Manifest, MANIFEST)
    if [entry.name for entry in manifest.files] != sorted((MODEL, METADATA, FOUNDING, PROOF)):
        raise AuditRefusedError("schema", MANIFEST, 1, "files are not those of a pack")
    return manifest, record


def _check_files(folder: Path, manifest: Manifest, where: str) -> None:
    """Compare every file with the manifest; no other may stand beside them."""
    others = {entry.name for entry in folder.iterdir()} - {entry.name for entry in manifest.files} - {MANIFEST}
    if others:
        raise AuditRefusedError("artifact", where, 1, f"{min(others)} is no file of the pack")
    signed.check_files(folder, manifest.files, where)
