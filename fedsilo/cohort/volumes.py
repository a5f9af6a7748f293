"""Volumes: an array with its affine. The one file that knows axis order.

nibabel's convention is ours on disk: array axes (i, j, k) and an affine to RAS+ millimetres. Inside the library arrays
are (z, y, x), pointing to Superior, Anterior and Right, and ``spacing_mm`` follows the array.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy
from numpy.typing import NDArray

from fedsilo import files
from fedsilo.errors import DataError

CANONICAL = ("R", "A", "S")


@dataclass(frozen=True)
class Volume:
    """An image or label as stored.

    Attributes:
        array: Voxels on the stored axes (i, j, k).
        affine: 4x4, voxel index (i, j, k, 1) to RAS+ millimetres.
    """

    array: NDArray[numpy.generic]
    affine: NDArray[numpy.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge along each stored axis."""
        edges = numpy.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(edges[0]), float(edges[1]), float(edges[2])

    @property
    def axcodes(self) -> str:
        """Where the stored axes point, e.g. ``LPS``."""
        return "".join(nibabel.orientations.aff2axcodes(self.affine))


@dataclass(frozen=True)
class Orientation:
    """How stored axes map to (z, y, x): ``canonical = flip(transpose(stored, axes))``."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: NDArray[numpy.generic]) -> NDArray[numpy.generic]:
        """Turn a stored array into (z, y, x)."""
        flipped = [axis for axis, flip in enumerate(self.flips) if flip]
        return numpy.ascontiguousarray(numpy.flip(numpy.transpose(array, self.axes), flipped))

    def undo(self, array: NDArray[numpy.generic]) -> NDArray[numpy.generic]:
        """Turn a (z, y, x) array back into the stored one; exact inverse of ``apply``."""
        flipped = [axis for axis, flip in enumerate(self.flips) if flip]
        return numpy.ascontiguousarray(numpy.transpose(numpy.flip(array, flipped), numpy.argsort(self.axes)))


def orientation(affine: NDArray[numpy.float64]) -> Orientation:
    """Find the axis permutation and flips that bring stored axes closest to (z, y, x) towards S, A, R."""
    by_stored = nibabel.orientations.io_orientation(affine)
    axes: list[int] = []
    flips: list[bool] = []
    for world in (2, 1, 0):
        stored = int(numpy.flatnonzero(by_stored[:, 0] == world)[0])
        axes.append(stored)
        flips.append(bool(by_stored[stored, 1] < 0))
    return Orientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def from_zyx(array: NDArray[numpy.generic], affine: NDArray[numpy.float64], axcodes: str) -> Volume:
    """Store a (z, y, x) array on axes that point to ``axcodes``.

    Args:
        array: (z, y, x) towards S, A, R.
        affine: 4x4, index (x, y, z, 1) of the array to RAS+ millimetres.
        axcodes: Three of R/L, A/P, S/I, e.g. ``LPS``.
    """
    canonical = nibabel.Nifti1Image(numpy.transpose(array, (2, 1, 0)), affine)
    change = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(CANONICAL), nibabel.orientations.axcodes2ornt(tuple(axcodes))
    )
    stored = canonical.as_reoriented(change)
    return Volume(numpy.ascontiguousarray(numpy.asanyarray(stored.dataobj)), numpy.asarray(stored.affine, numpy.float64))


def write_nifti(volume: Volume, path: Path) -> Path:
    """Write a compressed NIfTI-1 file, the same bytes for the same volume (no time stamp, no file name in the gzip)."""
    import gzip

    image = nibabel.Nifti1Image(volume.array, volume.affine)
    image.header.set_xyzt_units("mm")
    return files.write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file with its scaling applied; trailing axes of one are dropped.

    Raises:
        DataError: The file is missing, cut off, not NIfTI, a time series, or its affine is singular.
    """
    try:
        image = nibabel.load(path)
        array = numpy.asanyarray(image.dataobj)
        affine = numpy.asarray(image.affine, numpy.float64)
    except Exception as error:  # nibabel and gzip raise a dozen unrelated types for one meaning: not readable
        raise DataError(f"cannot read {path}: {' '.join(str(error).split()) or type(error).__name__}") from error
    while array.ndim > 3 and array.shape[-1] == 1:  # noqa: PLR2004  # spatial axes
        array = array[..., 0]
    if array.ndim != 3:  # noqa: PLR2004  # spatial axes
        raise DataError(f"cannot use {path}: expected 3 axes, got shape {array.shape}")
    if abs(numpy.linalg.det(affine[:3, :3])) < 1e-9:  # noqa: PLR2004  # cubic mm; a voxel is never that small
        raise DataError(f"cannot use {path}: its affine is singular")
    return Volume(array, affine)
