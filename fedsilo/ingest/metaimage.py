"""Headers of MHA and MHD files: lines ``Key = value``, the last of which is ElementDataFile.

Keys that are not MetaImage's own are free text and say nothing to us; one that differs from a known key in its letters' case only
is refused, since it was meant to say something. Of an .mha, ElementDataFile must be LOCAL; of an .mhd, one file beside it.

Reference:
    MetaIO of the Insight Toolkit (ITK). As in ITK's reader the world is LPS in mm, the rows of TransformMatrix are the
    directions of the axes, and AnatomicalOrientation and CenterOfRotation are not used.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedsilo.ingest import headers
from fedsilo.ingest.headers import NUM_SPATIAL, Described
from fedsilo.ingest.nifti import LPS_TO_RAS
from fedsilo.ingest.source import SourceError

LAST = "ElementDataFile"
KEY = re.compile(r"[^\s=:][^=:]*")
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
MATRICES = ("TransformMatrix", "Rotation", "Orientation")
ORIGINS = ("Offset", "Position", "Origin")
ONLY = {
    "ObjectType": "Image", "BinaryData": "True", "ElementNumberOfChannels": "1", "HeaderSize": "0", "DistanceUnits": "mm",
    "ElementToIntensityFunctionSlope": "1", "ElementToIntensityFunctionOffset": "0",
}  # fmt: skip
"""Keys that change how voxels are read, and the one value that is supported."""
KNOWN = (
    *ONLY, *ORDERS, *MATRICES, *ORIGINS, LAST, "NDims", "DimSize", "ElementType", "ElementSpacing", "ElementSize",
    "CompressedData", "CompressedDataSize", "AnatomicalOrientation", "CenterOfRotation",
)  # fmt: skip
BY_LETTERS = {key.casefold(): key for key in KNOWN}
TRUTH = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}


def describe(path: Path) -> Described:
    """Read what a header says.

    Raises:
        SourceError: It is no plain header of one volume of real numbers, or its voxels lie elsewhere.
    """
    found, end = headers.lines(path, lambda line: line.startswith(LAST))
    fields = _fields(found)
    if fields.get(LAST) is None:
        raise SourceError("unreadable", f"not a {path.suffix} file: its header has no {LAST}")
    for key, only in ONLY.items():
        value = fields.get(key, only)
        if value != only and not (only == "True" and TRUTH.get(value)):
            raise SourceError("voxel type", f"the header's {key} is not supported: expected {only}, or one real number a voxel")
    edges = headers.wholes(fields.get("DimSize", ""), "DimSize")
    if headers.wholes(fields.get("NDims", ""), "NDims") != (len(edges),):
        raise SourceError("unreadable", "the header's DimSize has another count of axes than NDims")
    kind = TYPES.get(fields.get("ElementType", ""))
    if kind is None:
        raise SourceError("voxel type", "the header's ElementType is none of real numbers")
    order = {_truth(fields, key) for key in ORDERS if key in fields}
    if len(order) > 1:
        raise SourceError("unreadable", f"the header's {' and '.join(ORDERS)} contradict each other")
    voxel_path = path if fields[LAST] == "LOCAL" else _beside(path, fields[LAST])
    return Described(
        path=voxel_path,
        offset=end if voxel_path == path else 0,
        shape=headers.spatial(edges),
        dtype=numpy.dtype(kind).newbyteorder(">" if True in order else "<"),
        is_packed=_truth(fields, "CompressedData"),
        affine=LPS_TO_RAS @ _affine(fields),
    )


def _fields(found: list[str]) -> Mapping[str, str]:
    """Take lines apart; refuse what two readers could understand in two ways."""
    fields: dict[str, str] = {}
    seen: set[str] = set()
    for number, line in enumerate(found, start=1):
        name, separator, value = line.partition("=")
        key = name.rstrip(" \t")
        if not separator or not KEY.fullmatch(key):
            raise SourceError("unreadable", f"line {number} of the header is not `Key = value`")
        if key.casefold() in seen:
            raise SourceError("unreadable", f"line {number} of the header repeats a key")
        if BY_LETTERS.get(key.casefold(), key) != key:
            raise SourceError("unreadable", f"line {number} of the header spells a key of MetaImage in other letters")
        seen.add(key.casefold())
        fields[key] = value.strip(" \t")
    return fields


def _truth(fields: Mapping[str, str], key: str) -> bool:
    """Read True or False; False if it is not there."""
    value = TRUTH.get(fields.get(key, "False"))
    if value is None:
        raise SourceError("unreadable", f"the header's {key}: expected True or False")
    return value


def _affine(fields: Mapping[str, str]) -> NDArray[numpy.float64]:
    """Give the affine to LPS."""
    matrix = _one(fields, MATRICES, NUM_SPATIAL**2, numpy.eye(NUM_SPATIAL).ravel()).reshape(NUM_SPATIAL, NUM_SPATIAL).T
    sizes = _one(fields, ("ElementSize",), NUM_SPATIAL, numpy.ones(NUM_SPATIAL))
    affine = numpy.eye(NUM_SPATIAL + 1)
    affine[:NUM_SPATIAL, :NUM_SPATIAL] = matrix * _one(fields, ("ElementSpacing",), NUM_SPATIAL, sizes)
    affine[:NUM_SPATIAL, NUM_SPATIAL] = _one(fields, ORIGINS, NUM_SPATIAL, numpy.zeros(NUM_SPATIAL))
    return affine


def _one(
    fields: Mapping[str, str], names: tuple[str, ...], count: int, otherwise: NDArray[numpy.float64]
) -> NDArray[numpy.float64]:
    """Read numbers that a header gives by one of several names."""
    given = [name for name in names if name in fields]
    if len(given) > 1:
        raise SourceError("geometry", f"the header has both {given[0]} and {given[1]}")
    return headers.numbers(fields[given[0]].split(), given[0], count) if given else otherwise


def _beside(path: Path, name: str) -> Path:
    """Find the file that a .mhd names for its voxels."""
    if path.suffix != ".mhd":
        raise SourceError("unsafe path", "a .mha file must hold its voxels itself (ElementDataFile = LOCAL)")
    if name.startswith(("LIST", ".")) or re.search(r"[/\\%\s]", name) or not name:
        raise SourceError("unsafe path", "a .mhd file may name one file beside it, and no other place, for its voxels")
    beside = path.parent / name
    if beside.is_symlink() or not beside.is_file():
        raise SourceError("unreadable", "the file that a .mhd names for its voxels is missing or a link")
    return beside
