"""The phantom cohort: deterministic, oriented as stored, with the contrasts that its scanners stand for."""

import nibabel
import numpy
import pytest

from fedsilo import files
from fedsilo.cohort import roster as rosters
from fedsilo.cohort import volumes
from fedsilo.cohort.phantoms import anatomy, cohort
from fedsilo.errors import OutputError, ParamsError
from fedsilo.params import PhantomsParams

SMALL = PhantomsParams(grid_zyx=(12, 24, 32), spacing_zyx_mm=(16.0, 12.0, 12.0), inside_cases=2, outside_cases=1)
ORGANS = {organ: value for value, organ in enumerate(anatomy.ORGANS)}


@pytest.fixture(scope="module")
def roster(repository):
    return rosters.load(repository / "cohorts" / "demo.yaml")


@pytest.fixture(scope="module")
def cases():
    return {site: cohort.make_case(site, 1, scanner, SMALL, seed=42) for site, scanner in cohort.SCANNERS.items()}


def centre(label, organ):
    """World coordinates (R, A, S) of an organ's centroid, through the stored affine."""
    index = numpy.argwhere(label.array == ORGANS[organ]).mean(axis=0)
    return (label.affine @ [*index, 1.0])[:3]


@pytest.mark.parametrize("site", list(cohort.SCANNERS))
def test_organs_lie_where_they_do_in_people(cases, site):
    image, label = cases[site]

    assert centre(label, "liver")[0] > centre(label, "spleen")[0] + 50  # the patient's right is +R
    assert centre(label, "kidneys")[1] < centre(label, "liver")[1]  # kidneys lie behind the liver
    assert centre(label, "kidneys")[2] < centre(label, "spleen")[2]  # and below the spleen
    assert (image.affine == label.affine).all()
    assert image.array.shape == label.array.shape


@pytest.mark.parametrize(
    ("site", "axcodes"), [("ct-a", "LPS"), ("ct-b", "LAS"), ("mr-a", "RAS"), ("mr-b", "LPS"), ("mr-d", "RSA")]
)
def test_each_scanner_stores_its_own_orientation(cases, site, axcodes):
    assert cases[site][0].axcodes == axcodes


def test_one_scanner_is_oblique(cases):
    assert volumes.oblique_deg(cases["mr-b"][0].affine) == pytest.approx(4, abs=0.01)
    assert volumes.oblique_deg(cases["ct-a"][0].affine) == pytest.approx(0, abs=1e-6)


def test_ct_is_in_hu_and_mr_is_positive(cases):
    for site, (image, label) in cases.items():
        liver = numpy.median(image.array[label.array == ORGANS["liver"]])
        if site.startswith("ct"):
            assert image.array.min() >= -1024
            assert image.array.min() < -900
            assert 20 < liver < 140
        else:
            assert image.array.min() >= 0
            assert liver > 10


def test_one_anatomy_on_two_mr_scanners_has_another_order_of_tissues():
    """T2 shows the spleen brighter than the liver, T1 in-phase darker: what GIN has to bridge."""
    ratios = {}
    for site in ("mr-a", "mr-b"):
        image, label = cohort.make_case("mr-a", 2, cohort.SCANNERS[site], SMALL, seed=42)
        medians = {organ: numpy.median(image.array[label.array == ORGANS[organ]]) for organ in ("liver", "spleen")}
        ratios[site] = medians["spleen"] / medians["liver"]

    assert ratios["mr-a"] > 1.2
    assert ratios["mr-b"] < 1


def test_organ_volumes_are_plausible():
    volume_ml = numpy.prod(SMALL.spacing_zyx_mm) / 1000
    labels = [cohort.make_case("ct-a", subject, cohort.SCANNERS["ct-a"], SMALL, seed=42)[1].array for subject in (1, 2, 3)]
    for organ, low, high in (("liver", 600, 2000), ("kidneys", 150, 600), ("spleen", 30, 400), ("pancreas", 10, 150)):
        mean = numpy.mean([(label == ORGANS[organ]).sum() for label in labels]) * volume_ml
        assert low < mean < high, organ


def test_a_site_written_twice_has_the_same_bytes(tmp_path, roster):
    site = roster.site("mr-c")
    written = [cohort.write_site(site, SMALL, tmp_path / name, seed=42) for name in ("first", "second")]

    hashes = [
        {path.relative_to(folder): files.sha256_file(path) for path in folder.rglob("*") if path.is_file()} for folder in written
    ]
    assert hashes[0] == hashes[1]
    assert {str(path) for path in hashes[0]} == {
        "dataset.json", "patients.csv", "imagesTr/mr-c_001_0000.nii.gz", "labelsTr/mr-c_001.nii.gz",
    }  # fmt: skip
    stored = nibabel.load(written[0] / "imagesTr" / "mr-c_001_0000.nii.gz")
    assert stored.get_data_dtype() == numpy.int16


def test_another_seed_is_another_patient(cases):
    other = cohort.make_case("ct-a", 1, cohort.SCANNERS["ct-a"], SMALL, seed=43)

    assert (other[1].array != cases["ct-a"][1].array).any()


def test_a_subject_does_not_depend_on_how_many_there_are(cases):
    more = PhantomsParams(grid_zyx=SMALL.grid_zyx, spacing_zyx_mm=SMALL.spacing_zyx_mm, inside_cases=9, outside_cases=9)

    again = cohort.make_case("ct-a", 1, cohort.SCANNERS["ct-a"], more, seed=42)

    assert (again[0].array == cases["ct-a"][0].array).all()


def test_a_site_without_a_scanner_and_a_folder_with_other_data_are_refused(tmp_path, roster):
    with pytest.raises(ParamsError, match="no phantom scanner"):
        cohort.scanner_of(roster.site("ct-a").model_copy(update={"name": "hospital"}))
    (tmp_path / "ct-a").mkdir()
    (tmp_path / "ct-a" / "precious.txt").write_text("data")
    with pytest.raises(OutputError, match="not phantoms"):
        cohort.write_site(roster.site("ct-a"), SMALL, tmp_path, seed=42)
