"""A DICOM series becomes a volume: slices ordered by where they lie, never by number or name.

Array axes are (i, j, k) = (column, row, slice); k runs along the normal, the cross product of the directions of rows and columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from fedsilo.cohort.volumes import MAX_VOXELS
from fedsilo.ingest import dicom_files, silence, voxels
from fedsilo.ingest.dicom_files import numbers, text
from fedsilo.ingest.nifti import LPS_TO_RAS, usable
from fedsilo.ingest.source import Finding, SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

GAP_TOLERANCE = 1e-3
"""Relative, of the distance between neighbouring slices."""
DIRECTION_TOLERANCE = 1e-4
SAME_PLACE_MM = 1e-2
LOSSY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 93, 111, 112, 203))
"""JPEG baseline and extended, JPEG-LS near-lossless; JPEG 2000, its part 2, JPEG XL and HTJ2K where the syntax allows a loss:
nothing else that a file says of its loss can be relied on."""
ROW, COLUMN, POSITION = slice(0, 3), slice(3, 6), 3


@dataclass(frozen=True)
class Series:
    """A volume and where its slices came from.

    Attributes:
        array: (i, j, k).
        affine_lps: 4x4, voxel index to DICOM's LPS millimetres.
        place_of: SOPInstanceUID -> k; of dropped duplicates too.
        place_of_file: File -> k.
        frame_uid: Frame of reference.
        findings: Of kinds that leave the case in.
    """

    array: NDArray[numpy.generic]
    affine_lps: NDArray[numpy.float64]
    place_of: Mapping[str, int]
    place_of_file: Mapping[Path, int]
    frame_uid: str
    findings: tuple[Finding, ...]

    @property
    def affine(self) -> NDArray[numpy.float64]:
        """Voxel index to RAS+ millimetres."""
        affine: NDArray[numpy.float64] = LPS_TO_RAS @ self.affine_lps
        return affine


@dataclass(frozen=True)
class _Slice:
    path: Path
    found: "Dataset"
    position: NDArray[numpy.float64]


def read(paths: Sequence[Path]) -> Series:
    """Read a series.

    Slope and intercept are applied slice by slice. MONOCHROME1 says how values are shown: it changes nothing in CT, where slope
    and intercept give HU from what is stored. MR has no unit, so it is taken as it is shown: stored values are mirrored within
    their bits. Of slices in one place, equal in every voxel, one is kept.

    Reference:
        DICOM PS3.3, C.7.6.3.1.2 (Photometric Interpretation) and C.11.1 (Modality LUT).

    Raises:
        SourceError: Slices are missing, unevenly spaced, of mixed orientation, size or spacing, sheared (gantry tilt) or unequal
            in one place; or they are compressed with loss, have no decoder here, or their pixels are no grey image.
    """
    try:
        with silence.kept():
            return _read(paths)
    except SourceError:
        raise
    except Exception as error:  # values are parsed when they are asked for, by a dozen types of errors that quote them
        raise SourceError("unreadable", f"a header of the series is damaged: {type(error).__name__}") from None


def _read(paths: Sequence[Path]) -> Series:
    """Read a series; see ``read``."""
    slices = [
        _Slice(path, found, numpy.array(numbers(found, "ImagePositionPatient", POSITION))) for path, found in _headers(paths)
    ]
    first = slices[0].found
    directions = numpy.array(numbers(first, "ImageOrientationPatient", 6))
    row, column = directions[ROW], directions[COLUMN]
    if abs(row @ row - 1) + abs(column @ column - 1) + abs(row @ column) > 3 * GAP_TOLERANCE:
        raise SourceError("geometry", "ImageOrientationPatient is no pair of perpendicular directions")
    for one in slices:
        _same(first, one.found, directions)
    normal = numpy.cross(row, column)
    ordered = sorted(slices, key=lambda one: (float(one.position @ normal), str(one.path)))
    grouped = _by_place(ordered, normal)
    size = int(text(first, "Columns")), int(text(first, "Rows")), len(grouped)
    if math.prod(size) > MAX_VOXELS:
        raise SourceError("too large", f"the series claims {math.prod(size)} voxels; expected at most {MAX_VOXELS}")
    affine = _affine([group[0].position for group in grouped], directions, numbers(first, "PixelSpacing", 2))
    planes, findings = [], _said(slices)
    for group in grouped:
        plane = _plane(group[0])
        if any(not numpy.array_equal(plane, _plane(other)) for other in group[1:]):
            raise SourceError(
                "slices", "different slices lie in one place (echoes, phases or two scans); export each as a series"
            )
        planes.append(plane)
    num_dropped = len(slices) - len(grouped)
    if num_dropped:
        findings.append(Finding("slices", f"{num_dropped} slices that equal another in the same place were dropped"))
    return Series(
        array=_stacked(planes),
        affine_lps=usable(affine),
        place_of={text(one.found, "SOPInstanceUID"): index for index, group in enumerate(grouped) for one in group},
        place_of_file={one.path: index for index, group in enumerate(grouped) for one in group},
        frame_uid=text(first, "FrameOfReferenceUID"),
        findings=tuple(findings),
    )


def _headers(paths: Sequence[Path]) -> list[tuple[Path, "Dataset"]]:
    """Read all headers and refuse what no decoder is there for."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    headers = [(path, dicom_files.dataset(path)) for path in paths]
    for _, found in headers:
        syntax = UID(str(found.file_meta.get("TransferSyntaxUID", "")))
        name = syntax.name if syntax.is_transfer_syntax else "an unknown one"
        if syntax in LOSSY or (
            syntax.is_transfer_syntax and syntax.is_compressed and text(found, "LossyImageCompression") == "01"
        ):
            raise SourceError("transfer syntax", f"the pixels are compressed with loss, or may be ({name}); export them without")
        try:
            is_available = not syntax.is_compressed or get_decoder(syntax).is_available
        except (RuntimeError, ValueError):  # unknown or not supported
            is_available = False
        if not is_available:
            raise SourceError(
                "transfer syntax", f"no decoder for the transfer syntax {name}; export as Explicit VR Little Endian"
            )
        if int(text(found, "NumberOfFrames") or "1") != 1:
            raise SourceError("slices", "a multi-frame image; export the series with one file a slice")
        if text(found, "SamplesPerPixel") not in ("1", ""):
            raise SourceError("voxel type", "the pixels have colours; expected grey")
        if "ModalityLUTSequence" in found:
            raise SourceError(
                "voxel type", "intensities by a table (ModalityLUTSequence) are not supported; expected slope and intercept"
            )
        if not (text(found, "Rows").isdecimal() and text(found, "Columns").isdecimal()):
            raise SourceError("geometry", "a slice has no Rows and Columns")
    return headers


def _same(first: "Dataset", other: "Dataset", directions: NDArray[numpy.float64]) -> None:
    """Refuse a series whose slices are not of one grid."""
    found = numpy.array(numbers(other, "ImageOrientationPatient", 6))
    if numpy.abs(found - directions).max() > DIRECTION_TOLERANCE:
        raise SourceError("slices", "slices of mixed orientation in one series (a localizer?)")
    for keyword in ("Rows", "Columns", "PhotometricInterpretation", "FrameOfReferenceUID", "PatientID"):
        if text(first, keyword) != text(other, keyword):
            raise SourceError("slices", f"the slices of one series differ in {keyword}")
    if numbers(first, "PixelSpacing", 2) != numbers(other, "PixelSpacing", 2):
        raise SourceError("slices", "the slices of one series differ in PixelSpacing")


def _by_place(ordered: Sequence[_Slice], normal: NDArray[numpy.float64]) -> list[list[_Slice]]:
    """Group slices of one place."""
    groups: list[list[_Slice]] = []
    for one in ordered:
        if groups and abs(float((one.position - groups[-1][0].position) @ normal)) < SAME_PLACE_MM:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _affine(
    positions: Sequence[NDArray[numpy.float64]], directions: NDArray[numpy.float64], spacing: Sequence[float]
) -> NDArray[numpy.float64]:
    """Build the affine of evenly spaced slices; ``spacing`` is that of rows, then of columns, in mm."""
    if len(positions) < 2:  # noqa: PLR2004  # one slice has no neighbour
        raise SourceError("slices", "expected at least 2 slices in different places, got 1")
    row, column = directions[ROW], directions[COLUMN]
    normal = numpy.cross(row, column)
    gaps = numpy.diff([float(position @ normal) for position in positions])
    median = float(numpy.median(gaps))
    if numpy.abs(gaps - median).max() > GAP_TOLERANCE * median:
        worst = float(gaps[numpy.abs(gaps - median).argmax()])
        raise SourceError(
            "slices", f"slices are missing or unevenly spaced: expected gaps of {median:.4g} mm, got {worst:.4g} mm"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    straight = [positions[0] + index * step for index in range(len(positions))]
    sideways = numpy.array([position - line for position, line in zip(positions, straight, strict=True)])
    if numpy.linalg.norm(step - normal * (step @ normal)) > GAP_TOLERANCE * median:
        raise SourceError("slices", "slices are shifted against each other (gantry tilt); resample the series at the source")
    if numpy.abs(sideways - numpy.outer(sideways @ normal, normal)).max() > GAP_TOLERANCE * max(median, *spacing):
        raise SourceError("slices", "a slice is shifted sideways against the others")
    affine = numpy.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * spacing[1], column * spacing[0], step
    affine[:3, 3] = positions[0]
    return affine


def _plane(one: _Slice) -> NDArray[numpy.generic]:
    """Read a slice's intensities as (column, row)."""
    found = dicom_files.dataset(one.path, with_pixels=True)
    try:
        with silence.kept():
            stored = found.pixel_array
    except Exception as error:  # pydicom raises a dozen unrelated types for pixels it cannot decode
        raise SourceError(
            "unreadable", f"the pixels of a slice cannot be decoded or are cut off: {type(error).__name__}"
        ) from None
    if stored.shape != (int(text(found, "Rows")), int(text(found, "Columns"))):
        raise SourceError("voxel type", f"expected one grey slice, got pixels of shape {stored.shape}")
    interpretation = text(found, "PhotometricInterpretation")
    if interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise SourceError("voxel type", "expected grey pixels (MONOCHROME1 or MONOCHROME2)")
    values = stored.astype(numpy.float64)
    if _is_mirrored(found):
        is_signed = text(found, "PixelRepresentation") == "1"
        values = (-1.0 if is_signed else 2.0 ** int(text(found, "BitsStored")) - 1) - values
    slope = numbers(found, "RescaleSlope", 1)[0] if "RescaleSlope" in found else 1.0
    intercept = numbers(found, "RescaleIntercept", 1)[0] if "RescaleIntercept" in found else 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise SourceError("voxel type", f"slope and intercept cannot be used: {slope:g}, {intercept:g}")
    return voxels.scaled(values * slope + intercept).T


def _is_mirrored(found: "Dataset") -> bool:
    """Say whether values are shown with the smallest as white, and have no unit that says otherwise."""
    return text(found, "PhotometricInterpretation") == "MONOCHROME1" and text(found, "Modality") != "CT"


def _stacked(planes: Sequence[NDArray[numpy.generic]]) -> NDArray[numpy.generic]:
    """Stack slices along k: whole numbers if all are, otherwise float32."""
    kind = numpy.float32 if any(plane.dtype.kind == "f" for plane in planes) else numpy.result_type(*planes)
    return numpy.stack([plane.astype(kind) for plane in planes], axis=2)


def _said(slices: Sequence[_Slice]) -> list[Finding]:
    """Say what the headers say of the pixels' past."""
    said = []
    if any(text(one.found, "LossyImageCompression") == "01" for one in slices):
        said.append(Finding("transfer syntax", "the pixels were compressed with loss at some time"))
    if any(_is_mirrored(one.found) for one in slices):
        said.append(Finding("voxel type", "values are shown with the smallest as white (MONOCHROME1); they were mirrored"))
    return said
