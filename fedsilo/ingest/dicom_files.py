"""DICOM headers: what import needs of them, and nothing that names a person but the PatientID, which is hashed.

No file is copied: only voxels and geometry pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsilo.ingest import silence
from fedsilo.ingest.source import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FILE_BYTES = 1 << 32
PREAMBLE_BYTES, MAGIC = 128, b"DICM"
DEFLATED = "1.2.840.10008.1.2.1.99"
DIRECTORY = "1.2.840.10008.1.3.10"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "PatientID", "BurnedInAnnotation",
    "PatientIdentityRemoved",
]  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What decides where a file belongs.

    Attributes:
        path: The file.
        sop_uid: Of the instance.
        sop_class: Kind of object.
        series_uid: What is imported as one.
        frame_uid: Frame of reference; empty if none.
        modality: CT, MR, SEG, RTSTRUCT or another.
        patient: PatientID, private.
        is_burned_in: Whether the pixels are said to show text.
        is_removed: Whether the identity is said to be removed.
    """

    path: Path
    sop_uid: str
    sop_class: str
    series_uid: str
    frame_uid: str
    modality: str
    patient: str
    is_burned_in: bool
    is_removed: bool


def is_dicom(path: Path) -> bool:
    """Say whether a file has DICOM's magic."""
    try:
        with path.open("rb") as handle:
            return handle.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC
    except OSError:
        return False


def dataset(path: Path, *, tags: Iterable[str] | None = None, with_pixels: bool = False) -> "Dataset":
    """Read a file, or some of its tags.

    Raises:
        SourceError: It is damaged, cut off, too large, or packed as a whole (deflated), which nothing bounds.
    """
    import pydicom
    from pydicom.filereader import read_file_meta_info

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SourceError("too large", f"a DICOM file is larger than {MAX_FILE_BYTES} bytes")
        with silence.kept():
            if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
                raise SourceError("transfer syntax", "deflated DICOM files are not read; export them without compression")
            chosen = None if tags is None else list(tags)
            return pydicom.dcmread(path, stop_before_pixels=not with_pixels, specific_tags=chosen)
    except SourceError:
        raise
    except Exception as error:  # pydicom raises a dozen unrelated types, with values in their messages
        raise SourceError("unreadable", f"a DICOM file is damaged or cut off: {type(error).__name__}") from None


def header(path: Path) -> Header:
    """Read what decides where a file belongs.

    Raises:
        SourceError: It cannot be read.
    """
    found = dataset(path, tags=HEADER_TAGS)
    return Header(
        path=path,
        sop_uid=text(found, "SOPInstanceUID"),
        sop_class=text(found, "SOPClassUID"),
        series_uid=text(found, "SeriesInstanceUID"),
        frame_uid=text(found, "FrameOfReferenceUID"),
        modality=text(found, "Modality"),
        patient=text(found, "PatientID"),
        is_burned_in=text(found, "BurnedInAnnotation").upper() == "YES",
        is_removed=text(found, "PatientIdentityRemoved").upper() == "YES",
    )


def text(found: "Dataset", keyword: str) -> str:
    """Give a tag as text; empty if it is missing.

    Raises:
        SourceError: It cannot be read.
    """
    with silence.kept():
        try:
            value = found.get(keyword)
        except Exception as error:  # values are parsed when they are asked for
            raise SourceError("unreadable", f"the DICOM tag {keyword} cannot be read: {type(error).__name__}") from None
    return "" if value is None else str(value).strip()


def numbers(found: "Dataset", keyword: str, count: int) -> tuple[float, ...]:
    """Give a tag as numbers.

    Raises:
        SourceError: It is missing, has another count of numbers, or cannot be read.
    """
    with silence.kept():
        try:
            value = found.get(keyword)
            values = () if value is None else tuple(float(part) for part in (value if count > 1 else [value]))
        except Exception as error:  # values are parsed when they are asked for
            raise SourceError("unreadable", f"the DICOM tag {keyword} cannot be read: {type(error).__name__}") from None
    if len(values) != count:
        raise SourceError("geometry", f"the DICOM tag {keyword}: expected {count} numbers, got {len(values)}")
    return values
