"""DICOM: where slices lie decides everything; labels lie on the grid of their series or are refused."""

import nibabel
import numpy
import pydicom
import pytest

from fedsilo.errors import DataError
from fedsilo.ingest import contours, dicom_labels, dicom_series
from fedsilo.ingest.source import SourceError
from tests.unit import dicom_source, ingested, raw_source

OBLIQUE = tuple(nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3)[:, :2].T.ravel().round(9))
LABELS = {"background": 0, "liver": 1, "kidneys": 2}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in" / "CANARY^EVA"
    made.mkdir(parents=True)
    return made


def test_ct_with_seg_there_and_back(folder, tmp_path):
    slices = dicom_source.series(folder)
    dicom_source.segmentation(folder / "seg", slices, raw_source.voxels(0)[1])

    made = ingested.run(tmp_path / "in", tmp_path)

    image, label = made.image(str(dicom_source.uid("one")))
    assert numpy.array_equal(image.channels[0], raw_source.voxels(0)[0])
    assert image.channels.dtype == numpy.int16
    numpy.testing.assert_allclose(image.affine, dicom_source.affine_ras(), atol=1e-6)
    assert made.site.labels == {"background": 0, "kidneys": 1, "liver": 2}  # by name, in order of names
    assert numpy.array_equal(label, numpy.array([0, 2, 1])[raw_source.voxels(0)[1]])
    assert {row["source"] for row in made.identities() if row["kind"] == "patient"} == {f"{raw_source.NUMBER}-1"}


def box(label, value, affine_lps, index):
    """Corners of an organ's rectangle in a slice, half a voxel outside of its centres."""
    low, high = numpy.argwhere(label[:, :, index] == value).min(axis=0), numpy.argwhere(label[:, :, index] == value).max(axis=0)
    (i0, j0), (i1, j1) = low - 0.5, high + 0.5
    corners = numpy.array([[i0, j0, index], [i1, j0, index], [i1, j1, index], [i0, j1, index]])
    return nibabel.affines.apply_affine(affine_lps, corners)


@pytest.mark.parametrize("orientation", [dicom_source.AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_mr_with_rtstruct_there_and_back(folder, tmp_path, orientation):
    slices = dicom_source.series(folder, orientation=orientation, modality="MR", RescaleSlope=1, RescaleIntercept=-1024)
    label = raw_source.voxels(0)[1]
    lps = numpy.diag([-1.0, -1, 1, 1]) @ dicom_source.affine_ras(orientation)
    organs = {"Liver": (1, range(1, 4)), "Kidneys": (2, range(2, 5))}
    drawn = {name: [(index, box(label, value, lps, index)) for index in where] for name, (value, where) in organs.items()}
    dicom_source.structures(folder / "rt", slices, drawn)

    made = ingested.run(tmp_path / "in", tmp_path)

    image, found = made.image(str(dicom_source.uid("one")))
    assert numpy.array_equal(image.channels[0], raw_source.voxels(0)[0])
    numpy.testing.assert_allclose(image.affine, dicom_source.affine_ras(orientation), atol=1e-5)
    assert numpy.array_equal(found, numpy.array([0, 2, 1])[label])


def test_monochrome1_changes_no_hounsfield_unit(folder):
    series = dicom_series.read(dicom_source.series(folder, PhotometricInterpretation="MONOCHROME1"))

    assert numpy.array_equal(series.array, raw_source.voxels(0)[0])
    assert series.findings == ()


def test_monochrome1_of_mr_is_mirrored_within_its_bits_and_said(folder):
    series = dicom_series.read(dicom_source.series(folder, modality="MR", PhotometricInterpretation="MONOCHROME1"))

    assert numpy.array_equal(series.array, 65535 - (raw_source.voxels(0)[0].astype(int) + 1024))
    assert [finding.kind for finding in series.findings] == ["voxel type"]


@pytest.mark.parametrize("syntax", [pydicom.uid.JPEG2000, pydicom.uid.HTJ2K])
def test_a_syntax_that_may_lose_is_refused_whatever_the_header_says(folder, syntax):
    paths = dicom_source.series(folder, LossyImageCompression="00")
    found = pydicom.dcmread(paths[3])
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = pydicom.encaps.encapsulate([found.PixelData])
    found["PixelData"].VR = "OB"
    found.save_as(paths[3])

    with pytest.raises(SourceError, match="compressed with loss, or may be"):
        dicom_series.read(paths)


def test_slope_and_intercept_are_those_of_each_slice(folder):
    paths = dicom_source.series(folder, tags_of=lambda index: {"RescaleSlope": 0.5 * (index + 1), "RescaleIntercept": index})

    array = dicom_series.read(paths).array

    stored = raw_source.voxels(0)[0] + 1024.0
    assert array.dtype == numpy.float32
    assert numpy.array_equal(array, stored * 0.5 * (numpy.arange(6) + 1) + numpy.arange(6))


def test_order_of_files_and_instance_numbers_does_not_matter(folder, tmp_path):
    one = dicom_series.read(dicom_source.series(folder))
    other = dicom_series.read(dicom_source.series(tmp_path / "other", order=[5, 4, 3, 2, 1, 0])[::-1])

    assert numpy.array_equal(one.array, other.array)
    assert numpy.array_equal(one.affine_lps, other.affine_lps)


def test_equal_duplicates_are_dropped_and_said(folder):
    paths = dicom_source.series(folder)
    copy = pydicom.dcmread(paths[2])
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = dicom_source.uid("copy")
    copy.save_as(folder / "copy")

    series = dicom_series.read([*paths, folder / "copy"])

    assert numpy.array_equal(series.array, raw_source.voxels(0)[0])
    assert [finding.kind for finding in series.findings] == ["slices"]
    assert series.place_of[str(dicom_source.uid("copy"))] == 2


def test_different_slices_in_one_place_are_refused(folder):
    paths = dicom_source.series(folder)
    echo = pydicom.dcmread(paths[2])
    echo.SOPInstanceUID = echo.file_meta.MediaStorageSOPInstanceUID = dicom_source.uid("echo")
    echo.PixelData = echo.PixelData[::-1]
    echo.save_as(folder / "echo")

    with pytest.raises(SourceError, match="different slices lie in one place"):
        dicom_series.read([*paths, folder / "echo"])


def test_mixed_series_in_one_folder_are_told_apart(folder, tmp_path):
    first, second = dicom_source.series(folder / "a", "one"), dicom_source.series(folder / "a" / "b", "two", seed=1)
    dicom_source.series(folder, "scout", seed=2)
    dicom_source.segmentation(folder / "seg1", first, raw_source.voxels(0)[1])
    dicom_source.segmentation(folder / "seg2", second, raw_source.voxels(1)[1])

    made = ingested.run(tmp_path / "in", tmp_path)

    assert numpy.array_equal(made.image(str(dicom_source.uid("two")))[0].channels[0], raw_source.voxels(1)[0])
    assert len(made.site.cases) == 2
    assert made.counts["[no label, left out] no SEG or RTSTRUCT file refers to it"] == 1


@pytest.mark.parametrize("omit_empty", [True, False])
def test_frames_that_are_not_there_are_empty(folder, omit_empty):
    paths = dicom_source.series(folder)
    label = numpy.where(numpy.arange(6) == 2, raw_source.voxels(0)[1], 0)
    dicom_source.segmentation(folder / "seg", paths, label, omit_empty=omit_empty)

    drawn = dicom_labels.draw([folder / "seg"], dicom_series.read(paths), LABELS).label

    assert numpy.array_equal(drawn, label)


@pytest.mark.parametrize(("scale", "expected"), [(0.5, 1), (0.49, 0)])
def test_half_of_a_fraction_belongs_to_the_organ(folder, scale, expected):
    paths = dicom_source.series(folder)
    label = (raw_source.voxels(0)[1] == 1).astype(numpy.uint8)
    dicom_source.segmentation(folder / "seg", paths, label, ["liver"], kind="FRACTIONAL", scale=scale)

    drawn = dicom_labels.draw([folder / "seg"], dicom_series.read(paths), LABELS).label

    assert numpy.array_equal(drawn, label * expected)


def shifted(found, index, by):
    position = numpy.array(found.ImagePositionPatient, float) + by
    found.ImagePositionPatient = position.tolist()


BROKEN = {
    "missing slice": (lambda found: None, 3, "missing or unevenly spaced: expected gaps of 5 mm, got 10 mm"),
    "uneven gap": (lambda found: shifted(found, 3, [0, 0, 1.0]), None, "missing or unevenly spaced"),
    "mixed orientation": (
        lambda found: setattr(found, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]),
        None,
        "mixed orientation",
    ),
    "sideways": (lambda found: shifted(found, 3, [1.0, 0, 0]), None, "shifted sideways"),
    "no position": (
        lambda found: delattr(found, "ImagePositionPatient"),
        None,
        "ImagePositionPatient: expected 3 numbers, got 0",
    ),
    "other spacing": (lambda found: setattr(found, "PixelSpacing", [1, 1]), None, "differ in PixelSpacing"),
    "other patient": (lambda found: setattr(found, "PatientID", "CANARY"), None, "differ in PatientID"),
    "cut pixels": (lambda found: setattr(found, "PixelData", found.PixelData[:50]), None, "cannot be decoded or are cut off"),
    "colours": (lambda found: setattr(found, "SamplesPerPixel", 3), None, "colours"),
    "table": (lambda found: setattr(found, "ModalityLUTSequence", [pydicom.Dataset()]), None, "by a table"),
    "zero slope": (lambda found: setattr(found, "RescaleSlope", 0), None, "slope and intercept cannot be used"),
    "frames": (lambda found: setattr(found, "NumberOfFrames", 6), None, "multi-frame"),
    "lossy": (lambda found: setattr(found.file_meta, "TransferSyntaxUID", pydicom.uid.JPEGBaseline8Bit), None, "with loss"),
    "no decoder": (
        lambda found: setattr(found.file_meta, "TransferSyntaxUID", pydicom.uid.MPEG2MPML),
        None,
        "no decoder for the transfer",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_series_is_refused_by_its_reason(folder, fault):
    change, skipped, reason = BROKEN[fault]
    paths = dicom_source.series(folder, skip=() if skipped is None else (skipped,))
    if skipped is None:
        found = pydicom.dcmread(paths[3])
        change(found)
        if fault in ("lossy", "no decoder"):
            found.PixelData = pydicom.encaps.encapsulate([found.PixelData])
            found["PixelData"].VR = "OB"
        found.save_as(paths[3])

    with pytest.raises(SourceError, match=reason):
        dicom_series.read(paths)


def test_gantry_tilt_is_refused(folder):
    paths = dicom_source.series(folder)
    for index, path in enumerate(paths):
        found = pydicom.dcmread(path)
        shifted(found, index, [0, 0.7 * index, 0])
        found.save_as(path)

    with pytest.raises(SourceError, match="gantry tilt"):
        dicom_series.read(paths)


def test_overlap_and_other_grids_are_refused(folder, tmp_path):
    paths = dicom_source.series(folder)
    series, lps = dicom_series.read(paths), numpy.diag([-1.0, -1, 1, 1]) @ dicom_source.affine_ras()
    square = box(raw_source.voxels(0)[1], 1, lps, 2)
    dicom_source.structures(folder / "overlap", paths, {"liver": [(2, square)], "kidneys": [(2, square)]})
    dicom_source.structures(folder / "between", paths, {"liver": [(2, square + numpy.array([0, 0, 2.5]))]})
    dicom_source.structures(folder / "elsewhere", paths, {"liver": [(3, square)]})
    dicom_source.structures(folder / "open", paths, {"liver": [(2, square)]}, kind="OPEN_PLANAR")
    other = dicom_source.series(tmp_path / "other", gap=4.0)
    dicom_source.segmentation(folder / "moved", other, raw_source.voxels(0)[1])

    reasons = {
        "overlap": "overlaps another organ", "between": "lies in no slice", "elsewhere": "refers to one slice and lies in another",
        "open": "not closed and planar", "moved": "lies in no slice",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(SourceError, match=reason):
            dicom_labels.draw([folder / name], series, LABELS)


def test_a_hole_is_a_contour_inside_a_contour(folder):
    paths = dicom_source.series(folder)
    series, lps = dicom_series.read(paths), numpy.diag([-1.0, -1, 1, 1]) @ dicom_source.affine_ras()
    outer = numpy.array([[0.5, 0.5, 2], [8.5, 0.5, 2], [8.5, 8.5, 2], [0.5, 8.5, 2]])
    inner = numpy.array([[2.5, 2.5, 2], [5.5, 2.5, 2], [5.5, 5.5, 2], [2.5, 5.5, 2]])
    drawn = [(2, nibabel.affines.apply_affine(lps, corners)) for corners in (outer, inner)]
    dicom_source.structures(folder / "rt", paths, {"liver": drawn})

    label = dicom_labels.draw([folder / "rt"], series, LABELS).label

    expected = numpy.zeros_like(label)
    expected[1:9, 1:9, 2] = 1
    expected[3:6, 3:6, 2] = 0
    assert numpy.array_equal(label, expected)


def drawn_liver(folder, *indices, again=lambda corners: corners):
    """Draw the liver on these slices, one of them twice if it is named twice."""
    paths = dicom_source.series(folder)
    lps = numpy.diag([-1.0, -1, 1, 1]) @ dicom_source.affine_ras()
    label = raw_source.voxels(0)[1]
    contours_of = []
    for place, index in enumerate(indices):
        corners = box(label, 1, lps, index)
        contours_of.append((index, again(corners) if index in indices[:place] else corners))
    dicom_source.structures(folder / "rt", paths, {"liver": contours_of, "kidneys": []})
    return dicom_labels.draw([folder / "rt"], dicom_series.read(paths), LABELS)


@pytest.mark.parametrize(
    "again", [lambda corners: corners, lambda corners: corners[::-1], lambda corners: numpy.roll(corners, 1, axis=0)]
)
def test_a_contour_that_is_listed_twice_is_drawn_once_and_said(folder, again):
    drawn = drawn_liver(folder, 1, 2, 3, 2, again=again)

    assert numpy.array_equal(drawn.label, raw_source.voxels(0)[1] == 1)
    assert [finding.message for finding in drawn.findings] == ["liver: 1 contours are listed twice; each is drawn once"]


def test_slices_without_a_contour_between_others_are_said(folder):
    drawn = drawn_liver(folder, 1, 3)

    assert drawn.label.any(axis=(0, 1)).tolist() == [False, True, False, True, False, False]
    (finding,) = drawn.findings
    assert finding.kind == "slices"
    assert finding.message.startswith("liver: 1 slices between its first and its last contour have none and are background")


def test_filling_agrees_with_counting_crossings_at_every_centre():
    points = numpy.random.default_rng(3).uniform(-2, 14, (9, 2))

    def inside(i, j):
        ends = numpy.roll(points, -1, axis=0)
        return (
            sum(
                (a[1] <= j) != (b[1] <= j) and i >= a[0] + (j - a[1]) * (b[0] - a[0]) / (b[1] - a[1])
                for a, b in zip(points, ends, strict=True)
            )
            % 2
        )

    expected = [[inside(i, j) for j in range(11)] for i in range(12)]
    assert numpy.array_equal(contours.fill(points, (12, 11)), numpy.array(expected, bool))


LEFT_OUT = {
    "burned in": ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
    "no patient": ({"patient": ""}, "no PatientID"),
    "screen capture": ({"SOPClassUID": pydicom.uid.SecondaryCaptureImageStorage}, "refers to a series that is not there"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_series_that_may_not_pass_are_left_out(folder, tmp_path, case):
    tags, reason = LEFT_OUT[case]
    good, bad = dicom_source.series(folder), dicom_source.series(folder / "bad", "two", seed=1)
    dicom_source.segmentation(folder / "seg1", good, raw_source.voxels(0)[1])
    dicom_source.segmentation(folder / "seg2", bad, raw_source.voxels(1)[1])
    dicom_source.series(folder / "bad", "two", seed=1, **tags)

    made = ingested.run(tmp_path / "in", tmp_path)

    assert len(made.site.cases) == 1
    assert any(reason in message for message in made.counts)


def test_two_readers_of_one_series_leave_it_out(folder, tmp_path):
    slices = dicom_source.series(folder)
    for name in ("seg1", "seg2"):
        dicom_source.segmentation(folder / name, slices, raw_source.voxels(0)[1])

    with pytest.raises(
        DataError, match=r"no case can be imported, 1 are left out: 1 x \[several labels, left out\] 2 label files"
    ):
        ingested.run(tmp_path / "in", tmp_path)


def test_ct_and_mr_in_one_tree_need_a_choice(folder, tmp_path):
    for name, modality in (("one", "CT"), ("two", "MR")):
        slices = dicom_source.series(folder / name, name, modality=modality)
        dicom_source.segmentation(folder / f"seg{name}", slices, raw_source.voxels(0)[1])

    with pytest.raises(DataError, match="chosen by --modality; labelled are CT, MR"):
        ingested.run(tmp_path / "in", tmp_path)
    assert len(ingested.run(tmp_path / "in", tmp_path, modality="MR").site.cases) == 1
