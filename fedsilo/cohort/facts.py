"""Facts: what is measured on a case before anything is decided; one row a case, kept at the site."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
import pandas
from numpy.typing import NDArray
from scipy import stats

from fedsilo import files
from fedsilo.cohort import volumes
from fedsilo.cohort.layouts import LAYOUT, CaseFiles, LabelMap, SiteCases
from fedsilo.cohort.roster import Roster, SiteEntry
from fedsilo.cohort.volumes import Image
from fedsilo.errors import DataError
from fedsilo.types import Split

FACTS_VERSION = 1
TEXT, COUNT, NUMBER, FLAG = "string", "Int64", "Float64", "boolean"
SEPARATOR = "|"
NEAR_EDGE = 16
NEAR_LEVELS = 8

COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("cohort", "site", "role", "case", "patient", "split", "layout", "modality", "sequence"), TEXT),
    "patient_num_splits": COUNT,
    "readable": FLAG,
    "unreadable_reason": TEXT,
    "geometry": TEXT,
    **dict.fromkeys(("ndim", "shape_z", "shape_y", "shape_x"), COUNT),
    **dict.fromkeys(("spacing_z", "spacing_y", "spacing_x", "fov_z", "fov_y", "fov_x"), NUMBER),
    "axcodes": TEXT,
    "det_sign": COUNT,
    **dict.fromkeys(("oblique_deg", "affine_conflict"), NUMBER),
    "num_channels": COUNT,
    "dtype": TEXT,
    "file_bytes": COUNT,
    **dict.fromkeys(("min", "p00_5", "p50", "p99_5", "max", "mean", "std", "low_ratio"), NUMBER),
    **dict.fromkeys(("num_nonfinite", "num_unique"), COUNT),
    **dict.fromkeys(("frac_zero", "frac_at_min"), NUMBER),
    "intensity_unit": TEXT,
    "has_label": FLAG,
    "label_shape_equal": FLAG,
    "label_shape": TEXT,
    "label_affine_diff": NUMBER,
    "label_dtype": TEXT,
    "label_integral": FLAG,
    "label_values": TEXT,
    "num_undeclared": COUNT,
    "undeclared_values": TEXT,
    "annotated": TEXT,
    "num_foreground": COUNT,
    **dict.fromkeys(("content_hash", "label_hash", "near_hash"), TEXT),
    "facts_version": COUNT,
}
"""Columns that every cohort has, with their pandas types; each organ adds voxels_, volume_ and touches_border_."""

Fact = str | int | float | bool | None
Row = dict[str, Fact]


def measure(
    case: CaseFiles,
    cases: SiteCases,
    *,
    roster: Roster,
    entry: SiteEntry,
    label_map: LabelMap,
    splits: Mapping[str, Split],
) -> Row:
    """Measure one case.

    Shapes, spacings (mm) and borders are along z, y, x of the turned volume, axis codes as stored. Intensities are those of
    all channels together without values that are not finite. ``low_ratio`` is p00_5 / p99_5. Volumes are in ml, in pixel
    geometry a count of pixels. ``content_hash`` is the SHA-256 of channels, shape, spacing rounded to 1e-3 and the voxels
    as little-endian float32 of the turned volume: neither the orientation nor the compression of the file changes it.

    A file that cannot be read is a fact too: ``readable`` is false, ``unreadable_reason`` says why, and what could not be
    measured is None.
    """
    patient_splits = {splits[other.case] for other in cases.cases if other.patient == case.patient}
    row: Row = {
        "cohort": roster.name,
        "site": entry.name,
        "role": entry.role,
        "case": case.case,
        "patient": case.patient,
        "split": splits[case.case],
        "layout": LAYOUT,
        "modality": entry.modality,
        "sequence": SEPARATOR.join(cases.channel_names),
        "intensity_unit": entry.intensity_unit,
        "patient_num_splits": len(patient_splits),
        "annotated": SEPARATOR.join(str(value) for value in label_map.annotated),
        "has_label": case.label_path is not None,
        "facts_version": FACTS_VERSION,
    }
    try:
        image, label = read(case, cases)
    except DataError as error:
        return row | {"readable": False, "unreadable_reason": str(error)}
    row |= {"readable": True, "file_bytes": sum(path.stat().st_size for path in case.image_paths)}
    row |= _geometry(image, case) | _intensities(image) | _image_hashes(image)
    if label is not None:
        row |= _label_facts(label, image, label_map, roster.organs)
    return row


def read(case: CaseFiles, cases: SiteCases) -> tuple[Image, Image | None]:
    """Read a case's image and label.

    Raises:
        DataError: A file cannot be read, or a channel's file is missing.
    """
    if not case.image_paths:
        raise DataError(f"label {case.label_path} has no image")
    if len(case.image_paths) < len(cases.channel_names):
        raise DataError(f"expected {len(cases.channel_names)} channels, found {', '.join(path.name for path in case.image_paths)}")
    label = None if case.label_path is None else volumes.read_image([case.label_path], is_label=True)
    return volumes.read_image(case.image_paths), label


def table(rows: Sequence[Row], organs: Sequence[str]) -> pandas.DataFrame:
    """Make the facts table of a site: the columns of ``columns``, one row a case."""
    return pandas.DataFrame(
        {name: pandas.array([row.get(name) for row in rows], dtype=kind) for name, kind in columns(organs).items()}  # type: ignore[call-overload]  # a pandas dtype name
    )


def columns(organs: Sequence[str]) -> dict[str, str]:
    """Name the columns of a facts table and their pandas types."""
    kinds = dict(COLUMNS)
    for organ in organs[1:]:
        kinds |= {f"voxels_{organ}": COUNT, f"volume_{organ}": NUMBER, f"touches_border_{organ}": FLAG}
    return kinds


def write(facts: pandas.DataFrame, path: Path) -> Path:
    """Write a facts table as parquet.

    Raises:
        OutputError: The file cannot be written.
    """
    buffer = io.BytesIO()
    facts.to_parquet(buffer, index=False)
    return files.write_bytes(path, buffer.getvalue())


def read_table(path: Path) -> pandas.DataFrame:
    """Read a facts table.

    Raises:
        DataError: The file is missing or not parquet.
    """
    try:
        return pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _geometry(image: Image, case: CaseFiles) -> Row:
    """Measure grid and affine."""
    shape = image.zyx.shape[1:]
    row: Row = dict(zip(("shape_z", "shape_y", "shape_x"), (int(edge) for edge in shape), strict=True))
    row |= {"num_channels": len(image.channels), "dtype": str(image.channels.dtype)}
    spacing = image.spacing_zyx
    if image.affine is None or spacing is None:
        return row | {"geometry": "pixel", "ndim": 2, "axcodes": ""}
    row |= dict(zip(("spacing_z", "spacing_y", "spacing_x"), spacing, strict=True))
    extents = (float(edge * size) for edge, size in zip(spacing, shape, strict=True))
    row |= dict(zip(("fov_z", "fov_y", "fov_x"), extents, strict=True))
    return row | {
        "geometry": "mm",
        "ndim": 3,
        "axcodes": volumes.Volume(image.channels[0], image.affine).axcodes,
        "det_sign": int(numpy.sign(numpy.linalg.det(image.affine[:3, :3]))),
        "oblique_deg": volumes.oblique_deg(image.affine),
        "affine_conflict": volumes.affine_conflict_mm(case.image_paths[0]),
    }


def _intensities(image: Image) -> Row:
    """Measure values over all channels."""
    values = image.channels.ravel()
    finite = values if values.dtype.kind in "iub" else values[numpy.isfinite(values)]
    row: Row = {"num_nonfinite": int(values.size - finite.size)}
    if not finite.size:
        return row | {"num_unique": 0}
    distinct, counts = numpy.unique(finite, return_counts=True)
    p00_5, p50, p99_5 = (float(value) for value in numpy.percentile(finite, (0.5, 50, 99.5)))
    return row | {
        "num_unique": int(distinct.size),
        "min": float(distinct[0]),
        "max": float(distinct[-1]),
        "p00_5": p00_5,
        "p50": p50,
        "p99_5": p99_5,
        "low_ratio": p00_5 / p99_5 if p99_5 else 0.0,
        "mean": float(finite.mean(dtype=numpy.float64)),
        "std": float(finite.std(dtype=numpy.float64)),
        "frac_zero": float(numpy.count_nonzero(finite == 0) / finite.size),
        "frac_at_min": float(counts[0] / finite.size),
    }


def _image_hashes(image: Image) -> Row:
    """Hash what an image shows, not its file."""
    turned = image.zyx
    edges = "" if image.spacing_zyx is None else SEPARATOR.join(f"{edge:.3f}" for edge in image.spacing_zyx)
    content = hashlib.sha256(f"{turned.shape}{edges}".encode())
    content.update(numpy.ascontiguousarray(turned, dtype="<f4").tobytes())
    return {"content_hash": content.hexdigest(), "near_hash": _near_hash(turned[0])}


def _near_hash(turned: NDArray[numpy.generic]) -> str:
    """Hash the ranks, in eight levels, of an image averaged to 16 cells an axis: a copy with another window has the same."""
    small = numpy.nan_to_num(turned.astype(numpy.float64), posinf=0, neginf=0)
    for axis, size in enumerate(turned.shape):
        if size > 1:
            starts = numpy.arange(NEAR_EDGE) * size // NEAR_EDGE
            stops = numpy.maximum(starts + 1, (numpy.arange(NEAR_EDGE) + 1) * size // NEAR_EDGE)
            sums = numpy.cumsum(small, axis=axis)
            sums = numpy.concatenate([numpy.zeros_like(sums.take([0], axis)), sums], axis=axis)
            widths = (stops - starts).reshape([-1 if other == axis else 1 for other in range(small.ndim)])
            small = (sums.take(stops, axis) - sums.take(starts, axis)) / widths
    ranks = stats.rankdata(small.round(3), method="min") - 1
    return hashlib.sha256((ranks * NEAR_LEVELS // ranks.size).astype(numpy.uint8).tobytes()).hexdigest()


def _label_facts(label: Image, image: Image, label_map: LabelMap, organs: Sequence[str]) -> Row:
    """Measure a label and how it fits its image."""
    stored = label.channels[0]
    same_grid = stored.shape == image.channels.shape[1:]
    integral = stored.dtype.kind in "iub" or bool(numpy.isfinite(stored).all() and (stored == numpy.round(stored)).all())
    values, counts = numpy.unique(stored, return_counts=True)
    undeclared = [value for value in values.tolist() if value not in label_map.values]
    turned = label.zyx[0]
    row: Row = {
        "label_dtype": str(stored.dtype),
        "label_shape": SEPARATOR.join(str(edge) for edge in turned.shape),
        "label_shape_equal": same_grid,
        "label_integral": integral,
        "label_values": SEPARATOR.join(f"{value:g}" for value in values.tolist()),
        "num_undeclared": len(undeclared),
        "undeclared_values": SEPARATOR.join(f"{value:g}" for value in undeclared),
        "label_hash": hashlib.sha256(f"{turned.shape}".encode() + turned.astype("<f4").tobytes()).hexdigest(),
    }
    voxel_ml = 1.0
    if label.affine is not None and image.affine is not None:
        row["label_affine_diff"] = float(numpy.abs(label.affine - image.affine).max())
        voxel_ml = float(abs(numpy.linalg.det(label.affine[:3, :3])) / 1000)
    elif (label.affine is None) != (image.affine is None):
        row["label_shape_equal"] = False
    by_value = dict(zip(values.tolist(), counts.tolist(), strict=True))
    foreground = 0
    for organ_value in label_map.annotated:
        source = [value for value, target in label_map.values.items() if target == organ_value]
        num_voxels = sum(by_value.get(value, 0) for value in source)
        mask = numpy.isin(turned, source)
        foreground += num_voxels
        row |= {
            f"voxels_{organs[organ_value]}": num_voxels,
            f"volume_{organs[organ_value]}": num_voxels * voxel_ml,
            f"touches_border_{organs[organ_value]}": _touches_border(mask),
        }
    return row | {"num_foreground": foreground}


def _touches_border(mask: NDArray[numpy.bool_]) -> bool:
    """Say whether a mask reaches an outer face; an axis of length one has none."""
    faces = [mask.take([0, -1], axis) for axis, size in enumerate(mask.shape) if size > 1]
    return any(bool(face.any()) for face in faces)
