"""What nobody drew is not background: a case whose label declares less than the others' is left out, and says what it lacks."""

import numpy
import pydicom
import pytest

from fedsilo.errors import DataError
from fedsilo.ingest import organs
from fedsilo.ingest.source import SourceCase
from tests.unit import dicom_source, ingested, raw_site, raw_source
from tests.unit.test_ingest_dicom import box

LIVER = numpy.where(raw_source.voxels(1)[1] == 1, 1, 0).astype(numpy.uint8)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in" / "CANARY^EVA"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def pair(folder):
    """Two series, the first with both organs drawn."""
    slices = [dicom_source.series(folder / name, name, seed=seed, patient=name) for seed, name in enumerate(("one", "two"))]
    dicom_source.segmentation(folder / "seg_one", slices[0], raw_source.voxels(0)[1])
    return slices


def lacks(made, organ):
    """Say whether the second of two series, and no other, is left out for want of an organ."""
    said = [row for row in made.findings() if row["left_out"] == "yes"]
    return (
        len(made.site.cases) == 1
        and [row["source"] for row in said] == [str(dicom_source.uid("two"))]
        and f"does not declare all of {organ}, which other cases" in said[0]["message"]
    )


def test_a_segmentation_without_an_organ_of_the_others_is_left_out(folder, tmp_path, pair):
    dicom_source.segmentation(folder / "seg_two", pair[1], LIVER, ["liver"])

    made = ingested.run(tmp_path / "in", tmp_path)

    assert lacks(made, "kidneys")


def test_a_segment_without_frames_was_looked_for_and_not_found(folder, tmp_path, pair):
    dicom_source.segmentation(folder / "seg_two", pair[1], LIVER)

    made = ingested.run(tmp_path / "in", tmp_path)

    _, label = made.image(str(dicom_source.uid("two")))
    assert numpy.array_equal(label == made.site.labels["liver"], LIVER == 1)
    assert not (label == made.site.labels["kidneys"]).any()


def test_a_structure_without_contours_was_not_drawn(folder, tmp_path, pair):
    lps = numpy.diag([-1.0, -1, 1, 1]) @ dicom_source.affine_ras()
    drawn = [(index, box(LIVER, 1, lps, index)) for index in (1, 2, 3)]
    dicom_source.structures(folder / "rt", pair[1], {"Liver": drawn, "Kidneys": []})

    made = ingested.run(tmp_path / "in", tmp_path)

    assert lacks(made, "kidneys")


def test_a_file_of_nothing_but_dropped_organs_draws_none(folder, tmp_path, pair):
    dicom_source.segmentation(folder / "seg_two", pair[1], LIVER, ["duodenum"])

    made = ingested.run(tmp_path / "in", tmp_path, drop=("duodenum",))

    assert lacks(made, "liver, kidneys")


def test_a_table_of_one_bids_case_without_an_organ_leaves_it_out(tmp_path):
    source = raw_source.bids(tmp_path / "in", session="")
    (source / "derivatives/manual/sub-CANARYa/dseg.tsv").write_text("index\tname\n1\tliver\n")

    made = ingested.run(source, tmp_path)

    assert len(made.site.cases) == 1
    assert [row["source"] for row in made.findings() if "does not declare all of kidneys" in row["message"]] == ["sub-CANARYa"]


def test_one_name_for_both_kidneys_is_as_good_as_two_and_one_of_two_is_not():
    names = {"both": ("kidneys",), "two": ("left kidney", "right kidney"), "one": ("left kidney",), "site": None}
    cases = [SourceCase(name, name, (), (), declared) for name, declared in names.items()]
    labels = {"background": 0, "kidneys": 1, "left kidney": 2, "right kidney": 3}
    vocabulary = raw_site.roster("inside").model_copy(update={"aliases": {"left kidney": "kidneys", "right kidney": "kidneys"}})

    kept, findings = organs.complete(cases, labels, organs.known(labels, vocabulary, "x"), vocabulary)

    assert [case.case for case in kept] == ["both", "two", "site"]
    assert [(finding.case, finding.left_out) for finding in findings] == [("one", True)]


FRAME = dicom_source.uid("frame of both")


@pytest.mark.parametrize("kind", ["seg", "rt"])
def test_a_label_of_a_series_that_is_not_there_is_drawn_on_no_other(folder, tmp_path, kind):
    dicom_source.series(folder / "arterial", "arterial", FrameOfReferenceUID=FRAME)
    other = dicom_source.series(tmp_path / "portal", "portal", seed=5, FrameOfReferenceUID=FRAME)
    if kind == "seg":
        dicom_source.segmentation(folder / "seg", other, raw_source.voxels(5)[1])
    else:
        lps = numpy.diag([-1.0, -1, 1, 1]) @ dicom_source.affine_ras()
        path = dicom_source.structures(folder / "rt", other, {"liver": [(2, box(LIVER, 1, lps, 2))]})
        found = pydicom.dcmread(path)
        found.FrameOfReferenceUID = FRAME
        found.save_as(path)

    with pytest.raises(DataError, match="no SEG or RTSTRUCT file belongs to a series"):
        ingested.run(tmp_path / "in", tmp_path)


def test_a_label_that_refers_to_no_image_belongs_to_the_one_series_of_its_frame(folder, tmp_path):
    slices = dicom_source.series(folder, FrameOfReferenceUID=FRAME)
    lps = numpy.diag([-1.0, -1, 1, 1]) @ dicom_source.affine_ras()
    path = dicom_source.structures(folder / "rt", slices, {"liver": [(2, box(LIVER, 1, lps, 2))]})
    found = pydicom.dcmread(path)
    del found.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    study, frame = pydicom.Dataset(), pydicom.Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", found.StudyInstanceUID
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = FRAME, [study]
    found.ReferencedFrameOfReferenceSequence = [frame]
    found.save_as(path)

    made = ingested.run(tmp_path / "in", tmp_path)

    _, label = made.image(str(dicom_source.uid("one")))
    assert numpy.array_equal(label, numpy.where(numpy.arange(6) == 2, LIVER, 0))
