"""One case from source to site: read, checked, written under its new name."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy

from fedsilo.cohort.volumes import MAX_VOXELS
from fedsilo.errors import FedsiloError
from fedsilo.ingest import silence, voxels, writer
from fedsilo.ingest.recognise import Layout
from fedsilo.ingest.source import Content, Finding, SourceCase, SourceError

MAX_EDGE = 32767
"""Of a volume, in voxels: NIfTI-1 counts them in 16 bits."""
MAX_AFFINE_DIFFERENCE = 1e-3
"""Largest entry, between image and label; the image's affine is written."""


def convert(
    case: SourceCase, name: str, *, layout: Layout, labels: Mapping[str, int], num_channels: int, folder: Path
) -> list[Finding]:
    """Read a case and write its files below a site's folder.

    A fault of ours or of a reader leaves the case out, with a finding that says where in the code, not what stood in the file.

    Args:
        case: As the layout found it.
        name: Its new one.
        layout: Reads it.
        labels: Of the site, name -> value.
        num_channels: That every case of the site has.
        folder: Of the site.

    Returns:
        What its owner should know. If one of them leaves the case out, nothing was written.

    Raises:
        OutputError: The files cannot be written.
    """
    path = " ".join(str(path) for path in case.images[:1])
    try:
        with silence.kept():
            content = checked(layout.read(case, labels), labels, num_channels)
            writer.write_case(content, name, folder)
    except SourceError as error:
        return [Finding(error.kind, error.what, case.case, path, left_out=True)]
    except FedsiloError:
        raise
    except Exception as error:  # a traceback's text may quote the file, which names people
        writer.discard_case(name, folder)
        return [Finding("fault", fault(error), case.case, path, left_out=True)]
    return [Finding(finding.kind, finding.message, case.case) for finding in content.findings]


def checked(content: Content, labels: Mapping[str, int], num_channels: int) -> Content:
    """Let a case pass whose channels and label fit together, in the types that are stored.

    Raises:
        SourceError: Channels are missing or too many, shapes or affines differ, an edge is longer than NIfTI-1 can say, or a
            label's value is not declared.
    """
    if len(content.channels) != num_channels:
        raise SourceError("channels", f"expected {num_channels} channels, got {len(content.channels)}")
    shape = content.channels[0].shape
    if content.label.shape != shape:
        raise SourceError("geometry", f"the label's shape differs from the image's: expected {shape}, got {content.label.shape}")
    if num_channels * math.prod(shape) > MAX_VOXELS:
        raise SourceError("too large", f"a case of {num_channels} x {math.prod(shape)} voxels; expected at most {MAX_VOXELS}")
    if content.affine is not None and max(shape) > MAX_EDGE:
        raise SourceError("too large", f"an edge of {max(shape)} voxels; a NIfTI file holds at most {MAX_EDGE}")
    if content.affine is not None and content.label_affine is not None:
        difference = content.label_affine - content.affine
        worst = float(numpy.abs(difference).max())
        if not worst <= MAX_AFFINE_DIFFERENCE:
            column = int(numpy.unravel_index(numpy.abs(difference).argmax(), difference.shape)[1])
            where = "origin" if column == 3 else f"axis {'ijk'[column]}"  # noqa: PLR2004  # the affine's last column
            raise SourceError(
                "geometry",
                f"label affine differs from the image's: expected at most {MAX_AFFINE_DIFFERENCE}, got {worst:.4g} ({where})",
            )
    return Content(
        tuple(voxels.of_image(channel) for channel in content.channels),
        voxels.of_label(content.label, tuple(labels.values())),
        content.affine,
        content.label_affine,
        content.findings,
    )


def fault(error: Exception) -> str:
    """Say what kind of fault happened, and where in our code, and nothing of what it says itself."""
    place, trace = "", error.__traceback__ or sys.exc_info()[2]
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("fedsilo."):
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"a fault of the importer: {type(error).__name__} in {place}; please report it with this line"
