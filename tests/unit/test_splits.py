"""Splits: by patient, stable, and never moved."""

import pytest

from fedsilo.cohort import splits

SHARES = {"val_share": 0.15, "test_share": 0.25}


def patients(num_patients, cases_each=1, prefix="p"):
    return {f"{prefix}{index}-{scan}": f"{prefix}{index}" for index in range(num_patients) for scan in range(cases_each)}


def assign(cases, *, role="inside", site="mr-a", seed=42, previous=None, **shares):
    return splits.assign(cases, site=site, role=role, seed=seed, previous=previous, **{**SHARES, **shares})


def counts(assigned, cases):
    by_patient = {cases[case]: split for case, split in assigned.items()}
    return tuple(list(by_patient.values()).count(split) for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("num_patients", "expected"),
    [(1, (0, 0, 1)), (2, (0, 1, 1)), (3, (1, 1, 1)), (5, (3, 1, 1)), (11, (6, 2, 3)), (16, (10, 2, 4)), (100, (60, 15, 25))],
)
def test_shares_are_rounded_and_at_least_one(num_patients, expected):
    cases = patients(num_patients)

    assert counts(assign(cases), cases) == expected


def test_a_patient_has_one_split():
    cases = patients(9, cases_each=4)

    assigned = assign(cases)

    assert all(len({assigned[case] for case in cases if cases[case] == patient}) == 1 for patient in set(cases.values()))


def test_all_of_an_outside_site_is_test():
    assert set(assign(patients(5), role="outside").values()) == {"test"}


def test_neither_order_nor_other_names_of_cases_matter():
    cases = patients(20)
    renamed = {f"scan of {patient}": patient for patient in reversed(cases.values())}

    by_patient = {cases[case]: split for case, split in assign(cases).items()}

    assert {renamed[case]: split for case, split in assign(renamed).items()} == by_patient


def test_seed_and_site_change_who_is_tested():
    cases = patients(30)
    seen = {tuple(assign(cases, **change).values()) for change in ({}, {"seed": 43}, {"site": "mr-b"})}

    assert len(seen) == 3


def test_existing_cases_never_move_and_new_ones_fill_up():
    old, grown = patients(10), patients(10) | patients(10, prefix="q")
    before = assign(old)

    after = assign(grown, previous=before)

    assert {case: after[case] for case in old} == before
    assert counts(after, grown) == (12, 3, 5)


def test_a_new_case_joins_its_patient():
    before = assign(patients(10))

    after = assign(patients(10, cases_each=2), previous=before)

    assert all(after[case] == before[f"{case.partition('-')[0]}-0"] for case in after)


def test_a_single_new_patient_is_trained_on():
    """Not tested on: the share is of all patients, and is filled already."""
    grown = patients(20) | {"new-0": "new"}

    assert assign(grown, previous=assign(patients(20)))["new-0"] == "train"


def test_a_removed_case_is_forgotten():
    assert assign({"p0-0": "p0"}, previous={"gone": "train", "p0-0": "val"}) == {"p0-0": "val"}


def test_a_contradiction_in_an_earlier_manifest_is_kept_for_the_contract_to_see():
    previous = {"p0-0": "train", "p0-1": "test"}

    assert assign(patients(1, cases_each=2), previous=previous) == previous
