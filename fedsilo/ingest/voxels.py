"""Which number type voxels are stored in, and what a label may hold."""

from collections.abc import Collection

import numpy
from numpy.typing import NDArray

from fedsilo.ingest.source import SourceError

WHOLE = (numpy.int16, numpy.int32)
"""Types for whole numbers that came out of a slope and intercept, smallest first."""


def of_image(array: NDArray[numpy.generic]) -> NDArray[numpy.generic]:
    """Store an image's voxels.

    Whole numbers keep their type and value; those of 64 bits, which viewers do not read, become 32 bits if they fit. Fractions
    become float32: exact for float16 and float32, rounded to 24 bits for float64.

    Raises:
        SourceError: Colours, complex numbers, text, or whole numbers beyond 32 bits.
    """
    kind, native = array.dtype.kind, array.dtype.newbyteorder("=")
    if kind == "b":
        return array.astype(numpy.uint8)
    if kind == "f":
        return array.astype(numpy.float32)
    if kind not in "iu":
        raise SourceError("voxel type", f"expected real numbers, got voxels of kind {kind!r}")
    if array.dtype.itemsize < 8:  # noqa: PLR2004  # bytes
        return array.astype(native)
    return _narrow(array)


def scaled(array: NDArray[numpy.float64]) -> NDArray[numpy.generic]:
    """Store what a slope and intercept made of whole numbers: whole numbers if they all are, exactly; otherwise float32.

    Example:
        >>> scaled(numpy.array([-1024.0, 3071.0])).dtype, scaled(numpy.array([0.5])).dtype
        (dtype('int16'), dtype('float32'))
    """
    if array.size and numpy.isfinite(array).all() and (array == numpy.rint(array)).all():
        for kind in WHOLE:
            if numpy.iinfo(kind).min <= array.min() and array.max() <= numpy.iinfo(kind).max:
                return array.astype(kind)
    return array.astype(numpy.float32)


def of_label(array: NDArray[numpy.generic], declared: Collection[int]) -> NDArray[numpy.generic]:
    """Store a label's voxels as uint8, or uint16 if a declared value needs it.

    Raises:
        SourceError: A value is a fraction, not finite, or not declared; names the first undeclared one.
    """
    if array.dtype.kind not in "iufb":
        raise SourceError("label", f"expected a label of whole numbers, got voxels of kind {array.dtype.kind!r}")
    found = numpy.unique(array)
    if not (numpy.isfinite(found).all() and (found == numpy.rint(found)).all()):
        raise SourceError("label", "the label has values that are no whole numbers")
    undeclared = sorted({int(value) for value in found} - set(declared))
    if undeclared:
        raise SourceError("label", f"label value {undeclared[0]} is not declared; declared are {sorted(declared)}")
    return array.astype(numpy.uint8 if max(declared) < 256 else numpy.uint16)  # noqa: PLR2004  # values of a byte


def _narrow(array: NDArray[numpy.generic]) -> NDArray[numpy.generic]:
    """Store 64-bit whole numbers in 32 bits."""
    low, high = int(numpy.min(array)), int(numpy.max(array))
    for kind in (numpy.int32, numpy.uint32):
        if numpy.iinfo(kind).min <= low and high <= numpy.iinfo(kind).max:
            return array.astype(kind)
    raise SourceError("voxel type", "whole numbers beyond 32 bits cannot be stored exactly")
