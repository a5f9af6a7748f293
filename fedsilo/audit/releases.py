"""A release: a version of a model in a folder with all that was known at its promotion, under a manifest that a server signed.

``manifest.json`` has the hash of every other file, of the global model and of the inside models that belong to it, and a
checkpoint of the log that covers its verdict and approvals: a copy of the folder anchors the log.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedsilo import files
from fedsilo.audit import forms, signed
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.events import Artifact
from fedsilo.audit.keys import Signer
from fedsilo.audit.register import Register
from fedsilo.errors import AuditRefusedError, DataError

DOMAIN = b"fedsilo-release-manifest/v1\0"
MANIFEST = signed.MANIFEST
GLOBAL = "global.safetensors"
VERSION_TEXT = re.compile(r"v(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})", re.ASCII)
ARTIFACT = "model"
STAGE = "prod"


@dataclass(frozen=True)
class Manifest:
    """What a server signs of a release.

    Attributes:
        federation: Whose model it is.
        name: Of the model in use, as the log has it.
        version: ``vX.Y.Z``.
        run: That made it.
        model: Hash of the global model.
        verdict: Hash of the gate's verdict.
        files: All files of the release but the models.
        models: The global model, and the inside models that go with it, which lie at their sites.
        checkpoint: Of the log, over verdict and approvals.
        created: When.
        key: Who signed.
        sig: Signature over all other fields.
        replaces: Hash of the model in use before.
    """

    federation: str = field(metadata=forms.IDENTIFIER)
    name: str = field(metadata=forms.SHORT)
    version: str = field(metadata=forms.matching("vX.Y.Z", VERSION_TEXT.pattern))
    run: str = field(metadata=forms.SHORT)
    model: str = field(metadata=forms.HASH)
    verdict: str = field(metadata=forms.HASH)
    files: tuple[Artifact, ...] = field(metadata=forms.parts(Artifact))
    models: tuple[Artifact, ...] = field(metadata=forms.parts(Artifact))
    checkpoint: Checkpoint = field(metadata=forms.part(Checkpoint))
    created: str = field(metadata=forms.TIME)
    key: str = field(metadata=forms.KEY)
    sig: str = field(metadata=forms.SIGNATURE)
    replaces: str | None = field(default=None, metadata=forms.HASH)


@dataclass(frozen=True)
class Checked:
    """A release whose manifest holds; ``missing`` models are not in the folder, all others are as signed."""

    manifest: Manifest
    missing: tuple[str, ...]


def check_version(version: str) -> None:
    """Refuse what is no version.

    Raises:
        DataError: It is none.
    """
    if not VERSION_TEXT.fullmatch(version):
        raise DataError(f"cannot use {version!r} as a version: expected vX.Y.Z, such as v1.0.0")


def artifact_of(federation: str, embedded: str) -> str:
    """Name a federation's model in the registry: in letters, digits and hyphens, as DVC and GTO read it.

    Example:
        >>> artifact_of("demo", "demo"), artifact_of("liver_ct", "demo")
        ('model', 'model-liver-ct')
    """
    if federation == embedded:
        return ARTIFACT
    return f"{ARTIFACT}-{re.sub(r'[^a-z0-9]+', '-', federation).strip('-')}"


def name_of(federation: str) -> str:
    """Name the model in use in the trail: the same for all versions, whichever run made them."""
    return f"{federation}/{ARTIFACT}"


def version_tag(artifact: str, version: str) -> str:
    """Name the tag that registers a version."""
    return f"{artifact}@{version}"


def stage_tag(artifact: str, number: int) -> str:
    """Name the tag that puts a version into use; numbers rise with every promotion and rollback."""
    return f"{artifact}#{STAGE}#{number}"


def next_number(artifact: str, tags: Iterable[str]) -> int:
    """Give the number of the next tag of a stage.

    Example:
        >>> next_number("model", ["model@v1.0.0", "model#prod#1", "model#shadow#2", "model-ct#prod#7"])
        3
    """
    pattern = re.compile(rf"{re.escape(artifact)}#[A-Za-z0-9_/-]+#([0-9]+)")
    return max((int(match[1]) for match in map(pattern.fullmatch, tags) if match), default=0) + 1


def sign(folder: Path, record: Mapping[str, object], models: Iterable[Artifact], signer: Signer) -> Path:
    """Sign a folder that has all other files of a release; the manifest is written last: with it the release is whole.

    Args:
        folder: The files, without the models.
        record: Fields of the manifest but ``files``, ``models``, ``key`` and ``sig``.
        models: Files of models in the release, by their paths in it.
        signer: The server.

    Raises:
        DataError: A field has not its form.
        OutputError: The manifest cannot be written.
    """
    listed = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    known = {entry.name for entry in models}
    whole = {
        **record,
        "files": [{"name": name, "sha256": files.sha256_file(folder / name)} for name in listed if name not in known],
        "models": [forms.plain(entry) for entry in sorted(models, key=lambda entry: entry.name)],
        "key": signer.key,
    }
    manifest = {**whole, "sig": signer.sign(DOMAIN, whole)}
    if found := forms.flaw(Manifest, manifest):
        raise DataError(f"cannot sign the release: {found}")
    return signed.write(folder, manifest)


def read(folder: Path) -> Manifest:
    """Read a manifest in its form; nothing of it is checked by that.

    Raises:
        AuditRefusedError: It is not in its form.
        DataError: There is none.
    """
    return _read(folder)[0]


def check(folder: Path, register: Register) -> Checked:
    """Check a release: manifest, signature and files, by the keys of a verified log.

    Raises:
        AuditRefusedError: Something is not as signed; the code ``artifact`` is of its files.
        DataError: There is no manifest.
    """
    manifest, record = _read(folder)
    where = f"{manifest.federation}/{folder.name}"
    signed.check_signature(record, DOMAIN, register, where=where, whose="federation")
    if manifest.version != folder.name:
        raise AuditRefusedError("artifact", where, 1, f"the manifest is of {manifest.version}")
    signed.check_files(folder, manifest.files, where)
    missing = []
    for entry in manifest.models:
        if not (folder / entry.name).is_file():
            missing.append(entry.name)
        elif files.sha256_file(folder / entry.name) != entry.sha256:
            raise AuditRefusedError("artifact", where, 1, f"{entry.name} is not the model that was signed")
    return Checked(manifest, tuple(missing))


def _read(folder: Path) -> tuple[Manifest, Mapping[str, object]]:
    where = f"{folder.name}/{MANIFEST}"
    manifest, record = signed.read(folder, Manifest, where)
    # names lead nowhere else: they are joined to the folder
    if any(entry.name.startswith("/") or ".." in entry.name.split("/") for entry in (*manifest.files, *manifest.models)):
        raise AuditRefusedError("schema", where, 1, "a name leads out of the release")
    return manifest, record
