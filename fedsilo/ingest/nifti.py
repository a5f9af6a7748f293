"""Read a NIfTI file as hostile input: the header is checked before anything is allocated, and no more than it claims is unpacked.

nibabel parses the header alone. What stands in its text fields and extensions is never looked at.
"""

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy
from numpy.typing import NDArray

from fedsilo.cohort.volumes import MAX_VOXELS
from fedsilo.ingest import payload, silence, voxels
from fedsilo.ingest.source import Finding, SourceError

HEADER_BYTES = (348, 540)
"""Of NIfTI-1 and NIfTI-2."""
MAX_OFFSET_BYTES = 64 << 20
"""Of header extensions."""
LPS_TO_RAS = numpy.diag([-1.0, -1.0, 1.0, 1.0])
MAX_CONFLICT = 1e-3
SINGULAR = 1e-9
"""Cubic mm; a voxel is never that small."""
NUM_SPATIAL = 3


@dataclass(frozen=True)
class Loaded:
    """An image or label file.

    Attributes:
        array: On the stored axes (i, j, k), and channels last if there are four axes.
        affine: 4x4, voxel index to RAS+ millimetres.
        findings: Of kinds that leave the case in.
    """

    array: NDArray[numpy.generic]
    affine: NDArray[numpy.float64]
    findings: tuple[Finding, ...] = ()


def read(path: Path, *, max_axes: int = NUM_SPATIAL) -> Loaded:
    """Read a NIfTI-1 or NIfTI-2 file of either byte order; trailing axes of one are dropped.

    A slope and intercept are applied if there are any; without them whole numbers stay what they are.

    Raises:
        SourceError: It is cut off, longer than it says, not NIfTI, too large, of colours or complex numbers, has more axes than
            ``max_axes``, or its affine is singular or not finite.
    """
    try:
        with silence.kept(), path.open("rb") as raw:
            packed = path.name.endswith(".gz")
            handle = gzip.GzipFile(fileobj=raw) if packed else raw
            header = _header(handle)
            shape, dtype, offset = _layout(header)
            num_bytes = math.prod(shape) * dtype.itemsize
            if packed and num_bytes > payload.MAX_DEFLATE_RATIO * path.stat().st_size:
                raise SourceError("unreadable", "the file is cut off: its header claims more voxels than it can hold")
            return _loaded(header, _voxel_bytes(handle, offset, num_bytes), shape, dtype, max_axes)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError("unreadable", f"a NIfTI file is damaged or cut off: {type(error).__name__}") from None


def _header(handle: io.BufferedIOBase) -> "nibabel.Nifti1Header":
    """Parse the first bytes."""
    first = handle.read(4)
    sizes = {int.from_bytes(first, order) for order in ("little", "big")}
    size = next((size for size in HEADER_BYTES if size in sizes), 0)
    if not size:
        raise SourceError("unreadable", "not a NIfTI file: its first four bytes are not 348 or 540")
    content = first + handle.read(size - 4)
    if len(content) < size:
        raise SourceError("unreadable", "a NIfTI file is cut off within its header")
    kind = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header  # noqa: PLR2004  # bytes of a NIfTI-1 header
    header = kind(content, check=False)
    magic = bytes(header["magic"].item())[:3]
    if magic not in (b"n+1", b"n+2"):
        raise SourceError("unreadable", "not a single-file NIfTI: wrong magic (a pair of .hdr and .img has to be joined)")
    return header


def _layout(header: "nibabel.Nifti1Header") -> tuple[tuple[int, ...], "numpy.dtype[numpy.generic]", int]:
    """Read shape, type and place of the voxels; refuse what no image has."""
    dim = [int(edge) for edge in header["dim"]]
    if not 1 <= dim[0] <= 7 or any(edge < 1 for edge in dim[1 : dim[0] + 1]):  # noqa: PLR2004  # axes of a NIfTI
        raise SourceError("geometry", f"the header's dim is impossible: {dim[0]} axes of {dim[1:]}")
    shape = tuple(dim[1 : dim[0] + 1])
    if math.prod(shape) > MAX_VOXELS:
        raise SourceError("too large", f"the header claims {math.prod(shape)} voxels; expected at most {MAX_VOXELS}")
    try:
        dtype = header.get_data_dtype()
    except Exception as error:  # nibabel knows a code it has no type for by several errors
        raise SourceError("voxel type", f"unknown NIfTI datatype: {type(error).__name__}") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:  # noqa: PLR2004  # bytes of float64
        raise SourceError("voxel type", "expected real numbers of up to 64 bits, got colours, complex or longer ones")
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and header.sizeof_hdr <= offset <= MAX_OFFSET_BYTES):
        raise SourceError("unreadable", "the header puts the voxels at an impossible place (vox_offset)")
    return shape, dtype, int(offset) - header.sizeof_hdr


def _voxel_bytes(handle: io.BufferedIOBase, num_skipped: int, num_bytes: int) -> bytes:
    """Read the voxels, and to the end of the file for its checksum."""
    if len(handle.read(num_skipped)) < num_skipped:
        raise SourceError("unreadable", "a NIfTI file is cut off before its voxels")
    return payload.stored(handle, num_bytes, "a NIfTI file")


def _loaded(
    header: "nibabel.Nifti1Header",
    content: bytes,
    shape: tuple[int, ...],
    dtype: "numpy.dtype[numpy.generic]",
    max_axes: int,
) -> Loaded:
    """Give the voxels their axes, numbers and affine."""
    while len(shape) > NUM_SPATIAL and shape[-1] == 1:
        shape = shape[:-1]
    if not NUM_SPATIAL <= len(shape) <= max_axes:
        raise SourceError("geometry", f"expected {NUM_SPATIAL} axes{' or 4' if max_axes > NUM_SPATIAL else ''}, got {len(shape)}")
    array = numpy.frombuffer(content, dtype).reshape(shape, order="F")
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    has_scale = math.isfinite(slope) and slope != 0 and (slope, intercept) != (1.0, 0.0)
    if has_scale and not math.isfinite(intercept):
        raise SourceError("voxel type", "the header has a slope without a usable intercept")
    stored = voxels.scaled(array.astype(numpy.float64) * slope + intercept) if has_scale else voxels.of_image(array)
    affine, findings = _affine(header)
    return Loaded(stored, affine, findings)


def _affine(header: "nibabel.Nifti1Header") -> tuple[NDArray[numpy.float64], tuple[Finding, ...]]:
    """Take the sform if its code is set, otherwise the qform; say if both are set and differ, or none is."""
    by_sform, by_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    findings: list[Finding] = []
    try:
        affine = numpy.asarray(header.get_best_affine(), numpy.float64)
        if by_sform and by_qform:
            difference = float(numpy.abs(header.get_sform() - header.get_qform()).max())
            if not difference <= MAX_CONFLICT:
                findings.append(Finding("geometry", f"the header's two affines differ by {difference:.3g}; the sform is used"))
    except Exception as error:  # a quaternion that is none is told by several errors
        raise SourceError("geometry", f"the header has no usable affine: {type(error).__name__}") from None
    if not (by_sform or by_qform):
        findings.append(Finding("orientation unknown", "the header sets neither sform nor qform: left and right are a guess"))
    return usable(affine), tuple(findings)


def usable(affine: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Let an affine pass.

    Raises:
        SourceError: It is not finite, or singular, as with a spacing of zero.
    """
    if not numpy.isfinite(affine).all():
        raise SourceError("geometry", "the affine is not finite")
    if abs(numpy.linalg.det(affine[:NUM_SPATIAL, :NUM_SPATIAL])) < SINGULAR:
        raise SourceError("geometry", "the affine is singular: an axis has no length or two have one direction")
    return affine
