"""The preparation's tasks without an engine: one task body after the other on tiny sites."""

import json
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pandas
import PIL.Image
import pytest
from scipy import ndimage

from fedsilo import files
from fedsilo.audit import trail, verifier
from fedsilo.cohort import contract, manifest, preprocess
from fedsilo.errors import ContractError, DataError, OutputError, ParamsError
from tasks import expectations, inspection, plans, prepare, trails, verdicts, workers
from tasks.paths import RunPaths
from tests.unit import faulty_sites, raw_site


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
    monkeypatch.setattr(expectations, "check", lambda rows, rules, organs: dict.fromkeys(rows, passed))


def make(folder, *roles, changes=()):
    """A cohort whose inside sites have six volumes each and whose outside site four slices."""
    roster = raw_site.roster(*roles)
    for index, site in enumerate(roster.sites):
        if site.role == "inside":
            raw_site.write_site(folder / "raw" / site.folder, 6, seed=index)
        else:
            raw_site.write_pixel_site(folder / "raw" / site.folder, 4)
    return prepare.Preparation(
        roster=roster,
        params=raw_site.params("prepare.size_yx_px=[32, 32]", *changes),
        paths=RunPaths(workspace=folder, cohort="tiny", run="tiny"),
        data_root=folder / "raw",
    )


@pytest.fixture
def preparation(tmp_path):
    return make(tmp_path, "inside", "outside")


def play(preparation):
    """Do what the flow does."""
    with trails.held(preparation.paths, preparation.sites):
        for site in preparation.sites:
            prepare.measure.fn(site, preparation)
        prepare.check.fn(preparation)
        for site in preparation.sites:
            prepare.prepare.fn(site, preparation)


@pytest.fixture(scope="module")
def tested(done):
    """A test case of site-a, which stands for a patient that nobody needs for training."""
    rows = manifest.read(done.paths.prepared_site("site-a") / "manifest.csv")
    return next(row.case for row in rows if row.split == "test")


def raw(preparation, site="site-a"):
    return preparation.data_root / site


def verdict(preparation, site):
    return json.loads((preparation.paths.docs_dir / site / "contract.json").read_text())


def results(preparation):
    """SHA-256 of every prepared file."""
    root = preparation.paths.prepared_site("site-a").parent
    return {str(path.relative_to(root)): files.sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def split_of(preparation):
    """Split of each patient of site-a."""
    return {row.patient: row.split for row in manifest.read(preparation.paths.prepared_site("site-a") / "manifest.csv")}


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

        with pytest.raises(ContractError, match=r"^\[F4 stop site\] site-a: .*missing.* \[B7 stop federation\]"):
            play(preparation)

    def test_an_unknown_organ(self, preparation):
        raw_site.describe(raw(preparation), labels={"background": 0, "lver": 1, "kidneys": 2})

        with pytest.raises(ContractError, match=r"^\[F4 stop site\] site-a: .*lver.*liver"):
            play(preparation)

    def test_a_folder_that_cannot_be_used_stops_its_site_and_no_other(self, tmp_path):
        preparation = make(tmp_path, "inside", "inside")
        (raw(preparation, "site-b") / "labelsTr/stranger.nii.gz").write_bytes(b"")

        play(preparation)

        (found,) = verdict(preparation, "site-b")["findings"]
        assert (found["rule"], found["action"]) == ("F4", "stop site")
        assert "label stranger" in found["got"]
        assert "stranger" in (preparation.paths.docs_dir / "site-b/index.html").read_text()
        assert [site.name for site in verdicts.standing(preparation.roster, preparation.paths).sites] == ["site-a"]

    def test_nobody_trains_on_what_an_earlier_preparation_left(self, tmp_path):
        preparation = make(tmp_path, "inside", "inside", changes=("prepare.contract.min_sites=2",))
        play(preparation)
        moved = raw(preparation, "site-b").rename(tmp_path / "away")
        with pytest.raises(ContractError):
            play(preparation)

        with pytest.raises(ContractError, match=r"stopped tiny; run flows.prepare .*F4 stop site\] site-b"):
            verdicts.standing(preparation.roster, preparation.paths)

        moved.rename(raw(preparation, "site-b"))
        play(preparation)
        assert len(verdicts.standing(preparation.roster, preparation.paths).sites) == 2

    def test_a_federation_stops_after_the_verdicts_are_written(self, tmp_path, tested):
        preparation = make(tmp_path, "inside", "inside", changes=("prepare.contract.min_sites=2",))
        path = raw(preparation, "site-a") / f"imagesTr/{tested}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:60])
        shutil.rmtree(raw(preparation, "site-b"))
        raw_site.write_site(raw(preparation, "site-b"), 2, seed=5)

        with pytest.raises(ContractError) as caught:
            play(preparation)

        for part in ("[N1 stop site] site-b: ", "[B7 stop federation] federation: too few inside sites"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        assert tested not in str(caught.value), "a quarantined case stops nobody"
        assert [found["rule"] for found in verdict(preparation, "site-a")["findings"]] == ["F1"]
        assert {found["rule"] for found in verdict(preparation, "site-b")["findings"]} == {"N1"}
        assert [verdict(preparation, site)["success"] for site in preparation.sites] == [True, False]
        assert not preparation.paths.prepared_site("site-a").exists()

    def test_a_quarantined_case_is_left_out_and_comes_back_when_it_is_repaired(self, preparation, tested):
        path = raw(preparation) / f"imagesTr/{tested}_0000.nii.gz"
        whole = path.read_bytes()
        play(preparation)
        before = results(preparation)
        splits = {row.case: row.split for row in manifest.read(preparation.paths.prepared_site("site-a") / "manifest.csv")}

        path.write_bytes(whole[:60])
        play(preparation)
        folder = preparation.paths.prepared_site("site-a")
        kept = {row.case: row.split for row in manifest.read(folder / "manifest.csv")}
        assert verdict(preparation, "site-a")["quarantined"] == [tested]
        log = trail.read(preparation.paths.audit.log("federation"))
        told = [event for event in verifier.read_events(log) if event.site == "site-a"]
        assert {"data.validate", "data.quarantine", "data.accept"} <= {event.kind for event in told}
        assert tested.encode() not in log, "no case is named"
        assert kept == {case: split for case, split in splits.items() if case != tested}, "no other case moves"
        assert not (folder / f"cases/{tested}.safetensors").exists()
        assert tested in set(pandas.read_parquet(folder / "facts.parquet")["case"])

        path.write_bytes(whole)
        play(preparation)
        assert results(preparation) == before

    def test_no_patient_moves_when_others_come(self, tmp_path, without_rules):
        preparation = make(tmp_path, "inside")
        moved = 0
        for count in range(6, 12):
            raw_site.write_site(raw(preparation), count, seed=0)
            before = split_of(preparation) if count > 6 else {}
            play(preparation)
            after = split_of(preparation)
            assert {patient: after[patient] for patient in before} == before
            shutil.rmtree(preparation.paths.prepared_site("site-a").parent)
            play(preparation)
            moved += any(split_of(preparation)[patient] != split for patient, split in after.items())
            shutil.rmtree(preparation.paths.prepared_site("site-a").parent)
            raw(preparation).joinpath("splits.csv").write_text(
                "patient,split\n" + "".join(f"{patient},{split}\n" for patient, split in after.items())
            )
            play(preparation)
            assert split_of(preparation) == after, "splits.csv rebuilds them from nothing"
            raw(preparation).joinpath("splits.csv").unlink()
        assert moved, "without a memory some would have"

    def test_another_seed_or_share_splits_anew(self, tmp_path, without_rules):
        preparation = make(tmp_path, "inside")
        play(preparation)
        before = split_of(preparation)

        play(replace(preparation, params=raw_site.params("seed=43")))

        assert split_of(preparation) != before

    def test_a_stopped_site_takes_no_part_and_leaves_nothing_of_an_earlier_run(self, tmp_path):
        preparation = make(tmp_path, "inside", "inside")
        play(preparation)
        assert len(verdicts.standing(preparation.roster, preparation.paths).sites) == 2
        for index in range(3):
            (raw(preparation, "site-b") / f"imagesTr/case_{index}_0000.nii.gz").write_bytes(b"nothing")

        play(preparation)

        folder = preparation.paths.prepared_site("site-b")
        assert sorted(path.name for path in folder.iterdir()) == ["contract.json", "facts.parquet", "splits.json"]
        assert "N1" in {found["rule"] for found in verdict(preparation, "site-b")["findings"]}
        assert [site.name for site in verdicts.standing(preparation.roster, preparation.paths).sites] == ["site-a"]

    def test_one_image_at_two_sites_on_two_sides_of_a_split_stops_the_federation(self, tmp_path):
        preparation = make(tmp_path, "inside", "inside")
        raw_site.write_site(raw(preparation, "site-b"), 6, seed=0)

        with pytest.raises(ContractError, match=r"\[B5 stop federation\] site-b: images are used for training at one site"):
            play(preparation)

    @pytest.mark.parametrize("change", ["mirrored", "resampled", "windowed"])
    def test_a_changed_copy_at_another_site_is_found(self, tmp_path, change, without_rules):
        """Also where no voxel is what it was: the near hash sees the same patient."""
        roster = raw_site.roster("inside", "inside")
        for index, site in enumerate(("site-a", "site-b")):
            for case in range(6):
                faulty_sites.volume(tmp_path / "raw" / site, f"case_{index}{case}")
            raw_site.describe(tmp_path / "raw" / site, labels=faulty_sites.LABELS)
        image, affine = faulty_sites.image(faulty_sites.seed_of("case_00")), faulty_sites.AFFINE
        label = faulty_sites.label()
        if change == "mirrored":
            image, label = image[::-1], label[::-1]
        elif change == "resampled":
            image, label = (ndimage.zoom(array, (1.5, 1.5, 1), order=order) for array, order in ((image, 1), (label, 0)))
            affine = numpy.diag([4.0, 4.0, 8.0, 1.0])
        else:
            image = (image // 4).clip(0, 255).astype(numpy.uint8)
        raw_site.write_case(tmp_path / "raw/site-b", "case_10", numpy.ascontiguousarray(image), label, affine=affine)
        preparation = prepare.Preparation(
            roster=roster,
            params=raw_site.params(),
            paths=RunPaths(workspace=tmp_path, cohort="tiny", run="tiny"),
            data_root=tmp_path / "raw",
        )

        play(preparation)

        found = [finding for finding in verdict(preparation, "site-b")["findings"] if finding["rule"] in ("B5", "B6")]
        assert [(finding["rule"], finding["got"]) for finding in found] == [("B6", "1 pairs")]

    def test_again_gives_the_same_bytes_and_a_failure_leaves_them(self, preparation, without_rules, monkeypatch):
        play(preparation)
        before = results(preparation)
        play(preparation)
        assert results(preparation) == before
        stop = contract.Finding("D2", "stop federation", "site-a", "case_0", "split", "in two splits", "1", "2", "mend it")
        checked = {"site-a": SimpleNamespace(findings=(stop,), page=""), "site-b": SimpleNamespace(findings=(), page="")}
        monkeypatch.setattr(expectations, "check", lambda rows, rules, organs: checked)

        with pytest.raises(ContractError, match=r"D2 stop federation\] site-a/case_0"):
            play(preparation)

        assert {name: value for name, value in results(preparation).items() if name != "stopped.json"} == before

    def test_a_folder_that_cannot_be_written(self, preparation, without_rules):
        (preparation.paths.workspace / "data").mkdir()
        (preparation.paths.workspace / "data/prepared").write_text("in the way")

        with pytest.raises(OutputError, match="cannot write"):
            play(preparation)


class TestInspection:
    def test_every_case_has_a_line_and_a_picture(self, done):
        text = inspection.show(done.roster, done.paths, done.data_root, "site-a")

        lines = text.splitlines()
        assert lines[0].split()[0] == "case"
        assert [line.split()[0] for line in lines[1:7]] == [f"case_{index}" for index in range(6)]
        assert all("kidneys 1 ml, liver 1 ml" in line for line in lines[1:7])
        with PIL.Image.open(done.paths.sheet("site-a")) as picture:
            assert picture.width > picture.height > 100
        assert lines[-1].endswith("sheets/tiny/site-a.png")

    def test_slices_are_measured_in_pixels(self, done):
        text = inspection.show(done.roster, done.paths, done.data_root, "site-b")

        assert "1 40 48" in text
        assert " ml" not in text

    def test_a_broken_case_says_which_rule(self, preparation, tested):
        path = raw(preparation) / f"imagesTr/{tested}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:60])
        play(preparation)

        text = inspection.show(preparation.roster, preparation.paths, preparation.data_root, "site-a")

        (line,) = [line for line in text.splitlines() if line.startswith(tested)]
        assert line.endswith("F1 quarantine")

    def test_a_site_that_was_not_prepared(self, preparation):
        with pytest.raises(DataError, match=r"run flows\.prepare first"):
            inspection.show(preparation.roster, preparation.paths, preparation.data_root, "site-a")

    def test_cases_that_changed_since(self, preparation, without_rules):
        play(preparation)
        raw_site.write_case(raw(preparation), "case_9", *raw_site.voxels(9))
        (raw(preparation) / "patients.csv").unlink(missing_ok=True)

        with pytest.raises(DataError, match="case_9 came or went"):
            inspection.show(preparation.roster, preparation.paths, preparation.data_root, "site-a")


class TestPlan:
    def test_spacing_follows_from_all_inside_sites(self, tmp_path, without_rules):
        preparation = make(tmp_path, "inside", "inside", "outside", changes=("prepare.plan=federated",))
        play(preparation)

        plan = json.loads(preparation.plan_path.read_text())
        assert (plan["num_sites"], plan["num_cases"], plan["clip_hu"]) == (2, 4, None), "training cases alone"
        assert plan["spacing_zyx"] == pytest.approx([5, 3, 2], abs=0.03)
        recipe = preprocess.load(preparation.paths.prepared_site("site-a") / "cases/case_0.safetensors").recipe
        assert recipe.target_spacing_zyx == pytest.approx([5, 3, 2], abs=0.2)

    def test_without_a_case_in_mm_there_is_nothing_to_plan(self, tmp_path):
        (tmp_path / "plan.json").write_text("{}")
        changed = raw_site.params("prepare.plan=federated")

        with pytest.raises(ParamsError, match=r"prepare\.plan is federated"):
            plans.followed(changed.prepare, tmp_path / "plan.json")


class TestUnchangedCases:
    def test_they_are_taken_over_and_the_result_is_the_same(self, preparation, without_rules, caplog):
        play(preparation)
        before = results(preparation)
        with caplog.at_level(logging.INFO):
            play(preparation)

        assert "site-a: 0 cases prepared, 6 unchanged" in caplog.text
        assert results(preparation) == before

    def test_another_file_and_other_params_are_not(self, preparation, without_rules):
        play(preparation)
        before = results(preparation)
        image, label = raw_site.voxels(99)
        raw_site.write_case(raw(preparation), "case_0", image, label)

        play(preparation)

        after = results(preparation)
        changed = {path for path in before if path.startswith("site-a/cases") and before[path] != after[path]}
        assert changed == {"site-a/cases/case_0.safetensors"}
        other = replace(preparation, params=raw_site.params("prepare.size_yx_px=[32, 32]", "prepare.spacing_zyx_mm=[null, 5, 5]"))
        play(other)
        assert all(results(other)[path] != after[path] for path in after if path.startswith("site-a/cases"))

    def test_one_that_was_damaged_is_made_again(self, preparation, without_rules):
        play(preparation)
        before = results(preparation)
        file = preparation.paths.prepared_site("site-a") / "cases/case_0.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

        play(preparation)

        assert results(preparation) == before
