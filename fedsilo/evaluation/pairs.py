"""Two models' scores on one hold-out, patient by patient; what is wrong with them is said, and then nothing is compared."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas

from fedsilo.evaluation import statistics
from fedsilo.evaluation.pccp import GateParams
from fedsilo.evaluation.statistics import Patients
from fedsilo.types import SiteRole

NAMED = 3
"""Cases that a message names."""

KEY = ("site", "patient", "case", "organ", "metric")
ABSENT, MISSED = "absent", "missed"
GATE, DICE = "gate", "dice"


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
        cases: By site its test cases.
        sha256: By site a hash over them and what they hold.
        uses: Verdicts that it gave before.
    """

    sites: Mapping[str, Site]
    cases: Mapping[str, frozenset[str]]
    sha256: Mapping[str, str]
    uses: int

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
        newly_missed: Site -> patients with an organ that the candidate misses and the champion does not.
        flaws: What is wrong, sorted; if anything is, there are no differences.
    """

    differences: Mapping[str, Mapping[str, Mapping[str, Patients]]]
    newly_missed: Mapping[str, frozenset[str]]
    flaws: tuple[str, ...]


def pair(champion: Scored, candidate: Scored, holdout: Holdout, policy: GateParams) -> Pairs:
    """Compare two models' scores patient by patient, by the methods that the policy names for a site's role."""
    tables = [_chosen(scored.table, holdout, policy) for scored in (champion, candidate)]
    flaws = {*flaws_of("champion", champion, holdout, policy), *flaws_of("candidate", candidate, holdout, policy)}
    flaws |= set(_matching(*tables))
    if flaws:
        return Pairs({}, {}, tuple(sorted(flaws)))
    old, new = (table.set_index(list(KEY)).sort_index() for table in tables)
    differences: dict[str, dict[str, dict[str, Patients]]] = {}
    present = new["flag"] != ABSENT
    for (metric, organ, site), rows in new[present].groupby(["metric", "organ", "site"]):
        patients = rows.index.get_level_values("patient")
        found = statistics.differences(
            statistics.patient_means(rows["value"], patients),
            statistics.patient_means(old.loc[rows.index, "value"], patients),
            higher_is_better=True,
        )
        differences.setdefault(str(metric), {}).setdefault(str(organ), {})[str(site)] = found
    lost = new[(new["flag"] == MISSED) & (old["flag"] != MISSED)].reset_index()
    missed = {str(site): frozenset(map(str, rows["patient"])) for site, rows in lost.groupby("site")}
    return Pairs(differences, missed, ())


def flaws_of(name: str, scored: Scored, holdout: Holdout, policy: GateParams) -> tuple[str, ...]:
    """Say what is wrong with the scores of one model; sorted, each begins with the ``name`` that it is told under."""
    table = _chosen(scored.table, holdout, policy)
    return tuple(sorted({*_placed(name, scored, holdout), *_whole(name, table, holdout)}))


def _chosen(table: pandas.DataFrame, holdout: Holdout, policy: GateParams) -> pandas.DataFrame:
    """Take the rows that are compared: of known sites, by their method, of metrics that are looked at."""
    methods = {name: policy.methods.of(site.role) for name, site in holdout.sites.items()}
    return table[(table["method"] == table["site"].map(methods)) & table["metric"].isin(policy.metrics)]


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
        if unscored := holdout.cases[site] - set(dice["case"]):
            yield f"{name}: {_some(unscored)} of {site} without Dice"
        if unknown := set(rows["case"]) - holdout.cases[site]:
            yield f"{name}: {_some(unknown)} of {site} no test case"
        if not (dice["flag"] != ABSENT).any():
            yield f"{name}: no organ is present at {site}"
        if owners := {str(case) for case, owner in dice.groupby("case")["patient"].nunique().items() if owner > 1}:
            yield f"{name}: {_some(owners)} of {site} of several patients"
    repeated = table[table.duplicated(list(KEY))]
    if not repeated.empty:
        yield f"{name}: {_some(set(repeated['case']))} scored twice"
    present = table[table["flag"] != ABSENT]
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
