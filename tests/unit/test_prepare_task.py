"""The preparation's tasks without an engine: one task body after the other on tiny sites."""

import json
import logging
import shutil
from types import SimpleNamespace

import numpy
import pandas
import pytest

from fedsilo import files
from fedsilo.cohort import contract, manifest, preprocess
from fedsilo.errors import ContractError, DataError, OutputError
from tasks import expectations, prepare, workers
from tasks.paths import RunPaths
from tests.unit import raw_site


@pytest.fixture(autouse=True, scope="module")
def without_engine():
    """Jobs run here instead of in a worker, logs go to the tests' log, and no artifact is sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "run", lambda function, **arguments: function(**arguments, device="cpu"))
        patch.setattr(prepare, "get_run_logger", lambda: logging.getLogger("prepare"))
        patch.setattr(prepare, "create_table_artifact", lambda **content: None)
        yield


@pytest.fixture
def without_rules(monkeypatch):
    """Where the contract is not what a test is about: Great Expectations takes a second a site."""
    passed = SimpleNamespace(findings=(), page="")
    monkeypatch.setattr(expectations, "check", lambda rows, rules: dict.fromkeys(rows, passed))


def make(folder, *roles):
    """A cohort whose inside sites have six volumes each and whose outside site four slices."""
    roster = raw_site.roster(*roles)
    for index, site in enumerate(roster.sites):
        if site.role == "inside":
            raw_site.write_site(folder / "raw" / site.folder, 6, seed=index)
        else:
            raw_site.write_pixel_site(folder / "raw" / site.folder, 4)
    return prepare.Preparation(
        roster=roster,
        params=raw_site.params("prepare.size_yx_px=[32, 32]"),
        paths=RunPaths(workspace=folder, cohort="tiny", run="tiny"),
        data_root=folder / "raw",
    )


@pytest.fixture
def preparation(tmp_path):
    return make(tmp_path, "inside", "outside")


def play(preparation):
    """Do what the flow does."""
    for site in preparation.sites:
        prepare.measure.fn(site, preparation)
    prepare.check.fn(preparation)
    for site in preparation.sites:
        prepare.prepare.fn(site, preparation)


def raw(preparation, site="site-a"):
    return preparation.data_root / site


def verdict(preparation, site):
    return json.loads((preparation.paths.docs_dir / site / "contract.json").read_text())


def results(preparation):
    """SHA-256 of every prepared file."""
    root = preparation.paths.prepared_site("site-a").parent
    return {str(path.relative_to(root)): files.sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory, without_engine):
    """A prepared cohort; read only."""
    preparation = make(tmp_path_factory.mktemp("clean"), "inside", "outside")
    play(preparation)
    return preparation


class TestCleanCohort:
    def test_every_case_is_in_the_manifest_with_the_hash_of_its_file(self, done):
        for site, num_cases in (("site-a", 6), ("site-b", 4)):
            folder = done.paths.prepared_site(site)
            rows = manifest.read(folder / "manifest.csv")
            assert len(rows) == num_cases
            for row in rows:
                case = preprocess.load(folder / row.file)
                assert files.sha256_file(folder / row.file) == row.sha256
                assert case.label.shape[0] == row.num_slices
                assert case.recipe.geometry == row.geometry == ("mm" if site == "site-a" else "pixel")

    def test_inside_sites_are_split_and_outside_ones_tested(self, done):
        splits = {
            site: [row.split for row in manifest.read(done.paths.prepared_site(site) / "manifest.csv")] for site in done.sites
        }

        assert {split: splits["site-a"].count(split) for split in ("train", "val", "test")} == {"train": 2, "val": 1, "test": 3}
        assert set(splits["site-b"]) == {"test"}

    def test_labels_carry_the_values_of_the_federation(self, done):
        _, label = raw_site.voxels(0)
        case = preprocess.load(done.paths.prepared_site("site-a") / "cases/case_0.safetensors")

        numpy.testing.assert_array_equal(case.native_label.numpy(), numpy.array([0, 2, 1], numpy.uint8)[label])
        assert manifest.read(done.paths.prepared_site("site-a") / "manifest.csv")[0].annotated == "1|2"

    def test_facts_verdict_and_page_are_written(self, done):
        folder = done.paths.prepared_site("site-a")
        table = pandas.read_parquet(folder / "facts.parquet")
        written = json.loads((folder / "contract.json").read_text())

        assert list(table["case"]) == [f"case_{index}" for index in range(6)]
        assert set(table["split"]) == {"train", "val", "test"}
        assert written == verdict(done, "site-a")
        assert (written["site"], written["num_cases"], written["success"], written["findings"]) == ("site-a", 6, True, [])
        assert {"F1", "F2", "G1", "G3", "I1", "L1", "D1", "D2"} <= {rule["rule"] for rule in written["rules"]}
        assert "//great-expectations-web-assets" not in (done.paths.docs_dir / "site-b" / "index.html").read_text()

    def test_nothing_is_left_beside_the_sites(self, done):
        assert sorted(path.name for path in done.paths.prepared_site("site-a").parent.iterdir()) == ["site-a", "site-b"]


class TestFaults:
    def test_a_missing_folder(self, preparation):
        shutil.rmtree(raw(preparation))

        with pytest.raises(DataError, match=r"site-a.*missing"):
            play(preparation)

    def test_an_unknown_organ(self, preparation):
        raw_site.describe(raw(preparation), labels={"background": 0, "lver": 1, "kidneys": 2})

        with pytest.raises(DataError, match=r"site-a.*lver.*liver"):
            play(preparation)

    def test_broken_rules_stop_the_flow_after_the_verdicts_are_written(self, tmp_path):
        preparation = make(tmp_path, "inside", "inside")
        path = raw(preparation, "site-a") / "imagesTr/case_3_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:60])
        shutil.rmtree(raw(preparation, "site-b"))
        raw_site.write_site(raw(preparation, "site-b"), 2, seed=5)
        raw_site.write_case(raw(preparation, "site-b"), "case_1", *raw_site.voxels(2))

        with pytest.raises(ContractError) as caught:
            play(preparation)

        for part in ("[F1 stop] site-a/case_3: ", "[N1 stop] site-b: ", "[B5 stop] site-b/case_1: "):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        found = {
            site: [(finding["rule"], finding["case"]) for finding in verdict(preparation, site)["findings"]]
            for site in preparation.sites
        }
        assert found == {"site-a": [("F1", "case_3")], "site-b": [("N1", ""), ("B5", "case_1")]}
        assert not any(verdict(preparation, site)["success"] for site in preparation.sites)
        assert not preparation.paths.prepared_site("site-a").exists()

    def test_again_gives_the_same_bytes_and_a_failure_leaves_them(self, preparation, without_rules, monkeypatch):
        play(preparation)
        before = results(preparation)
        play(preparation)
        assert results(preparation) == before
        broken = contract.Finding("G1", "stop", "site-a", "case_0", "shape_z", "edge along z", ">= 4", "3", "leave the case out")
        checked = {"site-a": SimpleNamespace(findings=(broken,), page=""), "site-b": SimpleNamespace(findings=(), page="")}
        monkeypatch.setattr(expectations, "check", lambda rows, rules: checked)

        with pytest.raises(ContractError, match=r"G1 stop\] site-a/case_0"):
            play(preparation)

        assert results(preparation) == before

    def test_a_folder_that_cannot_be_written(self, preparation, without_rules):
        (preparation.paths.workspace / "data").mkdir()
        (preparation.paths.workspace / "data/prepared").write_text("in the way")

        with pytest.raises(OutputError, match="cannot write"):
            play(preparation)
