"""The manifest: a site's prepared cases with patient, split and SHA-256, one row a case."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from fedsilo import files, names
from fedsilo.errors import DataError
from fedsilo.types import Split

SEPARATOR = "|"


@dataclass(frozen=True)
class ManifestRow:
    """One prepared case.

    Attributes:
        case: Unique within the site.
        patient: The unit of splits.
        split: Use of the patient.
        file: Of the prepared case, relative to the site's folder: ``cases/<case>.safetensors``.
        sha256: Of that file.
        content_hash: Of the stored image's voxels, as in the facts.
        label_hash: Of the stored label's voxels, as in the facts.
        modality: Of the site.
        geometry: ``pixel`` without an affine.
        annotated: Values of the federation's organs that are labelled here, ``"1|2"``.
        num_slices: Along z of the prepared array.
        spacing_zyx: Of the stored volume in mm, ``"8|6|6"``; empty in pixel geometry.
    """

    case: str
    patient: str
    split: Split
    file: str
    sha256: str
    content_hash: str
    label_hash: str
    modality: Literal["CT", "MR"]
    geometry: Literal["mm", "pixel"]
    annotated: str
    num_slices: int
    spacing_zyx: str


COLUMNS = tuple(field.name for field in fields(ManifestRow))
CHOICES: dict[str, tuple[str, ...]] = {"split": get_args(Split), "modality": ("CT", "MR"), "geometry": ("mm", "pixel")}


def joined(values: Iterable[float]) -> str:
    """Join numbers for a cell.

    Example:
        >>> joined([8.0, 6.0, 1.25]), joined(())
        ('8|6|1.25', '')
    """
    return SEPARATOR.join(f"{value:.6g}" for value in values)


def write(rows: Iterable[ManifestRow], path: Path) -> Path:
    """Write rows sorted by case.

    Raises:
        OutputError: The file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.case))
    return files.write_text(path, text.getvalue())


def read(path: Path) -> list[ManifestRow]:
    """Read rows, sorted by case.

    Raises:
        DataError: The file is missing or damaged, or names a case twice.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            table = csv.DictReader(handle, strict=True)
            rows = [_row(cells, path) for cells in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if tuple(table.fieldnames or ()) != COLUMNS:
        raise DataError(f"cannot use {path}: expected the columns {', '.join(COLUMNS)}")
    if len({row.case for row in rows}) < len(rows):
        raise DataError(f"cannot use {path}: it names a case twice")
    return sorted(rows, key=lambda row: row.case)


def _row(cells: dict[str, str], path: Path) -> ManifestRow:
    """Build a row from text."""
    if cells.keys() != set(COLUMNS) or None in cells.values():
        raise DataError(f"cannot use {path}: expected the columns {', '.join(COLUMNS)}")
    # a manifest may come from elsewhere: it names files of its own folder and no others
    if not names.is_case(cells["case"]) or cells["file"] != f"cases/{cells['case']}.safetensors":
        got = f"{cells['case']!r:.60} and {cells['file']!r:.60}"
        raise DataError(f"cannot use {path}: expected a plain name of a case and its file, got {got}")
    for name, allowed in CHOICES.items():
        if cells[name] not in allowed:
            raise DataError(
                f"cannot use {path}: {name} of case {cells['case']}: expected {', '.join(allowed)}, got {cells[name]!r}"
            )
    if not cells["num_slices"].isdecimal():
        raise DataError(f"cannot use {path}: num_slices of case {cells['case']}: expected a count, got {cells['num_slices']!r}")
    return ManifestRow(**{**cells, "num_slices": int(cells["num_slices"])})  # type: ignore[arg-type]  # checked just above
