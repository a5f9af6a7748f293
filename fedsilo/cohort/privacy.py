"""Names, dates and numbers of people in the places where exports leave them. What is found is said, never shown."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import PIL.Image

PhiKind = Literal["caret_name", "date", "long_number", "mail", "dicom_extension", "text"]
"""``text``: free text that no tool is known to write, which may be anything."""

NIFTI_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
DICOM_ECODE = 2
GZIP_HEADER_BYTES, GZIP_FLAGS, GZIP_EXTRA, GZIP_NAME, GZIP_COMMENT = 10, 3, 4, 8, 16
MAX_GZIP_TEXT = 4096
LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
"""For hashes without runs of digits, which would be taken for a person's number."""

PNG_END = b"IEND\xaeB`\x82"
TOOL_STAMPS = re.compile(
    "|".join(
        [
            r"(FSL|SPM|ITK|nibabel|dcm2niix)[ :v]?(\d{1,2}(\.\d{1,3}){0,3})?(:(?=[\da-f]*[a-f])[\da-f]{6,12})?",
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


def shown(name: str) -> str:
    """Give the name of a case or patient as it may be shown: a hash of one that may name a person, or does not print.

    Example:
        >>> shown("mr_03"), shown("MUELLER^EVA")
        ('mr_03', 'hidden-iklnifappdjp')
    """
    if name.isprintable() and not traces({"name": name}, free_text=False):
        return name
    return f"hidden-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:12].translate(LETTERS)}"


def nameless(message: str, paths: Iterable[Path]) -> str:
    """Put what may be shown in the place of paths that a message names."""
    for path in paths:
        if shown(path.name) != path.name:
            message = message.replace(str(path), shown(path.name)).replace(path.name, shown(path.name))
    return message


def of_case(case: str, patient: str, paths: tuple[Path, ...]) -> tuple[Trace, ...]:
    """Look for people in a case's names and in the headers of its files; the files are known to be readable."""
    names = {"case": case, "patient": patient} | {f"file {index}": path.name for index, path in enumerate(paths)}
    found = set(traces(names, free_text=False))
    for path in paths:
        if path.suffix == ".png":
            found |= set(traces(dict(_png_texts(path)), free_text=True))
        else:
            found |= set(traces(dict(_nifti_texts(path)), free_text=True)) | set(_extensions(path))
            name, comment = _gzip_texts(path)
            found |= set(traces({"gzip name": name}, free_text=False)) | set(traces({"gzip comment": comment}, free_text=True))
    return tuple(sorted(found))


def _nifti_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Give the text fields of a NIfTI header."""
    header = nibabel.load(path).header
    for field in NIFTI_FIELDS:
        if field in header:
            yield field, bytes(header[field].item() if hasattr(header[field], "item") else header[field]).decode("latin-1")


def _gzip_texts(path: Path) -> tuple[str, str]:
    """Read the file name and the comment that a packed file carries outside of what is packed (RFC 1952)."""
    if path.suffix != ".gz":
        return "", ""
    with path.open("rb") as handle:
        flags = handle.read(GZIP_HEADER_BYTES)[GZIP_FLAGS]
        if flags & GZIP_EXTRA:
            handle.read(int.from_bytes(handle.read(2), "little"))
        parts = handle.read(MAX_GZIP_TEXT).split(b"\0")
    name = parts.pop(0) if flags & GZIP_NAME else b""
    comment = parts.pop(0) if flags & GZIP_COMMENT else b""
    return name.decode("latin-1"), comment.decode("latin-1")


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
    if not path.read_bytes().endswith(PNG_END):
        yield "bytes behind the PNG", "bytes"
