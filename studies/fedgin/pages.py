"""Markdown tables and figures of a FedGIN study; rows come from summarise.py."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.lines
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, object]

ALL = "all organs"
FEDAVG_QUESTION = "What does a change of appearance add to FedAvg?"
COLOURS = {
    "MR, trained scanner": "#0072B2",
    "MR, new scanner": "#56B4E9",
    "CT, trained scanner": "#D55E00",
    "CT, new scanner": "#E69F00",
}
SIGNIFICANT = 0.05


def group_of(row: Row) -> str:
    """Name the test cases of a row."""
    return f"{row['modality']}, {row['scanner']}"


def number(row: Row, key: str) -> float:
    """Read a number of a row."""
    return float(str(row[key]))


def tables(scores: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """Write Dice by scenario and method, then every question with its comparisons, then the gains an organ."""
    parts = ["## Dice", "Mean over organs, patients and sites, +- standard deviation over seeds.", *_dice(scores)]
    for question in dict.fromkeys(str(row["question"]) for row in comparisons):
        rows = [row for row in comparisons if row["question"] == question and row["tested"]]
        parts += [f"## {question}", _compared(rows)]
    return "\n\n".join([*parts, "## Gain of GIN over FedAvg, an organ", _organs(comparisons)]) + "\n"


def _dice(scores: Sequence[Row]) -> list[str]:
    """Write a table of all scenarios."""
    chosen = [row for row in scores if row["organ"] == ALL]
    groups = [name for name in COLOURS if any(group_of(row) == name for row in chosen)]
    cells = {(str(row["scenario"]), str(row["method"]), group_of(row)): row for row in chosen}
    lines = [f"| scenario | method | {' | '.join(groups)} |", "|---|---|" + "---:|" * len(groups)]
    for scenario, method in dict.fromkeys((str(row["scenario"]), str(row["method"])) for row in chosen):
        values = []
        for group in groups:
            row = cells.get((scenario, method, group))
            spread = "" if row is None or row["seed_sd"] is None else f" +- {number(row, 'seed_sd'):.3f}"
            values.append("-" if row is None else f"{number(row, 'dice'):.3f}{spread}")
        lines.append(f"| {scenario} | {method} | {' | '.join(values)} |")
    return ["\n".join(lines)]


def _compared(rows: Sequence[Row]) -> str:
    """Write a question's comparisons."""
    lines = [
        "| scenario | new | against | test cases | organ | gain (95 % interval) | relative | SD, seeds | patients | p, Holm |",
        "|---|---|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        gain = f"{number(row, 'gain'):+.3f} ({number(row, 'low'):+.3f} to {number(row, 'high'):+.3f})"
        relative = "-" if row["relative"] is None else f"{100 * number(row, 'relative'):+.0f} %"
        spread = "-" if row["seed_sd"] is None else f"{number(row, 'seed_sd'):.3f}"
        p_value = "not testable" if row["p_holm"] is None else _p_text(number(row, "p_holm"))
        names = f"{row['scenario']} | {row['new']} | {row['reference']} | {group_of(row)} | {row['organ']}"
        lines.append(f"| {names} | {gain} | {relative} | {spread} | {row['patients']} | {p_value} |")
    return "\n".join(lines)


def _p_text(value: float) -> str:
    """Write a p-value; bold where it is significant."""
    text = "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")
    return f"**{text}**" if value < SIGNIFICANT else text


def _organs(comparisons: Sequence[Row]) -> str:
    """Write what GIN adds to FedAvg, organ by organ."""
    rows = [
        row for row in comparisons if row["question"] == FEDAVG_QUESTION and row["new"] == "gin" and row["reference"] == "fedavg"
    ]
    organs = [organ for organ in dict.fromkeys(str(row["organ"]) for row in rows) if organ != ALL]
    lines = [f"| scenario | test cases | {' | '.join(organs)} |", "|---|---|" + "---:|" * len(organs)]
    cells = {(str(row["scenario"]), group_of(row), str(row["organ"])): row for row in rows}
    for scenario, group in dict.fromkeys((str(row["scenario"]), group_of(row)) for row in rows):
        found = [cells.get((scenario, group, organ)) for organ in organs]
        values = [
            "-" if row is None else f"{number(row, 'gain'):+.3f} ({number(row, 'low'):+.3f} to {number(row, 'high'):+.3f})"
            for row in found
        ]
        lines.append(f"| {scenario} | {group} | {' | '.join(values)} |")
    return "\n".join(lines)


def scores_figure(scores: Sequence[Row]) -> bytes:
    """Draw Dice of every method, a panel a scenario."""
    chosen = [row for row in scores if row["organ"] == ALL]
    scenarios = list(dict.fromkeys(str(row["scenario"]) for row in chosen))
    panels = {name: list(dict.fromkeys(str(r["method"]) for r in chosen if r["scenario"] == name)) for name in scenarios}
    heights = [len(methods) + 1.2 for methods in panels.values()]
    canvas = Figure(figsize=(8, 0.3 * sum(heights) + 1.2), layout="constrained")
    axes = canvas.subplots(len(scenarios), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for panel, scenario in zip(axes, scenarios, strict=True):
        rows = [row for row in chosen if row["scenario"] == scenario]
        _dots(panel, rows, panels[scenario], value="dice", label="method")
        panel.set_title(scenario, loc="left", fontsize=9)
    axes[-1].set_xlabel("Dice, mean over organs (95 % interval over patients)")
    axes[-1].set_xlim(0, 1)
    _legend(canvas, chosen)
    return _svg(canvas)


def gains_figure(comparisons: Sequence[Row]) -> bytes:
    """Draw what each change of appearance adds to FedAvg, a panel a scenario."""
    chosen = [row for row in comparisons if row["organ"] == ALL and row["question"] == FEDAVG_QUESTION]
    scenarios = list(dict.fromkeys(str(row["scenario"]) for row in chosen))
    panels = {name: list(dict.fromkeys(str(r["new"]) for r in chosen if r["scenario"] == name)) for name in scenarios}
    heights = [len(methods) + 1.2 for methods in panels.values()]
    canvas = Figure(figsize=(8, 0.3 * sum(heights) + 1.2), layout="constrained")
    axes = canvas.subplots(len(scenarios), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for panel, scenario in zip(axes, scenarios, strict=True):
        _dots(panel, [row for row in chosen if row["scenario"] == scenario], panels[scenario], value="gain", label="new")
        panel.set_title(scenario, loc="left", fontsize=9)
        panel.axvline(0, color="0.4", linewidth=1)
    axes[-1].set_xlabel("Dice minus Dice of FedAvg, mean over organs (95 % interval over patients)")
    _legend(canvas, chosen)
    return _svg(canvas)


def _dots(panel: Axes, rows: Sequence[Row], methods: Sequence[str], *, value: str, label: str) -> None:
    """Draw a dot with its interval a row; groups of one method lie side by side."""
    groups = [name for name in COLOURS if any(group_of(row) == name for row in rows)]
    for row in rows:
        offset = 0.17 * (groups.index(group_of(row)) - (len(groups) - 1) / 2)
        place, colour = methods.index(str(row[label])) + offset, COLOURS[group_of(row)]
        panel.plot([number(row, "low"), number(row, "high")], [place, place], color=colour, linewidth=1.5)
        panel.plot([number(row, value)], [place], marker="o", markersize=3.5, color=colour)
    panel.set_yticks(range(len(methods)), methods, fontsize=8)
    panel.set_ylim(len(methods) - 0.4, -0.6)
    panel.grid(axis="x", color="0.9")
    panel.spines[["top", "right"]].set_visible(False)


def _legend(canvas: Figure, rows: Sequence[Row]) -> None:
    """Name the colours."""
    shown = [name for name in COLOURS if any(group_of(row) == name for row in rows)]
    handles = [mpl.lines.Line2D([], [], color=COLOURS[name], marker="o", markersize=4, label=name) for name in shown]
    canvas.legend(handles=handles, loc="outside upper center", ncols=len(shown), fontsize=8, frameon=False)


def _svg(canvas: Figure) -> bytes:
    """Write the same bytes for the same figure."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "fedsilo", "svg.fonttype": "none"}):
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
