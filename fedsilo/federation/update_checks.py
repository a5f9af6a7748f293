"""Checks of an update by itself: what lies there, who signed it, what it answers to, then the weights entry by entry.

Each says what is wrong, or nothing. They stand in the order of :data:`fedsilo.federation.admission.CHECKS`.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import torch

from fedsilo import files
from fedsilo.audit import documents, keys
from fedsilo.audit.register import SITE, KeyRecord, Register
from fedsilo.errors import CheckpointError, StateMismatchError, UpdateRefusedError
from fedsilo.federation import manifests, states
from fedsilo.federation.manifests import Manifest
from fedsilo.federation.stored_state import StoredState
from fedsilo.federation.updates import SiteUpdate
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

MAX_GROWTH = 1.1
"""Bytes of the weights over those of the state that the round started from."""

CLOCK_SKEW = timedelta(minutes=5)
"""That a site's clock may be ahead."""

MAX_COUNTER = 2**53
"""Of a buffer that counts: far from the largest integer, at which the next honest step would turn it negative."""


@dataclass(frozen=True)
class Asked:
    """What the server knows of a site that it asked.

    Attributes:
        nonce: Of the order.
        order_sha256: Of the order.
        max_cases: Training cases that the site has registered.
        max_slices: Their slices.
        first_sha256: Hash of the weights that the site first sent in this round; None if it is not known.
    """

    nonce: str
    order_sha256: str
    max_cases: int
    max_slices: int
    first_sha256: str | None = None


@dataclass(frozen=True)
class Offer:
    """What lies in a site's place: a manifest, weights, and when the server received them."""

    site: str
    manifest_path: Path
    weights_path: Path
    received: str


@dataclass(frozen=True)
class Round:
    """What the server knows of a round.

    Attributes:
        federation: Its name.
        run: Name of the results that the round belongs to.
        round_index: From 0.
        asked: By site.
        base: Global state that the round started from.
        base_sha256: Hash of its file.
        base_bytes: Size of its file.
        roles: Role of each of its entries.
        register: Keys of the federation, from its log.
        by_latent_size: Whether sites are weighted by their latent sizes.
    """

    federation: str
    run: str
    round_index: int
    asked: Mapping[str, Asked]
    base: StateDict
    base_sha256: str
    base_bytes: int
    roles: Mapping[str, EntryRole]
    register: Register
    by_latent_size: bool = False


@dataclass(frozen=True)
class Claim:
    """An update under scrutiny; what is read of it is read once."""

    offer: Offer
    known: Round

    @functools.cached_property
    def content(self) -> bytes:
        """The manifest's bytes; of one that is too long as many as show it."""
        try:
            with self.offer.manifest_path.open("rb") as handle:
                return handle.read(manifests.MAX_BYTES + 1)
        except OSError:
            return b""

    @functools.cached_property
    def whole(self) -> tuple[dict[str, object], Manifest]:
        """The manifest, signed, and what it says.

        Raises:
            UpdateRefusedError: It does not say all that it must.
        """
        try:
            content = self.offer.manifest_path.read_bytes()
        except OSError as error:
            raise UpdateRefusedError("manifest", f"cannot be read: {error.strerror or error}") from error
        found = manifests.read(content)
        if found is None:
            raise UpdateRefusedError("manifest", "manifest: it does not say all that it must")
        return found

    @property
    def record(self) -> dict[str, object]:
        """The manifest as it was signed."""
        return self.whole[0]

    @property
    def said(self) -> Manifest:
        """What the manifest says."""
        return self.whole[1]

    @property
    def asked(self) -> Asked:
        """What the server knows of the site in whose place it lies."""
        return self.known.asked[self.offer.site]

    @property
    def signer(self) -> KeyRecord | None:
        """Whose key it names."""
        return self.known.register.get(str(self.record.get("key")))

    @functools.cached_property
    def state(self) -> StoredState:
        """The weights, in their file.

        Raises:
            CheckpointError: They are no safetensors file.
        """
        return StoredState(self.offer.weights_path)

    @property
    def update(self) -> SiteUpdate:
        """The update as aggregation takes it."""
        said, metrics = self.said, self.said.metrics
        return SiteUpdate(
            site=said.site,
            round_index=said.round_index,
            base_sha256=said.base_model,
            num_cases=said.num_cases,
            num_slices=said.num_slices,
            train_loss=float(metrics.train_loss),
            val_dice_global=manifests.number(metrics.val_dice_global),
            val_dice_inside=manifests.number(metrics.val_dice_inside),
            latent_size=manifests.number(metrics.latent_size),
            state=self.state,
        )


def size(claim: Claim) -> str | None:
    """The weights are there and not much larger than the state that they came from."""
    path = claim.offer.weights_path
    if path.is_symlink() or not path.is_file():
        return f"{path.name} is missing"
    found, most = path.stat().st_size, int(MAX_GROWTH * claim.known.base_bytes)
    return None if found <= most else f"its weights have {found} bytes, expected at most {most}"


def manifest(claim: Claim) -> str | None:
    """The manifest is short, in its canonical form, and says what it must and no more."""
    found = manifests.flaw(claim.content)
    return None if found is None else f"manifest: {found}"


def signature(claim: Claim) -> str | None:
    """A key of the register signed it."""
    name = str(claim.record.get("key"))
    if claim.signer is None:
        return f"{name} is not in the register"
    if keys.signed_by(claim.signer.entry.public, documents.domain("update"), claim.record):
        return None
    return f"the signature is not one of {name} over this manifest"


def membership(claim: Claim) -> str | None:
    """The signer is a site, the one that it names, in whose place it lies, and that was asked."""
    site, signer = claim.offer.site, claim.signer
    if site not in claim.known.asked:
        return f"the site was not asked; asked were {', '.join(sorted(claim.known.asked))}"
    if claim.said.site != site:
        return f"it names site {claim.said.site!r}"
    if signer is None or (signer.entry.roles, signer.entry.site) != ((SITE,), site):
        return f"it is signed by {signer.entry.actor if signer else 'nobody'}"
    return None


def key_validity(claim: Claim) -> str | None:
    """The key was valid when the site signed and when the server received it."""
    moments = (claim.said.created, claim.offer.received)
    late = [moment for moment in moments if claim.signer is not None and not claim.signer.valid_at(moment)]
    return f"its key is not valid at {late[0]}" if late else None


def federation(claim: Claim) -> str | None:
    """It is of this federation and run."""
    found, expected = (claim.said.federation, claim.said.run), (claim.known.federation, claim.known.run)
    return None if found == expected else f"it is of {'/'.join(found)}, expected {'/'.join(expected)}"


def round_(claim: Claim) -> str | None:
    """It answers to this round."""
    found, expected = claim.said.round_index, claim.known.round_index
    return None if found == expected else f"it is of round {found}, expected {expected}"


def nonce(claim: Claim) -> str | None:
    """It answers to the order that this site was given for this round; each order has a nonce of its own."""
    found, expected = (claim.said.nonce, claim.said.order_sha256), (claim.asked.nonce, claim.asked.order_sha256)
    return None if found == expected else f"it answers to the order {found[1][:12]}, expected {expected[1][:12]}"


def expiry(claim: Claim) -> str | None:
    """It came before it expired, and was not signed in the future."""
    created, received, expires = claim.said.created, claim.offer.received, claim.said.expires
    if received >= expires:
        return f"it expired at {expires}, it came at {received}"
    if datetime.fromisoformat(created) > datetime.fromisoformat(received) + CLOCK_SKEW:
        return f"it was signed at {created}, after it came at {received}"
    return None


def cases(claim: Claim) -> str | None:
    """It claims at least one case and slice, and no more than the site has registered."""
    said, asked = claim.said, claim.asked
    for what, found, most in (("cases", said.num_cases, asked.max_cases), ("slices", said.num_slices, asked.max_slices)):
        if not 1 <= found <= most:
            return f"it claims {found} {what}, expected 1 to {most}"
    found_size, largest = manifests.number(said.metrics.latent_size), 2 * asked.max_cases
    if claim.known.by_latent_size and found_size is None:
        return "it claims no latent size, by which sites are weighted"
    # a latent size is a share of the cases, or counts different ones among them and those held out
    if found_size is not None and not math.isnan(found_size) and not 0 < found_size <= largest:
        return f"it claims a latent size of {found_size}, expected it above 0 and at most {largest}"
    return None


def base(claim: Claim) -> str | None:
    """It started from this round's global state."""
    found, expected = claim.said.base_model, claim.known.base_sha256
    return None if found == expected else f"it started from state {found[:12]}, expected {expected[:12]}"


def duplicate(claim: Claim) -> str | None:
    """It is what the site first sent in this round; the same again is no other."""
    first, found = claim.asked.first_sha256, claim.said.file_sha256
    return None if first in (None, found) else f"the site sent {found[:12]} after {str(first)[:12]} in one round"


def file_hash(claim: Claim) -> str | None:
    """The weights are those that the manifest names."""
    said, path = claim.said, claim.offer.weights_path
    try:
        found = path.stat().st_size, files.sha256_file(path)
    except OSError as error:
        return f"cannot read {path.name}: {error.strerror or error}"
    if found == (said.file_bytes, said.file_sha256):
        return None
    return (
        f"its weights have {found[0]} bytes and the hash {found[1][:12]}, expected {said.file_bytes} and {said.file_sha256[:12]}"
    )


def header(claim: Claim) -> str | None:
    """The weights are one whole safetensors file."""
    try:
        return None if len(claim.state) else "its weights hold no entry"
    except CheckpointError as error:
        return str(error)


def schema(claim: Claim) -> str | None:
    """Names, shapes and dtypes are those of the global state."""
    try:
        states.check_same(claim.known.base, claim.state, "its state")
    except (StateMismatchError, CheckpointError) as error:
        return str(error)
    return None


def finite(claim: Claim) -> str | None:
    """Every number of the site, and every value of its weights, is one."""
    found = manifests.not_finite(claim.said.metrics)
    if found is not None:
        return found
    for name, tensor in claim.state.items():
        num_bad = int((~torch.isfinite(tensor)).sum())
        if num_bad:
            return f"{name} has {num_bad} NaN or infinite values, expected none"
    return None


def buffers(claim: Claim) -> str | None:
    """Running variances are above 0; counters do not fall, and are not near their end."""
    for name, role in claim.known.roles.items():
        if role == "norm_variance" and bool((claim.state[name] <= 0).any()):
            return f"{name} has the variance {float(claim.state[name].min())}, expected all above 0"
        if role == "counter" and bool((claim.state[name] < claim.known.base[name].cpu()).any()):
            return f"counter {name} fell below that of the global state"
        if role == "counter" and bool((claim.state[name] > MAX_COUNTER).any()):
            return f"counter {name} is {int(claim.state[name].max())}, expected at most {MAX_COUNTER}"
    return None
