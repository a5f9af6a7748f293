"""The headline of a report, and what its means hide: the worst site, missed organs, organs drawn where there are none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas

from fedsilo.evaluation import statistics
from fedsilo.evaluation.metrics import HIGHER_IS_BETTER
from fedsilo.evaluation.statistics import Interval
from fedsilo.report import wording
from fedsilo.report.scores import ALL_SITES, Bootstrap, ScoreTable, ordered_methods
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
class Leaders:
    """The method with the highest number in each column of the headline; None for an empty column."""

    inside_mean: str | None
    inside_worst: str | None
    outside_mean: str | None
    outside_worst: str | None


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


def summaries(table: ScoreTable, unit: str, bootstrap: Bootstrap) -> dict[str, Summary]:
    """Average each method over the sites whose values have this unit; a method without any defined value has no entry."""
    found: dict[str, Summary] = {}
    for method in table.methods:
        sites = table.sites(method, unit)
        if not sites:
            continue
        worst = statistics.worst_site(sites, higher_is_better=HIGHER_IS_BETTER[table.metric])
        found[method] = Summary(
            mean=bootstrap.macro(f"{table.metric}-{table.role}", ALL_SITES, unit, method, sites=sites),
            worst_site=worst,
            worst=table.interval(worst, unit, method),
            sites_sd=statistics.between_sites_sd(sites),
            num_sites=len(sites),
        )
    return found


def headline(summaries: Mapping[SiteRole, Mapping[str, Summary]]) -> tuple[HeadlineRow, ...]:
    """Put the Dice of both roles side by side, one row a method.

    Args:
        summaries: Role -> method -> summary of Dice.
    """
    methods = ordered_methods([method for by_method in summaries.values() for method in by_method])
    inside, outside = summaries.get("inside", {}), summaries.get("outside", {})
    return tuple(HeadlineRow(method, inside.get(method), outside.get(method)) for method in methods)


def leaders(rows: Sequence[HeadlineRow]) -> Leaders:
    """Find the highest number of each column; the first method if several share it."""
    return Leaders(
        inside_mean=_highest({row.method: row.inside.mean.mean for row in rows if row.inside is not None}),
        inside_worst=_highest({row.method: row.inside.worst.mean for row in rows if row.inside is not None}),
        outside_mean=_highest({row.method: row.outside.mean.mean for row in rows if row.outside is not None}),
        outside_worst=_highest({row.method: row.outside.worst.mean for row in rows if row.outside is not None}),
    )


def _highest(means: Mapping[str, float]) -> str | None:
    return max(means, key=lambda method: means[method]) if means else None


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


def headline_text(rows: Sequence[HeadlineRow], *, confidence: float) -> str:
    """Write the headline as a plain text table, for a terminal.

    Args:
        rows: From ``headline``.
        confidence: Coverage of the intervals.

    Returns:
        Lines of equal columns: method, then for each role the mean over sites and the worst site, with intervals.
    """
    roles = [role for role in ("inside", "outside") if any(_of(row, role) is not None for row in rows)]
    header = ["Dice", *(f"{role}: {what}" for role in roles for what in ("mean over sites", "worst site"))]
    body = [[row.method, *(text for role in roles for text in _texts(_of(row, role)))] for row in rows]
    widths = [max(len(line[column]) for line in (header, *body)) for column in range(len(header))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in (header, *body)]
    legend = f"[ ]: {wording.percent(confidence)} bootstrap interval over patients; {wording.INTERVAL_LEGEND}"
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", legend]) + "\n"


def _of(row: HeadlineRow, role: str) -> Summary | None:
    return row.inside if role == "inside" else row.outside


def _texts(found: Summary | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    return wording.interval(found.mean), f"{wording.interval(found.worst)} {found.worst_site}"
