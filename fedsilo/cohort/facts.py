"""Measured facts: one row a case, written before any contract check and kept at the site."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas

from fedsilo import files
from fedsilo.cohort import hashes
from fedsilo.types import Split

VERSION = 2
SEPARATOR = "|"


@dataclass(frozen=True)
class OrganFacts:
    """Size of one organ in one case.

    Attributes:
        voxels: Of the stored label.
        volume_ml: None in pixel geometry.
        touches_border: Whether it reaches the edge of the image along any axis that has more than one voxel: it may be cut off.
        whole_ml: Its volume if it is there and does not touch the border.
    """

    voxels: int
    volume_ml: float | None
    touches_border: bool
    whole_ml: float | None


@dataclass(frozen=True)
class Facts:
    """Facts of one case; None where they cannot be measured. Units are in the names; intensities are in the stored unit.

    The split, and in how many splits a patient and what looks like an image are, is filled in once the site's splits are known.
    ``organs`` holds those that the site annotates, by name; in the table each is several columns. ``foreground_hu``, of a CT in
    HU the voxels of its organs at each whole HU, is no part of the table.
    """

    cohort: str
    site: str
    role: str
    case: str
    patient: str
    modality: str
    intensity_unit: str
    readable: bool
    problem: str
    has_label: bool
    split: str = ""
    patient_num_splits: int = 1
    near_num_splits: int = 1
    geometry: str | None = None
    ndim: int | None = None
    shape_z: int | None = None
    shape_y: int | None = None
    shape_x: int | None = None
    spacing_z: float | None = None
    spacing_y: float | None = None
    spacing_x: float | None = None
    spacing_ratio: float | None = None
    fov_z: float | None = None
    fov_y: float | None = None
    fov_x: float | None = None
    axcodes: str | None = None
    det_sign: int | None = None
    oblique_deg: float | None = None
    shear: float | None = None
    affine_conflict: float | None = None
    num_channels: int | None = None
    extra_channels: int | None = None
    dtype: str | None = None
    file_bytes: int | None = None
    minimum: float | None = None
    p00_5: float | None = None
    p50: float | None = None
    p99_5: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    num_nonfinite: int | None = None
    num_unique: int | None = None
    frac_zero: float | None = None
    frac_at_min: float | None = None
    low_ratio: float | None = None
    is_8bit: bool | None = None
    label_shape_equal: bool | None = None
    label_affine_diff: float | None = None
    label_dtype: str | None = None
    label_integral: bool | None = None
    label_values: str | None = None
    num_undeclared: int | None = None
    undeclared_values: str | None = None
    annotated: str | None = None
    voxels_annotated: int | None = None
    content_hash: str | None = None
    label_hash: str | None = None
    near_hash: str | None = None
    repairs: str = ""
    phi_fields: str = ""
    phi_kinds: str = ""
    num_traces: int = 0
    num_unmeasured: int | None = None
    facts_version: int = VERSION
    organs: Mapping[str, OrganFacts] = field(default_factory=dict)
    foreground_hu: tuple[tuple[int, int], ...] = ()


OF_CASE = tuple(entry.name for entry in fields(Facts) if entry.name not in {"organs", "foreground_hu"})
OF_ORGAN = tuple(entry.name for entry in fields(OrganFacts))


def columns(organs: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of the table, e.g. ``voxels_liver``; the organs without background."""
    return (*OF_CASE, *(f"{name}_{organ}" for organ in organs for name in OF_ORGAN))


def with_splits(rows: Sequence[Facts], splits: Mapping[str, Split], *, near_share: float) -> list[Facts]:
    """Fill in each case's split, and in how many splits its patient and other images that look like it are.

    Exact copies are left to rule D1, which keeps one of them.

    Args:
        rows: All cases of a site.
        splits: Split of each case.
        near_share: Share of bits in which the near hashes of images that look alike differ at most.
    """
    patients: dict[str, set[Split]] = {}
    contents = {row.case: row.content_hash for row in rows}
    near: dict[str, set[Split]] = {row.case: {splits[row.case]} for row in rows}
    for row in rows:
        patients.setdefault(row.patient, set()).add(splits[row.case])
    for first, second in hashes.alike({row.case: row.near_hash for row in rows if row.near_hash}, near_share):
        if contents[first] != contents[second]:
            near[first].add(splits[second])
            near[second].add(splits[first])
    return [
        replace(
            row,
            split=splits[row.case],
            patient_num_splits=len(patients[row.patient]),
            near_num_splits=len(near[row.case]),
        )
        for row in rows
    ]


def value_of(row: Facts, column: str) -> object:
    """Read a value by the name of its column in the table; None for an organ that the site does not annotate."""
    if column in OF_CASE:
        return getattr(row, column)
    values = {f"{name}_{organ}": getattr(found, name) for organ, found in row.organs.items() for name in OF_ORGAN}
    return values.get(column)


def to_frame(rows: Sequence[Facts], organs: Sequence[str]) -> pandas.DataFrame:
    """Make the facts table, one row a case in the order given; the organs without background."""
    records = [
        {name: getattr(row, name) for name in OF_CASE}
        | {f"{name}_{organ}": getattr(found, name) for organ, found in row.organs.items() for name in OF_ORGAN}
        for row in rows
    ]
    return pandas.DataFrame(records, columns=list(columns(organs)))


def write(rows: Sequence[Facts], organs: Sequence[str], path: Path) -> Path:
    """Write the facts table as parquet."""
    return files.write_bytes(path, to_frame(rows, organs).to_parquet(index=False))


def to_json(row: Facts) -> dict[str, object]:
    """Write facts as JSON values; a number that is none, as of voxels beyond all bounds, is missing."""
    return {name: _finite(getattr(row, name)) for name in OF_CASE} | {
        "organs": {organ: {name: _finite(value) for name, value in vars(found).items()} for organ, found in row.organs.items()},
        "foreground_hu": [list(pair) for pair in row.foreground_hu],
    }


def from_json(content: Mapping[str, Any]) -> Facts:
    """Read what ``to_json`` wrote."""
    organs = {organ: OrganFacts(**found) for organ, found in content["organs"].items()}
    foreground = tuple((int(value), int(count)) for value, count in content["foreground_hu"])
    return Facts(**{**content, "organs": organs, "foreground_hu": foreground})


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
