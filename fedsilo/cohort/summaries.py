"""What may leave a site about its data: counts, histograms and keyed hashes; and the contract between sites that reads them."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedsilo.cohort import fingerprint, hashes
from fedsilo.cohort.contract import Action, Finding
from fedsilo.cohort.facts import SEPARATOR, Facts
from fedsilo.cohort.roster import Roster
from fedsilo.params import ContractParams

Key = TypeVar("Key", str, int)

PREFERRED_UNIT = {"CT": "hu"}
"""Where as many sites say one as the other."""

MAX_RATIO = 4
SHARED_BANDS = 0.5
"""Of the bands of two near hashes: copies share more, other patients fewer."""


@dataclass(frozen=True)
class Digest:
    """One image, as other sites may see it.

    Attributes:
        content: Its content hash under the sites' key.
        bands: Pieces of its near hash under the same.
        split: Its use.
    """

    content: str
    bands: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class SiteSummary:
    """What a site says about its data. No case, no patient, no voxel.

    Attributes:
        site: Its name.
        role: Its role in the cohort.
        modality: CT or MR.
        intensity_unit: As declared.
        num_cases: That keep the contract.
        num_patients: Of these.
        annotated: Organs that it labels, by name.
        geometries: Cases in mm and in pixels.
        spacing: Along z, y and x: cases by spacing, in numbered bins of 0.05 mm; of few cases the median's bin alone.
        quarantined: Cases left out, by rule.
        digests: Of its images, sorted.
        patients: Their names under the sites' key with the split of each, sorted; only of a site whose patients flows.ingest
            renamed, as numbers that two hospitals give by themselves mean nothing together.
    """

    site: str
    role: str
    modality: str
    intensity_unit: str
    num_cases: int
    num_patients: int
    annotated: tuple[str, ...]
    geometries: Mapping[str, int]
    spacing: tuple[Mapping[int, float], Mapping[int, float], Mapping[int, float]]
    quarantined: Mapping[str, int]
    digests: tuple[Digest, ...]
    patients: tuple[tuple[str, str], ...]


def summarise(
    rows: Sequence[Facts], findings: Sequence[Finding], *, roster: Roster, site: str, key: bytes, namespace: str
) -> SiteSummary:
    """Sum up a site's cases, quarantined ones left out.

    Args:
        rows: Facts of all its cases.
        findings: Of the contract on these.
        roster: The cohort.
        site: The site's name.
        key: That the sites share and the server lacks.
        namespace: Of its patients' names, as of ``SiteCases``; empty if they are its own.
    """
    entry = roster.site(site)
    first: dict[str, str] = {}
    for finding in findings:
        if finding.action == "quarantine":
            first.setdefault(finding.case, finding.rule)
    kept = [row for row in rows if row.case not in first]
    values = sorted({int(value) for row in kept for value in (row.annotated or "").split(SEPARATOR) if value})
    spacing = tuple(
        _told(
            _counts(
                fingerprint.spacing_bin(getattr(row, f"spacing_{axis}"))
                for row in kept
                if getattr(row, f"spacing_{axis}") is not None
            )
        )
        for axis in "zyx"
    )
    digests = [
        Digest(hashes.keyed(row.content_hash, key), hashes.keyed_bands(row.near_hash, key), row.split)
        for row in kept
        if row.content_hash and row.near_hash
    ]
    return SiteSummary(
        site=site,
        role=entry.role,
        modality=entry.modality,
        intensity_unit=entry.intensity_unit,
        num_cases=len(kept),
        num_patients=len({row.patient for row in kept}),
        annotated=tuple(roster.organs[value] for value in values),
        geometries=_counts(str(row.geometry) for row in kept),
        spacing=(spacing[0], spacing[1], spacing[2]),
        quarantined=_counts(first.values()),
        patients=tuple(sorted({(hashes.keyed(f"{namespace}/{row.patient}", key), row.split) for row in kept}))
        if namespace
        else (),
        digests=tuple(sorted(digests, key=lambda digest: (digest.content, digest.split))),
    )


def between_sites(
    summaries: Sequence[SiteSummary], *, organs: Sequence[str], resampled_z: bool, bounds: ContractParams
) -> list[Finding]:
    """Find what does not fit between sites: rules B2 to B8.

    Args:
        summaries: Of all sites that keep the contract by themselves.
        organs: Of the cohort, without background.
        resampled_z: Whether volumes are resampled along z, so that a 3D network sees one spacing.
        bounds: How many inside sites there must be.
    """
    ordered = sorted(summaries, key=lambda summary: summary.site)
    return [
        *_organs(ordered, organs),
        *_units(ordered),
        *_grids(ordered, resampled_z=resampled_z),
        *_copies(ordered),
        *_patients(ordered),
        *_number(ordered, bounds),
    ]


def _organs(summaries: Sequence[SiteSummary], organs: Sequence[str]) -> Iterator[Finding]:
    """Every organ is learnt somewhere; what cannot be scored at an outside site is said."""
    inside = [summary for summary in summaries if summary.role == "inside"]
    learnt = {organ for summary in inside for organ in summary.annotated}
    for organ in organs:
        if organ not in learnt and inside:  # without any site, B7 says all there is to say
            meaning, fix = f"no inside site annotates {organ}", "take it out of organs in the cohort file, or add a site"
            yield _found("B2", "stop federation", "", "annotated", meaning, expected="at least 1 inside site", got="0", fix=fix)
    for summary in summaries:
        missing = [organ for organ in organs if organ not in summary.annotated]
        if missing and summary.role == "outside":
            meaning, fix = "some organs cannot be scored here", "none needed"
            yield _found(
                "B2", "warn", summary.site, "annotated", meaning, expected="every organ", got=f"no {', '.join(missing)}", fix=fix
            )


def _units(summaries: Sequence[SiteSummary]) -> Iterator[Finding]:
    """Sites of one modality in mm store one unit: a network cannot tell HU from grey values."""
    for modality in sorted({summary.modality for summary in summaries}):
        of_modality = [summary for summary in summaries if summary.modality == modality and summary.geometries.get("mm")]
        counts = Counter(summary.intensity_unit for summary in of_modality)
        usual = max(counts, key=lambda unit: (counts[unit], unit == PREFERRED_UNIT.get(modality), unit)) if counts else ""
        for summary in of_modality:
            if summary.intensity_unit != usual:
                meaning, fix = f"{modality} is in another unit than at the other sites", "export it anew, or leave the site out"
                yield _found(
                    "B3",
                    "stop site",
                    summary.site,
                    "intensity_unit",
                    meaning,
                    expected=usual,
                    got=summary.intensity_unit,
                    fix=fix,
                )


def _grids(summaries: Sequence[SiteSummary], *, resampled_z: bool) -> Iterator[Finding]:
    """Spacings within a factor of four; slices do not stand among volumes resampled along z."""
    for axis, letter in enumerate("zyx"):
        medians = {summary.site: _median(summary.spacing[axis]) for summary in summaries if summary.spacing[axis]}
        if not medians:
            continue
        centre = sorted(medians.values())[len(medians) // 2]
        for site, median in medians.items():
            if max(median / centre, centre / median) > MAX_RATIO:
                meaning, fix = f"median spacing along {letter} is far from that of the others (mm)", "none needed"
                expected = f"{centre / MAX_RATIO:.3g} to {centre * MAX_RATIO:.3g}"
                yield _found("B4", "warn", site, f"spacing_{letter}", meaning, expected=expected, got=f"{median:.3g}", fix=fix)
    if resampled_z:
        for summary in summaries:
            if summary.geometries.get("pixel"):
                meaning, fix = (
                    "slices without spacing among volumes resampled along z",
                    "a null z in prepare.spacing_zyx_mm",
                )
                got = f"{summary.geometries['pixel']} cases in pixels"
                yield _found("B4", "stop site", summary.site, "geometry", meaning, expected="volumes in mm", got=got, fix=fix)


def _copies(summaries: Sequence[SiteSummary]) -> Iterator[Finding]:
    """One image at two sites: an evaluation that is not one if it trains here and tests there."""
    for first, second in itertools.combinations(summaries, 2):
        same = [(one, other) for one in first.digests for other in second.digests if one.content == other.content]
        leaks = [pair for pair in same if _leaks(first, second, *pair)]
        between, fix = f"an image at one site only, not at {first.site} too", "find it with flows.inspect at both sites, keep one"
        if leaks:
            meaning = "images are used for training at one site and for testing at another"
            yield _found(
                "B5",
                "stop federation",
                second.site,
                "content_hash",
                meaning,
                expected=between,
                got=f"{len(leaks)} images",
                fix=fix,
            )
        elif same:
            meaning = "images stand at another site too"
            yield _found("B5", "warn", second.site, "content_hash", meaning, expected=between, got=f"{len(same)} images", fix=fix)
        exact = {digest.content for pair in same for digest in pair}
        near = [
            (one, other)
            for one in first.digests
            for other in second.digests
            if one.content not in exact and other.content not in exact and _alike(one.bands, other.bands)
        ]
        if near:
            meaning = "images look like images at another site"
            yield _found("B6", "warn", second.site, "near_hash", meaning, expected=between, got=f"{len(near)} pairs", fix=fix)


def _patients(summaries: Sequence[SiteSummary]) -> Iterator[Finding]:
    """One patient at two sites whose patients were renamed under one key."""
    for first, second in itertools.combinations(summaries, 2):
        known = dict(first.patients)
        both = [(known[patient], split) for patient, split in second.patients if patient in known]
        apart = [pair for pair in both if pair[0] != pair[1] or first.role != second.role]
        if both:
            meaning = "patients are at another site too" + (", with another use" if apart else "")
            yield _found(
                "B8",
                "stop federation" if apart else "warn",
                second.site,
                "patient",
                meaning,
                expected=f"a patient at one site only, not at {first.site} too",
                got=f"{len(both)} patients, {len(apart)} with another use",
                fix="give them one split in splits.csv of both sites, or take them out of one",
            )


def _leaks(first: SiteSummary, second: SiteSummary, one: Digest, other: Digest) -> bool:
    """Say whether an image that stands at both sites is trained on at one and tested on at the other."""
    return one.split != other.split or first.role != second.role


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Compare the bands of two near hashes."""
    if len(one) != len(other) or not one:
        return False
    return sum(first == second for first, second in zip(one, other, strict=True)) > SHARED_BANDS * len(one)


def _number(summaries: Sequence[SiteSummary], bounds: ContractParams) -> Iterator[Finding]:
    """Enough inside sites are left."""
    inside = sum(summary.role == "inside" for summary in summaries)
    if inside < bounds.min_sites:
        meaning, fix = "too few inside sites keep the contract", "repair a site; its findings say how"
        yield _found(
            "B7", "stop federation", "", "site", meaning, expected=f"at least {bounds.min_sites}", got=str(inside), fix=fix
        )


def _found(rule: str, action: Action, site: str, field: str, meaning: str, *, expected: str, got: str, fix: str) -> Finding:
    """Make a finding about a site as a whole, or with no site about the federation."""
    return Finding(
        rule=rule, action=action, site=site, case="", field=field, meaning=meaning, expected=expected, got=got, fix=fix
    )


def _told(histogram: Mapping[int, float]) -> Mapping[int, float]:
    """Tell the median's bin alone where few cases would be told one by one."""
    is_few = 0 < sum(histogram.values()) < fingerprint.FEWEST_CASES
    return fingerprint.median_only(histogram) if is_few else histogram


def _median(histogram: Mapping[int, float]) -> float:
    """Read the median off a histogram: the middle of its bin, in mm."""
    (middle,) = fingerprint.median_only(histogram)
    return (middle + 0.5) * fingerprint.SPACING_BIN_MM


def _counts(values: Iterable[Key]) -> dict[Key, int]:
    """Count values, in their order."""
    counts = Counter(values)
    return {value: counts[value] for value in sorted(counts)}
