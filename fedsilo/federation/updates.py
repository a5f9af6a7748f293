"""SiteUpdate: all that may leave a site, how it is stored, and what is checked before it counts."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fedsilo import files
from fedsilo.errors import CheckpointError, DataError, OutputError, StateMismatchError, UpdateRefusedError
from fedsilo.federation import states
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

TEXTS = ("site", "base_sha256")
COUNTS = ("round_index", "num_cases", "num_slices")
SCORES = ("train_loss", "val_dice_global", "val_dice_inside", "latent_size")
MANIFEST_KEYS = frozenset({*TEXTS, *COUNTS, *SCORES, "file", "sha256", "bytes"})


@dataclass(frozen=True, eq=False)
class SiteUpdate:
    """What a site sends after its local training of one round; nothing else leaves it.

    Attributes:
        site: Who sends.
        round_index: Round it answers to, from 0.
        base_sha256: `states.digest` of the global state that the training started from.
        num_cases: Training cases behind the state.
        num_slices: Their slices.
        train_loss: Mean over the round's batches.
        val_dice_global: Mean Dice of the received global state on the site's validation cases; None if not evaluated.
        val_dice_inside: The same of the site's inside model.
        latent_size: Effective size of the site's data, rounded; None unless sites are weighted by it.
        state: After local training, on the CPU; parameters and buffers.
    """

    site: str
    round_index: int
    base_sha256: str
    num_cases: int
    num_slices: int
    train_loss: float
    val_dice_global: float | None
    val_dice_inside: float | None
    latent_size: float | None
    state: StateDict


def save(update: SiteUpdate, folder: Path) -> Path:
    """Store an update as ``<site>.safetensors`` and, last, its manifest ``<site>.json``; equal updates give equal bytes.

    A manifest means that the update is complete: an older one is removed before the state is written.

    Returns:
        The manifest's path.

    Raises:
        OutputError: The folder or a file cannot be written.
    """
    manifest_path, state_path = folder / f"{update.site}.json", folder / f"{update.site}.safetensors"
    try:
        manifest_path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot replace {manifest_path}: {error.strerror or error}") from error
    sha256 = states.save(update.state, state_path)
    scalars: dict[str, object] = {key: getattr(update, key) for key in (*TEXTS, *COUNTS)}
    scalars |= {key: _to_json(getattr(update, key)) for key in SCORES}
    stored = {"file": state_path.name, "sha256": sha256, "bytes": state_path.stat().st_size}
    return files.write_json(manifest_path, scalars | stored)


def load(manifest_path: Path) -> SiteUpdate:
    """Read an update by its manifest; the state lies beside it.

    Raises:
        CheckpointError: The manifest or the state is missing, or a value, the size or the SHA-256 is not as the manifest says.
    """
    try:
        manifest = files.read_json(manifest_path)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if manifest.keys() != MANIFEST_KEYS:
        wrong = ", ".join(sorted(manifest.keys() ^ MANIFEST_KEYS))
        raise CheckpointError(f"{manifest_path}: keys missing or unknown: {wrong}")
    texts = {key: _text(manifest, key, manifest_path) for key in (*TEXTS, "file", "sha256")}
    counts = {key: _count(manifest, key, manifest_path) for key in (*COUNTS, "bytes")}
    scores = {key: _score(manifest, key, manifest_path) for key in SCORES}
    # a manifest comes from outside: it may name the state beside it and no other file
    state_path = manifest_path.with_suffix(".safetensors")
    if (texts["site"], texts["file"]) != (manifest_path.stem, state_path.name):
        raise CheckpointError(f"{manifest_path} is of site {texts['site']!r} and file {texts['file']!r}, expected its own name")
    if state_path.is_file() and state_path.stat().st_size != counts["bytes"]:
        raise CheckpointError(f"{state_path} has {state_path.stat().st_size} bytes, expected {counts['bytes']}")
    train_loss = scores["train_loss"]
    if train_loss is None:
        raise CheckpointError(f"{manifest_path}: train_loss is None, expected a number")
    return SiteUpdate(
        site=texts["site"],
        round_index=counts["round_index"],
        base_sha256=texts["base_sha256"],
        num_cases=counts["num_cases"],
        num_slices=counts["num_slices"],
        train_loss=train_loss,
        val_dice_global=scores["val_dice_global"],
        val_dice_inside=scores["val_dice_inside"],
        latent_size=scores["latent_size"],
        state=states.load(state_path, texts["sha256"]),
    )


def admit(
    update: SiteUpdate,
    *,
    expected_sites: Collection[str],
    round_index: int,
    base_sha256: str,
    reference_state: StateDict,
    roles: Mapping[str, EntryRole],
) -> None:
    """Let an update take part in a round, or refuse it; cheap checks come first.

    In this order: ``membership`` (the site is one of ``expected_sites``), ``round``, ``base`` (it started from this round's
    global state), ``cases`` (at least one case and slice), ``schema`` (names, shapes and dtypes of ``reference_state``),
    ``finite`` (scores and every floating entry), ``buffers`` (no negative running variance, no counter below
    ``reference_state``'s). Values are never repaired: an update counts as it is or not at all.

    Args:
        update: Not modified.
        expected_sites: Sites that were asked in this round.
        round_index: This round.
        base_sha256: `states.digest` of the global state that this round sent.
        reference_state: That global state.
        roles: Role of each of its entries.

    Raises:
        UpdateRefusedError: The first check that fails; its ``check`` is one of the words above.
    """
    who = f"update of {update.site!r}"
    if update.site not in expected_sites:
        raise UpdateRefusedError("membership", f"{who}: expected one of {', '.join(sorted(expected_sites))}")
    if update.round_index != round_index:
        raise UpdateRefusedError("round", f"{who} is of round {update.round_index}, expected {round_index}")
    if update.base_sha256 != base_sha256:
        raise UpdateRefusedError("base", f"{who} started from state {update.base_sha256}, expected {base_sha256}")
    if min(update.num_cases, update.num_slices) < 1:
        counts = f"{update.num_cases} cases and {update.num_slices} slices"
        raise UpdateRefusedError("cases", f"{who} has {counts}, expected at least one of each")
    try:
        states.check_same(reference_state, update.state, who)
    except StateMismatchError as error:
        raise UpdateRefusedError("schema", str(error)) from error
    _check_finite(update, who)
    _check_buffers(update, reference_state, roles, who)


def _check_finite(update: SiteUpdate, who: str) -> None:
    for key in SCORES:
        value = getattr(update, key)
        if value is not None and not math.isfinite(value):
            raise UpdateRefusedError("finite", f"{who}: {key} is {value}, expected a finite number")
    for name in sorted(update.state):
        num_bad = int((~torch.isfinite(update.state[name])).sum())
        if num_bad:
            raise UpdateRefusedError("finite", f"{who}: {name} has {num_bad} NaN or infinite values, expected none")


def _check_buffers(update: SiteUpdate, reference_state: StateDict, roles: Mapping[str, EntryRole], who: str) -> None:
    for name in sorted(update.state):
        tensor = update.state[name]
        if roles[name] == "norm_variance" and bool((tensor < 0).any()):
            raise UpdateRefusedError("buffers", f"{who}: {name} has the variance {float(tensor.min())}, expected none below 0")
        if roles[name] == "counter" and bool((tensor < reference_state[name].to(tensor.device)).any()):
            raise UpdateRefusedError("buffers", f"{who}: counter {name} fell below that of the global state")


def _to_json(value: float | None) -> float | str | None:
    """Spell NaN and infinity, which JSON lacks: a diverged site is refused by `admit`, not lost in writing."""
    return value if value is None or math.isfinite(value) else str(value)


def _text(manifest: Mapping[str, object], key: str, path: Path) -> str:
    value = manifest[key]
    if not isinstance(value, str):
        raise CheckpointError(f"{path}: {key} is {value!r}, expected a text")
    return value


def _count(manifest: Mapping[str, object], key: str, path: Path) -> int:
    value = manifest[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {value!r}, expected a whole number")
    return value


def _score(manifest: Mapping[str, object], key: str, path: Path) -> float | None:
    value = manifest[key]
    if value is None:
        return None
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {value!r}, expected a number or null")
    return float(value)
