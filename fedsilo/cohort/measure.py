"""Measure a case: its grid, its intensities, its label, and what of a person it may tell."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy
from numpy.typing import NDArray

from fedsilo.cohort import fingerprint, hashes, privacy, repairs, volumes
from fedsilo.cohort.facts import SEPARATOR, Facts, OrganFacts
from fedsilo.cohort.layouts import LabelMap, SourceCase
from fedsilo.cohort.roster import Roster, SiteEntry
from fedsilo.cohort.volumes import Image
from fedsilo.errors import DataError

PERCENTILES = (0.5, 50, 99.5)
MAX_LISTED = 8
MM3_A_ML = 1000
MAX_8BIT = 255
LOWEST_RATIO = -1e6
PART = 2**22
"""Voxels that are counted at once."""

OF_IMAGE = (
    *("geometry", "ndim", "shape_z", "shape_y", "shape_x", "num_channels", "p00_5", "p50", "p99_5", "std"),
    *("num_nonfinite", "num_unique", "frac_zero", "frac_at_min", "content_hash", "near_hash"),
)
IN_MM = ("spacing_z", "spacing_y", "spacing_x", "fov_z", "fov_y", "fov_x", "oblique_deg", "shear", "det_sign")
OF_LABEL = ("label_shape_equal", "label_integral", "num_undeclared", "voxels_annotated", "label_hash")


def measure(source: SourceCase, label_map: LabelMap, *, roster: Roster, site: SiteEntry, fix: bool = False) -> Facts:
    """Measure one case, with ``fix`` after safe repairs; a file that cannot be read is a fact, not an error."""
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
        image, label, made = repairs.read(source, fix=fix)
        with numpy.errstate(over="ignore", invalid="ignore"):  # F2 names what voxels beyond all bounds leave unmeasured
            measured = _of_image(replace(unmeasured, readable=True, repairs=SEPARATOR.join(made)), image, source)
            if label is not None:
                measured = _of_label(measured, image, label, label_map, organs=roster.organs)
    except DataError as error:
        return replace(unmeasured, problem=privacy.nameless(str(error), _paths(source)))
    except MemoryError:
        return replace(unmeasured, problem=f"case {source.case} does not fit into the memory of this machine")
    return replace(measured, num_unmeasured=_num_unmeasured(measured))


def _paths(source: SourceCase) -> tuple[Path, ...]:
    """List a case's files."""
    return (*source.image_paths, *filter(None, [source.label_path]))


def _of_image(facts: Facts, image: Image, source: SourceCase) -> Facts:
    """Measure geometry and intensities."""
    zyx = image.zyx
    finite = zyx[numpy.isfinite(zyx)] if zyx.dtype.kind == "f" else zyx.reshape(-1)
    ordered = numpy.sort(finite, axis=None)
    low, middle, high = _percentiles(ordered) if ordered.size else (None, None, None)
    mean, std = _moments(ordered) if ordered.size else (None, None)
    spacing = image.spacing_zyx or (None, None, None)
    is_nifti = image.affine is not None
    traces = privacy.of_case(source.case, source.patient, _paths(source))
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
        shear=None if image.affine is None else volumes.shear(image.affine),
        affine_conflict=volumes.affine_conflict_mm(source.image_paths[0]) if is_nifti else None,
        num_channels=zyx.shape[0],
        extra_channels=zyx.shape[0] - len(source.image_paths),
        dtype=str(zyx.dtype),
        file_bytes=sum(path.stat().st_size for path in source.image_paths),
        minimum=float(ordered[0]) if ordered.size else None,
        p00_5=low,
        p50=middle,
        p99_5=high,
        maximum=float(ordered[-1]) if ordered.size else None,
        mean=mean,
        std=std,
        num_nonfinite=int(zyx.size - ordered.size),
        num_unique=int(numpy.count_nonzero(ordered[1:] != ordered[:-1])) + 1 if ordered.size else 0,
        frac_zero=float(numpy.count_nonzero(zyx == 0) / zyx.size),
        frac_at_min=float(numpy.searchsorted(ordered, ordered[0], side="right") / ordered.size) if ordered.size else None,
        low_ratio=None if low is None or high is None else _ratio(low, high),
        is_8bit=bool(ordered.size and ordered[0] >= 0 and ordered[-1] <= MAX_8BIT and (ordered == numpy.round(ordered)).all()),
        content_hash=hashes.content_hash(zyx, image.spacing_zyx),
        near_hash=hashes.near_hash(zyx),
        phi_fields=SEPARATOR.join(dict.fromkeys(trace.field for trace in traces)),
        phi_kinds=SEPARATOR.join(sorted({trace.kind for trace in traces})),
        num_traces=len(traces),
    )


def _ratio(low: float, high: float) -> float:
    """Divide the low end of intensities by the high one; as negative as can be where all are negative."""
    if high > 0:
        return max(low / high, LOWEST_RATIO)
    return 0.0 if low >= 0 else LOWEST_RATIO


def _moments(ordered: NDArray[numpy.generic]) -> tuple[float, float]:
    """Give mean and standard deviation, part by part, so that memory holds no second volume."""
    parts = [ordered[start : start + PART] for start in range(0, ordered.size, PART)]
    mean = sum(float(part.sum(dtype=numpy.float64)) for part in parts) / ordered.size
    squares = sum(float(((part.astype(numpy.float64) - mean) ** 2).sum()) for part in parts)
    return mean, float(numpy.sqrt(squares / ordered.size))


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
        foreground_hu=_foreground(facts, image.channels[0], mapped) if equal else (),
    )


def _foreground(facts: Facts, voxels: NDArray[numpy.generic], mapped: NDArray[numpy.uint8]) -> tuple[tuple[int, int], ...]:
    """Count the intensities of a CT inside its organs."""
    if facts.intensity_unit != "hu" or facts.num_nonfinite:
        return ()
    return fingerprint.hu_counts(voxels[mapped > 0])


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
