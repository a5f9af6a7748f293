"""Measured facts: one row a case, written before any contract check and kept at the site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy
import pandas
from numpy.typing import NDArray

from fedsilo import files
from fedsilo.cohort import hashes, privacy, volumes
from fedsilo.cohort.layouts import LabelMap, SourceCase
from fedsilo.cohort.roster import Roster, SiteEntry
from fedsilo.cohort.volumes import Image
from fedsilo.errors import DataError
from fedsilo.types import Split

VERSION = 2
PERCENTILES = (0.5, 50, 99.5)
MAX_LISTED = 8
MM3_A_ML = 1000
SEPARATOR = "|"
MAX_8BIT = 255


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
    ``organs`` holds those that the site annotates, by name; in the table each is several columns.
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
    affine_conflict: float | None = None
    num_channels: int | None = None
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
    phi_fields: str = ""
    phi_kinds: str = ""
    num_traces: int = 0
    num_unmeasured: int | None = None
    facts_version: int = VERSION
    organs: Mapping[str, OrganFacts] = field(default_factory=dict)


OF_CASE = tuple(entry.name for entry in fields(Facts) if entry.name != "organs")
OF_ORGAN = tuple(entry.name for entry in fields(OrganFacts))


def columns(organs: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of the table, e.g. ``voxels_liver``; the organs without background."""
    return (*OF_CASE, *(f"{name}_{organ}" for organ in organs for name in OF_ORGAN))


OF_IMAGE = (
    *("geometry", "ndim", "shape_z", "shape_y", "shape_x", "num_channels", "p00_5", "p50", "p99_5", "std"),
    *("num_nonfinite", "num_unique", "frac_zero", "frac_at_min", "content_hash", "near_hash"),
)
IN_MM = ("spacing_z", "spacing_y", "spacing_x", "fov_z", "fov_y", "fov_x", "oblique_deg", "det_sign")
OF_LABEL = ("label_shape_equal", "label_integral", "num_undeclared", "voxels_annotated", "label_hash")


def measure(source: SourceCase, label_map: LabelMap, *, roster: Roster, site: SiteEntry) -> Facts:
    """Measure one case; a file that cannot be read is a fact, not an error."""
    unmeasured = Facts(
        cohort=roster.name,
        site=site.name,
        role=site.role,
        case=source.case,
        patient=source.patient,
        modality=site.modality,
        intensity_unit=site.intensity_unit,
        readable=False,
        problem="",
        has_label=source.label_path is not None,
        annotated="|".join(str(value) for value in label_map.annotated),
    )
    try:
        image = volumes.read_image(source.image_paths)
        label = volumes.read_image([source.label_path], is_label=True) if source.label_path else None
    except DataError as error:
        return replace(unmeasured, problem=str(error))
    measured = _of_image(replace(unmeasured, readable=True), image, source)
    if label is not None:
        measured = _of_label(measured, image, label, label_map, organs=roster.organs)
    return replace(measured, num_unmeasured=_num_unmeasured(measured))


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
    """Write facts as JSON values."""
    return {name: getattr(row, name) for name in OF_CASE} | {
        "organs": {organ: vars(found) for organ, found in row.organs.items()}
    }


def from_json(content: Mapping[str, Any]) -> Facts:
    """Read what ``to_json`` wrote."""
    return Facts(**{**content, "organs": {organ: OrganFacts(**found) for organ, found in content["organs"].items()}})


def _of_image(facts: Facts, image: Image, source: SourceCase) -> Facts:
    """Measure geometry and intensities."""
    zyx = image.zyx
    finite = zyx[numpy.isfinite(zyx)] if zyx.dtype.kind == "f" else zyx.reshape(-1)
    ordered = numpy.sort(finite, axis=None)
    low, middle, high = _percentiles(ordered) if ordered.size else (None, None, None)
    spacing = image.spacing_zyx or (None, None, None)
    is_nifti = image.affine is not None
    traces = privacy.of_case(source.case, source.patient, (*source.image_paths, *filter(None, [source.label_path])))
    return replace(
        facts,
        geometry="mm" if is_nifti else "pixel",
        ndim=3 if zyx.shape[1] > 1 else 2,
        shape_z=zyx.shape[1],
        shape_y=zyx.shape[2],
        shape_x=zyx.shape[3],
        spacing_z=spacing[0],
        spacing_y=spacing[1],
        spacing_x=spacing[2],
        spacing_ratio=None if spacing[1] is None or spacing[2] is None else max(spacing[1:]) / min(spacing[1:]),
        fov_z=None if spacing[0] is None else spacing[0] * zyx.shape[1],
        fov_y=None if spacing[1] is None else spacing[1] * zyx.shape[2],
        fov_x=None if spacing[2] is None else spacing[2] * zyx.shape[3],
        axcodes="" if image.affine is None else "".join(nibabel.orientations.aff2axcodes(image.affine)),
        det_sign=None if image.affine is None else int(numpy.sign(numpy.linalg.det(image.affine[:3, :3]))),
        oblique_deg=None if image.affine is None else volumes.oblique_deg(image.affine),
        affine_conflict=volumes.affine_conflict_mm(source.image_paths[0]) if is_nifti else None,
        num_channels=zyx.shape[0],
        dtype=str(zyx.dtype),
        file_bytes=sum(path.stat().st_size for path in source.image_paths),
        minimum=float(ordered[0]) if ordered.size else None,
        p00_5=low,
        p50=middle,
        p99_5=high,
        maximum=float(ordered[-1]) if ordered.size else None,
        mean=float(ordered.mean(dtype=numpy.float64)) if ordered.size else None,
        std=float(ordered.std(dtype=numpy.float64)) if ordered.size else None,
        num_nonfinite=int(zyx.size - ordered.size),
        num_unique=int(numpy.count_nonzero(ordered[1:] != ordered[:-1])) + 1 if ordered.size else 0,
        frac_zero=float(numpy.count_nonzero(zyx == 0) / zyx.size),
        frac_at_min=float(numpy.searchsorted(ordered, ordered[0], side="right") / ordered.size) if ordered.size else None,
        low_ratio=None if low is None or high is None else low / high if high > 0 else 0.0 if low >= 0 else -numpy.inf,
        is_8bit=bool(ordered.size and ordered[0] >= 0 and ordered[-1] <= MAX_8BIT and (ordered == numpy.round(ordered)).all()),
        content_hash=hashes.content_hash(zyx, image.spacing_zyx),
        near_hash=hashes.near_hash(zyx),
        phi_fields=SEPARATOR.join(dict.fromkeys(trace.field for trace in traces)),
        phi_kinds=SEPARATOR.join(sorted({trace.kind for trace in traces})),
        num_traces=len(traces),
    )


def _percentiles(ordered: NDArray[numpy.generic]) -> tuple[float, ...]:
    """Read percentiles off ordered values, linearly between neighbours."""
    places = [percent / 100 * (ordered.size - 1) for percent in PERCENTILES]
    lower = [float(ordered[int(place)]) for place in places]
    upper = [float(ordered[min(int(place) + 1, ordered.size - 1)]) for place in places]
    return tuple(one + (other - one) * (place % 1) for one, other, place in zip(lower, upper, places, strict=True))


def _of_label(facts: Facts, image: Image, label: Image, label_map: LabelMap, *, organs: Sequence[str]) -> Facts:
    """Measure the label, and how it fits the image."""
    array = label.channels[0]
    finite = bool(numpy.isfinite(array).all()) if array.dtype.kind == "f" else True
    values = numpy.unique(array if finite else array[numpy.isfinite(array)])
    mapped = label_map.apply(array)
    undeclared = [value for value in values.tolist() if value not in label_map.values]
    equal = label.channels.shape[1:] == image.channels.shape[1:]
    difference = None
    if image.affine is not None and label.affine is not None:
        difference = float(numpy.abs(image.affine - label.affine).max())
    return replace(
        facts,
        label_shape_equal=bool(equal),
        label_affine_diff=difference,
        label_dtype=str(array.dtype),
        label_integral=bool(finite and (values == numpy.round(values)).all()),
        label_values=_listed(values.tolist()),
        num_undeclared=len(undeclared),
        undeclared_values=_listed(undeclared),
        voxels_annotated=int(numpy.count_nonzero(mapped)),
        label_hash=hashes.content_hash(label.zyx, label.spacing_zyx),
        organs={organs[value]: _of_organ(mapped == value, label) for value in label_map.annotated},
    )


def _of_organ(mask: NDArray[numpy.bool_], label: Image) -> OrganFacts:
    """Measure one organ on the stored grid."""
    voxels = int(numpy.count_nonzero(mask))
    volume = None if label.affine is None else voxels * abs(float(numpy.linalg.det(label.affine[:3, :3]))) / MM3_A_ML
    edges = (numpy.take(mask, place, axis) for axis, edge in enumerate(mask.shape) if edge > 1 for place in (0, -1))
    at_border = any(bool(edge.any()) for edge in edges)
    return OrganFacts(voxels, volume, at_border, volume if voxels and not at_border else None)


def _num_unmeasured(facts: Facts) -> int:
    """Count the facts that a case of this kind must have and that are missing: a rule on a missing value would pass."""
    wanted = list(OF_IMAGE)
    wanted += IN_MM if facts.geometry == "mm" else ()
    wanted += OF_LABEL if facts.has_label else ()
    wanted += ["label_affine_diff"] if facts.has_label and facts.geometry == "mm" else []
    values = [getattr(facts, name) for name in wanted]
    return sum(value is None or (isinstance(value, float) and not numpy.isfinite(value)) for value in values)


def _listed(values: Sequence[float]) -> str:
    """Join values for a cell, the first few of many."""
    shown = "|".join(f"{value:g}" for value in values[:MAX_LISTED])
    return f"{shown}|..." if len(values) > MAX_LISTED else shown
