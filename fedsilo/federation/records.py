"""Records of a federation's journal: what a site did in a round, and how a global state came about."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.errors import CheckpointError, DataError

INSIDE = "inside"
"""The fold that is a site's inside model."""


@dataclass(frozen=True)
class SiteRecord:
    """A site's finished round: numbers, and hashes of the files beside the record.

    ``val_dice_folds`` and ``fold_sha256`` are by the fold's name; `inside` is always among them. ``update_sha256`` is of the
    weights that left the site, ``manifest_sha256`` of what it signed of them; None where it trained alone, under no order.
    """

    site: str
    round_index: int
    num_cases: int
    num_slices: int
    train_loss: float
    val_dice_folds: Mapping[str, float | None]
    update_sha256: str
    update_bytes: int
    manifest_sha256: str | None
    fold_sha256: Mapping[str, str]
    private_sha256: str | None
    moments_sha256: str | None
    latent_size: float | None
    remapper_sha256: str | None
    remapper: Mapping[str, float | None] | None

    @property
    def val_dice_inside(self) -> float | None:
        """Validation Dice of the site's inside model."""
        return self.val_dice_folds[INSIDE]


@dataclass(frozen=True)
class ServerRecord:
    """A global state: the round it opens, its hash, and how it was made.

    ``weights`` of the updates are by size, ``shares`` what the rule made of them; ``latent_sizes`` are smoothed. Of the
    server's optimiser: ``num_steps`` and ``moments_sha256``; 0 and None without one.
    """

    round_index: int
    sha256: str
    weights: Mapping[str, float]
    shares: Mapping[str, float]
    update_norms: Mapping[str, float]
    latent_sizes: Mapping[str, float]
    num_steps: int
    moments_sha256: str | None


def site_json(record: SiteRecord) -> dict[str, object]:
    """Write a site's record as JSON; a loss that diverged is text there, as JSON has no NaN."""
    remapper = None if record.remapper is None else {name: _spelt(value) for name, value in record.remapper.items()}
    return {**vars(record), "train_loss": _spelt(record.train_loss), "remapper": remapper}


def _spelt(value: float | None) -> float | str | None:
    """Spell NaN and infinity."""
    return value if value is None or math.isfinite(value) else str(value)


def _number(value: object) -> float | None:
    """Read a number that may be spelt."""
    return None if value is None else float(str(value))


def read_site(path: Path) -> SiteRecord:
    """Read a site's record.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    content = read(path)
    try:
        remapper = content["remapper"]
        content |= {"train_loss": _number(content["train_loss"])}
        content |= {
            "remapper": {name: _number(value) for name, value in remapper.items()} if isinstance(remapper, dict) else None
        }
        return SiteRecord(**content)  # type: ignore[arg-type]  # a wrong key or kind is caught below
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_server(path: Path) -> ServerRecord:
    """Read the record of a global state.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    content = read(path)
    try:
        return ServerRecord(
            round_index=int(str(content["round"])),
            sha256=str(content["sha256"]),
            weights=_numbers(content["weights"]),
            shares=_numbers(content["shares"]),
            update_norms=_numbers(content["update_norms"]),
            latent_sizes=_numbers(content["latent_sizes"]),
            num_steps=int(str(content["num_steps"])),
            moments_sha256=None if content["moments_sha256"] is None else str(content["moments_sha256"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read(path: Path) -> dict[str, object]:
    """Read a record as it stands; any failure is a checkpoint's.

    Raises:
        CheckpointError: It is missing or no JSON object.
    """
    try:
        return files.read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def _numbers(content: object) -> dict[str, float]:
    """Read a mapping of numbers by site."""
    if not isinstance(content, dict):
        raise TypeError(f"expected numbers by site, got {type(content).__name__}")
    return {str(site): float(value) for site, value in content.items()}
