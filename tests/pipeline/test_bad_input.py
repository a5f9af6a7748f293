"""Bad input gets one clear line and exit code 1, or is left out and listed; nothing is lost."""

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy
import pytest

from fedsilo import files
from fedsilo.cohort import manifest
from flows import federate, prepare


def fails_with(capfd, phase, arguments, *parts):
    """Run a phase that must fail: exit code 1, and one line of ours that says all of ``parts``; no traceback of ours."""
    capfd.readouterr()
    assert phase.main(arguments) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fedsilo: ")]
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]


def raw(made, site="mr-a"):
    return made.folder / "data/raw/demo" / site


def first_file(made, site, folder):
    return min((raw(made, site) / folder).iterdir())


def only(made, *sites):
    """Leave the others out of the cohort: Great Expectations takes a second a site."""
    tree = made.cohort_tree()
    tree["sites"] = [site for site in tree["sites"] if site["name"] in sites]
    made.write_cohort(tree)


def test_a_misspelt_key_in_params(copied, capfd):
    text = copied.params.read_text().replace("rounds:", "round:")
    copied.params.write_text(text)

    fails_with(capfd, federate, copied.arguments(), "unknown key federate.round", "did you mean rounds?")


def test_a_misspelt_key_on_the_command_line(copied, capfd):
    fails_with(capfd, federate, copied.arguments("--set", "federate.appearance.probabilty=1"), "federate.appearance.probabilty")


def test_an_outside_site_listed_inside(copied, capfd):
    tree = copied.cohort_tree()
    tree["sites"].append({**tree["sites"][-1], "role": "inside"})
    copied.write_cohort(tree)

    fails_with(capfd, prepare, copied.arguments(), tree["sites"][-1]["name"], "both inside and outside")


@dataclass(frozen=True)
class Damaged:
    """What a preparation made of a cohort with a fault at each of six sites, and the case that has it."""

    folder: Path
    case: dict[str, str]

    def findings(self, site):
        return json.loads((self.folder / f"reports/demo/contract/{site}/contract.json").read_text())

    def page(self, site):
        return (self.folder / f"reports/demo/contract/{site}/index.html").read_text()

    def takes_part(self, site):
        return (self.folder / f"data/prepared/demo/{site}/manifest.csv").exists()


@pytest.fixture(scope="module")
def damaged(prepared, tmp_path_factory):
    """One preparation of all faults: each must be told of as if it were alone. It ends well; read only."""
    made = prepared.copy(tmp_path_factory.mktemp("damaged") / "copy")
    case = {}
    shutil.rmtree(raw(made, "mr-a"))
    for row in manifest.read(made.folder / "data/prepared/demo/mr-b/manifest.csv"):
        if row.split == "train":
            (raw(made, "mr-b") / f"imagesTr/{row.case}_0000.nii.gz").unlink()
            (raw(made, "mr-b") / f"labelsTr/{row.case}.nii.gz").unlink()

    rows = manifest.read(made.folder / "data/prepared/demo/ct-b/manifest.csv")
    case["ct-b"] = next(row.case for row in rows if row.split == "test")
    path = raw(made, "ct-b") / f"labelsTr/{case['ct-b']}.nii.gz"
    label = nibabel.load(path)
    cut = nibabel.Nifti1Image(numpy.asarray(label.dataobj)[:-1], label.affine)
    path.write_bytes(gzip.compress(cut.to_bytes()))

    path = first_file(made, "ct-c", "imagesTr")
    case["ct-c"] = path.name.removesuffix("_0000.nii.gz")
    path.write_bytes(path.read_bytes()[:100])

    path = first_file(made, "mr-d", "labelsTr")
    case["mr-d"] = path.name.removesuffix(".nii.gz")
    label = nibabel.load(path)
    values = numpy.asarray(label.dataobj).copy()
    values[0, 0, 0] = 9
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(values, label.affine).to_bytes()))

    names = raw(made, "mr-c") / "dataset.json"
    names.write_text(names.read_text().replace('"spleen"', '"splen"'))

    assert prepare.main(made.arguments()) == 0
    return Damaged(made.folder, case)


def test_a_site_without_a_fault_goes_on(damaged):
    found = damaged.findings("ct-a")

    assert (found["success"], found["findings"], found["quarantined"]) == (True, [], [])
    assert damaged.takes_part("ct-a")


@pytest.mark.parametrize(
    ("site", "parts"),
    [("mr-a", ["mr-a is missing"]), ("mr-c", ["splen", "spleen"])],
    ids=["a missing folder", "an unknown organ"],
)
def test_a_site_whose_folder_cannot_be_used_stands_still(damaged, site, parts):
    (finding,) = damaged.findings(site)["findings"]

    assert (finding["rule"], finding["action"]) == ("F4", "stop site")
    for part in parts:
        assert part in finding["got"]
    assert "F4" in damaged.page(site)
    assert not damaged.takes_part(site)


@pytest.mark.parametrize(
    ("site", "rule", "says"),
    [("ct-c", "F1", "cannot read"), ("ct-b", "G3", "shape"), ("mr-d", "L1", "got 9")],
    ids=["an unreadable volume", "a label of another shape", "a label value that is not declared"],
)
def test_a_case_is_left_out(damaged, site, rule, says):
    """The site's other cases go on, and what is wrong with this one stands in the site's verdict and on its page."""
    verdict, case = damaged.findings(site), damaged.case[site]

    found = [finding for finding in verdict["findings"] if (finding["rule"], finding["case"]) == (rule, case)]
    assert verdict["quarantined"] == [case]
    assert any(says in f"{finding['meaning']}, got {finding['got']}" for finding in found), verdict["findings"]
    assert f"<td>{case}</td>" in damaged.page(site)
    prepared = {row.case for row in manifest.read(damaged.folder / f"data/prepared/demo/{site}/manifest.csv")}
    assert prepared
    assert case not in prepared


def test_a_site_without_a_training_case(damaged):
    verdict = damaged.findings("mr-b")

    assert not verdict["success"]
    assert "too few train patients" in {finding["meaning"] for finding in verdict["findings"] if finding["rule"] == "N1"}
    assert not damaged.takes_part("mr-b")


def test_a_failed_preparation_leaves_the_last_good_one(copied, capfd):
    only(copied, "ct-a", "mr-a")
    listed = copied.folder / "data/prepared/demo/mr-a/manifest.csv"
    before = files.sha256_file(listed)
    first_file(copied, "mr-a", "imagesTr").write_bytes(b"not an image")

    fails_with(capfd, prepare, copied.arguments("--set", "prepare.contract.min_sites=9"), "B7 stop federation", "at least 9")

    assert files.sha256_file(listed) == before


@pytest.mark.parametrize("phase", [prepare, federate])
def test_an_output_folder_that_cannot_be_written(copied, capfd, phase):
    """A file stands where the folder should be: the same for root and everybody else."""
    only(copied, "ct-a", "mr-a")
    where = copied.folder / ("data/prepared" if phase is prepare else "checkpoints")
    shutil.rmtree(where, ignore_errors=True) if phase is federate else where.rename(copied.folder / "aside")
    if phase is federate:
        assert (copied.folder / "data/prepared").is_dir()
    where.write_text("in the way")

    fails_with(capfd, phase, copied.arguments(), "cannot write", where.name)


def test_federate_before_prepare(copied, capfd):
    shutil.rmtree(copied.folder / "data/prepared")

    fails_with(capfd, federate, copied.arguments(), "is not prepared")
