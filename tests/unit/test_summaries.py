"""What leaves a site, and the contract between sites over it."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from fedsilo import params as params_module
from fedsilo.cohort import facts, hashes, layouts, measure, splits, summaries
from tests.unit import raw_site

KEY = b"shared by the sites"


@pytest.fixture(scope="module")
def bounds(repository):
    return params_module.load(repository / "params.yaml").prepare.contract


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A cohort of two inside sites and an outside one, of other subjects each, and the facts of each by name."""
    folder = tmp_path_factory.mktemp("sites")
    cohort = raw_site.roster("inside", "inside", "outside")
    made = {}
    for index, entry in enumerate(cohort.sites):
        raw_site.write_site(folder / entry.folder, 4, seed=10 * index)
        found = layouts.find_cases(folder / entry.folder, entry.name)
        label_map = layouts.harmonise(found.labels, cohort, entry.name)
        rows = [measure.measure(case, label_map, roster=cohort, site=entry) for case in found.cases]
        split = splits.assign(
            {row.case: row.patient for row in rows}, site=entry.name, role=entry.role, seed=1, val_share=0.2, test_share=0.3
        )
        made[entry.name] = facts.with_splits(rows, split, near_share=0.0)
    return cohort, made


@pytest.fixture(scope="module")
def told(measured):
    """Summaries of the sites."""
    cohort, made = measured
    return {site: summaries.summarise(rows, [], roster=cohort, site=site, key=KEY, namespace="") for site, rows in made.items()}


def between(told, bounds, *, organs=("kidneys", "liver"), resampled_z=False):
    return summaries.between_sites(list(told.values()), organs=organs, resampled_z=resampled_z, bounds=bounds)


def test_sites_that_fit_have_no_findings(told, bounds):
    assert between(told, bounds) == []


def test_nothing_in_a_summary_names_a_case_or_a_patient(told):
    text = json.dumps(told["site-a"], default=vars)

    assert "case_" not in text
    assert told["site-a"].num_cases == 4
    assert Counter(digest.split for digest in told["site-a"].digests) == {"train": 2, "val": 1, "test": 1}
    assert told["site-a"].spacing == ({100: 4}, {60: 4}, {40: 4})


def test_few_cases_are_told_by_their_median_alone():
    """Otherwise a site of one case would tell that case."""
    few, many = ({20: 1, 40: 2, 60: 1}, {20: 2, 40: 2, 60: 1})

    assert summaries._told(few) == {40: 4}
    assert summaries._told(many) == many
    assert summaries._told({}) == {}


@pytest.mark.parametrize(
    ("site", "changes", "expected"),
    [
        ("site-a", {"annotated": ("liver",)}, [("B2", "stop federation", "")]),
        ("site-c", {"annotated": ("liver",)}, [("B2", "warn", "site-c")]),
        ("site-b", {"intensity_unit": "hu"}, [("B3", "stop site", "site-b")]),
        ("site-b", {"spacing": ({100: 4}, {6: 4}, {40: 4})}, [("B4", "warn", "site-b")]),
    ],
)
def test_what_does_not_fit(told, bounds, site, changes, expected):
    changed = told | {site: replace(told[site], **changes)}
    if site == "site-a":
        changed["site-b"] = replace(told["site-b"], **changes)

    assert [(finding.rule, finding.action, finding.site) for finding in between(changed, bounds)] == expected


def test_slices_stop_a_site_of_a_3d_federation(told, bounds):
    changed = told | {"site-b": replace(told["site-b"], geometries={"pixel": 4})}

    assert [finding.rule for finding in between(changed, bounds)] == []
    assert [(finding.rule, finding.action) for finding in between(changed, bounds, resampled_z=True)] == [("B4", "stop site")]


def test_too_few_inside_sites(told, bounds):
    fewer = {name: told[name] for name in ("site-a", "site-c")}

    assert [(finding.rule, finding.action) for finding in between(fewer, bounds)] == [("B7", "stop federation")]


@pytest.mark.parametrize(
    ("other", "splits_of", "expected"),
    [("site-b", ("train", "train"), ("B5", "warn")), ("site-b", ("train", "test"), ("B5", "stop federation")),
     ("site-c", ("train", "test"), ("B5", "stop federation"))],
)  # fmt: skip
def test_one_image_at_two_sites(told, bounds, other, splits_of, expected):
    here, there = (replace(told["site-a"].digests[0], split=split) for split in splits_of)
    changed = told | {
        "site-a": replace(told["site-a"], digests=(here,)),
        other: replace(told[other], digests=(there, *told[other].digests)),
    }

    (found,) = between(changed, bounds)

    assert (found.rule, found.action, found.site, found.got) == (*expected, other, "1 images")


def test_images_that_look_alike_at_two_sites(told, bounds):
    near = "0f" * 64
    other = near[:-8] + "00000000"
    one, two = (summaries.Digest(name, hashes.keyed_bands(bits, KEY), "train") for name, bits in (("a", near), ("b", other)))
    changed = told | {
        "site-a": replace(told["site-a"], digests=(one,)),
        "site-b": replace(told["site-b"], digests=(two,)),
    }

    (found,) = between(changed, bounds)

    assert (found.rule, found.action, found.site) == ("B6", "warn", "site-b")


def test_of_two_units_of_ct_hounsfield_stays(told, bounds):
    """One site of each: nothing to count, and grey values are the odd ones."""
    changed = {
        name: replace(told[name], modality="CT", intensity_unit=unit) for name, unit in (("site-a", "au"), ("site-b", "hu"))
    }

    found = [(one.rule, one.site) for one in between(changed, bounds) if one.rule == "B3"]

    assert found == [("B3", "site-a")]


@pytest.mark.parametrize(
    ("other", "use", "expected"),
    [("site-b", "train", "warn"), ("site-b", "test", "stop federation"), ("site-c", "train", "stop federation")],
)
def test_one_patient_at_two_sites_under_one_key(told, bounds, other, use, expected):
    changed = told | {
        "site-a": replace(told["site-a"], patients=(("p1", "train"), ("p2", "test"))),
        other: replace(told[other], patients=(("p1", use), ("p9", "test"))),
    }

    (found,) = between(changed, bounds)

    assert (found.rule, found.action, found.site) == ("B8", expected, other)
    assert found.got.startswith("1 patients")


def test_patients_are_told_only_under_a_key_of_ingest_and_hidden_by_the_sites_own(measured):
    cohort, made = measured
    rows = made["site-a"]

    def patients(namespace, key=KEY):
        made = summaries.summarise(rows, [], roster=cohort, site="site-a", key=key, namespace=namespace)
        return [patient for patient, _ in made.patients]

    assert patients("") == []
    assert len(patients("0011")) == 4
    assert not set(patients("0011")) & set(patients("0022"))
    assert not set(patients("0011")) & set(patients("0011", b"other"))
    assert not any(row.patient in told for row, told in zip(rows, patients("0011"), strict=True))
