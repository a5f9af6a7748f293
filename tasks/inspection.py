"""What `flows.inspect` shows of a site: its facts, its findings and a picture of each case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedsilo import files
from fedsilo.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas

    from fedsilo.cohort.layouts import LabelMap, SourceCase
    from fedsilo.cohort.roster import Roster
    from fedsilo.cohort.sheet import Tile
    from tasks.paths import RunPaths

HEADER = ("case", "patient", "split", "shape z y x", "spacing mm", "0.5 % to 99.5 %", "organs", "findings")


def show(roster: Roster, paths: RunPaths, data_root: Path, site: str) -> str:
    """Write the contact sheet; return the table as text.

    Raises:
        DataError: The site was not prepared, or its cases have changed since.
    """
    from fedsilo.cohort import layouts, sheet

    entry, verdict_path = roster.site(site), paths.docs_dir / site / "contract.json"
    table = _facts(paths.prepared_site(site) / "facts.parquet", site)
    verdict = files.read_json(verdict_path)
    broken = _broken(verdict)
    found = layouts.find_cases(data_root / entry.folder, site)
    label_map = layouts.harmonise(found.labels, roster, site)
    changed = sorted({case.case for case in found.cases} ^ set(table["case"]))
    if changed:
        raise DataError(f"site {site}: case {changed[0]} came or went since it was prepared; run flows.prepare again")
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    lines = [_line(row, broken.get(str(row["case"]), ()), roster.organs[1:]) for row in rows]
    widths = [max(len(line[column]) for line in (HEADER, *lines)) for column in range(len(HEADER))]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (HEADER, *lines)
    )
    tiles = [_tile(case, label_map, broken.get(case.case, ())) for case in found.cases]
    heading = f"{site} ({entry.modality}, {entry.role}): {len(tiles)} cases"
    path = files.write_bytes(paths.sheet(site), sheet.draw(tiles, roster.organs, heading=heading))
    of_site = [
        f"[{finding['rule']} {finding['action']}] {finding['meaning']}" for finding in _entries(verdict) if not finding["case"]
    ]
    return "\n".join([text, *of_site, f"pictures: {path}", ""])


def _facts(path: Path, site: str) -> pandas.DataFrame:
    """Read a site's facts."""
    import pandas

    if not path.is_file():
        raise DataError(f"site {site}: {path} is missing; run flows.prepare first")
    return pandas.read_parquet(path)


def _entries(verdict: Mapping[str, object]) -> list[dict[str, str]]:
    """Read the findings of a verdict."""
    found = verdict.get("findings")
    if not isinstance(found, list):
        raise DataError("cannot use contract.json: it has no list of findings")
    return found


def _broken(verdict: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Name the rules that each case breaks."""
    broken: dict[str, tuple[str, ...]] = {}
    for finding in _entries(verdict):
        if finding["case"]:
            names = broken.get(finding["case"], ())
            name = f"{finding['rule']} {finding['action']}"
            broken[finding["case"]] = names if name in names else (*names, name)
    return broken


def _line(row: dict[str, object], rules: tuple[str, ...], organs: tuple[str, ...]) -> tuple[str, ...]:
    """Write a case as cells."""
    sizes = []
    for organ in organs:
        volume, voxels = row.get(f"volume_ml_{organ}"), row.get(f"voxels_{organ}")
        if _given(volume):
            sizes.append(f"{organ} {volume:.0f} ml")
        elif _given(voxels):
            sizes.append(f"{organ} {voxels:.0f} px")
    return (
        str(row["case"]),
        str(row["patient"]),
        str(row["split"]),
        " ".join(f"{row[f'shape_{axis}']:.0f}" for axis in "zyx") if _given(row["shape_z"]) else "-",
        " ".join(f"{row[f'spacing_{axis}']:.3g}" for axis in "zyx") if _given(row["spacing_z"]) else "-",
        f"{row['p00_5']:.4g} to {row['p99_5']:.4g}" if _given(row["p00_5"]) else "-",
        ", ".join(sizes) or "-",
        ", ".join(rules) or "-",
    )


def _given(value: object) -> bool:
    """Say whether a cell holds a number."""
    return value is not None and value == value  # noqa: PLR0124  # NaN


def _tile(case: SourceCase, label_map: LabelMap, rules: tuple[str, ...]) -> Tile:
    """Read a case again and cut its slice out."""
    from fedsilo.cohort import repairs, sheet

    notes = ", ".join(rules)
    try:
        image, label, _ = repairs.read(case, fix=False)
    except DataError:  # F1 says what is wrong with the file
        return sheet.tile(case.case, notes, None, None)
    return sheet.tile(case.case, notes, image, None if label is None else label_map.apply(label.channels[0]))
