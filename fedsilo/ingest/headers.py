"""Headers written as lines of text (MetaImage, NRRD): read as they stand, and whatever is not plain is refused.

Other readers disagree on blanks, separators and line ends, and follow the file names they find so. Here a line means one thing or
none, and no file is opened that ``Described`` does not name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedsilo.ingest.source import Finding, SourceError

MAX_HEADER_BYTES = 1 << 20
NUM_SPATIAL = 3
MAX_DIGITS = 10
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
WHOLE = re.compile(rf"\d{{1,{MAX_DIGITS}}}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Described:
    """What a header says of its voxels.

    Attributes:
        path: File that holds them.
        offset: Where in it they begin.
        shape: (i, j, k), the first running fastest.
        dtype: With its byte order.
        is_packed: Whether they are one stream of zlib or gzip.
        affine: 4x4, voxel index to RAS+ millimetres.
        findings: Of kinds that leave the case in.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: "numpy.dtype[numpy.generic]"
    is_packed: bool
    affine: NDArray[numpy.float64]
    findings: tuple[Finding, ...] = ()


def lines(path: Path, is_last: Callable[[str], bool]) -> tuple[list[str], int]:
    """Read a header to its last line, which is in the list; also give where the bytes after it begin.

    Raises:
        SourceError: There is no such line within 1 MiB, or a line has control characters, such as a bare carriage return.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise SourceError("unreadable", f"{path.suffix} file cannot be read: {type(error).__name__}") from None
    found: list[str] = []
    place = 0
    while place < len(content):
        end = content.find(b"\n", place)
        if end < 0 and len(content) == MAX_HEADER_BYTES:
            break
        stop = len(content) if end < 0 else end
        line = content[place:stop].removesuffix(b"\r").decode("latin-1")
        place = min(stop + 1, len(content))
        if CONTROL.search(line):
            raise SourceError("unreadable", f"the {path.suffix} header has control characters in line {len(found) + 1}")
        found.append(line)
        if is_last(line):
            return found, place
    raise SourceError("unreadable", f"the {path.suffix} header does not end within {MAX_HEADER_BYTES} bytes, or is cut off")


def wholes(text: str, what: str) -> tuple[int, ...]:
    """Read whole numbers between blanks.

    Raises:
        SourceError: There is anything else.
    """
    parts = text.split()
    if not parts or not all(WHOLE.fullmatch(part) for part in parts):
        raise SourceError("unreadable", f"the header's {what}: expected whole numbers")
    return tuple(int(part) for part in parts)


def numbers(parts: Sequence[str], what: str, count: int) -> NDArray[numpy.float64]:
    """Read so many numbers.

    Raises:
        SourceError: There are more or fewer, or one is no finite number.
    """
    if len(parts) != count or not all(NUMBER.fullmatch(part) for part in parts):
        raise SourceError("geometry", f"the header's {what}: expected {count} numbers")
    found = numpy.array([float(part) for part in parts], numpy.float64)
    if not numpy.isfinite(found).all():
        raise SourceError("geometry", f"the header's {what}: expected finite numbers")
    return found


def spatial(edges: Sequence[int]) -> tuple[int, ...]:
    """Let the edges of a volume pass.

    Raises:
        SourceError: There are not three axes, or an axis has no voxel.
    """
    if len(edges) != NUM_SPATIAL:
        raise SourceError("geometry", f"expected {NUM_SPATIAL} axes, got {len(edges)}")
    if min(edges) < 1:
        raise SourceError("geometry", f"an axis has no voxel: {tuple(edges)}")
    return tuple(edges)
