"""Traces of people: found in every field, and never shown."""

import gzip

import nibabel
import numpy
import PIL.Image
import PIL.PngImagePlugin
import pytest

from fedsilo.cohort import privacy

CANARY = "MUELLER^EVA"


def write_nifti(path, *, extension=None, **fields):
    image = nibabel.Nifti1Image(numpy.zeros((4, 4, 4), numpy.int16), numpy.eye(4))
    for field, text in fields.items():
        image.header[field] = text.encode()
    if extension is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(extension, b"what a tool kept"))
    path.write_bytes(gzip.compress(image.to_bytes()))
    return path


@pytest.mark.parametrize("field", privacy.NIFTI_FIELDS)
def test_a_name_is_found_in_every_text_field(tmp_path, field):
    path = write_nifti(tmp_path / "a_0000.nii.gz", **{field: CANARY[:10]})

    found = privacy.of_case("a", "a", (path,))

    assert found == (privacy.Trace(field, "caret_name"),)
    assert CANARY[:7] not in repr(found)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("MUELLER^EVA", {"caret_name"}),
        ("born 1961-02-03", {"date"}),
        ("19610203", {"date", "long_number"}),
        ("03.02.1961", {"date"}),
        ("id 1234567", {"long_number"}),
        ("eva@example.org", {"mail"}),
        ("Eva Mueller", {"text"}),
        ("FSL5.0", set()),
        ("TE=30;Time=123456.789", set()),
        ("ITK 4.13", set()),
        ("6.0.5:9e026117", {"long_number"}),
        ("FSL6.0.5:9e026117", set()),
        ("FSL6.0.5:19610203", {"date", "long_number"}),
        ("ITK hannelore", {"text"}),
        ("SPM12 11.02.1948", {"date"}),
        ("r", set()),
        ("", set()),
        ("\0\0", set()),
    ],
)
def test_what_a_text_is(text, kinds):
    assert {trace.kind for trace in privacy.traces({"descrip": text}, free_text=True)} == kinds


def test_names_of_cases_and_files_are_no_free_text(tmp_path):
    path = write_nifti(tmp_path / "case_7_0000.nii.gz")

    assert privacy.of_case("case_7", "patient-7", (path,)) == ()
    assert {trace.field for trace in privacy.of_case("MUELLER^EVA", "19610203", (path,))} == {"case", "patient"}


@pytest.mark.parametrize(("code", "kind"), [(2, "dicom_extension"), (6, "text")])
def test_every_header_extension_is_a_trace(tmp_path, code, kind):
    path = write_nifti(tmp_path / "a_0000.nii.gz", extension=code)

    assert privacy.of_case("a", "a", (path,)) == (privacy.Trace("extension", kind),)


def test_text_chunks_of_a_png(tmp_path):
    path = tmp_path / "a_0000.png"
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_text("PatientName", CANARY)
    PIL.Image.fromarray(numpy.zeros((8, 8), numpy.uint8)).save(path, pnginfo=chunks)

    (found,) = privacy.of_case("a", "a", (path,))

    assert found.kind == "caret_name"
    assert CANARY not in repr(found)
    assert "PatientName" not in repr(found)


def test_a_name_that_may_be_a_person_s_is_hidden_the_same_way_each_time():
    hidden = privacy.shown("Grausam_Hannelore_19480211")

    assert hidden == privacy.shown("Grausam_Hannelore_19480211") != privacy.shown("Grausam_Hannelore_19480212")
    assert hidden.startswith("hidden-")
    assert privacy.traces({"case": hidden}, free_text=False) == ()
    assert privacy.shown("case_07") == "case_07"


def test_a_path_in_a_message_is_hidden_too(tmp_path):
    path = tmp_path / "Grausam_19480211_0000.nii.gz"

    told = privacy.nameless(f"cannot read {path}: {path.name} is cut off", [path, tmp_path / "case_1_0000.nii.gz"])

    assert "Grausam" not in told
    assert told.count("hidden-") == 2
