"""Whatever bytes a file has: a reader succeeds or raises an error of ours."""

import contextlib
from pathlib import Path

import hypothesis
import numpy
import pytest
from hypothesis import strategies

from fedsilo.errors import FedsiloError
from fedsilo.ingest import dicom_files, dicom_labels, dicom_series, itk, nifti, pixels, slices, tree
from fedsilo.ingest.source import SourceCase
from tests.unit import dicom_source, raw_source
from tests.unit.test_ingest_layouts import write_itk

changes = strategies.lists(
    strategies.tuples(strategies.integers(0, 1 << 16), strategies.integers(0, 255)), min_size=1, max_size=6
)
SETTINGS = hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])


def read_series(path):
    series = dicom_series.read(sorted(path.parent.glob("canary_*")))
    dicom_labels.draw([path.parent / "seg"], series, {"liver": 1, "kidneys": 2})


def read_label(path):
    dicom_labels.references(path)
    dicom_labels.names(path)
    series = dicom_series.read(sorted(path.parent.glob("canary_*")))
    dicom_labels.draw([path], series, {"liver": 1, "kidneys": 2})


READERS = {
    "nii": nifti.read,
    "nii.gz": nifti.read,
    "mha": itk.read,
    "nrrd": itk.read,
    "png": pixels.read,
    "tif": pixels.read,
    "npz": lambda path: slices.read(SourceCase("x", "x", (path,), (path,)), {"liver": 1}),
    "slice": read_series,
    "seg": read_label,
    "rt": read_label,
    "header": dicom_files.header,
    "json": lambda path: tree.read_json(path, "dataset.json"),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A valid file for each reader."""
    folder = tmp_path_factory.mktemp("valid")
    image, label = raw_source.voxels(0)
    paths = dicom_source.series(folder / "dicom")
    found = {
        "nii": raw_source.nifti(folder / "x.nii", image),
        "nii.gz": raw_source.nifti(folder / "x.nii.gz", image),
        "mha": write_itk(folder / "x.mha", image),
        "nrrd": write_itk(folder / "x.nrrd", image),
        "png": raw_source.picture(folder / "x.png", raw_source.slices(0)[0]),
        "tif": raw_source.picture(folder / "x.tif", raw_source.slices(0)[0]),
        "npz": next(raw_source.npz(folder / "npz", 1).iterdir()),
        "slice": paths[2],
        "header": paths[3],
        "seg": dicom_source.segmentation(folder / "dicom" / "seg", paths, label),
        "rt": dicom_source.structures(
            folder / "dicom" / "rt", paths, {"liver": [(2, numpy.array([[-19, -14, 17], [-9, -14, 17], [-9, -3, 17]]))]}
        ),
        "json": raw_source.describe(folder / "json", labels=raw_source.LABELS) / "dataset.json",
    }
    return {name: Path(path) for name, path in found.items()}


@pytest.mark.parametrize("kind", READERS)
def test_changed_bytes_raise_nothing_else(valid, kind):
    path = valid[kind]
    original = path.read_bytes()

    @SETTINGS
    @hypothesis.given(changed=changes, cut=strategies.one_of(strategies.none(), strategies.integers(0, len(original))))
    def holds(changed, cut):
        content = bytearray(original)
        for place, value in changed:
            content[place % len(content)] = value
        path.write_bytes(bytes(content[:cut]))
        with contextlib.suppress(FedsiloError):
            READERS[kind](path)

    try:
        holds()
    finally:
        path.write_bytes(original)
