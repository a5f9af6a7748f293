"""Markdown tables and figures of a FedGIN study."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rows import ALL, GainRow, ScoreRow

COLOURS = {
    "MR, trained scanner": "#0072B2",
    "MR, new scanner": "#56B4E9",
    "MR, unseen modality": "#009E73",
    "CT, trained scanner": "#D55E00",
    "CT, new scanner": "#E69F00",
    "CT, unseen modality": "#CC79A7",
}
UNCHANGED = "plain"
"""Method that leaves images as they are."""

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Point:
    """A value with its interval, and where it is drawn."""

    scenario: str
    method: str
    group: str
    value: float
    low: float
    high: float


def tables(scores: Sequence[ScoreRow], gains: Sequence[GainRow], trained: Mapping[str, Collection[str]]) -> str:
    """Write Dice by site, every question with its comparisons, and the organs' details of the first question."""
    parts = ["## Dice by site", "Mean over patients, organs and seeds; **bold** where the scenario trained on the site."]
    parts.append(_by_site(scores, trained))
    for question in dict.fromkeys(row.question for row in gains):
        parts += [f"## {question}", _compared([row for row in gains if row.question == question and row.main])]
    details = [row for row in gains if not row.main and (row.method, row.reference) == ("gin", UNCHANGED)]
    if details:
        parts += ["## Gain of GIN, an organ", _organs(details)]
    return "\n\n".join(parts) + "\n"


def _by_site(scores: Sequence[ScoreRow], trained: Mapping[str, Collection[str]]) -> str:
    """Write a row a scenario and method, a column a site, MR first."""
    chosen = [row for row in scores if row.organ == ALL]
    modality = {site: row.group.modality for row in chosen for site in row.by_site}
    sites = sorted(modality, key=lambda site: (modality[site] != "MR", site))
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in chosen:
        cells.setdefault((row.scenario, row.method), {}).update(row.by_site)
    lines = [f"| scenario | method | {' | '.join(sites)} |", "|---|---|" + "---:|" * len(sites)]
    for (scenario, method), values in cells.items():
        shown = [_cell(values.get(site), bold=site in trained[scenario]) for site in sites]
        lines.append(f"| {scenario} | {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(value: float | None, *, bold: bool) -> str:
    if value is None:
        return "-"
    return f"**{value:.3f}**" if bold else f"{value:.3f}"


def _compared(rows: Sequence[GainRow]) -> str:
    """Write a question's comparisons."""
    lines = [
        "| scenario | new | against | test cases | organ | gain (95 % interval) | relative | SD, seeds | patients | p, Holm |",
        "|---|---|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        relative = "-" if row.relative is None else f"{100 * row.relative:+.0f} %"
        spread = "-" if row.seed_sd is None else f"{row.seed_sd:.3f}"
        names = f"{row.scenario} | {row.method} | {row.reference} | {row.group.name} | {row.organ}"
        lines.append(f"| {names} | {_interval(row)} | {relative} | {spread} | {row.patients} | {_p_text(row.p_holm)} |")
    return "\n".join(lines)


def _interval(row: GainRow) -> str:
    return f"{row.gain:+.3f} ({row.low:+.3f} to {row.high:+.3f})"


def _p_text(value: float | None) -> str:
    """Write a p-value; bold where it is significant."""
    if value is None:
        return "-"
    text = "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
    return f"**{text}**" if value < SIGNIFICANT else text


def _organs(rows: Sequence[GainRow]) -> str:
    """Write a row a scenario and group, a column an organ."""
    organs = list(dict.fromkeys(row.organ for row in rows))
    cells = {(row.scenario, row.group.name, row.organ): _interval(row) for row in rows}
    lines = [f"| scenario | test cases | {' | '.join(organs)} |", "|---|---|" + "---:|" * len(organs)]
    for scenario, group in dict.fromkeys((row.scenario, row.group.name) for row in rows):
        lines.append(f"| {scenario} | {group} | {' | '.join(cells.get((scenario, group, organ), '-') for organ in organs)} |")
    return "\n".join(lines)


def scores_figure(scores: Sequence[ScoreRow]) -> bytes:
    """Draw Dice of every method, a panel a scenario."""
    points = [Point(row.scenario, row.method, row.group.name, row.dice, row.low, row.high) for row in scores if row.organ == ALL]
    return _panels(points, label="Dice, mean over organs (95 % interval over patients)", start=0.0)


def gains_figure(gains: Sequence[GainRow]) -> bytes:
    """Draw what each change of appearance adds, a panel a scenario."""
    chosen = {(row.scenario, row.method, row.group.name): row for row in gains if row.main and row.reference == UNCHANGED}
    points = [Point(*names, row.gain, row.low, row.high) for names, row in chosen.items()]
    return _panels(
        points, label="Dice minus that of unchanged images, mean over organs (95 % interval over patients)", start=None
    )


def _panels(points: Sequence[Point], *, label: str, start: float | None) -> bytes:
    """Draw a dot with its interval a point: a panel a scenario, a line a method, groups side by side in their colours.

    ``start`` is where the axis begins; None marks zero instead.
    """
    methods: dict[str, list[str]] = {}
    for point in points:
        named = methods.setdefault(point.scenario, [])
        if point.method not in named:
            named.append(point.method)
    if not methods:
        return _svg(Figure(figsize=(8, 1)))
    heights = [len(named) + 1.2 for named in methods.values()]
    canvas = Figure(figsize=(8, 0.32 * sum(heights) + 1.2), layout="constrained")
    axes = canvas.subplots(len(methods), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (scenario, named) in zip(axes, methods.items(), strict=True):
        _dots(panel, [point for point in points if point.scenario == scenario], named)
        panel.set_title(scenario, loc="left", fontsize=9)
        if start is None:
            panel.axvline(0, color="0.4", linewidth=1)
    if start is not None:
        axes[-1].set_xlim(left=start)  # shared; earlier it would stop the axis from growing with later panels
    axes[-1].set_xlabel(label)
    shown = [name for name in COLOURS if any(point.group == name for point in points)]
    handles = [Line2D([], [], color=COLOURS[name], marker="o", markersize=4, label=name) for name in shown]
    canvas.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return _svg(canvas)


def _dots(panel: Axes, points: Sequence[Point], methods: Sequence[str]) -> None:
    """Draw one panel."""
    groups = [name for name in COLOURS if any(point.group == name for point in points)]
    for point in points:
        place = methods.index(point.method) + 0.17 * (groups.index(point.group) - (len(groups) - 1) / 2)
        panel.plot([point.low, point.high], [place, place], color=COLOURS[point.group], linewidth=1.5)
        panel.plot([point.value], [place], marker="o", markersize=3.5, color=COLOURS[point.group])
    panel.set_yticks(range(len(methods)), methods, fontsize=8)
    panel.set_ylim(len(methods) - 0.4, -0.6)
    panel.grid(axis="x", color="0.9")
    panel.spines[["top", "right"]].set_visible(False)


def _svg(canvas: Figure) -> bytes:
    """Write the same bytes for the same figure."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "fedsilo"}):
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
