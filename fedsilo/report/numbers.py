"""The report's numbers for machines: a nested JSON for ``dvc metrics``, flat tables for ``dvc plots``."""

import csv
import io
from collections.abc import Iterable, Mapping

from fedsilo.report.document import Document, PhaseResults
from fedsilo.report.scores import ALL_ORGANS
from fedsilo.report.tables import Summary

DECIMALS = 6

Numbers = dict[str, "float | int | Numbers"]


def metrics(document: Document) -> Numbers:
    """List the numbers by role, method and metric, e.g. ``inside.global.dice.mean``; distances in mm and px stand apart.

    Returns:
        For every metric ``mean``, ``low``, ``high``, ``worst_site``, ``between_sites_sd``, ``sites.<site>`` and
        ``organs.<organ>.<site>``; beside them ``missed``, ``false_positive`` and ``share_below_half`` of each method. Floats
        have six decimals.
    """
    return {phase.role: _by_method(phase) for phase in document.phases}


def _by_method(phase: PhaseResults) -> Numbers:
    found: Numbers = {}
    for failure in phase.failures:
        numbers: Numbers = {
            "missed": failure.num_missed,
            "false_positive": failure.num_false_positive,
            "share_below_half": _rounded(failure.share_low),
        }
        for (metric, unit), by_method in phase.summaries.items():
            if failure.method in by_method:
                name = metric if unit == "1" else f"{metric}_{unit}"
                numbers[name] = _metric(phase, metric, unit, failure.method, by_method[failure.method])
        found[failure.method] = numbers
    return found


def _metric(phase: PhaseResults, metric: str, unit: str, method: str, summary: Summary) -> Numbers:
    numbers: Numbers = {
        "mean": _rounded(summary.mean.mean),
        "low": _rounded(summary.mean.low),
        "high": _rounded(summary.mean.high),
        "worst_site": _rounded(summary.worst.mean),
    }
    if summary.sites_sd is not None:
        numbers["between_sites_sd"] = _rounded(summary.sites_sd)
    sites: Numbers = {}
    organs: dict[str, Numbers] = {}
    for row in phase.scores[metric].rows:
        interval = row.cells[method].interval if row.unit == unit and method in row.cells else None
        if interval is not None and row.organ == ALL_ORGANS:
            sites[row.site] = _rounded(interval.mean)
        elif interval is not None:
            organs.setdefault(row.organ, {})[row.site] = _rounded(interval.mean)
    return numbers | {"sites": sites, "organs": dict(organs)}


def plots(document: Document) -> Mapping[str, str]:
    """Write the tables behind the figures, as CSV by file name."""
    return {
        "training.csv": _csv(
            ("round", "site", "train_loss", "val_dice_global", "val_dice_inside"),
            (
                (at, curve.site, loss, global_dice, inside_dice)
                for curve in document.curves
                for at, loss, global_dice, inside_dice in zip(
                    curve.rounds, curve.train_loss, curve.val_dice_global, curve.val_dice_inside, strict=True
                )
            ),
        ),
        "dice.csv": _csv(
            ("role", "site", "organ", "method", "dice", "low", "high", "patients"),
            (
                (
                    phase.role,
                    row.site,
                    row.organ,
                    method,
                    cell.interval.mean,
                    cell.interval.low,
                    cell.interval.high,
                    len(cell.patients),
                )
                for phase in document.phases
                for row in phase.scores["dice"].rows
                for method, cell in row.cells.items()
                if cell.interval is not None
            ),
        ),
        "routes.csv": _csv(
            ("site", "method", "expert", "before", "after"),
            ((route.site, route.method, route.expert, route.before, route.after) for route in document.routes),
        ),
    }


def _csv(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow(f"{_rounded(value)!r}" if isinstance(value, float) else value for value in row)
    return text.getvalue()


def _rounded(value: float) -> float:
    return round(value, DECIMALS) + 0.0
