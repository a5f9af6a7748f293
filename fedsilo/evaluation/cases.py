"""The cases table: one row a case, organ, method and metric; the only input of statistics and reports."""

import csv
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas

from fedsilo import files
from fedsilo.errors import DataError
from fedsilo.evaluation.metrics import TOOL, Score
from fedsilo.types import SiteRole

DECIMALS = 6
SPACING_SEPARATOR = "|"


@dataclass(frozen=True)
class CaseRow:
    """One row of the cases table; its fields are the columns, in order.

    Attributes:
        cohort: Name of the cohort.
        site: Site that holds the case.
        role: Whether the site trained.
        patient: Unit of every statistic; has one case or several.
        case: One examination.
        organ: Name of an organ annotated at the site.
        method: What predicted, e.g. ``global`` or ``routing-paper``.
        seed: Seed of the run; seeds are never pooled as patients.
        round: Round of the model; None if it belongs to none.
        metric: See ``metrics.Score``.
        value: None where undefined.
        unit: See ``metrics.Score``.
        flag: ``missed``, ``absent`` or empty.
        spacing: Voxel edges in mm along the stored axes, e.g. ``1.25|1.25|7.7``; empty in pixel geometry.
        tool: Library and version that computed the surface metrics.
        model: SHA-256 of the model, or of the models in order.
    """

    cohort: str
    site: str
    role: SiteRole
    patient: str
    case: str
    organ: str
    method: str
    seed: int
    round: int | None
    metric: str
    value: float | None
    unit: str
    flag: str
    spacing: str
    tool: str
    model: str


COLUMNS = tuple(field.name for field in fields(CaseRow))


def rows(
    scores: Sequence[Score],
    *,
    cohort: str,
    site: str,
    role: SiteRole,
    patient: str,
    case: str,
    method: str,
    seed: int,
    round_index: int | None,
    spacing_mm: Sequence[float] | None,
    model: str,
) -> list[CaseRow]:
    """Turn the scores of one case and method into rows of the cases table.

    Args:
        scores: What ``metrics.score_case`` returned.
        cohort: Name of the cohort.
        site: Site that holds the case.
        role: Whether the site trained.
        patient: Patient of the case.
        case: Name of the case.
        method: What predicted.
        seed: Seed of the run.
        round_index: Round of the model, None if it belongs to none.
        spacing_mm: As given to ``score_case``.
        model: Hash of what predicted.

    Returns:
        One row a score, in the same order.
    """
    spacing = "" if spacing_mm is None else SPACING_SEPARATOR.join(f"{round(edge, DECIMALS):g}" for edge in spacing_mm)
    return [
        CaseRow(
            cohort=cohort,
            site=site,
            role=role,
            patient=patient,
            case=case,
            organ=score.organ,
            method=method,
            seed=seed,
            round=round_index,
            metric=score.metric,
            value=score.value,
            unit=score.unit,
            flag=score.flag,
            spacing=spacing,
            tool=TOOL,
            model=model,
        )
        for score in scores
    ]


def write(rows: Iterable[CaseRow], path: Path) -> Path:
    """Write the table, sorted and with six decimals: the same bytes for the same rows in any order.

    Raises:
        DataError: Two rows say something about the same thing, or a value is not finite (undefined is None).
    """
    ordered = sorted(rows, key=_key)
    for first, second in itertools.pairwise(ordered):
        if _key(first) == _key(second):
            raise DataError(f"cannot write {path}: two rows for {_name(first)}, expected one")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in ordered:
        if row.value is not None and not math.isfinite(row.value):
            raise DataError(f"cannot write {path}: {_name(row)} is {row.value}, expected a finite number or none")
        table.writerow(_text(getattr(row, name)) for name in COLUMNS)
    return files.write_text(path, text.getvalue())


def read(path: Path) -> pandas.DataFrame:
    """Read a cases table.

    Returns:
        A frame with the columns of ``CaseRow``: text columns hold text (empty, never missing), ``value`` is float with NaN
        where undefined, ``seed`` is an integer, ``round`` an integer that can be missing.

    Raises:
        DataError: The file is missing, its columns are not those of a cases table, or a number cannot be read.
    """
    try:
        table = pandas.read_csv(path, dtype="str", keep_default_na=False)
        if tuple(table.columns) != COLUMNS:
            raise DataError(f"cannot use {path}: expected the columns {','.join(COLUMNS)}, got {','.join(table.columns)}")
        table["seed"] = table["seed"].astype("int64")
        table["round"] = pandas.to_numeric(table["round"].replace("", None)).astype("Int64")
        table["value"] = pandas.to_numeric(table["value"].replace("", None)).astype("float64")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return table


def join(parts: Sequence[Path], path: Path) -> Path:
    """Write the rows of several tables as one.

    Raises:
        DataError: A part cannot be used, or two parts say something about the same thing.
    """
    return write([row for part in parts for row in _read_rows(part)], path)


def _read_rows(path: Path) -> list[CaseRow]:
    table = read(path)
    records = table.astype("object").where(table.notna(), None).to_dict(orient="records")
    return [CaseRow(**{str(name): value for name, value in record.items()}) for record in records]


def _key(row: CaseRow) -> tuple[object, ...]:
    return row.site, row.case, row.organ, row.method, row.metric, row.seed, row.round is not None, row.round or 0


def _name(row: CaseRow) -> str:
    return f"{row.site}/{row.case} {row.organ} {row.method} {row.metric}"


def _text(value: object) -> object:
    if value is None:
        return ""
    return repr(round(value, DECIMALS) + 0.0) if isinstance(value, float) else value
