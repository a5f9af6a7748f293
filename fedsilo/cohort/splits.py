"""Splits by patient: a patient's cases share one use, and a case never changes it."""

import hashlib
from collections.abc import Mapping
from math import floor

from fedsilo.types import SiteRole, Split


def assign(
    patients: Mapping[str, str],
    *,
    site: str,
    role: SiteRole,
    seed: int,
    val_share: float,
    test_share: float,
    previous: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Give every case of a site a split.

    Patients are ranked by ``sha256("seed/split/site/patient")``; the first of them are test, the next val, the rest train:
    of n patients, the share rounded to the nearest count and at least one. At an outside site all are test.

    Cases in ``previous`` keep their split, and a new case of a known patient gets the patient's. New patients are ranked
    among themselves and fill test, then val, up to the shares of all patients.

    Args:
        patients: Patient of each case.
        site: The site's name.
        role: Whether the site trains.
        seed: Of the run.
        val_share: Share of patients for validation.
        test_share: Share of patients for test.
        previous: Split of each case of an earlier manifest of this site.

    Returns:
        Split of each case, in the order of ``patients``.

    Example:
        >>> cases = {f"case{index}": f"patient{index}" for index in range(14)}
        >>> splits = assign(cases, site="mr-a", role="inside", seed=42, val_share=0.15, test_share=0.43)
        >>> [list(splits.values()).count(split) for split in ("train", "val", "test")]
        [6, 2, 6]
    """
    if role == "outside":
        return dict.fromkeys(patients, "test")
    kept = {case: split for case, split in (previous or {}).items() if case in patients}
    known: dict[str, Split] = {}
    for case in sorted(kept):
        known.setdefault(patients[case], kept[case])
    new = sorted(set(patients.values()) - known.keys(), key=lambda patient: _rank(seed, site, patient))
    num_patients = len(known) + len(new)
    chosen: dict[str, Split] = {}
    shares: tuple[tuple[Split, float], ...] = (("test", test_share), ("val", val_share))
    for split, share in shares:
        wanted = max(1, floor(num_patients * share + 0.5)) - list(known.values()).count(split)
        free = [patient for patient in new if patient not in chosen]
        chosen |= dict.fromkeys(free[: max(0, wanted)], split)
    by_patient: dict[str, Split] = {**dict.fromkeys(new, "train"), **chosen, **known}
    return {case: kept.get(case, by_patient[patient]) for case, patient in patients.items()}


def _rank(seed: int, site: str, patient: str) -> str:
    """Place a patient in an order that other patients do not change."""
    return hashlib.sha256(f"{seed}/split/{site}/{patient}".encode()).hexdigest()
