"""Names, dates and numbers of people in the places where exports leave them. What is found is said, never shown."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import PIL.Image

PhiKind = Literal["caret_name", "date", "long_number", "mail", "dicom_extension", "text"]
"""``text``: free text that no tool is known to write, which may be anything."""

NIFTI_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
DICOM_ECODE = 2
TOOL_STAMPS = re.compile(
    "|".join(
        [
            r"(FSL|SPM|ITK|nibabel|dcm2niix)[\d.: a-z]*",
            r"TE=[\d.e+-]+(;Time=[\d.]+)?(;phase=[\d.]+)?(;mb=\d+)?",
            "r",
        ]
    )
)
"""What FSL, SPM, ITK, nibabel, dcm2niix and Analyze write about themselves: no one's data, and allowed."""

PATTERNS: Mapping[PhiKind, re.Pattern[str]] = {
    "caret_name": re.compile(r"[^\W\d_]+\^[^\W\d_]*|\^[^\W\d_]+"),
    "date": re.compile(
        r"(?<!\d)(?:(?:19|20)\d{2}([-./_]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
        r"|(?:0?[1-9]|[12]\d|3[01])[-./](?:0?[1-9]|1[0-2])[-./](?:19|20)\d{2})(?!\d)"
    ),
    "long_number": re.compile(r"\d{6,}"),
    "mail": re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"),
}


@dataclass(frozen=True, order=True)
class Trace:
    """A place that may name a person, and what kind of trace it is; the text itself is not kept."""

    field: str
    kind: PhiKind


def traces(texts: Mapping[str, str], *, free_text: bool) -> tuple[Trace, ...]:
    """Look for people in texts, by the name of their field.

    Args:
        texts: Field -> what stands in it.
        free_text: Whether any text but a tool's stamp is a trace; names of files are not free text.

    Example:
        >>> [trace.kind for trace in traces({"descrip": "MUELLER^EVA 1961-02-03", "aux_file": "FSL5.0"}, free_text=True)]
        ['caret_name', 'date']
    """
    found: set[Trace] = set()
    for field, text in texts.items():
        plain = text.strip("\0 ")
        if not plain or TOOL_STAMPS.fullmatch(plain):
            continue
        kinds = {kind for kind, pattern in PATTERNS.items() if pattern.search(plain)}
        if free_text and not kinds:
            kinds = {"text"}
        found |= {Trace(field, kind) for kind in kinds}
    return tuple(sorted(found))


def of_case(case: str, patient: str, paths: tuple[Path, ...]) -> tuple[Trace, ...]:
    """Look for people in a case's names and in the headers of its files; the files are known to be readable."""
    names = {"case": case, "patient": patient} | {f"file {index}": path.name for index, path in enumerate(paths)}
    found = set(traces(names, free_text=False))
    for path in paths:
        if path.suffix == ".png":
            found |= set(traces(dict(_png_texts(path)), free_text=True))
        else:
            found |= set(traces(dict(_nifti_texts(path)), free_text=True)) | set(_extensions(path))
    return tuple(sorted(found))


def _nifti_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Give the text fields of a NIfTI header."""
    header = nibabel.load(path).header
    for field in NIFTI_FIELDS:
        if field in header:
            yield field, bytes(header[field].item() if hasattr(header[field], "item") else header[field]).decode("latin-1")


def _extensions(path: Path) -> Iterator[Trace]:
    """Give a trace for each header extension: they hold what a tool found worth keeping, a whole DICOM header at worst."""
    for extension in getattr(nibabel.load(path).header, "extensions", ()):
        yield Trace("extension", "dicom_extension" if extension.get_code() == DICOM_ECODE else "text")


def _png_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Give the text chunks of a PNG."""
    with PIL.Image.open(path, formats=["PNG"]) as opened:
        opened.load()
        for key, value in opened.info.items():
            if isinstance(value, str):
                yield f"PNG text {len(key)} letters long", f"{key} {value}"
        if "exif" in opened.info:
            yield "PNG exif", "exif"
