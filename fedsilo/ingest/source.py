"""What a source holds, as the layouts hand it on; and what may be said of it.

A message never repeats what a source says: not a name of a file or folder, not a text of a header. These stand in ``path`` and
``case`` of a finding, which stay in a file beside the key.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy
from numpy.typing import NDArray

from fedsilo.errors import DataError

Kind = Literal[
    "unreadable",
    "unsafe path",
    "too large",
    "voxel type",
    "geometry",
    "orientation unknown",
    "channels",
    "no label",
    "several labels",
    "label",
    "several images",
    "slices",
    "transfer syntax",
    "burned in",
    "patient",
    "identity",
    "not imported",
    "rescaled",
    "fault",
]
"""What a finding is about; counted by kind in the site's manifest.json."""

MAX_PIXELS = 1 << 26
"""Of one slice; 8192 x 8192."""


class SourceError(DataError):
    """A case, or a whole source, cannot be imported; ``kind`` says what it is about, the message quotes nothing of the source.

    What of the source it is about is ``private``, for the file beside the key.
    """

    def __init__(self, kind: Kind, what: str, private: str = "") -> None:
        """Keep the kind beside the message; all are arguments, so that the error survives a process border."""
        super().__init__(kind, what, private)
        self.kind = kind
        self.what = what
        self.private = private

    def __str__(self) -> str:
        """Give the message alone."""
        return self.what


@dataclass(frozen=True)
class Finding:
    """Something about a source that its owner should know.

    Attributes:
        kind: What it is about.
        message: Safe to show to anyone.
        case: The source's own name of the case, which is private; empty for the site.
        path: Below the source, private; empty if no one file is meant.
        left_out: Whether the case is not imported because of it.
    """

    kind: Kind
    message: str
    case: str = ""
    path: str = ""
    left_out: bool = False


def counted(findings: Sequence[Finding]) -> list[tuple[str, int]]:
    """Count findings of one wording.

    Example:
        >>> counted([Finding("label", "value 7 is not declared", left_out=True)])
        [('[label, left out] value 7 is not declared', 1)]
    """
    said = Counter(f"[{finding.kind}{', left out' if finding.left_out else ''}] {finding.message}" for finding in findings)
    return sorted(said.items())


def reasons(findings: Sequence[Finding]) -> str:
    """Say why cases are left out, or else what there is to say: the most frequent three findings."""
    chosen = [finding for finding in findings if finding.left_out] or findings
    by_number = sorted(counted(chosen), key=lambda entry: -entry[1])
    return "; ".join(f"{number} x {message}" for message, number in by_number[:3])


@dataclass(frozen=True)
class SourceCase:
    """One case as a source stores it.

    Attributes:
        case: The source's own name; private.
        patient: The same of the patient.
        images: Files of the image: one a channel, one with all channels, or the slices of a series, as the layout has it.
        labels: Files of its label.
        organs: Names that its label declares, drawn or found absent; None if the site's labels are declared for all cases.
    """

    case: str
    patient: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    organs: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SourceSite:
    """What a layout found in a source.

    Attributes:
        cases: Those that can be tried, sorted by name.
        labels: Name -> value, background included.
        channels: One name a channel, as it will stand in dataset.json.
        geometry: ``mm`` becomes NIfTI, ``pixel`` becomes PNG.
        findings: Of the site, and of cases left out already.
        modality: CT or MR where the source says it; otherwise empty.
        intensity_unit: hu or au where the modality and the format settle it; otherwise empty.
    """

    cases: tuple[SourceCase, ...]
    labels: Mapping[str, int]
    channels: tuple[str, ...]
    geometry: Literal["mm", "pixel"]
    findings: tuple[Finding, ...] = ()
    modality: str = ""
    intensity_unit: str = ""


@dataclass(frozen=True)
class Content:
    """The voxels of a case: all of it that is written.

    Attributes:
        channels: One array a channel on the stored axes (i, j, k); of a slice (row, column).
        label: On the same grid.
        affine: 4x4, voxel index to RAS+ millimetres; None in pixel geometry.
        label_affine: The label's own, to be compared with the image's.
        findings: Of kinds that leave the case in.
    """

    channels: tuple[NDArray[numpy.generic], ...]
    label: NDArray[numpy.generic]
    affine: NDArray[numpy.float64] | None
    label_affine: NDArray[numpy.float64] | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the person who imports has to say where a source does not.

    Attributes:
        labels: Name -> value for a layout that has no place for names.
        modality: Of a DICOM tree, the one modality to take; empty for the only one there is.
        sequence: Of a BIDS tree, the one suffix to take, such as T2w; empty for the only one there is.
        drop: Names of labels that the cohort drops; organs of a DICOM tree by these names are not drawn.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    modality: str = ""
    sequence: str = ""
    drop: tuple[str, ...] = ()
