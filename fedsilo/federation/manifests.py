"""The manifest of an update: what a site signs of it, in canonical JSON without fractions, stored beside the weights.

Numbers that are not whole are decimal strings as Python writes them; a loss that diverged is ``nan`` or ``inf`` there, so that
it is refused by its name and not lost in writing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, documents, forms
from fedsilo.audit.documents import Seen, Update
from fedsilo.audit.events import Artifact
from fedsilo.audit.keys import Signer
from fedsilo.errors import DataError, OutputError
from fedsilo.federation import states
from fedsilo.federation.updates import SiteUpdate

MAX_BYTES = 64 << 10
"""Of a manifest."""


def _is_decimal(value: object) -> bool:
    """Say whether text is how Python writes a number that is not whole."""
    try:
        return isinstance(value, str) and repr(float(value)) == value
    except ValueError:
        return False


DECIMAL = forms.of("a decimal number as text, as Python writes it, nan or inf", _is_decimal)
WHOLE = forms.of("a whole number", lambda value: type(value) is int)


@dataclass(frozen=True)
class Metrics:
    """A site's numbers of a round; one that was not measured is left out. See `SiteUpdate`."""

    train_loss: str = field(metadata=DECIMAL)
    val_dice_global: str | None = field(default=None, metadata=DECIMAL)
    val_dice_inside: str | None = field(default=None, metadata=DECIMAL)
    latent_size: str | None = field(default=None, metadata=DECIMAL)


@dataclass(frozen=True)
class Code:
    """Which code ran: the installed version, and its commit if it runs from a repository."""

    version: str = field(metadata=forms.SHORT)
    git: str | None = field(default=None, metadata=forms.COMMIT)
    dirty: bool | None = field(default=None, metadata=forms.FLAG)


@dataclass(frozen=True)
class Data:
    """What was trained on: the hash of the site's list of prepared cases, as the trail has it.

    A participant that holds several sites names each of them, and the hash is over their names and hashes.
    """

    manifest_sha256: str = field(metadata=forms.HEX)
    sites: tuple[Artifact, ...] = field(default=(), metadata=forms.parts(Artifact))


@dataclass(frozen=True)
class Manifest:
    """An update as its site signs it.

    Attributes:
        federation: Its name.
        run: Name of the results that the round belongs to.
        site: Who sends.
        round_index: Round that it answers to, from 0.
        nonce: Of the order that it answers to.
        order_sha256: Hash of that order.
        base_model: Hash of the file of the global state that the training started from.
        file_sha256: Of the weights.
        file_bytes: Of the weights.
        num_cases: Training cases behind them.
        num_slices: Their slices.
        metrics: The site's numbers.
        code: What was run.
        data: What was trained on.
        env_sha256: Hash of the environment, as the trail's events have it.
        created: When it was signed.
        expires: When it stops to count.
        seen: Newest state of the federation's log that the site knew.
    """

    federation: str = field(metadata=forms.IDENTIFIER)
    run: str = field(metadata=forms.SHORT)
    site: str = field(metadata=forms.IDENTIFIER)
    round_index: int = field(metadata=forms.named("round", forms.COUNT))
    nonce: str = field(metadata=forms.HEX)
    order_sha256: str = field(metadata=forms.HEX)
    base_model: str = field(metadata=forms.HEX)
    file_sha256: str = field(metadata=forms.HEX)
    file_bytes: int = field(metadata=forms.COUNT)
    num_cases: int = field(metadata=WHOLE)
    num_slices: int = field(metadata=WHOLE)
    metrics: Metrics = field(metadata=forms.part(Metrics))
    code: Code = field(metadata=forms.part(Code))
    data: Data = field(metadata=forms.part(Data))
    env_sha256: str = field(metadata=forms.HEX)
    created: str = field(metadata=forms.TIME)
    expires: str = field(metadata=forms.TIME)
    seen: Seen | None = field(default=None, metadata=forms.part(Seen))


@dataclass(frozen=True)
class Attestation:
    """What a site says of an update beside the update itself; see `Manifest`."""

    federation: str
    run: str
    nonce: str
    order_sha256: str
    code: Code
    data: Data
    env_sha256: str
    created: str
    expires: str
    seen: Seen | None


def save(update: SiteUpdate, folder: Path, attestation: Attestation, signer: Signer) -> Path:
    """Store an update: ``<site>.safetensors`` and, last, the signed manifest ``<site>.json``.

    A manifest means that the update is complete: an older one is removed before the weights are written.

    Returns:
        The manifest's path.

    Raises:
        DataError: A number has no canonical form.
        OutputError: The folder or a file cannot be written.
    """
    manifest_path, weights_path = folder / f"{update.site}.json", folder / f"{update.site}.safetensors"
    try:
        manifest_path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot replace {manifest_path}: {error.strerror or error}") from error
    sha256 = states.save(update.state, weights_path)
    made = Manifest(
        federation=attestation.federation,
        run=attestation.run,
        site=update.site,
        round_index=update.round_index,
        nonce=attestation.nonce,
        order_sha256=attestation.order_sha256,
        base_model=update.base_sha256,
        file_sha256=sha256,
        file_bytes=weights_path.stat().st_size,
        num_cases=update.num_cases,
        num_slices=update.num_slices,
        metrics=Metrics(
            train_loss=repr(update.train_loss),
            val_dice_global=_text(update.val_dice_global),
            val_dice_inside=_text(update.val_dice_inside),
            latent_size=_text(update.latent_size),
        ),
        code=attestation.code,
        data=attestation.data,
        env_sha256=attestation.env_sha256,
        created=attestation.created,
        expires=attestation.expires,
        seen=attestation.seen,
    )
    return files.write_bytes(manifest_path, canonical.dumps(sign(made, signer)))


def sign(manifest: Manifest, signer: Signer) -> dict[str, object]:
    """Sign a manifest: a document of the type ``update``, which an event can carry."""
    own = Update(
        federation=manifest.federation,
        site=manifest.site,
        round_index=manifest.round_index,
        file_sha256=manifest.file_sha256,
        seen=manifest.seen,
    )
    return documents.sign(own, signer, more=forms.plain(manifest))


def flaw(content: bytes) -> str | None:
    """Say what is wrong with a manifest's size or form."""
    if len(content) > MAX_BYTES:
        return f"it has {len(content)} bytes, expected at most {MAX_BYTES}"
    try:
        record = canonical.loads(content)
    except DataError as error:
        return str(error)
    found = canonical.flaw(record)
    if found is not None:
        return found
    if canonical.dumps(record) != content:
        return "it is not in its canonical form"
    return documents.flaw(record, "update.submit") or forms.flaw(Manifest, _own(record))


def read(content: bytes) -> tuple[dict[str, object], Manifest] | None:
    """Read a manifest for what it says, whatever else may be wrong with it; None if it does not say all that it must."""
    try:
        record = canonical.loads(content)
    except DataError:
        return None
    own = {name: value for name, value in _own(record).items() if name in {place.name for place in forms.places(Manifest)}}
    return None if forms.flaw(Manifest, own) else (record, forms.build(Manifest, own))


def number(text: str | None) -> float | None:
    """Read a number of the metrics."""
    return None if text is None else float(text)


def not_finite(metrics: Metrics) -> str | None:
    """Say which number of a site is none."""
    for name in ("train_loss", "val_dice_global", "val_dice_inside", "latent_size"):
        text = getattr(metrics, name)
        if text is not None and not math.isfinite(float(text)):
            return f"{name} is {text}, expected a finite number"
    return None


def _own(record: Mapping[str, object]) -> dict[str, object]:
    """Leave out what every document has around its own fields."""
    return {name: value for name, value in record.items() if name not in documents.ENVELOPE}


def _text(value: float | None) -> str | None:
    """Write a number as the manifest has it."""
    return None if value is None else repr(float(value))
