"""The manifest: what is written comes back, and damage is named."""

from dataclasses import replace

import pytest

from fedsilo.cohort import manifest
from fedsilo.cohort.manifest import ManifestRow
from fedsilo.errors import DataError

ROW = ManifestRow(
    case="b",
    patient="p, with a comma",
    split="train",
    file="cases/b.safetensors",
    sha256="0" * 64,
    content_hash="1" * 64,
    label_hash="2" * 64,
    modality="MR",
    geometry="mm",
    annotated="1|2",
    num_slices=24,
    spacing_zyx="8|6|6",
)


@pytest.fixture
def path(tmp_path):
    return manifest.write(
        [ROW, replace(ROW, case="a", file="cases/a.safetensors", split="test", geometry="pixel", spacing_zyx="")],
        tmp_path / "manifest.csv",
    )


def test_rows_come_back_sorted_by_case(path):
    rows = manifest.read(path)

    assert [row.case for row in rows] == ["a", "b"]
    assert rows[1] == ROW
    assert rows[0].spacing_zyx == ""


def test_the_columns_are_those_agreed(path):
    assert path.read_text().splitlines()[0] == (
        "case,patient,split,file,sha256,content_hash,label_hash,modality,geometry,annotated,num_slices,spacing_zyx"
    )


def test_the_order_of_rows_does_not_change_the_file(path, tmp_path):
    again = manifest.write(reversed(manifest.read(path)), tmp_path / "again.csv")

    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("found", "written", "message"),
    [
        ("train", "trian", "split of case b"),
        (",24,", ",many,", "num_slices of case a"),
        ("cases/b", "cases/b\nc,d", "columns"),
        ("case,patient", "case,person", "columns"),
        ("\na,", "\nb,", "plain name of a case and its file"),
        (",MR,", ",PET,", "modality"),
    ],
)
def test_damage_is_named(path, found, written, message):
    path.write_text(path.read_text().replace(found, written, -1 if found == ",MR," else 1))

    with pytest.raises(DataError, match=message):
        manifest.read(path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.csv"):
        manifest.read(tmp_path / "manifest.csv")


def test_an_empty_manifest_has_no_rows(tmp_path):
    assert manifest.read(manifest.write([], tmp_path / "manifest.csv")) == []
