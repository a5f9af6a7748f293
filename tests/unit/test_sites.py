"""What a participant holds: whole sites, or the first training patients of one."""

import itertools

import pytest

from fedsilo.cohort import manifest
from fedsilo.errors import DataError
from tasks.sites import Holding, annotated_by_all


def row(number, split="train", patient=None, annotated="1|2"):
    return manifest.ManifestRow(
        case=f"case{number:02d}",
        patient=patient or f"patient{number:02d}",
        split=split,
        file=f"cases/case{number:02d}.safetensors",
        sha256="0" * 64,
        content_hash="c",
        label_hash="l",
        modality="MR",
        geometry="mm",
        annotated=annotated,
        num_slices=4,
        spacing_zyx="8|6|6",
    )


@pytest.fixture
def site(tmp_path):
    """Write a site's manifest and return its folder."""

    def write(rows, name="mr-a"):
        manifest.write(rows, tmp_path / name / "manifest.csv")
        return tmp_path / name

    return write


def patients(holding):
    return {chosen.patient for chosen in holding.training_rows()}


def test_all_training_cases_unless_told_otherwise(site):
    folder = site([*(row(number) for number in range(6)), row(6, "val"), row(7, "test")])

    assert [chosen.case for chosen in Holding(folder).training_rows()] == [f"case{number:02d}" for number in range(6)]


def test_fewer_patients_are_among_more(site):
    folder = site([row(number) for number in range(9)])
    chosen = [patients(Holding(folder, number)) for number in range(1, 10)]

    assert [len(found) for found in chosen] == list(range(1, 10))
    assert all(fewer < more for fewer, more in itertools.pairwise(chosen))


def test_seeds_draw_other_patients(site):
    folder = site([row(number) for number in range(9)])

    assert len({frozenset(patients(Holding(folder, 3, seed))) for seed in range(8)}) > 3


def test_a_patient_comes_with_all_cases_in_the_manifest_s_order(site):
    folder = site([row(number, patient=f"p{number // 3}") for number in range(9)])

    for number in (1, 2, 3):
        found = Holding(folder, number).training_rows()
        assert len(found) == 3 * number
        assert [chosen.case for chosen in found] == sorted(chosen.case for chosen in found)


def test_other_patients_do_not_change_the_order(site):
    few = patients(Holding(site([row(number) for number in range(5)]), 2))
    more = patients(Holding(site([row(number) for number in range(4)]), 2))

    assert len(few & more) >= 1
    assert few == more or "patient04" in few


def test_too_few_patients_and_none_are_refused(site):
    folder = site([row(0), row(1, "val")])

    with pytest.raises(DataError, match="site mr-a has 1 training patients, expected 2"):
        Holding(folder, 2).training_rows()
    with pytest.raises(DataError, match="site mr-b has no training case"):
        Holding(site([row(1, "val")], "mr-b")).training_rows()


def test_one_participant_annotates_one_set_of_organs(site):
    holdings = (Holding(site([row(0)], "a")), Holding(site([row(1, annotated="2")], "b")))

    assert annotated_by_all(holdings[:1]) == (1, 2)
    with pytest.raises(DataError, match="one participant cannot hold a and b: they annotate different organs"):
        annotated_by_all(holdings)
