"""Tables and figures of a FedGIN study, from the cases tables of its runs.

    python studies/fedgin/summarise.py --cohorts FILE.. --cases FILE.. --scenarios FOLDER --comparisons FILE --out FOLDER

A run is named ``<study>/<scenario>--<method>--s<seed>``. Test cases fall into groups by modality and by what the scenario
trained on. Dice is averaged over the cases of a patient, then over organs, then over seeds; a group's score is the mean of its
sites' means; intervals are over patients, the spread is the standard deviation over seeds. Seeds are never counted as patients.
Tests are Wilcoxon's on patients, corrected by Holm over all of a question.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

import pages
import pandas
from rows import ALL, GainRow, Group, ScoreRow

from fedsilo import files, sections, seeds
from fedsilo.cohort import roster as rosters
from fedsilo.errors import FedsiloError, ParamsError
from fedsilo.evaluation import cases, statistics

RUN = re.compile(r"^[a-z0-9-]+/(?P<scenario>[a-z0-9-]+?)--(?P<method>[a-z0-9-]+?)--s\d+$")
RESAMPLES = 9999
CONFIDENCE = 0.95
SEEDS_OF_A_SPREAD = 2

Key = tuple[str, str]
"""Scenario and method."""


@dataclass(frozen=True)
class Question:
    """What is compared with what.

    Attributes:
        text: Title of its table; all tests under one title are one family for Holm's correction.
        pairs: New and reference: a method means the same scenario, wherever both ran; ``scenario/method`` a certain run.
        modality: Of the test cases; None: all.
        organs: To compare; empty: all together, and each as a detail.
        test: Whether it is a matter of a test; otherwise of intervals.
    """

    text: str
    pairs: tuple[tuple[str, str], ...]
    modality: str | None
    organs: tuple[str, ...]
    test: bool


@dataclass(frozen=True)
class Study:
    """Scores a patient, and what they are grouped by.

    Attributes:
        table: Columns scenario, method, seed, site, patient, organ, dice; ``all organs`` is a patient's mean over organs.
        modalities: Modality of every site.
        trained: Sites that each scenario trained on.
    """

    table: pandas.DataFrame
    modalities: Mapping[str, str]
    trained: Mapping[str, frozenset[str]]

    @property
    def keys(self) -> list[Key]:
        """All scenarios and methods, sorted."""
        return sorted({(str(s), str(m)) for s, m in zip(self.table["scenario"], self.table["method"], strict=True)})

    @cached_property
    def _by_key(self) -> dict[object, pandas.DataFrame]:
        """Split the scores by scenario, method and organ."""
        return dict(iter(self.table.groupby(["scenario", "method", "organ"], sort=False)))

    @property
    def organs(self) -> list[str]:
        """All organs together, then each."""
        return [ALL, *sorted(set(self.table["organ"]) - {ALL})]

    def groups(self, scenario: str, modality: str | None = None) -> list[Group]:
        """Split the sites as a scenario sees them; groups without a site are left out."""
        found: dict[tuple[str, str], list[str]] = {}
        seen = {self.modalities[site] for site in self.trained[scenario]}
        for site, its in sorted(self.modalities.items()):
            new = "new scanner" if its in seen else "unseen modality"
            scanner = "trained scanner" if site in self.trained[scenario] else new
            if modality in (None, its):
                found.setdefault((its, scanner), []).append(site)
        order = ("trained scanner", "new scanner", "unseen modality")
        ranked = sorted(found, key=lambda pair: (pair[0] != "MR", order.index(pair[1])))
        return [Group(*pair, tuple(found[pair])) for pair in ranked]

    def rows(self, key: Key, sites: Sequence[str], organ: str) -> pandas.DataFrame:
        """Pick the scores of a scenario and method."""
        of_organ = self._by_key.get((*key, organ), self.table.iloc[:0])
        return of_organ[of_organ["site"].isin(sites)]

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


def read(cases_paths: Sequence[Path], cohorts: Sequence[Path], scenarios: Path) -> Study:
    """Read the scores of a study and what they are grouped by.

    Raises:
        DataError: A cases table cannot be used.
        ParamsError: A cohort or scenario cannot be used, or a run has another name.
    """
    sites = [site for cohort in cohorts for site in rosters.load(cohort).sites]
    table = pandas.concat([cases.read(path) for path in cases_paths], ignore_index=True)
    table = table[(table["metric"] == "dice") & table["value"].notna()].copy()
    named = table["method"].str.extract(RUN)
    if named.isna().any(axis=None):
        unnamed = table["method"][named["scenario"].isna()].iloc[0]
        raise ParamsError(f"cannot use run {unnamed}: expected a name like study/scenario--method--s42")
    table[["scenario", "method"]] = named
    columns = ["scenario", "method", "seed", "site", "patient"]
    scored = table.groupby([*columns, "organ"])["value"].mean().rename("dice").reset_index()
    together = scored.groupby(columns)["dice"].mean().reset_index().assign(organ=ALL)
    trained = {str(name): _trained(scenarios / f"{name}.yaml") for name in sorted(set(scored["scenario"]))}
    return Study(pandas.concat([scored, together], ignore_index=True), {site.name: site.modality for site in sites}, trained)


def _trained(path: Path) -> frozenset[str]:
    """Read which sites a scenario trains on."""
    federate = sections.read_yaml(path).get("federate")
    participants = federate.get("participants") if isinstance(federate, dict) else None
    if not isinstance(participants, dict):
        raise ParamsError(f"cannot use {path}: expected federate.participants")
    return frozenset(site for members in participants.values() for site in members)


def questions(path: Path) -> list[Question]:
    """Read what is compared with what.

    Raises:
        ParamsError: An entry has another form.
    """
    entries = sections.read_yaml(path).get("comparisons")
    if not isinstance(entries, list) or not entries:
        raise ParamsError(f"cannot use {path}: expected a list of comparisons")
    found = []
    for entry in entries:
        known = {"question", "pairs", "modality", "organs", "test"}
        if not isinstance(entry, dict) or not {"question", "pairs"} <= entry.keys() <= known:
            raise ParamsError(f"cannot use {path}: expected {', '.join(sorted(known))}, got {entry!r}")
        pairs = tuple((str(new), str(reference)) for new, reference in entry["pairs"])
        organs = tuple(str(organ) for organ in entry.get("organs", []))
        found.append(Question(str(entry["question"]), pairs, entry.get("modality"), organs, bool(entry.get("test", True))))
    return found


def runs_of(study: Study, question: Question) -> Iterator[tuple[Key, Key]]:
    """List a question's pairs of runs.

    Raises:
        ParamsError: A pair means no run.
    """
    present = set(study.keys)
    for new, reference in question.pairs:
        if "/" in new:
            candidates = [(_key(new), _key(reference))]
        else:
            candidates = [((scenario, new), (scenario, reference)) for scenario in sorted(study.trained)]
        found = [pair for pair in candidates if set(pair) <= present]
        if not found:
            raise ParamsError(f"cannot compare {new} with {reference}: no such runs")
        yield from found


def _key(name: str) -> Key:
    scenario, _, method = name.partition("/")
    return scenario, method


def scores(study: Study) -> list[ScoreRow]:
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
                    ScoreRow(
                        scenario=key[0],
                        method=key[1],
                        group=group,
                        organ=organ,
                        dice=interval.mean,
                        low=interval.low,
                        high=interval.high,
                        seed_sd=_spread(study.by_seed(key, group.sites, organ).values()),
                        patients=interval.num_patients,
                        by_site={site: mean(values.values()) for site, values in patients.items()},
                    )
                )
    return found


def compare(study: Study, asked: Sequence[Question]) -> list[GainRow]:
    """Compare patient by patient, and correct what is tested over all of a question."""
    found = [
        row
        for question in asked
        for new, reference in runs_of(study, question)
        for group in study.groups(new[0], question.modality)
        for organ in question.organs or study.organs
        if (row := _gain(study, question, new, reference, group, organ))
    ]
    corrected: list[GainRow] = []
    for text in dict.fromkeys(row.question for row in found):
        family = [row for row in found if row.question == text]
        adjusted = statistics.holm([row.p_value for row in family])
        corrected += [replace(row, p_holm=value) for row, value in zip(family, adjusted, strict=True)]
    return corrected


def _gain(  # noqa: PLR0917  # a pair, its group and organ are one comparison
    study: Study, question: Question, new: Key, reference: Key, group: Group, organ: str
) -> GainRow | None:
    """Compare two runs on a group's cases; None if the group has none of this organ."""
    ours, theirs = study.patients(new, group.sites, organ), study.patients(reference, group.sites, organ)
    if not ours:
        return None
    compared = statistics.compare(
        {site: statistics.differences(ours[site], theirs[site], higher_is_better=True) for site in ours},
        confidence=CONFIDENCE,
        num_resamples=RESAMPLES,
        generator=seeds.numpy_generator(42, "bootstrap", *new, *reference, group.name, organ),
    )
    after, before = study.by_seed(new, group.sites, organ), study.by_seed(reference, group.sites, organ)
    base = mean(mean(patients.values()) for patients in theirs.values())
    is_main = organ in (question.organs or (ALL,))
    return GainRow(
        question=question.text,
        scenario=new[0],
        method=new[1],
        reference=reference[1] if reference[0] == new[0] else "/".join(reference),
        group=group,
        organ=organ,
        gain=compared.difference.mean,
        low=compared.difference.low,
        high=compared.difference.high,
        relative=compared.difference.mean / base if base > 0 else None,
        seed_sd=_spread([after[seed] - before[seed] for seed in after if seed in before]),
        patients=compared.num_patients,
        main=is_main,
        p_value=compared.p_value if is_main and question.test else None,
    )


def _spread(values: Iterable[float]) -> float | None:
    listed = list(values)
    return stdev(listed) if len(listed) >= SEEDS_OF_A_SPREAD else None


def table_of(rows: Sequence[ScoreRow] | Sequence[GainRow]) -> pandas.DataFrame:
    """Lay rows out as a table: the group becomes two columns, means by site stay out."""
    flat = []
    for row in rows:
        cells = {name: value for name, value in vars(row).items() if name not in ("group", "by_site")}
        flat.append(cells | {"modality": row.group.modality, "scanner": row.group.scanner})
    return pandas.DataFrame(flat)


def by_organ(table: pandas.DataFrame) -> pandas.DataFrame:
    """Lay scores out with a column an organ, a row a patient under a scenario, method and seed."""
    names = ["scenario", "method", "seed", "site", "patient"]
    return table[table["organ"] != ALL].pivot(index=names, columns="organ", values="dice").reset_index()


def csv_text(table: pandas.DataFrame) -> str:
    """Write a table as CSV with five decimals."""
    return table.to_csv(index=False, float_format="%.5f", lineterminator="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the study's results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("scenarios", "comparisons", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("cohorts", "cases"):
        parser.add_argument(f"--{name}", type=Path, required=True, nargs="+")
    options = parser.parse_args(argv)
    try:
        study = read(options.cases, options.cohorts, options.scenarios)
        scored, compared = scores(study), compare(study, questions(options.comparisons))
        files.write_text(options.out / "patients.csv", csv_text(by_organ(study.table)))
        files.write_text(options.out / "scores.csv", csv_text(table_of(scored)))
        files.write_text(options.out / "comparisons.csv", csv_text(table_of(compared)))
        files.write_text(options.out / "tables.md", pages.tables(scored, compared, study.trained))
        files.write_bytes(options.out / "scores.svg", pages.scores_figure(scored))
        files.write_bytes(options.out / "gains.svg", pages.gains_figure(compared))
    except FedsiloError as error:
        sys.stderr.write(f"summarise: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
