"""Patients' scores with their intervals, by site, organ and method: the numbers that every table of the report shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import pandas

from fedsilo import seeds
from fedsilo.errors import DataError
from fedsilo.evaluation import statistics
from fedsilo.evaluation.metrics import HIGHER_IS_BETTER
from fedsilo.evaluation.statistics import Interval
from fedsilo.types import SiteRole

ALL_ORGANS = "all organs"
ALL_SITES = "all sites"
METHODS = (
    "global", "inside", "local", "finetuned", "finetuned_best",
    "ensemble", "soup", "router", "router_ungated", "dg_tta", "routing-paper", "routing-release",
)  # fmt: skip
REFERENCE_METHOD = "global"
TOLERATED = "nsd"


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: the run's seed, resamples and coverage."""

    seed: int
    num_resamples: int
    confidence: float

    def macro(self, table: str, *names: str, sites: Mapping[str, statistics.Patients]) -> Interval:
        """Mean over sites with its interval, from the generator of a table and a row."""
        return statistics.macro_interval(
            sites, confidence=self.confidence, num_resamples=self.num_resamples, generator=self._generator(table, *names)
        )

    def compare(self, table: str, *names: str, sites: Mapping[str, statistics.Patients]) -> statistics.Comparison:
        """Summarise paired differences, from the generator of a table and a row."""
        return statistics.compare(
            sites, confidence=self.confidence, num_resamples=self.num_resamples, generator=self._generator(table, *names)
        )

    def _generator(self, *names: str) -> numpy.random.Generator:
        return seeds.numpy_generator(self.seed, "bootstrap", *names)


@dataclass(frozen=True)
class Cell:
    """One method at one site, one organ or all.

    Attributes:
        patients: Value of each patient whose metric is defined; an organ the method missed counts, an absent one does not.
        interval: Mean over them; None without any.
        median: Median over them; None without any.
        num_missed: Organs in cases that the method missed altogether.
        num_scored: Organs in cases that the reference holds.
    """

    patients: Mapping[str, float]
    interval: Interval | None
    median: float | None
    num_missed: int
    num_scored: int


@dataclass(frozen=True)
class ScoreRow:
    """One organ at one site; ``unit`` is ``mm`` or ``px`` for distances and for NSD (of its tolerance), ``1`` otherwise."""

    site: str
    organ: str
    unit: str
    cells: Mapping[str, Cell]

    @property
    def num_patients(self) -> int:
        """Patients with a defined value."""
        return max((len(cell.patients) for cell in self.cells.values()), default=0)


@dataclass(frozen=True)
class ScoreTable:
    """One metric at the sites of one role: rows with the worst site first, cells by method."""

    role: SiteRole
    metric: str
    methods: tuple[str, ...]
    rows: tuple[ScoreRow, ...]

    def sites(self, method: str, unit: str) -> dict[str, Mapping[str, float]]:
        """Patients of each site over all organs: site -> patient -> value; sites without a defined value are left out."""
        return {
            row.site: row.cells[method].patients
            for row in self.rows
            if row.organ == ALL_ORGANS and row.unit == unit and method in row.cells and row.cells[method].patients
        }

    def interval(self, site: str, unit: str, method: str) -> Interval:
        """Mean over all organs of a site that ``sites`` names."""
        cells = next(row.cells for row in self.rows if (row.site, row.unit, row.organ) == (site, unit, ALL_ORGANS))
        interval = cells[method].interval
        if interval is None:
            raise DataError(f"{self.metric} of {method} at {site} is defined for no patient")
        return interval


def ordered_methods(names: Sequence[str]) -> tuple[str, ...]:
    """Sort methods: the known ones in the order of the report, others behind them by name.

    Example:
        >>> ordered_methods(["soup", "mine", "global"])
        ('global', 'soup', 'mine')
    """
    return tuple(sorted(set(names), key=lambda name: (METHODS.index(name) if name in METHODS else len(METHODS), name)))


def score_table(
    cases: pandas.DataFrame, *, role: SiteRole, metric: str, organs: Sequence[str], bootstrap: Bootstrap
) -> ScoreTable:
    """Average a metric over patients, by site, organ and method.

    A patient's cases are averaged first, then, for the row ``all organs``, the patient's organs. Pixels and millimetres are
    never averaged together: a site with both has rows for each.

    Args:
        cases: Cases table of one role and seed.
        role: Role of its sites.
        metric: ``dice``, ``hd95``, ...
        organs: Order of the organs' rows.
        bootstrap: How intervals are drawn.

    Returns:
        The table; sites in pixels behind those in millimetres, the site with the worst mean of the global model first.
    """
    chosen = cases[cases["metric"] == metric]
    if metric == TOLERATED:
        chosen = chosen.assign(unit=["px" if spacing == "" else "mm" for spacing in chosen["spacing"]])
    methods = ordered_methods(list(chosen["method"]))
    parts = {tuple(str(name) for name in key): part for key, part in chosen.groupby(["site", "unit", "organ", "method"])}
    rows: list[ScoreRow] = []
    for site, unit in sorted({(site, unit) for site, unit, _, _ in parts}):
        names = (f"{metric}-{role}", site, unit)
        here = {(organ, method): part for (*place, organ, method), part in parts.items() if place == [site, unit]}
        by_organ = [
            ScoreRow(
                site,
                organ,
                unit,
                {
                    method: _cell(here[organ, method], _patients(here[organ, method]), bootstrap, *names, organ, method)
                    for method in methods
                    if (organ, method) in here
                },
            )
            for organ in organs
            if any(name == organ for name, _ in here)
        ]
        overall = {
            method: _cell(
                pandas.concat([part for (_, name), part in here.items() if name == method]),
                _over_organs([row.cells[method].patients for row in by_organ if method in row.cells]),
                bootstrap,
                *names,
                ALL_ORGANS,
                method,
            )
            for method in methods
            if any(name == method for _, name in here)
        }
        rows += [ScoreRow(site, ALL_ORGANS, unit, overall), *by_organ]
    return ScoreTable(role, metric, methods, _worst_first(rows, metric))


def _patients(part: pandas.DataFrame) -> dict[str, float]:
    defined = part[part["value"].notna()]
    return statistics.patient_means(defined["value"].tolist(), defined["patient"].tolist())


def _over_organs(by_organ: Sequence[statistics.Patients]) -> dict[str, float]:
    pairs = [(patient, value) for organ in by_organ for patient, value in organ.items()]
    return statistics.patient_means([value for _, value in pairs], [patient for patient, _ in pairs])


def _cell(part: pandas.DataFrame, patients: Mapping[str, float], bootstrap: Bootstrap, *names: str) -> Cell:
    missed, absent = int((part["flag"] == "missed").sum()), int((part["flag"] == "absent").sum())
    if not patients:
        return Cell(patients, None, None, missed, len(part) - absent)
    interval = bootstrap.macro(*names, sites={"": patients})
    return Cell(patients, interval, float(numpy.median(list(patients.values()))), missed, len(part) - absent)


def _worst_first(rows: Sequence[ScoreRow], metric: str) -> tuple[ScoreRow, ...]:
    """Order whole sites by the reference method's mean; rows of a site stay together, in their order."""
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0

    def badness(row: ScoreRow) -> tuple[str, float, str]:
        cell = row.cells.get(REFERENCE_METHOD)
        mean = sign * cell.interval.mean if cell is not None and cell.interval is not None else float("inf")
        return row.unit, mean, row.site

    order = sorted((row for row in rows if row.organ == ALL_ORGANS), key=badness)
    return tuple(row for first in order for row in rows if (row.site, row.unit) == (first.site, first.unit))
