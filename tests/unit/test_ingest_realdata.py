"""The shared real sites are imported with no manual step."""

import shutil

import numpy
import pytest

from fedsilo.cohort import layouts, volumes
from tests.unit import ingested, raw_site

DATA = raw_site.REPOSITORY / "../shared/data/abdomen"
SITES = ("chaos_ct_liver", "chaos_mr_t2", "curvas_ct", "kits19_ct", "msd_spleen_ct", "ukrin_kidney_mr_t2")
MAX_VOLUMES = 2

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared real cohorts are not beside the repository"),
]


@pytest.fixture
def source(request, tmp_path):
    """A site as it is; of volumes, which are slow, the first two."""
    folder = DATA / request.param
    if request.param != "chaos_mr_t2":
        return folder
    kept = [case.case for case in layouts.find_cases(folder, "x").cases[:MAX_VOLUMES]]
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for path in (folder / name).iterdir():
            if any(path.name.startswith(case) for case in kept):
                shutil.copy(path, tmp_path / "in" / name)
    for name in ("dataset.json", "patients.csv"):
        shutil.copy(folder / name, tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.parametrize("source", SITES, indirect=True)
def test_a_real_site_is_imported_whole(source, tmp_path):
    organs = ("background", "liver", "kidneys", "spleen", "pancreas")
    before = layouts.find_cases(source, "x")

    made = ingested.run(source, tmp_path, organs=organs)

    assert made.counts == {}
    assert made.site.labels == before.labels
    assert len({case.patient for case in made.site.cases}) == len({case.patient for case in before.cases})
    for case in before.cases:
        image, label = made.image(case.case)
        expected = volumes.read_image(case.image_paths)
        assert numpy.array_equal(image.channels, expected.channels)
        assert numpy.array_equal(label, volumes.read_image([case.label_path], is_label=True).channels[0])
        assert (image.affine is None and expected.affine is None) or numpy.array_equal(image.affine, expected.affine)
