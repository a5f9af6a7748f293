"""Read an image or label file of whatever format its ending names."""

from collections.abc import Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedsilo.ingest import itk, nifti, pixels
from fedsilo.ingest.nifti import Loaded
from fedsilo.ingest.source import Content, Finding, SourceError

NIFTI = (".nii.gz", ".nii")
VOLUMES = (*NIFTI, *itk.ENDINGS)
SLICES = tuple(pixels.FORMATS)
MAX_DIFFERENCE = 1e-3
"""Between the affines of two channels."""


def volume(path: Path, *, max_axes: int = 3) -> Loaded:
    """Read a NIfTI, MHA, MHD or NRRD file."""
    return nifti.read(path, max_axes=max_axes) if path.name.endswith(NIFTI) else itk.read(path)


def content(images: Sequence[Path], label: Path) -> Content:
    """Read a case whose channels are files of one format, and its label.

    Raises:
        SourceError: A file cannot be used, or channels differ in shape or affine.
    """
    if images[0].name.endswith(SLICES):
        planes = [plane for path in images for plane in pixels.read(path)]
        (mask,) = pixels.read(label, is_label=True)
        return Content(same_grid(planes), mask, None, None)
    loaded = [volume(path) for path in images]
    reference = loaded[0].affine
    if any(numpy.abs(one.affine - reference).max() > MAX_DIFFERENCE for one in loaded):
        raise SourceError("geometry", "the affines of the channels differ")
    mask_file = volume(label)
    findings = {finding for one in loaded for finding in one.findings} | set(mask_file.findings)
    return Content(
        same_grid([one.array for one in loaded]),
        mask_file.array,
        reference,
        mask_file.affine,
        tuple(sorted(findings, key=_message)),
    )


def same_grid(channels: Sequence[NDArray[numpy.generic]]) -> tuple[NDArray[numpy.generic], ...]:
    """Let channels of one shape pass.

    Raises:
        SourceError: Their shapes differ.
    """
    shapes = {channel.shape for channel in channels}
    if len(shapes) > 1:
        raise SourceError("geometry", f"the channels differ in shape: {', '.join(str(shape) for shape in sorted(shapes))}")
    return tuple(channels)


def _message(finding: Finding) -> str:
    return finding.message
