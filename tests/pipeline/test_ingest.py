"""Two hospitals' exports become sites of a cohort through the command, and the cohort is prepared from them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

from flows import ingest, prepare
from tests.unit import dicom_source, raw_source

ROOT = Path(__file__).parents[2]
SECRET = f"{raw_source.NAME}_{raw_source.DATE}"
SETTINGS = ("min_sites=1", "min_edge_3d=4", "max_pixel_ratio=2.0", "fov_z_mm=[1.0, 500.0]", "fov_yx_mm=[1.0, 500.0]")


def ct(folder, num_cases=5):
    for index in range(num_cases):
        slices = dicom_source.series(
            folder / f"{raw_source.NAME}{index}", f"s{index}", seed=index, patient=f"{SECRET}{index}", RescaleIntercept=-1624
        )
        dicom_source.segmentation(folder / f"seg{index}", slices, raw_source.voxels(index)[1])
    return folder


@pytest.fixture
def cohort(make_workspace, tmp_path):
    """A workspace with a cohort that has no sites yet."""
    made = make_workspace(tmp_path / "work")
    tree = yaml.safe_load((ROOT / "cohorts" / "kidneys.yaml").read_text())
    tree.update(name="two", root="data/raw/two", organs=["background", "liver", "kidneys"], drop=[], sites=[])
    tree["overrides"]["prepare"] = {"spacing_zyx_mm": [None, 3.0, 2.0], "val_share": 0.2, "test_share": 0.2}
    made.write_cohort(tree)
    return made


def test_a_decathlon_folder_and_a_dicom_tree_are_imported_and_prepared(cohort, tmp_path, prefect_backend, capfd):
    sources = {"mr": raw_source.msd(tmp_path / SECRET / "msd", 5, shift=100), "ct": ct(tmp_path / SECRET / "dicom")}
    entries = []
    for site, source in sources.items():
        assert ingest.main([str(source), "--site", site, "--no-dvc", *cohort.arguments()]) == 0
        told = capfd.readouterr()
        assert not any(canary in told.out + told.err for canary in raw_source.CANARIES)
        line = next(line for line in told.out.splitlines() if line.startswith("  - {name:"))
        entries += yaml.safe_load(line.replace("inside|outside", "inside").replace("hu|au|windowed_8bit", "au"))

    assert [(entry["modality"], entry["intensity_unit"]) for entry in entries] == [("MR", "au"), ("CT", "hu")]
    cohort.write_cohort({**cohort.cohort_tree(), "sites": entries})
    changed = [part for setting in SETTINGS for part in ("--set", f"prepare.contract.{setting}")]
    assert prepare.main(cohort.arguments(*changed)) == 0
    for site in sources:
        assert len((cohort.folder / f"data/prepared/two/{site}/manifest.csv").read_text().splitlines()) == 6

    assert ingest.main([str(sources["mr"]), "--site", "mr", "--no-dvc", *cohort.arguments()]) == 1
    assert "is there already; --update" in capfd.readouterr().err
    database = Path(PREFECT_API_DATABASE_CONNECTION_URL.value().partition(":///")[2])
    stored = b"".join(path.read_bytes() for path in database.parent.glob(f"{database.name}*"))
    assert b"ingest mr" in stored
    assert not [canary for canary in raw_source.CANARIES if canary.encode() in stored]


def test_an_unknown_organ_stops_before_anything_is_written(cohort, tmp_path, prefect_backend, capfd):
    source = raw_source.nnunet(tmp_path / "in", 2, labels={"background": 0, "livr": 1, "kidneys": 2})

    assert ingest.main([str(source), "--site", "mr", "--no-dvc", *cohort.arguments()]) == 1

    told = capfd.readouterr().err
    assert "by the name of label 1; nearest: liver" in told
    assert "livr" not in told
    assert not (cohort.folder / "data").exists()


def git(cohort, *arguments):
    return subprocess.run(["git", *arguments], cwd=cohort.folder, check=True, capture_output=True, text=True).stdout


def test_a_server_is_told_of_a_site_once_it_is_versioned_and_committed(cohort, inbox, tmp_path, prefect_backend, monkeypatch):
    url, received, _ = inbox
    git(cohort, "init", "-q")
    git(cohort, "config", "user.useConfigOnly", "true")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=cohort.folder, check=True, capture_output=True)
    source = raw_source.msd(tmp_path / SECRET / "msd", 2, shift=100)
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    order = [str(source), "--site", "mr", *cohort.arguments()]

    assert ingest.main(order) == 1, "git does not know whose commit it would be"
    assert not (cohort.folder / "data").exists()
    git(cohort, "config", "user.email", "test@example.org")
    git(cohort, "config", "user.name", "test")
    assert ingest.main([*order, "--no-commit"]) == 0
    assert received == []
    assert ingest.main([*order, "--update"]) == 0

    assert git(cohort, "log", "--format=%s") == "Data of mr\n"
    assert git(cohort, "show", "--format=", "--name-only") == "data/raw/two/mr.dvc\n"
    ((event,),) = received
    assert event["event"] == "fedsilo.data.accepted"
    assert (event["resource"]["prefect.resource.id"], event["payload"]) == ("fedsilo.site.two.mr", {"cohort": "two"})
    assert not [canary for canary in raw_source.CANARIES if canary in str(event)]
