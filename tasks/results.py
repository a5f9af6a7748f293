"""A few lines of a run's results for a terminal, taken from the report's metrics."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from fedsilo import files
from tasks.paths import RunPaths

COLUMNS = ("sites", "method", "Dice", "interval", "worst site", "HD95 mm")
WIDTHS = (9, 17, 8, 16, 12, 8)


def summary(workspace: Path, cohort: str) -> str:
    """Say where a cohort's report is, and show Dice and HD95 by method.

    Raises:
        DataError: The cohort has no metrics yet.
    """
    folder = RunPaths(workspace=workspace, cohort=cohort, run=cohort).report_dir
    numbers = files.read_json(folder / "metrics.json")
    rows = [COLUMNS, *_rows(numbers)]
    table = ["".join(cell.ljust(width) for cell, width in zip(row, WIDTHS, strict=True)).rstrip() for row in rows]
    return "\n".join(["", *table, "", f"Report: {(folder / 'index.html').resolve()}", ""])


def study_summary(workspace: Path, study: str) -> str:
    """Show a study's tables and say where its results are."""
    folder = workspace / "studies" / study / "results"
    tables = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md")))
    return f"\n{tables}\nResults: {folder.resolve()}\n"


def _rows(numbers: Mapping[str, object]) -> Iterator[tuple[str, ...]]:
    """List a row a role and method, in the report's order of roles and from the best mean Dice down."""
    for role in ("inside", "outside"):
        methods = _inner(numbers, role)
        for method in sorted(methods, key=lambda name: (-_number(_inner(methods, name, "dice"), "mean"), name)):
            dice, hd95 = _inner(methods, method, "dice"), _inner(methods, method, "hd95_mm")
            yield (
                role,
                method,
                f"{_number(dice, 'mean'):.3f}",
                f"[{_number(dice, 'low'):.3f}, {_number(dice, 'high'):.3f}]",
                f"{_number(dice, 'worst_site'):.3f}",
                f"{_number(hd95, 'mean'):.1f}" if hd95 else "-",
            )


def _inner(numbers: Mapping[str, object], *keys: str) -> Mapping[str, object]:
    """Go down a tree of numbers; empty where it ends."""
    for key in keys:
        below = numbers.get(key)
        numbers = below if isinstance(below, Mapping) else {}
    return numbers


def _number(numbers: Mapping[str, object], key: str) -> float:
    """Read a number; NaN if there is none."""
    value = numbers.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")
