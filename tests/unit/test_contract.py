"""Each rule catches the fault planted for it, and a clean site has no findings."""

import gzip
import json
from dataclasses import replace

import nibabel
import numpy
import PIL.Image
import pytest

from fedsilo import params as params_module
from fedsilo.cohort import contract, facts, layouts, measure, roster, splits
from fedsilo.errors import ContractError, DataError, ParamsError
from tasks import expectations

CASES = ("a1", "a2", "a3", "a4")
ORGANS = ("liver", "kidneys", "spleen", "pancreas", "gallbladder")


def write_case(folder, case, *, image=None, label=None, affine=None, label_affine=None):
    generator = numpy.random.default_rng(int.from_bytes(case.encode()))
    affine = numpy.diag([3.0, 3.0, 5.0, 1.0]) if affine is None else affine
    image = generator.normal(100, 20, (16, 12, 10)).astype(numpy.float32) if image is None else image
    if label is None:
        label = numpy.zeros((16, 12, 10), numpy.uint8)
        label[4:9, 3:7, 2:6] = 1
    label_affine = affine if label_affine is None else label_affine
    for sub, name, array, matrix in (
        ("imagesTr", f"{case}_0000", image, affine),
        ("labelsTr", case, label, label_affine),
    ):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        (folder / sub / f"{name}.nii.gz").write_bytes(gzip.compress(nibabel.Nifti1Image(array, matrix).to_bytes()))


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "mr-a"
    for case in CASES:
        write_case(folder, case)
    labels = {"background": 0, "liver": 1}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "patients.csv").write_text("case,patient\n" + "".join(f"{case},p{case}\n" for case in CASES))
    return folder


@pytest.fixture(scope="module")
def cohort(repository):
    return roster.load(repository / "cohorts" / "demo.yaml")


@pytest.fixture(scope="module")
def bounds(repository):
    return params_module.load(repository / "params.yaml").prepare.contract


@pytest.fixture(scope="module")
def rules(bounds):
    """The shipped ones, but for the size of a field of view and of a whole organ, which tiny cases have not."""
    small = {"fov_z_mm": (1.0, 500.0), "fov_yx_mm": (1.0, 500.0), "organ_volume": (0.0001, 5.0)}
    return contract.rules(bounds.model_copy(update=small), ORGANS)


def measured(folder, cohort):
    found = layouts.find_cases(folder, "mr-a")
    label_map = layouts.harmonise(found.labels, cohort, "mr-a")
    rows = [measure.measure(case, label_map, roster=cohort, site=cohort.site("mr-a")) for case in found.cases]
    split = splits.assign(
        {case.case: case.patient for case in found.cases}, site="mr-a", role="inside", seed=1, val_share=0.25, test_share=0.25
    )
    return facts.with_splits(rows, split, near_share=0.0)


def broken(rows, rules):
    return {(finding.rule, finding.case) for finding in expectations.check({"mr-a": rows}, rules, ORGANS)["mr-a"].findings}


def test_a_clean_site_has_no_findings_and_its_page_calls_nobody(site, cohort, rules):
    checked = expectations.check({"mr-a": measured(site, cohort)}, rules, ORGANS)["mr-a"]

    assert checked.findings == ()
    for attribute in ('href="http', "href='http", 'src="http', "src='http"):
        assert attribute not in checked.page
    assert "<table" in checked.page


def test_the_page_is_the_same_for_the_same_facts(site, cohort, rules):
    rows = measured(site, cohort)

    assert expectations.check({"mr-a": rows}, rules, ORGANS) == expectations.check({"mr-a": rows}, rules, ORGANS)


def test_each_planted_fault_is_caught_by_its_rule_and_case(site, cohort, rules):
    """All faults at once: findings are collected, none hides another."""
    good = numpy.random.default_rng(5).normal(100, 20, (16, 12, 10)).astype(numpy.float32)
    holed = good.copy()
    holed[0, 0, 0] = numpy.nan
    undeclared = numpy.ones((16, 12, 10), numpy.uint8)
    undeclared[0, 0, 0] = 7
    shifted = numpy.diag([3.0, 3.0, 5.0, 1.0])
    shifted[0, 3] = 1.0
    write_case(site, "b1", image=holed)
    write_case(site, "b2", image=numpy.zeros((16, 12, 10), numpy.float32))
    write_case(site, "b3", label=numpy.ones((15, 12, 10), numpy.uint8))
    write_case(site, "b4", label_affine=shifted)
    write_case(site, "b5", label=undeclared)
    write_case(site, "b6", affine=numpy.diag([40.0, 3.0, 5.0, 1.0]))
    write_case(site, "b7", image=good, label=numpy.zeros((16, 12, 10), numpy.uint8))
    write_case(site, "b8", label=numpy.full((16, 12, 10), 0.5, numpy.float32))
    write_case(site, "c1", image=good + 1)
    write_case(site, "c2", image=good + 1)
    write_case(site, "d1")
    (site / "imagesTr" / "d1_0000.nii.gz").write_bytes(b"cut off")
    write_case(site, "d2")
    (site / "labelsTr" / "d2.nii.gz").unlink()
    (site / "patients.csv").unlink()

    found = broken(measured(site, cohort), rules)

    for rule, case in (
        *(("I1", "b1"), ("I1", "b2"), ("G3", "b3"), ("G3", "b4"), ("L1", "b5"), ("G1", "b6"), ("L3", "b7"), ("L1", "b8")),
        *(("D1", "c2"), ("F1", "d1"), ("F1", "d2")),
    ):
        assert (rule, case) in found
    assert ("D1", "c1") not in found, "of copies the first stays"
    assert not {case for _, case in found} & set(CASES)


def test_a_message_says_site_case_rule_found_and_expected(site, cohort, rules):
    write_case(site, "a1", affine=numpy.diag([20.0, 20.0, 5.0, 1.0]))

    messages = [
        finding.message for finding in expectations.check({"mr-a": measured(site, cohort)}, rules, ORGANS)["mr-a"].findings
    ]

    assert messages == [
        f"[G1 quarantine] mr-a/a1: spacing along {axis} (mm); expected 0.2 to 15, got 20. Fix: check the header's voxel size"
        for axis in "yx"
    ]


def test_a_missing_fact_is_a_finding_not_a_pass(site, cohort, rules):
    """Great Expectations skips nulls: F2 counts them."""
    rows = measured(site, cohort)
    rows[0] = replace(rows[0], num_nonfinite=None, num_unmeasured=1)

    assert ("F2", rows[0].case) in broken(rows, rules)


def test_a_volume_without_organs_is_data_at_an_outside_site(site, cohort, rules):
    rows = [replace(row, voxels_annotated=0) for row in measured(site, cohort)]

    assert {rule for rule, _ in broken(rows, rules)} == {"L3"}
    assert broken([replace(row, role="outside") for row in rows], rules) == set()


def test_a_patient_in_two_splits(site, cohort, rules):
    rows = measured(site, cohort)
    rows = [replace(row, patient="p", patient_num_splits=2) for row in rows]

    assert {rule for rule, _ in broken(rows, rules)} == {"D2"}


def test_a_rule_that_cannot_be_evaluated_is_an_error_of_the_contract(site, cohort):
    rule = contract.Rule("X1", "no_such_column", "stop site", "nothing", "nothing", "", 0, 1)

    with pytest.raises(ContractError, match="could not be evaluated"):
        expectations.check({"mr-a": measured(site, cohort)}, [rule], ORGANS)


def test_a_site_without_training_patients(site, cohort, bounds):
    rows = [replace(row, split="test") for row in measured(site, cohort)]

    found = contract.of_site(rows, frozenset(), bounds, site="mr-a", role="inside")

    assert [(finding.rule, finding.action, finding.meaning) for finding in found] == [
        ("N1", "stop site", "too few train patients"), ("N1", "stop site", "too few val patients"),
    ]  # fmt: skip
    assert contract.of_site(rows, frozenset(), bounds, site="mr-a", role="outside") == []


def test_a_site_that_loses_too_many_cases(site, cohort, bounds):
    rows = [replace(row, split="test", case=f"{row.case}{copy}") for row in measured(site, cohort) for copy in range(5)]
    four, five = (frozenset(row.case for row in rows[:number]) for number in (4, 5))

    assert contract.of_site(rows, four, bounds, site="mr-a", role="outside") == []
    (found,) = contract.of_site(rows, five, bounds, site="mr-a", role="outside")
    assert (found.rule, found.got, found.expected) == ("N1", "5 of 20 (25 %)", "<= 20 %")


def test_an_organ_that_no_training_case_has(site, cohort, bounds):
    nothing = facts.OrganFacts(voxels=0, volume_ml=0.0, touches_border=False, whole_ml=None)
    rows = [
        replace(row, split="train" if index else "val", organs=row.organs if not index else {"liver": nothing})
        for index, row in enumerate(measured(site, cohort))
    ]

    found = contract.of_site(rows, frozenset(), bounds, site="mr-a", role="inside")

    assert ("L2", "voxels_liver") in {(finding.rule, finding.field) for finding in found}
    assert "L2" not in {entry.rule for entry in contract.of_site(rows, frozenset(), bounds, site="mr-a", role="outside")}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"is_8bit": True}, "I3"),
        ({"p00_5": 0.0}, "I2"),
        ({"p50": 900.0}, "I2"),
        ({"p99_5": 20.0}, "I2"),
        ({"modality": "MR", "low_ratio": -0.5}, "I4"),
        ({"modality": "MR", "frac_at_min": 0.99}, "I4"),
        ({"fov_y": 900.0}, "G2"),
        ({"spacing_ratio": 1.2}, "G2"),
        ({"oblique_deg": 20.0}, "G4"),
        ({"oblique_deg": 50.0}, "G4"),
        ({"affine_conflict": 0.5}, "G4"),
        ({"num_traces": 1, "phi_fields": "descrip"}, "P1"),
        ({"near_num_splits": 2}, "D2"),
        ({"organs": {"liver": facts.OrganFacts(90, 9000.0, touches_border=False, whole_ml=9000.0)}}, "L4"),
    ],
)
def test_each_bound_of_a_case(site, cohort, rules, changes, rule):
    as_ct = {"modality": "CT", "intensity_unit": "hu", "p00_5": -1000.0, "p50": 20.0, "p99_5": 500.0, "is_8bit": False}
    rows = [replace(row, **as_ct) for row in measured(site, cohort)]
    assert broken(rows, rules) == set()

    rows[1] = replace(rows[1], **changes)

    assert {(rule, rows[1].case)} == broken(rows, rules)


def test_labels_are_harmonised_by_name_and_an_unknown_one_shows_the_nearest(cohort):
    mapped = layouts.harmonise({"background": 0, "Spleen": 1, "LIVER": 2}, cohort, "x")

    assert (dict(mapped.values), mapped.annotated) == ({0: 0, 1: 3, 2: 1}, (1, 3))
    with pytest.raises(DataError, match=r"site x: unknown organ 'lever'.*nearest: liver"):
        layouts.harmonise({"background": 0, "lever": 1}, cohort, "x")


def test_dropped_names_become_background(repository):
    kidneys = roster.load(repository / "cohorts" / "kidneys.yaml")

    mapped = layouts.harmonise({"background": 0, "liver": 1, "kidneys": 2, "pancreas": 3}, kidneys, "x")

    assert (dict(mapped.values), mapped.annotated) == ({0: 0, 1: 0, 2: 1, 3: 0}, (1,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "liver": [1, 2]}}, "region"),
        ({"labels": {"liver": 1}}, "background"),
        ({"file_ending": ".mha"}, "file_ending"),
        ({"channel_names": {"0": "MR", "1": "MR"}}, "2 channels"),
    ],
)
def test_a_wrong_dataset_json_is_one_clear_error(site, change, message):
    content = json.loads((site / "dataset.json").read_text()) | change
    (site / "dataset.json").write_text(json.dumps(content))

    with pytest.raises(DataError, match=message):
        layouts.find_cases(site, "mr-a")


def test_png_slices_are_cases_in_pixels(tmp_path, cohort, rules):
    folder = tmp_path / "mr-a"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    generator = numpy.random.default_rng(3)
    for case in CASES:
        PIL.Image.fromarray(generator.integers(0, 255, (40, 48), numpy.uint8)).save(folder / "imagesTr" / f"{case}_0000.png")
        PIL.Image.fromarray(numpy.eye(40, 48, dtype=numpy.uint8)).save(folder / "labelsTr" / f"{case}.png")
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "liver": 1}, "numTraining": 4, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(content))

    rows = measured(folder, cohort)

    assert broken(rows, rules) == set()
    assert {(row.geometry, row.ndim, row.shape_y, row.shape_x, row.spacing_y) for row in rows} == {("pixel", 2, 40, 48, None)}


def test_splits_keep_patients_together_and_never_move():
    cases = {f"c{index}": f"p{index // 2}" for index in range(40)}
    options = {"site": "s", "role": "inside", "seed": 1, "val_share": 0.2, "test_share": 0.3}
    first = splits.assign(cases, **options)
    more = splits.assign(cases | {f"d{index}": f"q{index}" for index in range(10)}, previous=first, **options)

    by_patient = {}
    for case, split in first.items():
        by_patient.setdefault(cases[case], set()).add(split)
    assert {len(found) for found in by_patient.values()} == {1}
    assert [list(first.values()).count(split) for split in ("train", "val", "test")] == [20, 8, 12]
    assert all(more[case] == split for case, split in first.items())


def test_a_cohort_file_with_a_site_in_both_roles_is_refused(tmp_path, repository):
    text = (repository / "cohorts" / "demo.yaml").read_text()
    line = next(line for line in text.splitlines() if "mr-c" in line)
    path = tmp_path / "twice.yaml"
    path.write_text(text.replace(line, line + "\n" + line.replace("outside", "inside")))

    with pytest.raises(ParamsError, match="mr-c is listed both inside and outside"):
        roster.load(path)
