"""Every method against the global model, patient by patient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedsilo.errors import DataError
from fedsilo.evaluation import statistics
from fedsilo.evaluation.metrics import HIGHER_IS_BETTER
from fedsilo.evaluation.statistics import Comparison
from fedsilo.report.scores import ALL_ORGANS, ALL_SITES, REFERENCE_METHOD, Bootstrap, ScoreTable

Adjust = Callable[[Sequence[float | None]], list[float | None]]


@dataclass(frozen=True)
class ComparisonRow:
    """One method against the global model at one site, or at all sites of a role, on one organ or all.

    Attributes:
        method: The method.
        site: The site, or ``all sites``.
        organ: The organ, or ``all organs``.
        comparison: Positive is better than the global model.
        p_adjusted: p-value adjusted within the table; None if not testable.
    """

    method: str
    site: str
    organ: str
    comparison: Comparison
    p_adjusted: float | None


def confirmatory(table: ScoreTable, bootstrap: Bootstrap) -> tuple[ComparisonRow, ...]:
    """Compare over all organs, at all sites together and at each; the table is one family for Holm's correction.

    Raises:
        DataError: A method was not scored on the same patients as the global model; names site and method.
    """
    return _rows(table, (ALL_ORGANS,), bootstrap, statistics.holm)


def exploratory(table: ScoreTable, organs: Sequence[str], bootstrap: Bootstrap) -> tuple[ComparisonRow, ...]:
    """Compare organ by organ; p-values adjusted after Benjamini and Hochberg.

    Raises:
        DataError: A method was not scored on the same patients as the global model; names site and method.
    """
    return _rows(table, organs, bootstrap, statistics.benjamini_hochberg)


def _rows(table: ScoreTable, organs: Sequence[str], bootstrap: Bootstrap, adjust: Adjust) -> tuple[ComparisonRow, ...]:
    keys: list[tuple[str, str, str]] = []
    found: list[Comparison] = []
    for method in table.methods:
        for organ in organs:
            by_site = _differences(table, method, organ) if method != REFERENCE_METHOD else {}
            places = {ALL_SITES: by_site} if len(by_site) > 1 else {}
            places |= {site: {site: by_site[site]} for site in by_site}
            for place, sites in places.items():
                keys.append((method, place, organ))
                found.append(
                    bootstrap.compare(f"{table.metric}-{table.role}-{REFERENCE_METHOD}", place, organ, method, sites=sites)
                )
    adjusted = adjust([comparison.p_value for comparison in found])
    return tuple(ComparisonRow(*key, comparison, p) for key, comparison, p in zip(keys, found, adjusted, strict=True))


def _differences(table: ScoreTable, method: str, organ: str) -> dict[str, Mapping[str, float]]:
    """Site -> patient -> difference, in the table's order of sites."""
    found: dict[str, Mapping[str, float]] = {}
    for row in table.rows:
        if row.organ != organ or method not in row.cells or REFERENCE_METHOD not in row.cells:
            continue
        new, reference = row.cells[method].patients, row.cells[REFERENCE_METHOD].patients
        if not new and not reference:
            continue
        try:
            found[row.site] = statistics.differences(new, reference, higher_is_better=HIGHER_IS_BETTER[table.metric])
        except DataError as error:
            raise DataError(f"{method} at {row.site}: {error}") from error
    return found
