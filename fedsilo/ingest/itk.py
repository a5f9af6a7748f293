"""Read MHA, MHD and NRRD files by SimpleITK; its world is LPS, ours RAS+.

SimpleITK allocates what a header claims and follows the file names in it, so the header is read as text first.
"""

import math
import re
from pathlib import Path

import numpy

from fedsilo.cohort.volumes import MAX_VOXELS
from fedsilo.ingest import nifti, silence, voxels
from fedsilo.ingest.nifti import Loaded
from fedsilo.ingest.source import Finding, SourceError

ENDINGS = (".mha", ".mhd", ".nrrd")
MAX_HEADER_BYTES = 1 << 16
LPS_TO_RAS = numpy.diag([-1.0, -1.0, 1.0, 1.0])
NUM_SPATIAL = 3
RATIO = nifti.MAX_GZIP_RATIO


def read(path: Path) -> Loaded:
    """Read a volume of one component on (i, j, k).

    Raises:
        SourceError: It is damaged, cut off, too large, has colours or another number of axes, keeps its voxels in a file
            elsewhere, or its affine is singular.
    """
    voxel_path, findings = _voxel_file(path)
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # noqa: FBT003  # its own signature; warnings quote paths
    try:
        with silence.kept():
            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            size = tuple(int(edge) for edge in reader.GetSize())
            num_components, kind = (
                int(reader.GetNumberOfComponents()),
                str(SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())),
            )
            _check(size, num_components, kind, voxel_path)
            image = reader.Execute()
            array = SimpleITK.GetArrayFromImage(image)
            affine = numpy.eye(4)
            direction = numpy.array(image.GetDirection(), numpy.float64).reshape(NUM_SPATIAL, NUM_SPATIAL)
            affine[:NUM_SPATIAL, :NUM_SPATIAL] = direction @ numpy.diag(image.GetSpacing())
            affine[:NUM_SPATIAL, NUM_SPATIAL] = image.GetOrigin()
    except (RuntimeError, MemoryError, ValueError) as error:  # what SimpleITK raises for any file it cannot read
        raise SourceError("unreadable", f"{path.suffix} file cannot be read: {type(error).__name__}") from None
    return Loaded(voxels.of_image(array.transpose()), nifti.usable(LPS_TO_RAS @ affine), findings)


def _check(size: tuple[int, ...], num_components: int, kind: str, voxel_path: Path) -> None:
    """Refuse what the header claims before anything is allocated."""
    if len(size) != NUM_SPATIAL:
        raise SourceError("geometry", f"expected {NUM_SPATIAL} axes, got {len(size)}")
    if num_components != 1 or "complex" in kind:
        raise SourceError("voxel type", "expected one real number a voxel, got colours, vectors or complex numbers")
    if math.prod(size) > MAX_VOXELS:
        raise SourceError("too large", f"the header claims {math.prod(size)} voxels; expected at most {MAX_VOXELS}")
    if math.prod(size) > RATIO * voxel_path.stat().st_size:
        raise SourceError("unreadable", "the file is cut off: its header claims more voxels than it can hold")


def _voxel_file(path: Path) -> tuple[Path, tuple[Finding, ...]]:
    """Find the file with the voxels: this one, or of MHD a plain name in the same folder."""
    try:
        with path.open("rb") as handle:
            text = handle.read(MAX_HEADER_BYTES).decode("latin-1")
    except OSError as error:
        raise SourceError("unreadable", f"{path.suffix} file cannot be read: {type(error).__name__}") from None
    if path.suffix == ".nrrd":
        return path, _nrrd(text)
    match = re.search(r"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?$", text, flags=re.MULTILINE)
    if match is None:
        raise SourceError("unreadable", f"not a {path.suffix} file: its header has no ElementDataFile")
    name = match[1]
    if name == "LOCAL":
        return path, ()
    if path.suffix == ".mha":
        raise SourceError("unsafe path", "a .mha file must hold its voxels itself (ElementDataFile = LOCAL)")
    beside = path.parent / name
    if name.startswith(("LIST", ".")) or re.search(r"[/\\%\s]", name) or not name:
        raise SourceError("unsafe path", "a .mhd file may name one file beside it, and no other place, for its voxels")
    if beside.is_symlink() or not beside.is_file():
        raise SourceError("unreadable", "the file that a .mhd names for its voxels is missing or a link")
    return beside, ()


def _nrrd(text: str) -> tuple[Finding, ...]:
    """Check a NRRD header as text."""
    header = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    if not header.startswith("NRRD000"):
        raise SourceError("unreadable", "not a .nrrd file: wrong magic")
    if re.search(r"^data ?file[ \t]*:", header, flags=re.MULTILINE | re.IGNORECASE):
        raise SourceError("unsafe path", "a .nrrd file must hold its voxels itself, not name a file for them")
    if not re.search(r"^space[ \t]*:[ \t]*\S", header, flags=re.MULTILINE | re.IGNORECASE):
        return (Finding("orientation unknown", "the NRRD header has no space: left and right are a guess"),)
    return ()
