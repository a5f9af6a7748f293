"""The headline of a report, and what its means hide: the worst site, missed organs, organs drawn where there are none."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from fedsilo.evaluation import statistics
from fedsilo.evaluation.metrics import HIGHER_IS_BETTER
from fedsilo.evaluation.statistics import Interval
from fedsilo.report import wording
from fedsilo.report.scores import ALL_ORGANS, ALL_SITES, Bootstrap, ScoreTable, ordered_methods
from fedsilo.types import SiteRole

LOW_DICE = 0.5


@dataclass(frozen=True)
class Summary:
    """One method over the sites of one role.

    Attributes:
        mean: Mean of the sites' means.
        worst_site: Site with the worst mean.
        worst: Mean at that site.
        sites_sd: Standard deviation between the sites' means; None with one site.
        num_sites: Sites averaged.
    """

    mean: Interval
    worst_site: str
    worst: Interval
    sites_sd: float | None
    num_sites: int


@dataclass(frozen=True)
class HeadlineRow:
    """One method; a role at which it was not run is None."""

    method: str
    inside: Summary | None
    outside: Summary | None


@dataclass(frozen=True)
class FailureRow:
    """How often one method fails at the sites of one role.

    Attributes:
        role: Role of the sites.
        method: The method.
        num_cases: Cases with a defined Dice.
        num_low: Cases whose mean Dice over organs is below one half.
        share_low: Their share.
        num_organs: Organs in cases that the reference holds.
        num_missed: Those the method missed altogether.
        num_absent: Organs in cases that are annotated at the site, but absent from the reference.
        num_false_positive: Those the method drew all the same.
    """

    role: SiteRole
    method: str
    num_cases: int
    num_low: int
    share_low: float
    num_organs: int
    num_missed: int
    num_absent: int
    num_false_positive: int


@dataclass(frozen=True)
class AbsentCell:
    """Organs absent from the reference at one site under one method: how many, how many drawn, and how much of it."""

    num_absent: int
    num_false_positive: int
    false_positive_volume: float
    unit: str


def summary(table: ScoreTable, method: str, unit: str, bootstrap: Bootstrap) -> Summary | None:
    """Average a method over sites; None if no site has a defined value in this unit."""
    sites = table.sites(method, unit)
    if not sites:
        return None
    worst = statistics.worst_site(sites, higher_is_better=HIGHER_IS_BETTER[table.metric])
    worst_interval = table.row(worst, ALL_ORGANS, unit).cells[method].interval
    if worst_interval is None:
        return None
    return Summary(
        mean=bootstrap.macro(f"{table.metric}-{table.role}", ALL_SITES, unit, method, sites=sites),
        worst_site=worst,
        worst=worst_interval,
        sites_sd=statistics.between_sites_sd(sites),
        num_sites=len(sites),
    )


def headline(tables: Sequence[ScoreTable], bootstrap: Bootstrap) -> tuple[HeadlineRow, ...]:
    """Summarise Dice: one row a method, inside and outside side by side.

    Args:
        tables: The Dice table of each role.
        bootstrap: How intervals are drawn.
    """
    by_role = {table.role: table for table in tables}
    methods = ordered_methods([method for table in tables for method in table.methods])
    found = {
        (role, method): summary(table, method, "1", bootstrap) for role, table in by_role.items() for method in table.methods
    }
    return tuple(HeadlineRow(method, found.get(("inside", method)), found.get(("outside", method))) for method in methods)


def failures(cases: pandas.DataFrame, role: SiteRole) -> tuple[FailureRow, ...]:
    """Count what a mean hides: cases of low Dice, missed organs, organs drawn where there are none."""
    dice = cases[cases["metric"] == "dice"]
    volumes = cases[(cases["metric"] == "volume_ml") & (cases["flag"] == "absent")]
    rows: list[FailureRow] = []
    for method in ordered_methods(list(dice["method"])):
        scored = dice[(dice["method"] == method) & dice["value"].notna()]
        means = scored.groupby(["site", "case"])["value"].mean()
        absent = volumes[volumes["method"] == method]
        num_low = int((means < LOW_DICE).sum())
        rows.append(
            FailureRow(
                role=role,
                method=method,
                num_cases=len(means),
                num_low=num_low,
                share_low=num_low / len(means) if len(means) else 0.0,
                num_organs=len(scored),
                num_missed=int((scored["flag"] == "missed").sum()),
                num_absent=len(absent),
                num_false_positive=int((absent["value"] > 0).sum()),
            )
        )
    return tuple(rows)


def absent_organs(cases: pandas.DataFrame) -> dict[str, dict[str, AbsentCell]]:
    """Count organs absent from the reference: site -> method -> cell; a site where none is absent has no entry."""
    volumes = cases[(cases["metric"] == "volume_ml") & (cases["flag"] == "absent")]
    found: dict[str, dict[str, AbsentCell]] = {}
    for (site, method, unit), part in volumes.groupby(["site", "method", "unit"]):
        cell = AbsentCell(len(part), int((part["value"] > 0).sum()), float(part["value"].sum()), str(unit))
        found.setdefault(str(site), {})[str(method)] = cell
    return found


def headline_text(rows: Sequence[HeadlineRow]) -> str:
    """Write the headline as a plain text table, for a terminal.

    Returns:
        Lines of equal columns: method, then for each role the mean over sites and the worst site, with intervals.
    """
    roles = [role for role in ("inside", "outside") if any(_of(row, role) is not None for row in rows)]
    header = ["Dice, mean over patients", *(f"{role}: {what}" for role in roles for what in ("mean over sites", "worst site"))]
    body = [[row.method, *(text for role in roles for text in _texts(_of(row, role)))] for row in rows]
    widths = [max(len(line[column]) for line in (header, *body)) for column in range(len(header))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in (header, *body)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]]) + "\n"


def _of(row: HeadlineRow, role: str) -> Summary | None:
    return row.inside if role == "inside" else row.outside


def _texts(found: Summary | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    return wording.interval(found.mean), f"{wording.interval(found.worst)} {found.worst_site}"
