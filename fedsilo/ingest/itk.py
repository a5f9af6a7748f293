"""Read MHA, MHD and NRRD files as hostile input: the header is checked first, and no more than it claims is unpacked.

ITK's own readers are not used: they allocate what a header claims and follow file names that they find where nobody looks.
"""

import math
import zlib
from pathlib import Path

import numpy

from fedsilo.cohort.volumes import MAX_VOXELS
from fedsilo.ingest import metaimage, nifti, nrrd, payload, voxels
from fedsilo.ingest.headers import Described
from fedsilo.ingest.nifti import Loaded
from fedsilo.ingest.source import SourceError

ENDINGS = (".mha", ".mhd", ".nrrd")


def read(path: Path) -> Loaded:
    """Read a volume of one real number a voxel on (i, j, k).

    Raises:
        SourceError: It is damaged, cut off, too large, has colours or another number of axes, keeps its voxels in a file
            elsewhere, or its affine is singular; or its header is not as plain as it has to be.
    """
    described = nrrd.describe(path) if path.suffix == ".nrrd" else metaimage.describe(path)
    array = numpy.frombuffer(_content(described, f"a {path.suffix} file"), described.dtype).reshape(described.shape, order="F")
    return Loaded(voxels.of_image(array), nifti.usable(described.affine), described.findings)


def _content(described: Described, what: str) -> bytes:
    """Read the voxels' bytes, after what the header claims about them was checked."""
    num_voxels = math.prod(described.shape)
    if num_voxels > MAX_VOXELS:
        raise SourceError("too large", f"the header claims {num_voxels} voxels; expected at most {MAX_VOXELS}")
    num_bytes = num_voxels * described.dtype.itemsize
    try:
        with described.path.open("rb") as handle:
            ratio = payload.MAX_DEFLATE_RATIO if described.is_packed else 1
            if num_bytes > ratio * (described.path.stat().st_size - described.offset):
                raise SourceError("unreadable", f"{what} is cut off: its header claims more voxels than it can hold")
            handle.seek(described.offset)
            return (payload.unpacked if described.is_packed else payload.stored)(handle, num_bytes, what)
    except (OSError, zlib.error) as error:
        raise SourceError("unreadable", f"{what} is damaged: {type(error).__name__}") from None
