"""Two models' scores on one hold-out, patient by patient; what is wrong with them is said, and then nothing is compared."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy
import pandas
from numpy.typing import NDArray

from fedsilo.evaluation import statistics
from fedsilo.evaluation.pccp import GateParams, VolumeUnit
from fedsilo.evaluation.statistics import Patients
from fedsilo.types import SiteRole

NAMED = 3
"""Cases that a message names."""

KEY = ("site", "patient", "case", "organ", "metric")
ABSENT, MISSED = "absent", "missed"
GATE, DICE, VOLUME = "gate", "dice", "volume_ml"

ByOrgan = Mapping[str, Mapping[str, frozenset[str]]]
"""Organ -> site -> patients."""


@dataclass(frozen=True)
class Site:
    """What the cohort says of a site."""

    role: SiteRole
    modality: str


@dataclass(frozen=True)
class Holdout:
    """The patients that a gate looks at: the test cases of all sites of the cohort.

    Attributes:
        sites: All sites of the cohort.
        cases: By site its test cases, with the organs that are annotated in each.
        sha256: By site a hash over them and what they hold.
        uses: By site, verdicts on other candidates for which its test cases were used as they are now.
    """

    sites: Mapping[str, Site]
    cases: Mapping[str, Mapping[str, frozenset[str]]]
    sha256: Mapping[str, str]
    uses: Mapping[str, int]

    @property
    def digest(self) -> str:
        """Give one hash for all sites; hex."""
        return hashlib.sha256("".join(f"{self.sha256[site]}  {site}\n" for site in sorted(self.sha256)).encode()).hexdigest()


@dataclass(frozen=True)
class Scored:
    """A model with its cases table (:func:`fedsilo.evaluation.cases.read`) and, by site, the hash of what it was made on."""

    model: str
    table: pandas.DataFrame
    holdout: Mapping[str, str]


@dataclass(frozen=True)
class Pairs:
    """Differences between candidate and champion; positive is better.

    Attributes:
        differences: Metric -> organ -> site -> patient -> difference.
        worst: Organ -> site -> patient -> smallest difference of Dice over the patient's cases.
        newly_missed: Patients in a case of whom the candidate misses the organ and the champion does not.
        newly_false: Patients in a case of whom the organ is absent, and the candidate marks more of it than is tolerated and the
            champion does not.
        patients: By site all patients who have scores.
        unseen: Sites and organs that are annotated there, and present in no case.
        flaws: What is wrong, sorted; if anything is, there are no differences.
    """

    differences: Mapping[str, Mapping[str, Mapping[str, Patients]]]
    worst: Mapping[str, Mapping[str, Patients]]
    newly_missed: ByOrgan
    newly_false: ByOrgan
    patients: Mapping[str, frozenset[str]]
    unseen: tuple[tuple[str, str], ...]
    flaws: tuple[str, ...]


def pair(champion: Scored, candidate: Scored, holdout: Holdout, policy: GateParams) -> Pairs:
    """Compare two models' scores patient by patient, by the methods that the policy names for a site's role."""
    tables = [_chosen(scored.table, holdout, policy) for scored in (champion, candidate)]
    flaws = {*flaws_of("champion", champion, holdout, policy), *flaws_of("candidate", candidate, holdout, policy)}
    flaws |= set(_matching(*tables))
    if flaws:
        return Pairs({}, {}, {}, {}, {}, (), tuple(sorted(flaws)))
    old, new = (table.set_index(list(KEY)).sort_index() for table in tables)
    present = new[(new["flag"] != ABSENT) & (new.index.get_level_values("metric") != VOLUME)]
    differences: dict[str, dict[str, dict[str, Patients]]] = {}
    worst: dict[str, dict[str, Patients]] = {}
    for (metric, organ, site), rows in present.groupby(["metric", "organ", "site"]):
        patients, before = rows.index.get_level_values("patient"), old.loc[rows.index, "value"]
        found = statistics.differences(
            statistics.patient_means(rows["value"], patients),
            statistics.patient_means(before, patients),
            higher_is_better=True,
        )
        differences.setdefault(str(metric), {}).setdefault(str(organ), {})[str(site)] = found
        if metric == DICE:
            lowest = (rows["value"] - before).round(statistics.TIE_DECIMALS).groupby("patient").min()
            worst.setdefault(str(organ), {})[str(site)] = {str(patient): float(value) for patient, value in lowest.items()}
    return Pairs(
        differences,
        worst,
        _patients(new[(new["flag"] == MISSED) & (old["flag"] != MISSED)]),
        _patients(new[_false(new, policy) & ~_false(old, policy)]),
        {str(site): frozenset(map(str, rows["patient"])) for site, rows in new.reset_index().groupby("site")},
        tuple(
            (site, organ)
            for site in sorted(holdout.cases)
            for organ in sorted({organ for organs in holdout.cases[site].values() for organ in organs})
            if site not in worst.get(organ, {})
        ),
        (),
    )


def _false(table: pandas.DataFrame, policy: GateParams) -> NDArray[numpy.bool_]:
    """Say of each row whether it is of an organ that is absent, and of which more is marked than is tolerated."""
    tolerated = table["unit"].map(dict(policy.catastrophe.false_volume))
    of_absent = (table["flag"] == ABSENT) & (table.index.get_level_values("metric") == VOLUME)
    return (of_absent & (table["value"] > tolerated)).to_numpy(dtype=bool)


def _patients(rows: pandas.DataFrame) -> ByOrgan:
    """List the patients of some rows."""
    found: dict[str, dict[str, frozenset[str]]] = {}
    for (organ, site), chosen in rows.reset_index().groupby(["organ", "site"]):
        found.setdefault(str(organ), {})[str(site)] = frozenset(map(str, chosen["patient"]))
    return found


def flaws_of(name: str, scored: Scored, holdout: Holdout, policy: GateParams) -> tuple[str, ...]:
    """Say what is wrong with the scores of one model; sorted, each begins with the ``name`` that it is told under."""
    table = _chosen(scored.table, holdout, policy)
    return tuple(sorted({*_placed(name, scored, holdout), *_whole(name, table, holdout)}))


def _chosen(table: pandas.DataFrame, holdout: Holdout, policy: GateParams) -> pandas.DataFrame:
    """Take the rows that are compared: of known sites, by their method, of metrics that are looked at; and predicted volumes."""
    methods = {name: policy.methods.of(site.role) for name, site in holdout.sites.items()}
    return table[(table["method"] == table["site"].map(methods)) & table["metric"].isin([*policy.metrics, VOLUME])]


def _placed(name: str, scored: Scored, holdout: Holdout) -> Iterator[str]:
    """Say which sites the scores are not of, and on which other patients they were made."""
    for site in sorted(set(scored.table["site"]) - holdout.sites.keys()):
        yield f"{name}: {site} is no site of the cohort"
    for site in sorted(holdout.sites):
        told = scored.holdout.get(site)
        if told is None:
            yield f"{name}: nothing says on which hold-out of {site} it was scored"
        elif told != holdout.sha256[site]:
            yield f"{name}: it was scored on another hold-out of {site}"


def _whole(name: str, table: pandas.DataFrame, holdout: Holdout) -> Iterator[str]:
    """Say which cases have no score, two, or one that is no number between 0 and 1."""
    for site in sorted(holdout.sites):
        rows = table[table["site"] == site]
        if rows.empty:
            yield f"{name}: site {site} is missing"
            continue
        dice = rows[rows["metric"] == DICE]
        known, scored = holdout.cases[site], set(dice[["case", "organ"]].itertuples(index=False, name=None))
        lacking = [(case, organ) for case in sorted(known) for organ in sorted(known[case]) if (case, organ) not in scored]
        for organ in sorted({organ for _, organ in lacking}):
            yield f"{name}: {_some({case for case, other in lacking if other == organ})} of {site} without Dice of {organ}"
        absent = dice[dice["flag"] == ABSENT][["case", "organ"]].itertuples(index=False, name=None)
        volumes = rows[(rows["metric"] == VOLUME) & (rows["value"] >= 0) & rows["unit"].isin(get_args(VolumeUnit))]
        measured = volumes[["case", "organ"]].itertuples(index=False, name=None)
        if unmeasured := {case for case, _ in set(absent) - set(measured)}:
            yield f"{name}: {_some(unmeasured)} of {site} without the volume that is marked of an organ that is absent"
        if unknown := set(rows["case"]) - known.keys():
            yield f"{name}: {_some(unknown)} of {site} no test case"
        if not (dice["flag"] != ABSENT).any():
            yield f"{name}: no organ is present at {site}"
        if owners := {str(case) for case, owner in dice.groupby("case")["patient"].nunique().items() if owner > 1}:
            yield f"{name}: {_some(owners)} of {site} of several patients"
    repeated = table[table.duplicated(list(KEY))]
    if not repeated.empty:
        yield f"{name}: {_some(set(repeated['case']))} scored twice"
    present = table[(table["flag"] != ABSENT) & (table["metric"] != VOLUME)]
    # a comparison with NaN is false
    wrong = present[~((present["value"] >= 0) & (present["value"] <= 1))]
    if not wrong.empty:
        yield f"{name}: {_some(set(wrong['case']))} with a score that is no number from 0 to 1"


def _matching(champion: pandas.DataFrame, candidate: pandas.DataFrame) -> Iterator[str]:
    """Say which scores one of the models has alone, and which organs are present for one of them alone."""
    old, new = ({tuple(row[:-1]): row[-1] == ABSENT for row in _keyed(table)} for table in (champion, candidate))
    if alone := {key[2] for key in old.keys() ^ new.keys()}:
        yield f"{_some(alone)} with scores of one model alone"
    if differing := {key[2] for key in old.keys() & new.keys() if old[key] != new[key]}:
        yield f"{_some(differing)} with another reference for each model"


def _keyed(table: pandas.DataFrame) -> Iterator[tuple[str, ...]]:
    return table[[*KEY, "flag"]].itertuples(index=False, name=None)


def _some(cases: set[str] | frozenset[str]) -> str:
    """Name a few cases."""
    shown = ", ".join(sorted(cases)[:NAMED])
    more = len(cases) - NAMED
    return f"{shown}{f' and {more} more' if more > 0 else ''}"
