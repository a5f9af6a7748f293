"""Headers of NRRD files: a magic, lines ``field: value``, ``key:=value`` and ``# comment``, and a blank line before the voxels.

Reference:
    Definition of the NRRD file format, versions 1 to 5 (teem). Deviations: voxels stand in the file itself, raw or as gzip; three
    axes; either space directions or spacings are given.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedsilo.ingest import headers
from fedsilo.ingest.headers import NUM_SPATIAL, Described
from fedsilo.ingest.nifti import LPS_TO_RAS
from fedsilo.ingest.source import Finding, SourceError

MAGIC = re.compile(r"NRRD000[1-5]")
TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
KIND_OF = {name: kind for kind, listed in TYPES.items() for name in listed.split("|")}
TO_RAS = {
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS,
    "right-anterior-superior": numpy.eye(4), "ras": numpy.eye(4),
    "left-anterior-superior": numpy.diag([-1.0, 1.0, 1.0, 1.0]), "las": numpy.diag([-1.0, 1.0, 1.0, 1.0]),
}  # fmt: skip
"""Spaces that say where left and right are; others name axes of a scanner, or none."""
RAW, GZIP = ("raw",), ("gz", "gzip")
READ = (
    "type", "dimension", "sizes", "encoding", "endian", "space", "space dimension", "space directions", "space origin",
    "space units", "spacings", "kinds", "line skip", "byte skip",
)  # fmt: skip
TEXT = (
    "content", "number", "sample units", "min", "max", "old min", "old max", "thicknesses", "centerings", "labels", "units",
    "measurement frame",
)  # fmt: skip
"""Fields that change neither voxels nor geometry."""
SYNONYMS = {"centers": "centerings", "lineskip": "line skip", "byteskip": "byte skip", "sampleunits": "sample units",
            "oldmin": "old min", "oldmax": "old max", "datafile": "data file"}  # fmt: skip
VECTOR = re.compile(r"\(([^()]*)\)")


def describe(path: Path) -> Described:
    """Read what a header says.

    Raises:
        SourceError: It is no plain header of one volume of real numbers, or its voxels lie elsewhere.
    """
    found, end = headers.lines(path, lambda line: not line)
    if not MAGIC.fullmatch(found[0]):
        raise SourceError("unreadable", "not a .nrrd file: wrong magic")
    fields = _fields(found[1:-1])
    kind = KIND_OF.get(fields.get("type", "").lower())
    if kind is None:
        raise SourceError("voxel type", "the NRRD header's type is none of real numbers")
    encoding = fields.get("encoding", "").lower()
    if encoding not in (*RAW, *GZIP):
        raise SourceError("voxel type", "the NRRD header's encoding: expected raw or gzip")
    order = fields.get("endian", "little" if kind[1] == "1" else "").lower()
    if order not in ("little", "big"):
        raise SourceError("unreadable", "the NRRD header's endian: expected little or big")
    edges = headers.wholes(fields.get("sizes", ""), "sizes")
    if headers.wholes(fields.get("dimension", ""), "dimension") != (len(edges),):
        raise SourceError("unreadable", "the NRRD header's sizes have another count of axes than dimension")
    if any(fields.get(name, "0") != "0" for name in ("line skip", "byte skip")):
        raise SourceError("unreadable", "the NRRD header skips bytes before its voxels, which is not supported")
    shape = headers.spatial(edges)
    if not {name.lower() for name in fields.get("kinds", "domain").split()} <= {"domain", "space", "???", "none"}:
        raise SourceError("voxel type", "expected one real number a voxel, got an axis of colours, vectors or time")
    affine, findings = _affine(fields)
    dtype = numpy.dtype(kind).newbyteorder("<" if order == "little" else ">")
    return Described(path, end, shape, dtype, encoding in GZIP, affine, findings)


def _fields(found: list[str]) -> Mapping[str, str]:
    """Take lines apart; refuse what two readers could understand in two ways."""
    fields: dict[str, str] = {}
    keys: set[str] = set()
    for number, line in enumerate(found, start=2):
        if line.startswith("#"):
            continue
        colon, pair = line.find(": "), line.find(":=")
        if pair > 0 and not 0 <= colon < pair:
            is_repeated = line[:pair] in keys
            keys.add(line[:pair])
        else:
            name = line[:colon].lower() if colon > 0 else ""
            field = SYNONYMS.get(name, name)
            if field == "data file":
                raise SourceError("unsafe path", "a .nrrd file must hold its voxels itself, not name a file for them")
            if field not in (*READ, *TEXT):
                raise SourceError("unreadable", f"line {number} of the NRRD header is no field that is known")
            is_repeated = field in fields
            fields[field] = line[colon + 2 :].strip(" \t")
        if is_repeated:
            raise SourceError("unreadable", f"line {number} of the NRRD header repeats a field")
    return fields


def _affine(fields: Mapping[str, str]) -> tuple[NDArray[numpy.float64], tuple[Finding, ...]]:
    """Give the affine to RAS+, and say if left and right are a guess."""
    if set(re.findall(r'[^\s"]+', fields.get("space units", ""))) - {"mm"}:
        raise SourceError("geometry", "the NRRD header's space units: expected mm")
    if fields.get("space dimension", "3") != "3":
        raise SourceError("geometry", "the NRRD header's space dimension: expected 3")
    directions, spacings = fields.get("space directions"), fields.get("spacings")
    if (directions is None) == (spacings is None):
        raise SourceError("geometry", "the NRRD header must have either space directions or spacings")
    affine = numpy.eye(NUM_SPATIAL + 1)
    if directions is not None:
        affine[:NUM_SPATIAL, :NUM_SPATIAL] = numpy.array(_vectors(directions, "space directions", NUM_SPATIAL)).T
    else:
        spacing = headers.numbers((spacings or "").split(), "spacings", NUM_SPATIAL)
        affine[:NUM_SPATIAL, :NUM_SPATIAL] = numpy.diag(spacing)
    if "space origin" in fields:
        (affine[:NUM_SPATIAL, NUM_SPATIAL],) = _vectors(fields["space origin"], "space origin", 1)
    space = fields.get("space", "").lower()
    if directions is not None and space in TO_RAS:
        return TO_RAS[space] @ affine, ()
    what = "the NRRD header has no anatomical space (such as left-posterior-superior): left and right are a guess"
    return LPS_TO_RAS @ affine, (Finding("orientation unknown", what),)


def _vectors(text: str, what: str, count: int) -> list[NDArray[numpy.float64]]:
    """Read vectors such as ``(1,0,0) (0,1,0)``."""
    parts = VECTOR.findall(text)
    if VECTOR.sub("", text).strip() or len(parts) != count:
        raise SourceError("geometry", f"the NRRD header's {what}: expected {count} vectors of {NUM_SPATIAL} numbers")
    return [headers.numbers([part.strip() for part in vector.split(",")], what, NUM_SPATIAL) for vector in parts]
