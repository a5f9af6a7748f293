"""A site's prepared cases in memory, for training and validation."""

import hashlib
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


def all_rows(folder: Path) -> list[ManifestRow]:
    """List all cases of a site, in the manifest's order.

    Raises:
        DataError: The site was not prepared.
    """
    return list(manifest.read(manifest_path(folder)))


def rows_of(folder: Path, split: Split) -> list[ManifestRow]:
    """List a site's cases of one split, in the manifest's order.

    Raises:
        DataError: The site was not prepared.
    """
    return [row for row in all_rows(folder) if row.split == split]


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


@dataclass(frozen=True)
class Holding:
    """A folder of prepared cases that a participant trains on, and how many of its training patients (None: all).

    ``seed`` draws which: of fewer patients each is among more of the same seed.
    """

    folder: Path
    num_patients: int | None = None
    seed: int = 0

    def training_rows(self) -> list[ManifestRow]:
        """List the training cases of the first patients, in the manifest's order.

        Patients are ranked by ``sha256("seed/participants/site/patient")``.

        Raises:
            DataError: The site was not prepared, has no training case, or has fewer training patients.
        """
        rows = rows_of(self.folder, "train")
        if not rows:
            raise DataError(f"site {self.folder.name} has no training case")
        if self.num_patients is None:
            return rows
        patients = sorted({row.patient for row in rows}, key=self._rank)
        if len(patients) < self.num_patients:
            raise DataError(f"site {self.folder.name} has {len(patients)} training patients, expected {self.num_patients}")
        chosen = set(patients[: self.num_patients])
        return [row for row in rows if row.patient in chosen]

    def _rank(self, patient: str) -> str:
        return hashlib.sha256(f"{self.seed}/participants/{self.folder.name}/{patient}".encode()).hexdigest()


@lru_cache(maxsize=32)
def in_channels(folder: Path) -> int:
    """Count the image channels of a site."""
    rows = Holding(folder).training_rows()
    return int(preprocess.load(folder / rows[0].file).image.shape[0])


def load(holdings: tuple[Holding, ...], *, spatial_dims: int) -> SiteInputs:
    """Load a participant's training and validation cases; kept in memory as long as its sites' manifests are the same.

    Raises:
        DataError: A site was not prepared or has too few patients, or the sites annotate different organs.
    """
    return _load(holdings, spatial_dims, tuple(files.sha256_file(manifest_path(holding.folder)) for holding in holdings))


def annotated_by_all(holdings: tuple[Holding, ...]) -> tuple[int, ...]:
    """Read the organ values that a participant's sites annotate.

    Raises:
        DataError: They annotate different organs.
    """
    by_site = {holding.folder.name: annotated(holding.training_rows()[0]) for holding in holdings}
    if len(set(by_site.values())) > 1:
        raise DataError(f"one participant cannot hold {' and '.join(by_site)}: they annotate different organs")
    return next(iter(by_site.values()))


@lru_cache(maxsize=32)
def _load(holdings: tuple[Holding, ...], spatial_dims: int, _manifest_sha256: tuple[str, ...]) -> SiteInputs:
    """Read the cases of some manifests."""
    labels = annotated_by_all(holdings)
    cases = [_read(holding.folder, row) for holding in holdings for row in holding.training_rows()]
    held_out = [_read(holding.folder, row) for holding in holdings for row in rows_of(holding.folder, "val")]
    return SiteInputs(
        training=batches.site_data(cases, spatial_dims=spatial_dims),
        validation=tuple(held_out),
        annotated=labels,
        num_cases=len(cases),
        num_slices=sum(case.label.shape[0] for case in cases),
    )


def _read(folder: Path, row: ManifestRow) -> LabelledCase:
    """Read one case."""
    case = preprocess.load(folder / row.file)
    return LabelledCase(case.image, case.label, row.modality)
