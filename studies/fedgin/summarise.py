"""Tables and figures of a FedGIN study, from the cases table of its runs.

    python studies/fedgin/summarise.py --cohorts FILE.. --cases FILE.. --scenarios FOLDER --comparisons FILE --out FOLDER

A run is named ``<study>/<scenario>--<method>--s<seed>``. Test cases fall into groups by modality and by whether the scenario
trained on their scanner. Dice is averaged over the cases of a patient, then over organs, then over seeds; a group's score is
the mean of its sites' means; intervals are over patients, the spread is the standard deviation over seeds. Seeds are never
counted as patients. Tests are Wilcoxon's on patients, corrected by Holm over all of a question.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import pandas

from fedsilo import files, sections, seeds
from fedsilo.cohort import roster as rosters
from fedsilo.evaluation import cases, statistics

RUN = re.compile(r"^[a-z0-9-]+/(?P<scenario>[a-z0-9-]+?)--(?P<method>[a-z0-9-]+?)--s\d+$")
RESAMPLES = 9999
CONFIDENCE = 0.95
ALL = "all organs"
SEEDS_OF_A_SPREAD = 2

Key = tuple[str, str]
"""Scenario and method."""


@dataclass(frozen=True)
class Group:
    """Test cases of one modality, at scanners that a scenario trained on or not."""

    modality: str
    scanner: str
    sites: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of a column."""
        return f"{self.modality}, {self.scanner}"


@dataclass(frozen=True)
class Study:
    """Scores a patient, and what they are grouped by.

    Attributes:
        table: Columns scenario, method, seed, site, patient, organ, dice; ``all organs`` is a patient's mean over organs.
        modalities: Modality of every site.
        trained: Sites that each scenario trained on.
    """

    table: pandas.DataFrame
    modalities: dict[str, str]
    trained: dict[str, frozenset[str]]

    def groups(self, scenario: str) -> list[Group]:
        """Split the sites as a scenario sees them; groups without a site are left out."""
        found = []
        for modality in sorted(set(self.modalities.values()), reverse=True):
            for scanner, wanted in (("trained scanner", True), ("new scanner", False)):
                sites = [
                    site
                    for site, its in sorted(self.modalities.items())
                    if its == modality and (site in self.trained[scenario]) == wanted
                ]
                if sites:
                    found.append(Group(modality, scanner, tuple(sites)))
        return found

    def rows(self, key: Key, sites: Sequence[str], organ: str) -> pandas.DataFrame:
        """Pick the scores of a scenario and method."""
        table = self.table
        chosen = (table["scenario"] == key[0]) & (table["method"] == key[1]) & (table["organ"] == organ)
        return table[chosen & table["site"].isin(sites)]

    def patients(self, key: Key, sites: Sequence[str], organ: str) -> dict[str, dict[str, float]]:
        """Average each patient over seeds: site -> patient -> Dice."""
        by_patient = self.rows(key, sites, organ).groupby(["site", "patient"])["dice"].mean().reset_index()
        found: dict[str, dict[str, float]] = {}
        for site, patient, value in by_patient.itertuples(index=False):
            found.setdefault(str(site), {})[str(patient)] = float(value)
        return found

    def by_seed(self, key: Key, sites: Sequence[str], organ: str) -> dict[int, float]:
        """Average sites' means: seed -> Dice."""
        means = self.rows(key, sites, organ).groupby(["seed", "site"])["dice"].mean().groupby("seed").mean()
        return {int(str(seed)): float(value) for seed, value in means.items()}

    @property
    def keys(self) -> list[Key]:
        """All scenarios and methods, sorted."""
        return sorted({(str(s), str(m)) for s, m in zip(self.table["scenario"], self.table["method"], strict=True)})

    @property
    def organs(self) -> list[str]:
        """All organs together, then each."""
        return [ALL, *sorted(set(self.table["organ"]) - {ALL})]


def read(cases_paths: Sequence[Path], cohorts: Sequence[Path], scenarios: Path) -> Study:
    """Read the scores of a study and what they are grouped by."""
    sites = [site for cohort in cohorts for site in rosters.load(cohort).sites]
    table = pandas.concat([cases.read(path) for path in cases_paths], ignore_index=True)
    table = table[(table["metric"] == "dice") & table["value"].notna()].copy()
    named = table["method"].str.extract(RUN)
    if named.isna().any(axis=None):
        unnamed = table["method"][named["scenario"].isna()].iloc[0]
        sys.exit(f"cannot use run {unnamed}: expected a name like study/scenario--method--s42")
    table[["scenario", "method"]] = named
    columns = ["scenario", "method", "seed", "site", "patient"]
    scores = table.groupby([*columns, "organ"])["value"].mean().rename("dice").reset_index()
    together = scores.groupby(columns)["dice"].mean().reset_index().assign(organ=ALL)
    trained = {name: _trained(scenarios / f"{name}.yaml") for name in sorted(set(scores["scenario"]))}
    return Study(pandas.concat([scores, together], ignore_index=True), {site.name: site.modality for site in sites}, trained)


def _trained(path: Path) -> frozenset[str]:
    """Read which sites a scenario trains on."""
    tree = sections.read_yaml(path)
    federate = tree["federate"]
    participants = federate["participants"] if isinstance(federate, dict) else {}
    return frozenset(site for members in participants.values() for site in members)


def scores(study: Study) -> list[dict[str, object]]:
    """Score every scenario, method, group and organ."""
    found = []
    for key in study.keys:
        for group in study.groups(key[0]):
            for organ in study.organs:
                patients = study.patients(key, group.sites, organ)
                if not patients:
                    continue
                interval = statistics.macro_interval(
                    patients,
                    confidence=CONFIDENCE,
                    num_resamples=RESAMPLES,
                    generator=seeds.numpy_generator(42, "bootstrap", *key, group.name, organ),
                )
                found.append(
                    {
                        "scenario": key[0],
                        "method": key[1],
                        "modality": group.modality,
                        "scanner": group.scanner,
                        "organ": organ,
                        "dice": interval.mean,
                        "low": interval.low,
                        "high": interval.high,
                        "seed_sd": _spread(list(study.by_seed(key, group.sites, organ).values())),
                        "patients": interval.num_patients,
                        "sites": len(patients),
                    }
                )
    return found


@dataclass(frozen=True)
class Pair:
    """What is compared with what; ``organs`` restricts it, empty: all organs together are tested, each is shown."""

    question: str
    new: Key
    reference: Key
    organs: tuple[str, ...]


def pairs(study: Study, listed: Sequence[dict[str, object]]) -> Iterator[Pair]:
    """List what is compared with what; pairs of which one did not run are left out."""
    present = set(study.keys)
    scenarios = sorted({scenario for scenario, _ in present})
    for entry in listed:
        for new, reference in ((n, r) for n in _names(entry, "new") for r in _names(entry, "reference")):
            if "/" in new:
                candidates = [(_key(new), _key(reference))]
            else:
                candidates = [((scenario, new), (scenario, reference)) for scenario in scenarios]
            organs = tuple(_names(entry, "organs")) if "organs" in entry else ()
            yield from (Pair(str(entry["question"]), *pair, organs) for pair in candidates if set(pair) <= present)


def _names(entry: dict[str, object], kind: str) -> list[str]:
    names = entry[kind]
    return [str(name) for name in names] if isinstance(names, list) else []


def _key(name: str) -> Key:
    scenario, _, method = name.partition("/")
    return scenario, method


def compare(study: Study, listed: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Compare patient by patient, with a test over all organs or on the organs that a comparison names."""
    found: list[dict[str, object]] = []
    for pair in pairs(study, listed):
        new, reference = pair.new, pair.reference
        for group in study.groups(new[0]):
            for organ in pair.organs or study.organs:
                ours, theirs = study.patients(new, group.sites, organ), study.patients(reference, group.sites, organ)
                if not ours:
                    continue
                compared = statistics.compare(
                    {site: statistics.differences(ours[site], theirs[site], higher_is_better=True) for site in ours},
                    confidence=CONFIDENCE,
                    num_resamples=RESAMPLES,
                    generator=seeds.numpy_generator(42, "bootstrap", *new, *reference, group.name, organ),
                )
                by_seed, before = study.by_seed(new, group.sites, organ), study.by_seed(reference, group.sites, organ)
                base = mean(mean(patients.values()) for patients in theirs.values())
                found.append(
                    {
                        "question": pair.question,
                        "scenario": new[0],
                        "new": new[1],
                        "reference": reference[1] if reference[0] == new[0] else "/".join(reference),
                        "modality": group.modality,
                        "scanner": group.scanner,
                        "organ": organ,
                        "gain": compared.difference.mean,
                        "low": compared.difference.low,
                        "high": compared.difference.high,
                        "relative": compared.difference.mean / base if base > 0 else None,
                        "seed_sd": _spread([by_seed[seed] - before[seed] for seed in by_seed if seed in before]),
                        "patients": compared.num_patients,
                        "tested": organ in (pair.organs or [ALL]),
                        "p_value": compared.p_value if organ in (pair.organs or [ALL]) else None,
                    }
                )
    for question in dict.fromkeys(str(row["question"]) for row in found):
        family = [row for row in found if row["question"] == question]
        adjusted = statistics.holm([row["p_value"] for row in family])  # type: ignore[misc]  # floats and None
        for row, value in zip(family, adjusted, strict=True):
            row["p_holm"] = value
    return found


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) >= SEEDS_OF_A_SPREAD else None


def csv_text(table: pandas.DataFrame) -> str:
    """Write a table as CSV with six decimals."""
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the study's results."""
    sys.path.insert(0, str(Path(__file__).parent))
    import pages

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("scenarios", "comparisons", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("cohorts", "cases"):
        parser.add_argument(f"--{name}", type=Path, required=True, nargs="+")
    options = parser.parse_args(argv)
    study = read(options.cases, options.cohorts, options.scenarios)
    listed = sections.read_yaml(options.comparisons)["comparisons"]
    if not isinstance(listed, list):
        sys.exit(f"cannot use {options.comparisons}: expected a list of comparisons")
    scored, compared = scores(study), compare(study, listed)
    files.write_text(options.out / "patients.csv", csv_text(study.table))
    files.write_text(options.out / "scores.csv", csv_text(pandas.DataFrame(scored)))
    files.write_text(options.out / "comparisons.csv", csv_text(pandas.DataFrame(compared)))
    files.write_text(options.out / "tables.md", pages.tables(scored, compared))
    files.write_bytes(options.out / "scores.svg", pages.scores_figure(scored))
    files.write_bytes(options.out / "gains.svg", pages.gains_figure(compared))
    return 0


if __name__ == "__main__":
    sys.exit(main())
