"""Volumes: an array with its affine. The one file that knows axis order.

nibabel's convention is ours on disk: array axes (i, j, k) and an affine to RAS+ millimetres. Inside the library arrays
are (z, y, x), pointing to Superior, Anterior and Right, and ``spacing_mm`` follows the array. A PNG has no affine: its
rows and columns are taken as radiologists show a slice, down towards Posterior and right towards Left.
"""

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy
import PIL.Image
from numpy.typing import NDArray

from fedsilo import files
from fedsilo.errors import DataError

CANONICAL = ("R", "A", "S")
PNG_ENDING, GZIP_ENDING = ".png", ".gz"
MAX_BYTES_AFTER = 2**16
"""Behind the last voxel, which some tools pad."""

MAX_CHANNEL_DIFFERENCE_MM = 1e-3
MAX_BYTES_BEFORE = 2**24
"""Before the first voxel: the header and its extensions."""

MAX_VOXELS = 2**28
"""Of a file, by its header: 512 x 512 x 1024. A header that claims more is wrong or hostile; reading it would fill the memory."""

MAX_GZIP_RATIO, SMALL_BYTES = 100, 2**26
"""An image larger than that is not 100 times smaller when packed, as a file of zeros is; a label may be."""

SQUARE = 1e-5
"""Cosines between axes that float32 headers leave behind."""

SMALLEST_VOXEL_MM3 = 1e-9
LARGEST_AFFINE_MM = 1e5
"""Of any entry: nothing in a hospital is a hundred metres away."""


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
        flipped = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        return numpy.ascontiguousarray(numpy.flip(numpy.transpose(array, self.axes), flipped))

    def undo(self, array: NDArray[numpy.generic]) -> NDArray[numpy.generic]:
        """Turn a (z, y, x) array back into the stored one; exact inverse of ``apply``."""
        flipped = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        return numpy.ascontiguousarray(numpy.transpose(numpy.flip(array, flipped), numpy.argsort(self.axes)))


PIXEL_ORIENTATION = Orientation(axes=(0, 1, 2), flips=(False, True, True))
"""Of a PNG stored as (1, row, column): down is Posterior, right is the patient's Left."""


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


@dataclass(frozen=True)
class Image:
    """All channels of a case, or its label as the one channel, on the stored grid.

    Attributes:
        channels: (c, i, j, k); of a PNG (c, 1, row, column).
        affine: As of ``Volume``; None in pixel geometry.
    """

    channels: NDArray[numpy.generic]
    affine: NDArray[numpy.float64] | None

    @property
    def orientation(self) -> Orientation:
        """How the stored axes map to (z, y, x)."""
        return PIXEL_ORIENTATION if self.affine is None else orientation(self.affine)

    @property
    def spacing_zyx(self) -> tuple[float, float, float] | None:
        """Voxel edges in mm along z, y, x; None in pixel geometry."""
        if self.affine is None:
            return None
        edges = Volume(self.channels[0], self.affine).spacing_mm
        z, y, x = (edges[axis] for axis in self.orientation.axes)
        return z, y, x

    @property
    def zyx(self) -> NDArray[numpy.generic]:
        """Channels on (c, z, y, x), towards S, A, R."""
        return numpy.stack([self.orientation.apply(channel) for channel in self.channels])


def world_of_zyx(affine: NDArray[numpy.float64], shape: tuple[int, int, int]) -> NDArray[numpy.float64]:
    """Give the 4x4 matrix from index (z, y, x, 1) of the reoriented array to (S, A, R) mm.

    Args:
        affine: Stored index (i, j, k, 1) to RAS+ mm.
        shape: Of the stored array (i, j, k).
    """
    turned = orientation(affine)
    stored_of_zyx = numpy.zeros((4, 4))
    stored_of_zyx[3, 3] = 1
    for canonical, (axis, flip) in enumerate(zip(turned.axes, turned.flips, strict=True)):
        stored_of_zyx[axis, canonical] = -1 if flip else 1
        stored_of_zyx[axis, 3] = shape[axis] - 1 if flip else 0
    world: NDArray[numpy.float64] = affine[[2, 1, 0, 3]] @ stored_of_zyx
    return world


def oblique_deg(affine: NDArray[numpy.float64]) -> float:
    """Measure the largest angle between an array axis and the world axis closest to it."""
    directions = affine[:3, :3] / numpy.linalg.norm(affine[:3, :3], axis=0)
    z, y, x = orientation(affine).axes
    cosines = numpy.abs([directions[2, z], directions[1, y], directions[0, x]])
    return float(numpy.degrees(numpy.arccos(numpy.clip(cosines.min(), 0, 1))))


def shear(affine: NDArray[numpy.float64]) -> float:
    """Measure how far the axes are from right angles: the largest cosine between two of them, 0 if they are square."""
    directions = affine[:3, :3] / numpy.linalg.norm(affine[:3, :3], axis=0)
    return float(numpy.abs(directions.T @ directions - numpy.eye(3)).max())


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
    image = nibabel.Nifti1Image(volume.array, volume.affine)
    image.header.set_xyzt_units("mm")
    return files.write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def read_nifti(path: Path, *, is_label: bool = False) -> Volume:
    """Read a NIfTI file with its scaling applied; trailing axes of one are dropped.

    Raises:
        DataError: The file is missing, cut off, not NIfTI, a time series, or its affine is singular.
    """
    try:
        image = nibabel.load(path)
        _bound(image.shape, path)
        if image.dataobj.offset > MAX_BYTES_BEFORE:
            raise DataError(
                f"cannot use {path}: its voxels start at byte {image.dataobj.offset}, expected {MAX_BYTES_BEFORE} at most"
            )
        num_bytes = image.dataobj.offset + _num_bytes(image)
        if path.suffix == GZIP_ENDING:
            _unlikely(path, num_bytes, is_label=is_label)
            image = type(image).from_bytes(_unpacked(path, num_bytes=num_bytes))
        else:
            _padding(path, num_bytes)
        array = numpy.asanyarray(image.dataobj)
        affine = numpy.asarray(image.affine, numpy.float64)
    except DataError:
        raise
    except Exception as error:  # nibabel and gzip raise a dozen unrelated types for one meaning: not readable
        raise DataError(f"cannot read {path}: {' '.join(str(error).split()) or type(error).__name__}") from error
    while array.ndim > 3 and array.shape[-1] == 1:  # noqa: PLR2004  # spatial axes
        array = array[..., 0]
    if array.ndim != 3:  # noqa: PLR2004  # spatial axes
        raise DataError(f"cannot use {path}: expected 3 axes, got shape {array.shape}")
    if not array.size:
        raise DataError(f"cannot use {path}: it has no voxels, shape {array.shape}")
    if not (numpy.isfinite(affine).all() and numpy.abs(affine).max() <= LARGEST_AFFINE_MM):
        raise DataError(f"cannot use {path}: its affine has an entry that is no number of mm up to {LARGEST_AFFINE_MM:g}")
    if abs(numpy.linalg.det(affine[:3, :3])) < SMALLEST_VOXEL_MM3:
        raise DataError(f"cannot use {path}: its affine is singular")
    return Volume(_numeric(array, path), affine)


def affine_conflict_mm(path: Path) -> float | None:
    """Give the largest entry of the difference between a NIfTI file's two affines; None unless the header sets both.

    One that cannot be used differs by as much as can be.
    """
    header = nibabel.load(path).header
    if not (header["qform_code"] > 0 and header["sform_code"] > 0):
        return None
    try:
        difference = float(numpy.abs(header.get_qform() - header.get_sform()).max())
    except ValueError:  # the quaternion is none
        return LARGEST_AFFINE_MM
    return difference if math.isfinite(difference) else LARGEST_AFFINE_MM


def read_png(path: Path, *, is_label: bool = False) -> NDArray[numpy.generic]:
    """Read a PNG as (c, row, column): grey is one channel, RGB three. Of a palette label, the indices.

    Raises:
        DataError: The file is missing, cut off or not a PNG, or its pixels are neither grey nor RGB (a label: one index).
    """
    allowed = ("1", "L", "P", "I;16", "I") if is_label else ("L", "I;16", "I", "RGB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # the size is checked before pixels are read
            with PIL.Image.open(path, formats=["PNG"]) as opened:
                _bound(opened.size, path)
                mode, array = opened.mode, numpy.asarray(opened)
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split()) or type(error).__name__}") from error
    if mode not in allowed:
        raise DataError(f"cannot use {path}: expected pixels of a kind in {', '.join(allowed)}, got {mode}")
    return numpy.ascontiguousarray(numpy.moveaxis(numpy.atleast_3d(array), 2, 0))


def read_image(paths: Sequence[Path], *, is_label: bool = False) -> Image:
    """Read the channels of a case, one file or more, or its label.

    Raises:
        DataError: A file cannot be read, or the channels differ in shape or affine.
    """
    if paths[0].suffix == PNG_ENDING:
        stacks = [read_png(path, is_label=is_label)[:, None] for path in paths]
        affines = []
    else:
        volumes = [read_nifti(path, is_label=is_label) for path in paths]
        stacks = [volume.array[None] for volume in volumes]
        affines = [volume.affine for volume in volumes]
    for path, stack in zip(paths, stacks, strict=True):
        if stack.shape[1:] != stacks[0].shape[1:]:
            expected, found = stacks[0].shape[1:], stack.shape[1:]
            raise DataError(f"cannot use {path}: expected the shape of the first channel, {expected}, got {found}")
    for path, affine in zip(paths, affines, strict=False):
        if numpy.abs(affine - affines[0]).max() > MAX_CHANNEL_DIFFERENCE_MM:
            raise DataError(f"cannot use {path}: its affine differs from that of the first channel")
    return Image(numpy.concatenate(stacks), affines[0] if affines else None)


def _num_bytes(image: nibabel.Nifti1Image) -> int:
    """Say how many bytes the voxels of an image take as stored."""
    num_bytes: int = math.prod(image.shape) * image.dataobj.dtype.itemsize
    return num_bytes


def _unpacked(path: Path, *, num_bytes: int) -> bytes:
    """Unpack a gzip to its end, where the checksum is: a reader that stops after the last voxel would miss a damaged file."""
    with gzip.open(path) as handle:
        content = handle.read(num_bytes + MAX_BYTES_AFTER + 1)
    if len(content) > num_bytes + MAX_BYTES_AFTER:
        raise DataError(f"cannot use {path}: more bytes than its header says, expected {num_bytes}")
    _only_zeros(content[num_bytes:], path)
    return content


def _padding(path: Path, num_bytes: int) -> None:
    """Check what stands behind the voxels of a file that is not packed."""
    with path.open("rb") as handle:
        handle.seek(num_bytes)
        behind = handle.read(MAX_BYTES_AFTER + 1)
    if len(behind) > MAX_BYTES_AFTER:
        raise DataError(f"cannot use {path}: more bytes than its header says, expected {num_bytes}")
    _only_zeros(behind, path)


def _only_zeros(behind: bytes, path: Path) -> None:
    """Refuse text behind the voxels: padding is zeros, and anything else may name a person."""
    if behind.strip(b"\0"):
        raise DataError(f"cannot use {path}: {len(behind)} bytes stand behind its voxels and are no padding; export it again")


def _unlikely(path: Path, num_bytes: int, *, is_label: bool) -> None:
    """Refuse a small file that claims to be a large image."""
    if not is_label and num_bytes > SMALL_BYTES and num_bytes > MAX_GZIP_RATIO * path.stat().st_size:
        raise DataError(f"cannot use {path}: {path.stat().st_size} bytes that claim to be {num_bytes}; no image packs so well")


def _bound(shape: Sequence[int], path: Path) -> None:
    """Refuse what would fill the memory before it is read."""
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_VOXELS:
        raise DataError(f"cannot use {path}: its header claims {math.prod(shape)} voxels, expected at most {MAX_VOXELS}")


def _numeric(array: NDArray[numpy.generic], path: Path) -> NDArray[numpy.generic]:
    """Refuse colours and complex numbers."""
    if array.dtype.kind not in "iufb":
        raise DataError(f"cannot use {path}: expected real numbers, got voxels of type {array.dtype}")
    return array
