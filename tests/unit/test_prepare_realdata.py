"""The shared real cohorts: they keep the contract, and their prepared cases go back to the stored grid."""

import logging
from pathlib import Path

import pytest
import torch

from fedsilo.cohort import manifest, preprocess
from fedsilo.cohort import roster as rosters
from tasks import prepare, trails, workers
from tasks.paths import RunPaths
from tests.unit import raw_site

DATA = raw_site.REPOSITORY / "../shared/data/abdomen"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared real cohorts are not beside the repository"),
]


@pytest.fixture(scope="module")
def kidneys(tmp_path_factory):
    """The kidneys cohort without its largest site, prepared."""
    roster, params = rosters.load_run(
        raw_site.REPOSITORY / "cohorts/kidneys.yaml", raw_site.REPOSITORY / "params.yaml", [f"data.root={DATA}"]
    )
    small = roster.model_copy(update={"sites": tuple(site for site in roster.sites if site.name != "curvas_ct")})
    preparation = prepare.Preparation(
        roster=small,
        params=params,
        paths=RunPaths(workspace=tmp_path_factory.mktemp("kidneys"), cohort="kidneys", run="kidneys"),
        data_root=Path(params.data.root),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "run", lambda function, **arguments: function(**arguments, device="cpu"))
        patch.setattr(prepare, "get_run_logger", lambda: logging.getLogger("prepare"))
        patch.setattr(prepare, "create_table_artifact", lambda **content: None)
        with trails.held(preparation.paths, preparation.sites):
            for site in preparation.sites:
                prepare.measure.fn(site, preparation)
            prepare.check.fn(preparation)
            for site in preparation.sites:
                prepare.prepare.fn(site, preparation)
    return preparation


def rows(preparation, site):
    return manifest.read(preparation.paths.prepared_site(site) / "manifest.csv")


@pytest.mark.parametrize(
    ("site", "num_cases", "num_patients", "geometry"),
    [("chaos_mr_t2", 16, 16, "mm"), ("kits19_ct", 24, 5, "pixel"), ("ukrin_kidney_mr_t2", 21, 17, "pixel")],
)
def test_all_cases_are_prepared_and_patients_kept_apart(kidneys, site, num_cases, num_patients, geometry):
    found = rows(kidneys, site)

    assert len(found) == num_cases
    assert {row.geometry for row in found} == {geometry}
    assert len({row.patient for row in found}) == num_patients
    assert len({(row.patient, row.split) for row in found}) == num_patients


def test_inside_sites_have_every_split(kidneys):
    for site in ("chaos_mr_t2", "kits19_ct"):
        assert {row.split for row in rows(kidneys, site)} == {"train", "val", "test"}


@pytest.mark.parametrize("site", ["chaos_mr_t2", "kits19_ct"])
def test_the_working_label_goes_back_nearly_to_the_stored_one(kidneys, site):
    """The working grid is up to four times coarser in the plane."""
    overlaps = []
    for row in rows(kidneys, site)[:4]:
        case = preprocess.load(kidneys.paths.prepared_site(site) / row.file)
        onehot = torch.stack([(case.label == value).float() for value in (0, 1)])
        native = preprocess.to_native(onehot, case.recipe)
        assert native.shape == case.native_label.shape
        overlaps.append(float(2 * (native & case.native_label).sum() / (native.sum() + case.native_label.sum())))

    assert min(overlaps) > 0.85
