"""Bad input gets one clear line and exit code 1, or is left out and listed; nothing is lost."""

import gzip
import json
import shutil

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


def findings(copied, site="mr-a"):
    """What the contract says of a site once it ran to its end."""
    assert prepare.main(copied.arguments()) == 0
    return json.loads((copied.folder / f"reports/demo/contract/{site}/contract.json").read_text())


def left_out(copied, case, rule, says):
    """The others go on, and what is wrong with the case stands in the site's verdict and on its page."""
    verdict = findings(copied)
    found = [finding for finding in verdict["findings"] if (finding["rule"], finding["case"]) == (rule, case)]
    assert case in verdict["quarantined"]
    assert any(says in f"{finding['meaning']}, got {finding['got']}" for finding in found), verdict["findings"]
    assert f"<td>{case}</td>" in (copied.folder / "reports/demo/contract/mr-a/index.html").read_text()


def raw(made, site="mr-a"):
    return made.folder / "data/raw/demo" / site


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


def stands_still(copied, *parts):
    """The site takes no part, which its verdict and page say; the others go on."""
    verdict = findings(copied)
    (finding,) = verdict["findings"]
    assert (finding["rule"], finding["action"]) == ("F4", "stop site")
    for part in parts:
        assert part in finding["got"]
    assert "F4" in (copied.folder / "reports/demo/contract/mr-a/index.html").read_text()
    prepared = copied.folder / "data/prepared/demo"
    assert not (prepared / "mr-a/manifest.csv").exists()
    assert (prepared / "ct-a/manifest.csv").is_file()


def test_a_missing_site_folder(copied):
    shutil.rmtree(raw(copied))

    stands_still(copied, "mr-a is missing")


def test_an_unreadable_volume(copied):
    path = next(iter(sorted((raw(copied) / "imagesTr").iterdir())))
    path.write_bytes(path.read_bytes()[:100])

    left_out(copied, path.name.split("_0000")[0], "F1", "cannot read")


def test_a_label_of_another_shape(copied):
    path = next(iter(sorted((raw(copied) / "labelsTr").iterdir())))
    label = nibabel.load(path)
    cut = nibabel.Nifti1Image(numpy.asarray(label.dataobj)[:-1], label.affine)
    path.write_bytes(gzip.compress(cut.to_bytes()))

    left_out(copied, path.name.removesuffix(".nii.gz"), "G3", "shape")


def test_a_label_value_that_is_not_declared(copied):
    path = next(iter(sorted((raw(copied) / "labelsTr").iterdir())))
    label = nibabel.load(path)
    values = numpy.asarray(label.dataobj).copy()
    values[0, 0, 0] = 9
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(values, label.affine).to_bytes()))

    left_out(copied, path.name.removesuffix(".nii.gz"), "L1", "got 9")


def test_an_unknown_organ(copied):
    path = raw(copied) / "dataset.json"
    path.write_text(path.read_text().replace('"spleen"', '"splen"'))

    stands_still(copied, "splen", "spleen")


def test_a_site_without_a_training_case(copied):
    folder = raw(copied)
    for row in manifest.read(copied.folder / "data/prepared/demo/mr-a/manifest.csv"):
        if row.split == "train":
            (folder / f"imagesTr/{row.case}_0000.nii.gz").unlink()
            (folder / f"labelsTr/{row.case}.nii.gz").unlink()

    verdict = findings(copied)

    assert not verdict["success"]
    assert "too few train patients" in {finding["meaning"] for finding in verdict["findings"] if finding["rule"] == "N1"}
    prepared = copied.folder / "data/prepared/demo"
    assert not (prepared / "mr-a/manifest.csv").exists()
    assert (prepared / "ct-a/manifest.csv").is_file()


def test_a_failed_preparation_leaves_the_last_good_one(copied, capfd):
    manifest = copied.folder / "data/prepared/demo/mr-a/manifest.csv"
    before = files.sha256_file(manifest)
    path = next(iter(sorted((raw(copied) / "imagesTr").iterdir())))
    path.write_bytes(b"not an image")

    fails_with(capfd, prepare, copied.arguments("--set", "prepare.contract.min_sites=9"), "B7 stop federation", "at least 9")

    assert files.sha256_file(manifest) == before


@pytest.mark.parametrize("phase", [prepare, federate])
def test_an_output_folder_that_cannot_be_written(copied, capfd, phase):
    """A file stands where the folder should be: the same for root and everybody else."""
    where = copied.folder / ("data/prepared" if phase is prepare else "checkpoints")
    shutil.rmtree(where, ignore_errors=True) if phase is federate else where.rename(copied.folder / "aside")
    if phase is federate:
        assert (copied.folder / "data/prepared").is_dir()
    where.write_text("in the way")

    fails_with(capfd, phase, copied.arguments(), "cannot write", where.name)


def test_federate_before_prepare(copied, capfd):
    shutil.rmtree(copied.folder / "data/prepared")

    fails_with(capfd, federate, copied.arguments(), "is not prepared")
