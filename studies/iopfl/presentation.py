"""Markdown tables and figures of an IOP-FL study."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import pandas
from findings import ALL_ORGANS, ALL_SITES, GainRow, HarmRow, ScoreRow
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SIGNIFICANT = 0.05
COLOURS = {"CT": "#D55E00", "MR": "#0072B2"}


def tables(scores: Sequence[ScoreRow], gains: Sequence[GainRow], harm: Sequence[HarmRow], router: pandas.DataFrame) -> str:
    """Write scores by site, questions with their comparisons, and harm, best worst site first; no phase without runs."""
    parts, phases = [], {row.phase for row in scores}
    for phase, title in (("inside", "Inside: Dice at each site"), ("outside", "Outside: Dice at each site when it is left out")):
        if phase not in phases:
            continue
        parts += [f"## {title}", "Mean over patients, organs and seeds; sorted by the worst site.", _by_site(scores, phase)]
        parts += [f"## {phase.capitalize()}: Dice by organ", _by_organ(scores, phase)]
    for question in dict.fromkeys(row.question for row in gains):
        parts += [f"## {question}", _compared([row for row in gains if row.question == question])]
    for phase, reference in (("inside", "FedAvg"), ("outside", "the global model")):
        chosen = [row for row in harm if row.phase == phase]
        if chosen:
            parts += [f"## {phase.capitalize()}: what happens to single patients, against {reference}", _harm(chosen)]
    parts += ["## What the router did", _frame(router)]
    return "\n\n".join(parts) + "\n"


def _by_site(scores: Sequence[ScoreRow], phase: str) -> str:
    """Write a row a method, a column a site."""
    chosen = [row for row in scores if row.phase == phase and row.organ == ALL_ORGANS]
    sites = sorted({site for row in chosen for site in row.by_site})
    lines = [
        f"| method | worst site | {' | '.join(sites)} | mean (95 % interval) | SD, seeds |",
        "|---|---|" + "---:|" * (len(sites) + 2),
    ]
    for row in chosen:
        cells = " | ".join(f"{row.by_site[site]:.3f}" for site in sites)
        spread = "-" if row.seed_sd is None else f"{row.seed_sd:.3f}"
        interval = f"{row.dice:.3f} ({row.low:.3f} to {row.high:.3f})"
        lines.append(f"| {row.method} | {row.worst[0]} | {cells} | {interval} | {spread} |")
    return "\n".join(lines)


def _by_organ(scores: Sequence[ScoreRow], phase: str) -> str:
    """Write a row a method, a column an organ."""
    chosen = [row for row in scores if row.phase == phase]
    organs = sorted({row.organ for row in chosen} - {ALL_ORGANS})
    cells = {(row.method, row.organ): f"{row.dice:.3f}" for row in chosen}
    lines = [f"| method | {' | '.join(organs)} |", "|---|" + "---:|" * len(organs)]
    lines += [
        f"| {method} | {' | '.join(cells.get((method, organ), '-') for organ in organs)} |"
        for method in dict.fromkeys(row.method for row in chosen)
    ]
    return "\n".join(lines)


def _compared(rows: Sequence[GainRow]) -> str:
    """Write a question's comparisons over all sites, and the sites where they differ significantly."""
    lines = [
        "| new | against | gain (95 % interval) | Hodges-Lehmann | rank-biserial | patients | p, Holm | sites with p < .05 |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        if row.site != ALL_SITES:
            continue
        alone = [other for other in rows if (other.method, other.reference) == (row.method, row.reference)]
        notable = [
            f"{other.site} {other.gain:+.3f}"
            for other in alone
            if other.site != ALL_SITES and other.p_holm is not None and other.p_holm < SIGNIFICANT
        ]
        gain = f"{row.gain:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
        effect = f"{row.hodges_lehmann:+.3f} | {row.rank_biserial:+.2f}"
        lines.append(
            f"| {row.method} | {row.reference} | {gain} | {effect} | {row.patients} | {_p_text(row.p_holm)} | "
            f"{', '.join(notable) or '-'} |"
        )
    return "\n".join(lines)


def _harm(rows: Sequence[HarmRow]) -> str:
    """Write a row a method, the smallest worst loss first."""
    lines = [
        "| method | lose > .05 | gain > .05 | largest loss | mean gain | worst site | not inferior (.01) | lost (bound) |",
        "|---|---:|---:|---:|---:|---|---|---|",
    ]
    for row in rows:
        test, lost = row.non_inferiority, row.catastrophes
        single = f"{100 * row.harmed:.1f} % | {100 * row.helped:.1f} % | {row.worst:.3f} | {test.difference.mean:+.3f}"
        verdicts = f"{test.worst_site} {test.worst_site_difference:+.3f} | {test.verdict}"
        lines.append(
            f"| {row.method} | {single} | {verdicts} | {len(lost.patients)} of {lost.num_patients} "
            f"({100 * lost.bound:.0f} %), {lost.verdict} |"
        )
    return "\n".join(lines)


def _frame(table: pandas.DataFrame) -> str:
    """Write a table with three decimals."""
    lines = [f"| {' | '.join(map(str, table.columns))} |", "|---|" + "---:|" * (len(table.columns) - 1)]
    for record in table.itertuples(index=False):
        cells = ["-" if pandas.isna(value) else f"{value:.3f}" if isinstance(value, float) else str(value) for value in record]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _p_text(value: float | None) -> str:
    """Write a p-value; bold where it is significant."""
    if value is None:
        return "not testable"
    text = "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
    return f"**{text}**" if value < SIGNIFICANT else text


def scores_figure(scores: Sequence[ScoreRow], *, reference: str, modalities: Mapping[str, str]) -> bytes:
    """Draw each method's Dice with its interval, and its sites as small marks, the best worst site on top."""
    chosen = [row for row in scores if row.organ == ALL_ORGANS]
    canvas = Figure(figsize=(8, 0.3 * len(chosen) + 1.4), layout="constrained")
    axes = canvas.subplots()
    for place, row in enumerate(chosen):
        for site, value in row.by_site.items():
            axes.plot([value], [place], marker="|", markersize=8, color=COLOURS[modalities[site]], alpha=0.8)
        axes.plot([row.low, row.high], [place, place], color="0.25", linewidth=1.5)
        axes.plot([row.dice], [place], marker="o", markersize=4, color="0.1")
        if row.method == reference:
            axes.axvline(row.dice, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(chosen)), [row.method for row in chosen], fontsize=8)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set_xlabel(f"Dice, mean over organs (95 % interval over patients); dotted: {reference}")
    axes.grid(axis="x", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=colour, marker="|", linestyle="", label=f"{name} site") for name, colour in COLOURS.items()]
    canvas.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "fedsilo"}):
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
