"""Labels of a DICOM series: SEG by highdicom, RTSTRUCT by filling its contours; both on the grid of the series, or refused.

Slices are found by position; a ReferencedSOPInstanceUID that says another slice is refused. A frame or contour that is not
there is empty. Of a FRACTIONAL segment, voxels with at least half of MaximumFractionalValue belong to it. No organs overlap.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from fedsilo.cohort.layouts import plain
from fedsilo.cohort.volumes import MAX_VOXELS
from fedsilo.ingest import contours, dicom_files, silence
from fedsilo.ingest.dicom_files import numbers, text
from fedsilo.ingest.dicom_series import DIRECTION_TOLERANCE, SAME_PLACE_MM, Series
from fedsilo.ingest.source import Finding, SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

HALF = 0.5
PLANE_TOLERANCE = 0.1
"""Of a slice's thickness: how far from it a contour may lie."""
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3."
"""Begin of SOP classes that are no images: the study that an RTSTRUCT belongs to, performed procedure steps."""
MAX_FRAME_VOXELS = 4 * MAX_VOXELS


def names(path: Path) -> tuple[str, ...]:
    """List the organs that a SEG or RTSTRUCT file draws, as plain names.

    A segment without frames was looked for and is not there; a structure without contours was not drawn.

    Raises:
        SourceError: The file cannot be read, or names an organ twice.
    """
    found = dicom_files.dataset(path)
    try:
        with silence.kept():
            given = tuple(plain(text(item, "SegmentLabel")) for item in found.get("SegmentSequence", ()))
            if not given:
                drawn = {int(item.ReferencedROINumber) for item in found.get("ROIContourSequence", ()) if _contours(item)}
                listed = [item for item in found.get("StructureSetROISequence", ()) if int(item.ROINumber) in drawn]
                given = tuple(plain(text(item, "ROIName")) for item in listed)
    except SourceError:
        raise
    except Exception as error:  # values are parsed when they are asked for, by a dozen types of errors that quote them
        raise SourceError("unreadable", f"a label file is damaged: {type(error).__name__}") from None
    if len(set(given)) < len(given) or "" in given:
        raise SourceError("label", "a label file names an organ twice, or gives one no name")
    return given


def references(path: Path) -> tuple[frozenset[str], frozenset[str], str]:
    """Give the images and series that a label file refers to, and its frame of reference.

    Raises:
        SourceError: The file cannot be read.
    """
    found = dicom_files.dataset(path)
    instances, series = set(), set()
    try:
        with silence.kept():
            for item in _items(found):
                if not text(item, "ReferencedSOPClassUID").startswith(STUDY_MANAGEMENT):
                    instances.add(text(item, "ReferencedSOPInstanceUID"))
                series.add(text(item, "SeriesInstanceUID"))
            frames = [text(item, "FrameOfReferenceUID") for item in found.get("ReferencedFrameOfReferenceSequence", ())]
    except Exception as error:  # values are parsed when they are asked for, by a dozen types of errors
        raise SourceError("unreadable", f"a label file is damaged: {type(error).__name__}") from None
    frame = text(found, "FrameOfReferenceUID") or (frames[0] if len(frames) == 1 else "")
    return frozenset(instances - {""}), frozenset(series - {""}), frame


def _items(found: "Dataset") -> Iterator["Dataset"]:
    """Give the items of all sequences of a file."""
    for element in found:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _contours(item: "Dataset") -> Sequence["Dataset"]:
    """Give the contours of a structure; none if it lists them and there is none."""
    return item.get("ContourSequence") or ()


@dataclass(frozen=True)
class Drawn:
    """A label on the grid of its series.

    Attributes:
        label: (i, j, k).
        findings: Of kinds that leave the case in.
    """

    label: NDArray[numpy.uint16]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Organ:
    name: str
    mask: NDArray[numpy.bool_]
    findings: tuple[Finding, ...] = ()


def draw(paths: Sequence[Path], series: Series, labels: Mapping[str, int]) -> Drawn:
    """Draw the organs of label files on the grid of a series.

    Raises:
        SourceError: A file cannot be read, lies on another grid, or organs overlap.
    """
    label = numpy.zeros(series.array.shape, numpy.uint16)
    drawn: set[str] = set()
    findings: list[Finding] = []
    for path in paths:
        for organ in _organs(path, series, labels):
            name = organ.name
            if name in drawn:
                raise SourceError("several labels", f"{name} is drawn by several label files (readers); leave one of them")
            if (label[organ.mask] != 0).any():
                raise SourceError(
                    "label", f"{name} overlaps another organ; a voxel belongs to one, so correct or drop one of them"
                )
            drawn.add(name)
            label[organ.mask] = labels[name]
            findings += organ.findings
    return Drawn(label, tuple(findings))


def _organs(path: Path, series: Series, labels: Mapping[str, int]) -> Iterator[_Organ]:
    """Give each organ of a file that has a value."""
    modality = text(dicom_files.dataset(path, tags=["Modality"]), "Modality")
    try:
        with silence.kept():
            yield from (_segments if modality == "SEG" else _structures)(path, series, labels)
    except SourceError:
        raise
    except Exception as error:  # highdicom and pydicom raise a dozen unrelated types, with values in their messages
        raise SourceError("unreadable", f"a {modality} file is damaged or incomplete: {type(error).__name__}") from None


def _segments(path: Path, series: Series, labels: Mapping[str, int]) -> Iterator[_Organ]:
    """Give the segments of a SEG file."""
    import highdicom

    claimed = dicom_files.dataset(path, tags=["NumberOfFrames", "Rows", "Columns"])
    size = [int(text(claimed, keyword) or "1") for keyword in ("NumberOfFrames", "Rows", "Columns")]
    if math.prod(size) > MAX_FRAME_VOXELS:
        raise SourceError("too large", f"a SEG file claims {math.prod(size)} voxels; expected at most {MAX_FRAME_VOXELS}")
    if size[1:] != [series.array.shape[1], series.array.shape[0]]:
        raise SourceError("geometry", f"the SEG has {size[1]} rows and {size[2]} columns, unlike its series")
    found = highdicom.seg.segread(path)
    frames = found.pixel_array.reshape(-1, *size[1:])
    groups = found.PerFrameFunctionalGroupsSequence
    shared = found.SharedFunctionalGroupsSequence[0]
    kind = text(found, "SegmentationType")
    threshold = HALF * float(found.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
    numbers_of = [_segment_number(group, shared) for group in groups]
    places = [_place(group, shared, series) for group in groups]
    for description in found.SegmentSequence:
        name, number = plain(text(description, "SegmentLabel")), int(description.SegmentNumber)
        if name not in labels:
            continue
        mask = numpy.zeros(series.array.shape, numpy.bool_)
        taken: set[int] = set()
        for frame, of_frame, place in zip(frames, numbers_of, places, strict=True):
            if of_frame not in (number, None):
                continue
            if place in taken:
                raise SourceError("label", f"the SEG has two frames of {name} in one place")
            taken.add(place)
            mask[:, :, place] = (frame == number if kind == "LABELMAP" else frame >= threshold).T
        yield _Organ(name, mask)


def _segment_number(group: "Dataset", shared: "Dataset") -> int | None:
    """Read which segment a frame draws; None in a label map, which draws all."""
    for holder in (group, shared):
        if "SegmentIdentificationSequence" in holder:
            return int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    return None


def _place(group: "Dataset", shared: "Dataset", series: Series) -> int:
    """Find the slice of a frame."""
    orientation = (group if "PlaneOrientationSequence" in group else shared).PlaneOrientationSequence[0]
    measures = (group if "PixelMeasuresSequence" in group else shared).PixelMeasuresSequence[0]
    edges = numpy.linalg.norm(series.affine_lps[:3, :3], axis=0)
    directions = (series.affine_lps[:3, :2] / edges[:2]).T.ravel()
    if numpy.abs(numpy.array(numbers(orientation, "ImageOrientationPatient", 6)) - directions).max() > DIRECTION_TOLERANCE:
        raise SourceError("geometry", "the SEG is oriented unlike its series")
    if numpy.abs(numpy.array(numbers(measures, "PixelSpacing", 2)) - edges[[1, 0]]).max() > SAME_PLACE_MM * edges[:2].min():
        raise SourceError("geometry", "the SEG has another PixelSpacing than its series")
    position = numpy.array([*numbers(group.PlanePositionSequence[0], "ImagePositionPatient", 3), 1.0])
    index = numpy.linalg.solve(series.affine_lps, position)[:3]
    place = round(float(index[2]))
    if numpy.abs((index - [0, 0, place]) * edges).max() > SAME_PLACE_MM * 10 or not 0 <= place < series.array.shape[2]:
        raise SourceError("geometry", "a frame of the SEG lies in no slice of its series")
    for derivation in group.get("DerivationImageSequence", ()):
        for source in derivation.get("SourceImageSequence", ()):
            known = series.place_of.get(text(source, "ReferencedSOPInstanceUID"))
            if known is not None and known != place and len(derivation.SourceImageSequence) == 1:
                raise SourceError("geometry", "a frame of the SEG refers to one slice and lies in another")
    return place


def _structures(path: Path, series: Series, labels: Mapping[str, int]) -> Iterator[_Organ]:
    """Give the structures of an RTSTRUCT file."""
    found = dicom_files.dataset(path)
    name_of = {int(item.ROINumber): plain(text(item, "ROIName")) for item in found.StructureSetROISequence}
    to_index = numpy.asarray(numpy.linalg.inv(series.affine_lps), numpy.float64)
    for item in found.get("ROIContourSequence", ()):
        name, listed = name_of.get(int(item.ReferencedROINumber), ""), _contours(item)
        if name not in labels or not listed:
            continue
        mask = numpy.zeros(series.array.shape, numpy.bool_)
        seen: set[tuple[int, frozenset[frozenset[tuple[float, ...]]]]] = set()
        for contour in listed:
            place, points = _outline(contour, series, to_index)
            outline = place, contours.edges(points)
            if outline not in seen:  # an outline that is filled twice by even-odd erases itself
                seen.add(outline)
                mask[:, :, place] ^= contours.fill(points, (series.array.shape[0], series.array.shape[1]))
        findings = _gaps(name, {place for place, _ in seen})
        if len(listed) > len(seen):
            findings += (Finding("label", f"{name}: {len(listed) - len(seen)} contours are listed twice; each is drawn once"),)
        yield _Organ(name, mask, findings)


def _gaps(name: str, places: set[int]) -> tuple[Finding, ...]:
    """Say if slices between the first and the last one with a contour have none."""
    num_missing = max(places) - min(places) + 1 - len(places)
    if not num_missing:
        return ()
    what = (
        f"{name}: {num_missing} slices between its first and its last contour have none and are background there; look if the "
        "organ really is in parts, since some tools draw every second slice and leave the others to be interpolated"
    )
    return (Finding("slices", what),)


def _outline(contour: "Dataset", series: Series, to_index: NDArray[numpy.float64]) -> tuple[int, NDArray[numpy.float64]]:
    """Give a contour's slice and its corners in voxels."""
    if text(contour, "ContourGeometricType") not in CLOSED:
        raise SourceError("label", "an organ has a contour that is not closed and planar")
    flat = numpy.array([float(number) for number in contour.ContourData], numpy.float64)
    if flat.size % 3 or flat.size < 9 or not numpy.isfinite(flat).all():  # noqa: PLR2004  # three corners of three numbers
        raise SourceError("label", "a contour has fewer than three corners, or broken ones")
    corners = flat.reshape(-1, 3) @ to_index[:3, :3].T + to_index[:3, 3]
    place = round(float(corners[:, 2].mean()))
    if not 0 <= place < series.array.shape[2] or numpy.abs(corners[:, 2] - place).max() > PLANE_TOLERANCE:
        raise SourceError("geometry", "a contour lies in no slice of its series")
    for image in contour.get("ContourImageSequence", ()):
        known = series.place_of.get(text(image, "ReferencedSOPInstanceUID"))
        if known is not None and known != place:
            raise SourceError("geometry", "a contour refers to one slice and lies in another")
    return place, corners[:, :2]
