"""Measured facts: one row a case, written before any contract check and kept at the site."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import nibabel
import numpy
import pandas
from numpy.typing import NDArray

from fedsilo import files
from fedsilo.cohort import volumes
from fedsilo.cohort.layouts import LabelMap, SourceCase
from fedsilo.cohort.roster import Roster, SiteEntry
from fedsilo.cohort.volumes import Image
from fedsilo.errors import DataError
from fedsilo.types import Split

VERSION = 1
PERCENTILES = (0.5, 50, 99.5)
MAX_LISTED = 8


@dataclass(frozen=True)
class Facts:
    """Facts of one case; None where they cannot be measured. Units are in the names; intensities are in the stored unit.

    ``patient_num_splits`` and the split itself are filled in once the site's splits are known.
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
    geometry: str | None = None
    ndim: int | None = None
    shape_z: int | None = None
    shape_y: int | None = None
    shape_x: int | None = None
    spacing_z: float | None = None
    spacing_y: float | None = None
    spacing_x: float | None = None
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
    num_unmeasured: int | None = None
    facts_version: int = VERSION


COLUMNS = tuple(field.name for field in fields(Facts))

OF_IMAGE = (
    *("geometry", "ndim", "shape_z", "shape_y", "shape_x", "num_channels", "p00_5", "p50", "p99_5", "std"),
    *("num_nonfinite", "num_unique", "frac_zero", "frac_at_min", "content_hash"),
)
IN_MM = ("spacing_z", "spacing_y", "spacing_x", "oblique_deg", "det_sign")
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
        measured = _of_label(measured, image, label, label_map)
    return replace(measured, num_unmeasured=_num_unmeasured(measured))


def with_splits(rows: Sequence[Facts], splits: dict[str, Split]) -> list[Facts]:
    """Fill in each case's split, and in how many splits its patient is."""
    by_patient: dict[str, set[str]] = {}
    for row in rows:
        by_patient.setdefault(row.patient, set()).add(splits[row.case])
    return [replace(row, split=splits[row.case], patient_num_splits=len(by_patient[row.patient])) for row in rows]


def to_frame(rows: Sequence[Facts]) -> pandas.DataFrame:
    """Make the facts table, one row a case in the order given."""
    return pandas.DataFrame([vars(row) for row in rows], columns=list(COLUMNS))


def write(rows: Sequence[Facts], path: Path) -> Path:
    """Write the facts table as parquet."""
    return files.write_bytes(path, to_frame(rows).to_parquet(index=False))


def content_hash(array_zyx: NDArray[numpy.generic], spacing_zyx: tuple[float, ...] | None) -> str:
    """Hash what an image shows: shape, spacing to 1e-3 mm and float32 voxels on (c, z, y, x); not how the file stores it."""
    voxels = numpy.ascontiguousarray(array_zyx, dtype="<f4")
    spacing = "pixel" if spacing_zyx is None else "|".join(f"{edge:.3f}" for edge in spacing_zyx)
    digest = hashlib.sha256(f"{voxels.shape}/{spacing}/".encode())
    digest.update(voxels.tobytes())
    return digest.hexdigest()


def _of_image(facts: Facts, image: Image, source: SourceCase) -> Facts:
    """Measure geometry and intensities."""
    zyx = image.zyx
    values = zyx.astype(numpy.float64)
    finite = values[numpy.isfinite(values)]
    low, middle, high = numpy.percentile(finite, PERCENTILES) if finite.size else (None, None, None)
    spacing = image.spacing_zyx or (None, None, None)
    is_nifti = image.affine is not None
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
        axcodes="" if image.affine is None else "".join(nibabel.orientations.aff2axcodes(image.affine)),
        det_sign=None if image.affine is None else int(numpy.sign(numpy.linalg.det(image.affine[:3, :3]))),
        oblique_deg=None if image.affine is None else volumes.oblique_deg(image.affine),
        affine_conflict=volumes.affine_conflict_mm(source.image_paths[0]) if is_nifti else None,
        num_channels=zyx.shape[0],
        dtype=str(zyx.dtype),
        file_bytes=sum(path.stat().st_size for path in source.image_paths),
        minimum=float(finite.min()) if finite.size else None,
        p00_5=None if low is None else float(low),
        p50=None if middle is None else float(middle),
        p99_5=None if high is None else float(high),
        maximum=float(finite.max()) if finite.size else None,
        mean=float(finite.mean()) if finite.size else None,
        std=float(finite.std()) if finite.size else None,
        num_nonfinite=int(values.size - finite.size),
        num_unique=int(numpy.unique(finite).size),
        frac_zero=float((values == 0).mean()),
        frac_at_min=float((finite == finite.min()).mean()) if finite.size else None,
        content_hash=content_hash(zyx, image.spacing_zyx),
    )


def _of_label(facts: Facts, image: Image, label: Image, label_map: LabelMap) -> Facts:
    """Measure the label, and how it fits the image."""
    array = label.channels[0]
    values = numpy.unique(array[numpy.isfinite(array.astype(numpy.float64))])
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
        label_integral=bool(numpy.isfinite(array.astype(numpy.float64)).all() and (values == numpy.round(values)).all()),
        label_values=_listed(values.tolist()),
        num_undeclared=len(undeclared),
        undeclared_values=_listed(undeclared),
        voxels_annotated=int((label_map.apply(array) > 0).sum()),
        label_hash=content_hash(label.zyx, label.spacing_zyx),
    )


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
