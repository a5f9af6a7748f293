"""Tables and figures of an IOP-FL study, from the cases tables of its runs.

    python studies/iopfl/evaluate.py --cohort FILE --runs FOLDER --comparisons FILE --out FOLDER

``FOLDER`` holds ``<algorithm>--s<seed>`` with an inside evaluation and ``without-<site>--s<seed>`` with an outside one. Dice is
averaged over the cases of a patient, then over organs, then over seeds; a method's score is the mean of its sites' means, with
intervals over patients; the spread is the standard deviation over seeds. Seeds are never counted as patients. Tests are
Wilcoxon's on patients, site by site and over all sites, corrected by Holm over all of a question.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

import pandas
import presentation
from findings import ALL_ORGANS, ALL_SITES, GainRow, HarmRow, ScoreRow

from fedsilo import files, sections, seeds
from fedsilo.cohort import roster as rosters
from fedsilo.errors import DataError, FedsiloError, ParamsError
from fedsilo.evaluation import cases, noninferiority, statistics

RUN = re.compile(r"^(?P<name>[a-z0-9_-]+?)--s(?P<seed>\d+)$")
LEFT_OUT = "without-"
REFERENCE = {"inside": "fedavg", "outside": "global"}
OWN_MODEL = ("ditto", "apfl")
"""Algorithms whose result is the site's own model; of the others it is the global one, as the site holds it."""

HARM = 0.05
MARGIN = 0.01
RESAMPLES = 9999
CONFIDENCE = 0.95
ORACLE = "best-expert (oracle)"

Patients = dict[str, dict[str, float]]
"""Site -> patient -> Dice."""


@dataclass(frozen=True)
class Question:
    """What is compared with what; all tests under one text are one family for Holm's correction."""

    text: str
    phase: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Study:
    """Scores of a patient: columns phase, method, seed, site, patient, organ, dice, missed; ``all organs`` is the mean."""

    table: pandas.DataFrame

    @cached_property
    def _by_key(self) -> dict[object, pandas.DataFrame]:
        """Split the scores by phase, method and organ."""
        return dict(iter(self.table.groupby(["phase", "method", "organ"], sort=False)))

    def methods(self, phase: str) -> list[str]:
        """List the methods of a phase by name."""
        return sorted(set(self.table.loc[self.table["phase"] == phase, "method"]))

    @property
    def organs(self) -> list[str]:
        """List the organs by name."""
        return sorted(set(self.table["organ"]) - {ALL_ORGANS})

    def rows(self, phase: str, method: str, organ: str = ALL_ORGANS) -> pandas.DataFrame:
        """Pick a method's scores."""
        return self._by_key.get((phase, method, organ), self.table.iloc[:0])

    def patients(self, phase: str, method: str, organ: str = ALL_ORGANS) -> Patients:
        """Average each patient over seeds."""
        found: Patients = {}
        means = self.rows(phase, method, organ).groupby(["site", "patient"])["dice"].mean()
        for (site, patient), value in means.items():
            found.setdefault(str(site), {})[str(patient)] = float(value)
        return found

    def by_seed(self, phase: str, method: str, organ: str = ALL_ORGANS) -> list[float]:
        """Average the sites' means, for each seed."""
        table = self.rows(phase, method, organ)
        return [float(value) for value in table.groupby(["seed", "site"])["dice"].mean().groupby("seed").mean()]


def read(folder: Path) -> Study:
    """Read the scores of all runs of a study.

    Raises:
        DataError: A cases table cannot be used.
        ParamsError: A run has another name, or there is none.
    """
    parts = []
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        named = RUN.match(run.name)
        if named is None:
            raise ParamsError(f"cannot use run {run.name}: expected a name like fedavg--s42")
        phase = "outside" if named["name"].startswith(LEFT_OUT) else "inside"
        table = cases.read(run / f"{phase}_evaluation" / "cases.csv")
        if phase == "outside":
            table = table[table["site"] == named["name"].removeprefix(LEFT_OUT)]
        else:
            table = table.assign(method=table["method"].map(lambda method, name=named["name"]: inside_method(name, method)))
        parts.append(table[(table["metric"] == "dice") & table["method"].notna()].assign(phase=phase))
    if not parts:
        raise ParamsError(f"{folder} holds no run")
    table = pandas.concat(parts, ignore_index=True)
    table["missed"] = (table["flag"] == "missed").astype("float64")
    keys = ["phase", "method", "seed", "site", "patient"]
    scored = table[table["value"].notna()].groupby([*keys, "organ"])[["value", "missed"]].mean().reset_index()
    scored = scored.rename(columns={"value": "dice"})
    together = scored.groupby(keys)[["dice", "missed"]].mean().reset_index().assign(organ=ALL_ORGANS)
    return Study(with_oracle(pandas.concat([scored, together], ignore_index=True)))


def inside_method(algorithm: str, method: str) -> str | None:
    """Name what a model of a run is in the study; None for one that another run has, too."""
    if algorithm == "fedavg":
        return {"global": "fedavg", "inside": "fold"}.get(method, method)
    if algorithm in OWN_MODEL:
        return algorithm if method == "inside" else None
    return {"global": algorithm, "inside": f"{algorithm}+fold"}.get(method)


def with_oracle(table: pandas.DataFrame) -> pandas.DataFrame:
    """Add the best single expert of each site and seed, chosen by its test Dice: a bound, no method."""
    experts = table[(table["phase"] == "outside") & table["method"].str.startswith("expert-")]
    if experts.empty:
        return table
    means = experts[experts["organ"] == ALL_ORGANS].groupby(["site", "seed", "method"])["dice"].mean().reset_index()
    best = means.sort_values(["dice", "method"], ascending=[False, True]).drop_duplicates(["site", "seed"])
    chosen = experts.merge(best[["site", "seed", "method"]], on=["site", "seed", "method"])
    return pandas.concat([table[~table.index.isin(experts.index)], chosen.assign(method=ORACLE)], ignore_index=True)


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
        if not isinstance(entry, dict) or entry.keys() != {"question", "phase", "pairs"} or entry["phase"] not in REFERENCE:
            raise ParamsError(f"cannot use {path}: expected question, phase (inside or outside) and pairs, got {entry!r}")
        pairs = tuple((str(new), str(reference)) for new, reference in entry["pairs"])
        found.append(Question(str(entry["question"]), str(entry["phase"]), pairs))
    return found


def scores(study: Study) -> list[ScoreRow]:
    """Score every method and organ, the methods with the best worst site first."""
    found = []
    for phase in REFERENCE:
        for method in study.methods(phase):
            for organ in (ALL_ORGANS, *study.organs):
                patients = study.patients(phase, method, organ)
                if not patients:
                    continue
                interval = statistics.macro_interval(
                    patients,
                    confidence=CONFIDENCE,
                    num_resamples=RESAMPLES,
                    generator=seeds.numpy_generator(42, "bootstrap", "scores", phase, method, organ),
                )
                by_seed = study.by_seed(phase, method, organ)
                found.append(
                    ScoreRow(
                        phase=phase,
                        method=method,
                        organ=organ,
                        dice=interval.mean,
                        low=interval.low,
                        high=interval.high,
                        seed_sd=stdev(by_seed) if len(by_seed) > 1 else None,
                        patients=interval.num_patients,
                        by_site={site: mean(values.values()) for site, values in sorted(patients.items())},
                    )
                )
    return sorted(found, key=lambda row: (row.phase, row.organ != ALL_ORGANS, row.organ, -row.worst[1], row.method))


def compare(study: Study, asked: Sequence[Question]) -> list[GainRow]:
    """Compare patient by patient, at each site and over all, and correct over all of a question.

    Raises:
        DataError: A method was not run, or on other patients.
    """
    corrected: list[GainRow] = []
    for question in asked:
        found = []
        for new, reference in question.pairs:
            by_site = differences(study, question.phase, new, reference)
            for site in (ALL_SITES, *sorted(by_site)):
                chosen = by_site if site == ALL_SITES else {site: by_site[site]}
                result = statistics.compare(
                    chosen,
                    confidence=CONFIDENCE,
                    num_resamples=RESAMPLES,
                    generator=seeds.numpy_generator(42, "bootstrap", "gains", question.phase, new, reference, site),
                )
                found.append(
                    GainRow(
                        question=question.text,
                        phase=question.phase,
                        method=new,
                        reference=reference,
                        site=site,
                        gain=result.difference.mean,
                        low=result.difference.low,
                        high=result.difference.high,
                        hodges_lehmann=result.hodges_lehmann,
                        rank_biserial=result.rank_biserial,
                        patients=result.num_patients,
                        p_value=result.p_value,
                    )
                )
        adjusted = statistics.holm([row.p_value for row in found])
        corrected += [replace(row, p_holm=value) for row, value in zip(found, adjusted, strict=True)]
    return corrected


def differences(study: Study, phase: str, new: str, reference: str, organ: str = ALL_ORGANS) -> Patients:
    """Subtract two methods' patients, seeds averaged.

    Raises:
        DataError: A method was not run, or on other patients.
    """
    first, second = study.patients(phase, new, organ), study.patients(phase, reference, organ)
    if not first or first.keys() != second.keys():
        raise DataError(f"cannot compare {new} with {reference} {phase}: they were scored at other sites, or not at all")
    return {site: statistics.differences(first[site], second[site], higher_is_better=True) for site in first}


def harm(study: Study) -> list[HarmRow]:
    """Say what each method does to single patients, against the global model."""
    found = []
    for phase, reference in REFERENCE.items():
        for method in study.methods(phase):
            if method == reference:
                continue
            keys = ["seed", "site", "patient"]
            pairs = study.rows(phase, method).merge(study.rows(phase, reference), on=keys, suffixes=("", "_reference"))
            single = pairs["dice"] - pairs["dice_reference"]
            found.append(
                HarmRow(
                    phase=phase,
                    method=method,
                    harmed=float((single < -HARM).mean()),
                    helped=float((single > HARM).mean()),
                    worst=float(-min(single.min(), 0.0)),
                    non_inferiority=noninferiority.non_inferiority(
                        differences(study, phase, method, reference),
                        margin=MARGIN,
                        num_resamples=RESAMPLES,
                        generator=seeds.numpy_generator(42, "bootstrap", "harm", phase, method),
                    ),
                    catastrophes=lost(study, phase, method, reference),
                )
            )
    return sorted(found, key=lambda row: (row.phase, row.worst, row.method))


def lost(study: Study, phase: str, method: str, reference: str) -> noninferiority.Catastrophes:
    """Count the patients whom a method loses in any organ, seeds averaged."""
    losses: dict[str, dict[str, dict[str, float]]] = {}
    missed: dict[str, set[str]] = {}
    for organ in study.organs:
        for site, patients in differences(study, phase, method, reference, organ).items():
            for patient, difference in patients.items():
                losses.setdefault(site, {}).setdefault(patient, {})[organ] = difference
        new, old = (study.rows(phase, name, organ).groupby(["site", "patient"])["missed"].mean() for name in (method, reference))
        for site, patient in new.index[(new >= 0.5) & (old.reindex(new.index) < 0.5)]:  # by most seeds
            missed.setdefault(str(site), set()).add(str(patient))
    return noninferiority.catastrophes(losses, {site: frozenset(patients) for site, patients in missed.items()})


def router_table(folder: Path) -> pandas.DataFrame:
    """Summarise what the router did at each site left out: how often its model was used, and what it cost.

    Raises:
        DataError: A table is missing.
    """
    parts = []
    for path in sorted(folder.glob(f"{LEFT_OUT}*--s*/outside_evaluation/router.csv")):
        table = pandas.read_csv(path)
        parts.append(table[table["site"] == path.parts[-3].removeprefix(LEFT_OUT).partition("--s")[0]])
    if not parts:
        raise DataError(f"{folder} holds no table of the router")
    table = pandas.concat(parts, ignore_index=True)
    by_expert = table.pivot_table(index="site", columns="expert", values="weight", aggfunc="mean").reset_index()
    one_a_case = table[table["expert"] == "global"].groupby("site")[["kept", "passes"]].mean().reset_index()
    return one_a_case.merge(by_expert, on="site")


def table_of(rows: Iterable[ScoreRow | GainRow]) -> pandas.DataFrame:
    """Lay rows out as a table."""
    records = []
    for row in rows:
        record = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "by_site"}
        if isinstance(row, ScoreRow):
            record |= {"worst_site": row.worst[0], "worst_dice": row.worst[1], **row.by_site}
        records.append(record)
    return pandas.DataFrame(records)


def harm_table(rows: Iterable[HarmRow]) -> pandas.DataFrame:
    """Lay harm out as a table."""
    return pandas.DataFrame(
        {
            "phase": row.phase,
            "method": row.method,
            "harmed": row.harmed,
            "helped": row.helped,
            "worst": row.worst,
            "gain": row.non_inferiority.difference.mean,
            "low": row.non_inferiority.difference.low,
            "margin": row.non_inferiority.margin,
            "p_value": row.non_inferiority.p_value,
            "worst_site": row.non_inferiority.worst_site,
            "worst_site_gain": row.non_inferiority.worst_site_difference,
            "smallest_margin": row.non_inferiority.smallest_margin,
            "non_inferior": row.non_inferiority.verdict,
            "catastrophes": " ".join(row.catastrophes.patients),
            "num_catastrophes": len(row.catastrophes.patients),
            "patients": row.catastrophes.num_patients,
            "bound": row.catastrophes.bound,
            "no_catastrophe": row.catastrophes.verdict,
        }
        for row in rows
    )


def patients_table(study: Study) -> pandas.DataFrame:
    """Lay scores out with a column an organ, a row a patient under a phase, method and seed."""
    names = ["phase", "method", "seed", "site", "patient"]
    table = study.table[study.table["organ"] != ALL_ORGANS]
    return table.pivot(index=names, columns="organ", values="dice").reset_index()


def csv_text(table: pandas.DataFrame) -> str:
    """Write a table as CSV with five decimals."""
    return table.to_csv(index=False, float_format="%.5f", lineterminator="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the study's results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("cohort", "runs", "comparisons", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        modalities = {site.name: site.modality for site in rosters.load(options.cohort).sites}
        study = read(options.runs)
        scored, compared, harmed = scores(study), compare(study, questions(options.comparisons)), harm(study)
        router = router_table(options.runs)
        texts: Mapping[str, str] = {
            "patients.csv": csv_text(patients_table(study)),
            "scores.csv": csv_text(table_of(scored)),
            "comparisons.csv": csv_text(table_of(compared)),
            "harm.csv": csv_text(harm_table(harmed)),
            "router.csv": csv_text(router),
            "tables.md": presentation.tables(scored, compared, harmed, router),
        }
        for name, text in texts.items():
            files.write_text(options.out / name, text)
        for phase, reference in REFERENCE.items():
            of_phase = [row for row in scored if row.phase == phase]
            if of_phase:
                figure = presentation.scores_figure(of_phase, reference=reference, modalities=modalities)
                files.write_bytes(options.out / f"{phase}.svg", figure)
    except FedsiloError as error:
        sys.stderr.write(f"evaluate: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
