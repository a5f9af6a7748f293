"""A site's prepared cases in memory, for training and validation."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fedsilo import files
from fedsilo.cohort import batches, manifest, preprocess
from fedsilo.cohort.batches import LabelledCase
from fedsilo.cohort.manifest import ManifestRow
from fedsilo.errors import DataError
from fedsilo.types import Split


@dataclass(frozen=True)
class SiteInputs:
    """What training and validation need of a site."""

    training: batches.SiteData
    validation: tuple[LabelledCase, ...]
    annotated: tuple[int, ...]
    num_cases: int
    num_slices: int


def rows_of(folder: Path, split: Split) -> list[ManifestRow]:
    """List a site's cases of one split, in the manifest's order.

    Raises:
        DataError: The site was not prepared.
    """
    return [row for row in manifest.read(manifest_path(folder)) if row.split == split]


def manifest_path(folder: Path) -> Path:
    """Find a site's manifest.

    Raises:
        DataError: The site was not prepared.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        raise DataError(f"site {folder.name} is not prepared: {path} is missing")
    return path


def annotated(row: ManifestRow) -> tuple[int, ...]:
    """Read the organ values that a case's site annotates."""
    return tuple(int(value) for value in row.annotated.split("|") if value)


@lru_cache(maxsize=32)
def in_channels(folder: Path) -> int:
    """Count the image channels of a site."""
    rows = rows_of(folder, "train")
    if not rows:
        raise DataError(f"site {folder.name} has no training case")
    return int(preprocess.load(folder / rows[0].file).image.shape[0])


def load(folder: Path, *, spatial_dims: int) -> SiteInputs:
    """Load a site's training and validation cases; kept in memory as long as its manifest is the same."""
    return _load(folder, spatial_dims, files.sha256_file(manifest_path(folder)))


@lru_cache(maxsize=8)
def _load(folder: Path, spatial_dims: int, _manifest_sha256: str) -> SiteInputs:
    """Read the cases of one manifest."""
    rows = rows_of(folder, "train")
    if not rows:
        raise DataError(f"site {folder.name} has no training case")
    cases = [preprocess.load(folder / row.file) for row in rows]
    held_out_rows = rows_of(folder, "val")
    held_out = [preprocess.load(folder / row.file) for row in held_out_rows]
    return SiteInputs(
        training=batches.site_data(
            [LabelledCase(case.image, case.label, row.modality) for row, case in zip(rows, cases, strict=True)],
            spatial_dims=spatial_dims,
        ),
        validation=tuple(
            LabelledCase(case.image, case.label, row.modality) for row, case in zip(held_out_rows, held_out, strict=True)
        ),
        annotated=annotated(rows[0]),
        num_cases=len(cases),
        num_slices=sum(case.label.shape[0] for case in cases),
    )
