"""A name, a date and a number in every place that a source has: none of them leaves the folder of the key."""

import csv
import gzip
import json
import logging
import stat

import nibabel
import numpy
import pytest

from fedsilo.cohort import privacy
from fedsilo.errors import DataError
from tests.unit import dicom_source, ingested, raw_source
from tests.unit.test_ingest_layouts import write_itk

SECRET = f"{raw_source.NAME}_{raw_source.DATE}"


def dicom(folder):
    for name, patient in (("one", f"{raw_source.NUMBER}-1"), ("two", raw_source.NAME), ("three", SECRET)):
        slices = dicom_source.series(folder / raw_source.NAME / name, name, patient=patient)
        if name != "three":
            dicom_source.segmentation(folder / raw_source.NAME / f"seg_{name}", slices, raw_source.voxels(0)[1])
    dicom_source.structures(folder / "unrelated", slices, {f"{raw_source.NAME}": []})
    return folder


def chaos(folder):
    dicom_source.series(folder / "CT" / f"{raw_source.NUMBER}/DICOM_anon", order=range(6))
    mask = numpy.where(raw_source.voxels(0)[1] == 1, 255, 0).astype(numpy.uint8)
    for index in range(6):
        raw_source.picture(folder / "CT" / f"{raw_source.NUMBER}/Ground/canary_{index}.png", mask[:, :, index].T)
    return folder


def nnunet(folder, **options):
    """Beside what all have: channels named for a person, a case without a label, a file of another kind."""
    source = raw_source.nnunet(folder, channels=(raw_source.NAME,), **options)
    (source / "imagesTr" / f"{SECRET}.pdf").write_text(SECRET)
    for path in sorted((source / "labelsTr").iterdir())[:1]:
        path.unlink()
    return source


SOURCES = {
    "nnunet": nnunet,
    "mha": lambda folder: nnunet(folder, ending=".mha", write=write_itk),
    "png": lambda folder: nnunet(folder, ending=".png", write=raw_source.picture, make=raw_source.slices),
    "msd": raw_source.msd,
    "bids": raw_source.bids,
    "dicom": dicom,
    "chaos": chaos,
    "npz": raw_source.npz,
}


def everything(folder):
    """Names and contents of all files below a folder, packed ones unpacked too."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)).encode()
        if path.is_file():
            content = path.read_bytes()
            yield content
            if path.name.endswith(".gz"):
                yield gzip.decompress(content)


@pytest.mark.parametrize("kind", SOURCES)
def test_no_canary_leaves(tmp_path, kind, capfd, caplog):
    source = SOURCES[kind](tmp_path / f"in_{SECRET}")
    work = tmp_path / "work"
    with caplog.at_level(logging.DEBUG):
        made = ingested.run(source, work, labels=[("liver", 1)] if kind == "npz" else ())

    told = capfd.readouterr()
    spoken = [told.out, told.err, caplog.text, json.dumps(made.counts)]
    public = [content for part in ("data", "checkpoints") for content in everything(work / part)]
    for canary in raw_source.CANARIES:
        assert not [text[:80] for text in spoken if canary in text], canary
        assert not [content[:80] for content in public if canary.encode() in content], canary
    assert any(
        canary in made.ingestion.identities_path.read_text() for canary in raw_source.CANARIES
    )  # the search finds what is there


@pytest.mark.parametrize("kind", ["nnunet", "png"])
def test_what_is_written_has_no_trace_that_the_contract_would_find(tmp_path, kind):
    made = ingested.run(SOURCES[kind](tmp_path / "in"), tmp_path)

    for case in made.site.cases:
        assert privacy.of_case(case.case, case.patient, (*case.image_paths, case.label_path)) == ()


def test_a_nifti_header_has_geometry_and_nothing_else(tmp_path):
    made = ingested.run(raw_source.nnunet(tmp_path / "in"), tmp_path)

    image = nibabel.load(made.site.cases[0].image_paths[0])
    expected = nibabel.Nifti1Image(raw_source.voxels(0)[0], raw_source.AFFINE)
    expected.header.set_xyzt_units("mm")
    assert image.header == expected.header
    assert not image.header.extensions


def test_a_png_has_pixels_and_nothing_else(tmp_path):
    made = ingested.run(SOURCES["png"](tmp_path / "in"), tmp_path)

    content = made.site.cases[0].image_paths[0].read_bytes()
    chunks, place = [], 8
    while place < len(content):
        chunks.append(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_an_error_about_a_whole_source_does_not_quote_it(tmp_path):
    source = raw_source.nnunet(tmp_path / SECRET)
    (source / "patients.csv").write_text(
        f"case,patient\ncanary_{raw_source.DATE}_0,{raw_source.NAME}\ncanary_{raw_source.DATE}_0,other\n"
    )

    with pytest.raises(DataError, match=r"patients\.csv gives a case two patients") as caught:
        ingested.run(source, tmp_path)
    assert not any(canary in str(caught.value) for canary in raw_source.CANARIES)


QUOTING = {
    "value": {"background": 0, "liver": SECRET},
    "region": {"background": 0, "liver": [SECRET]},
    "negative": {"background": 0, "leber eva canary": -1},
    "unknown name": {"background": 0, "liver": 1, "leber eva canary": 2},
    "value twice": {"background": 0, "liver": 1, "leber eva canary": 1},
    "person": {"background": 0, SECRET: 1},
}


@pytest.mark.parametrize("fault", QUOTING)
def test_an_error_about_labels_quotes_them_beside_the_key_alone(tmp_path, fault, capfd, caplog):
    source = raw_source.nnunet(tmp_path / "in", 1, labels=QUOTING[fault])

    with caplog.at_level(logging.DEBUG), pytest.raises(DataError, match=r"what it is about stands in .*findings\.csv") as caught:
        ingested.run(source, tmp_path)

    told = capfd.readouterr()
    for text in (str(caught.value), told.out, told.err, caplog.text):
        assert not [canary for canary in raw_source.CANARIES if canary in text]
    findings = ingested.ingestion(tmp_path).findings_path
    assert "canary" in findings.read_text().lower()
    assert stat.S_IMODE(findings.stat().st_mode) == 0o600


def test_an_unknown_organ_of_a_dicom_tree_is_not_quoted(tmp_path):
    slices = dicom_source.series(tmp_path / "in")
    dicom_source.segmentation(tmp_path / "in" / "seg", slices, raw_source.voxels(0)[1], ("liver", "leber eva canary"))

    with pytest.raises(DataError, match="knows no organ by the name of label 1") as caught:
        ingested.run(tmp_path / "in", tmp_path)
    assert not any(canary in str(caught.value) for canary in raw_source.CANARIES)


def test_the_owner_can_find_the_way_back(tmp_path):
    made = ingested.run(nnunet(tmp_path / "in"), tmp_path)

    rows = {(row["kind"], row["source"]): row["id"] for row in made.identities()}
    assert rows["case", f"canary_{raw_source.DATE}_2"] in {case.case for case in made.site.cases}
    with made.ingestion.findings_path.open(newline="") as handle:
        left_out = [row for row in csv.DictReader(handle) if row["left_out"] == "yes"]
    assert [row["source"] for row in left_out] == [f"canary_{raw_source.DATE}_0"]
