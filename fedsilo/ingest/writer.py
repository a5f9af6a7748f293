"""Write a site in the nnU-Net raw layout: every file made new from voxels and geometry, the same bytes for the same case.

A NIfTI header has shape, type, affine (sform), spacing and the unit mm, and no text, no extension, no scaling. A PNG has its
pixels and no other chunk than they need. Gzip streams carry neither time nor name.
"""

import csv
import importlib.metadata
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
import PIL.Image
from numpy.typing import NDArray

from fedsilo import files
from fedsilo.cohort import volumes
from fedsilo.cohort.volumes import Volume
from fedsilo.ingest.plan import Plan
from fedsilo.ingest.source import Content, Finding

ENDINGS = {"mm": ".nii.gz", "pixel": ".png"}
MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


def write_case(content: Content, name: str, folder: Path) -> None:
    """Write a case's channels and label.

    Raises:
        OutputError: A file cannot be written.
    """
    ending = ENDINGS["pixel" if content.affine is None else "mm"]
    for index, channel in enumerate(content.channels):
        _write(channel, content.affine, folder / "imagesTr" / f"{name}_{index:04d}{ending}")
    _write(content.label, content.affine, folder / "labelsTr" / f"{name}{ending}")


def discard_case(name: str, folder: Path) -> None:
    """Remove what was written of a case."""
    for written in (*(folder / "imagesTr").glob(f"{name}_*"), *(folder / "labelsTr").glob(f"{name}.*")):
        written.unlink()


def describe(
    folder: Path, *, site: str, labels: Mapping[str, int], channels: Sequence[str], geometry: str, patients: Mapping[str, str]
) -> None:
    """Write dataset.json and patients.csv; ``patients`` says case -> patient by their new names.

    Raises:
        OutputError: A file cannot be written.
    """
    content = {
        "name": site,
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": dict(labels),
        "numTraining": len(patients),
        "file_ending": ENDINGS[geometry],
    }
    files.write_json(folder / "dataset.json", content)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("case", "patient"))
    table.writerows(sorted(patients.items()))
    files.write_text(folder / "patients.csv", text.getvalue())


def write_manifest(folder: Path, *, site: str, shared: Plan, patients: Mapping[str, str], findings: Sequence[Finding]) -> Path:
    """Write manifest.json: SHA-256 of every file of the site, where they came from, and counts.

    Raises:
        OutputError: It cannot be written.
    """
    written = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    content: dict[str, object] = {
        "version": MANIFEST_VERSION,
        "fedsilo": importlib.metadata.version("fedsilo"),
        "site": site,
        "layout": shared.layout,
        "modality": shared.modality,
        "intensity_unit": shared.intensity_unit,
        "key_fingerprint": shared.key_fingerprint,
        "num_cases": len(patients),
        "num_patients": len(set(patients.values())),
        "num_left_out": len({finding.case for finding in findings if finding.left_out}),
        "findings": dict(Counter(finding.kind for finding in findings)),
        "files": {path.relative_to(folder).as_posix(): files.sha256_file(path) for path in written},
    }
    return files.write_json(folder / MANIFEST, content)


def _write(array: NDArray[numpy.generic], affine: NDArray[numpy.float64] | None, path: Path) -> None:
    """Write one file."""
    if affine is not None:
        volumes.write_nifti(Volume(array, affine), path)
        return
    packed = io.BytesIO()
    PIL.Image.fromarray(array).save(packed, format="PNG")
    files.write_bytes(path, packed.getvalue())
