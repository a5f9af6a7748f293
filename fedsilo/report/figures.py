"""The report's figures as SVG: the same bytes for the same tables, legible in print, told apart by more than colour."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedsilo.report.scores import ALL_ORGANS, Cell, ScoreTable, ordered_methods
from fedsilo.report.traces import Curve, Route

SITE_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#332288",
    "#AA4499",
)
"""Okabe and Ito, then Tol: told apart by all kinds of colour vision, dark enough for white paper."""

GLOBAL_COLOUR = "#333333"
SITE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
WIDTH_IN = 11.0
MAX_ROUTE_COLUMNS = 4
PATIENT_SHIFT = 0.3  # lines; so that patients do not hide behind the interval
SITE_GAP = 0.4  # lines

STYLE = MappingProxyType(
    {
        "svg.hashsalt": "fedsilo",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "axes.titlesize": 10.0,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#666666",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e3e6ea",
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "figure.facecolor": "white",
        "hatch.linewidth": 0.6,
    }
)


@dataclass(frozen=True)
class Colours:
    """A colour and a marker for every site, the same in all figures."""

    sites: tuple[str, ...]

    def of(self, name: str) -> str:
        """Colour of a site; dark grey for the global model."""
        return SITE_COLOURS[self.sites.index(name) % len(SITE_COLOURS)] if name in self.sites else GLOBAL_COLOUR

    def marker(self, name: str) -> str:
        """Marker of a site."""
        return SITE_MARKERS[self.sites.index(name) % len(SITE_MARKERS)] if name in self.sites else "o"


def training_curves(curves: Sequence[Curve], colours: Colours) -> str:
    """Draw loss and validation Dice over the rounds, a line a site; stars mark the rounds whose models are evaluated."""
    with _drawing(WIDTH_IN, 3.9) as figure:
        loss, global_dice, inside_dice = figure.subplots(1, 3)
        global_dice.sharey(inside_dice)
        for axes in (global_dice, inside_dice):
            axes.sharex(loss)
        for curve in curves:
            style = {"color": colours.of(curve.site), "linewidth": 1.6, "marker": colours.marker(curve.site), "markersize": 2.6}
            loss.plot(*_points(curve.rounds, curve.train_loss), **style)
            for axes, values, chosen in (
                (global_dice, curve.val_dice_global, curve.selected_global),
                (inside_dice, curve.val_dice_inside, curve.selected_inside),
            ):
                axes.plot(*_points(curve.rounds, values), **style)
                _star(axes, dict(zip(curve.rounds, values, strict=True)), chosen, colours.of(curve.site))
        loss.set(title="Training loss", xlabel="round", ylabel="mean loss of the round")
        global_dice.set(title="Validation Dice, global model", xlabel="round", ylabel="Dice")
        inside_dice.set(title="Validation Dice, inside models", xlabel="round")
        loss.set_ylim(bottom=0)
        global_dice.set_ylim(0, 1)
        for axes in (loss, global_dice, inside_dice):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        handles = [
            Line2D([], [], color=colours.of(curve.site), marker=colours.marker(curve.site), markersize=4, label=curve.site)
            for curve in curves
        ]
        star = Line2D([], [], color="#666666", marker="*", markersize=10, linestyle="none", label="selected round")
        _legend(figure, [*handles, star])
        return _svg(figure)


def dice_by_site(tables: Sequence[ScoreTable], colours: Colours) -> str:
    """Draw mean Dice with its interval and every patient, a line a site and method; inside beside outside."""
    height = 1.2 + 0.24 * max(sum(1 + SITE_GAP + len(cells) for _, cells in _lines(table)) for table in tables)
    methods = ordered_methods([method for table in tables for method in table.methods])
    markers = {method: METHOD_MARKERS[index % len(METHOD_MARKERS)] for index, method in enumerate(methods)}
    with _drawing(WIDTH_IN, height) as figure:
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, table in zip(panels, tables, strict=True):
            _dice_panel(axes, table, colours, markers)
        mean = Line2D([], [], color="#666666", marker="o", markersize=6, markeredgecolor="white", label="mean, interval")
        patient = Line2D([], [], color="#666666", alpha=0.4, marker="o", markersize=2.8, linestyle="none", label="one patient")
        _legend(figure, [mean, patient])
        return _svg(figure)


def routes(found: Sequence[Route], colours: Colours) -> str:
    """Draw the weight of every expert before and after adaptation: a panel a site and method."""
    panels = sorted({(route.method, route.site) for route in found})
    num_columns = min(MAX_ROUTE_COLUMNS, max(1, len({site for _, site in panels})))
    num_rows = -(-len(panels) // num_columns)
    with _drawing(WIDTH_IN, 0.6 + 2.3 * num_rows) as figure:
        grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _route_panel(axes, [route for route in found if (route.method, route.site) == panel], colours)
            axes.set_title(f"{panel[1]}: {panel[0]}")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("mean weight")
        before = Patch(facecolor="#ffffff", edgecolor="#666666", hatch="////", label="before")
        after = Patch(facecolor="#666666", edgecolor="#666666", label="after")
        _legend(figure, [before, after])
        return _svg(figure)


def _dice_panel(axes: Axes, table: ScoreTable, colours: Colours, markers: Mapping[str, str]) -> None:
    position = 0.0
    ticks: list[tuple[float, str]] = []
    for site, cells in _lines(table):
        colour = colours.of(site)
        axes.annotate(
            site, (0, position), (-4, 0), textcoords="offset points", ha="right", va="center", color=colour, weight="bold"
        )
        for method, cell in cells.items():
            position += 1
            values = list(cell.patients.values())
            below = [position + PATIENT_SHIFT] * len(values)
            axes.plot(values, below, color=colour, alpha=0.35, marker="o", markersize=2.8, linestyle="none")
            if cell.interval is not None:
                axes.plot([cell.interval.low, cell.interval.high], [position, position], color=colour, linewidth=1.8)
                axes.plot(
                    cell.interval.mean, position, color=colour, marker=markers[method], markersize=6, markeredgecolor="white"
                )
            ticks.append((position, method))
        position += 1 + SITE_GAP
    axes.set(title=f"{table.role.capitalize()} sites", xlabel="Dice, all organs")
    axes.set(xlim=(0, 1), ylim=(position - SITE_GAP - 0.2, -0.7))
    axes.set_yticks([tick for tick, _ in ticks], [method for _, method in ticks])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _lines(table: ScoreTable) -> list[tuple[str, dict[str, Cell]]]:
    return [
        (row.site, {method: row.cells[method] for method in table.methods if method in row.cells})
        for row in table.rows
        if row.organ == ALL_ORGANS
    ]


def _route_panel(axes: Axes, found: Sequence[Route], colours: Colours) -> None:
    for index, route in enumerate(found):
        colour = colours.of(route.expert)
        axes.bar(index - 0.2, route.before, width=0.38, facecolor="white", edgecolor=colour, hatch="////")
        axes.bar(index + 0.2, route.after, width=0.38, facecolor=colour, edgecolor=colour)
    axes.set_xticks(range(len(found)), [route.expert for route in found], rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1)


def _points(rounds: Sequence[int], values: Sequence[float | None]) -> tuple[list[int], list[float]]:
    """Rounds and values where a value was measured."""
    pairs = [(at, value) for at, value in zip(rounds, values, strict=True) if value is not None]
    return [at for at, _ in pairs], [value for _, value in pairs]


def _star(axes: Axes, values: Mapping[int, float | None], chosen: int | None, colour: str) -> None:
    value = values.get(chosen) if chosen is not None else None
    if chosen is not None and value is not None:
        axes.plot(
            [chosen], [value], marker="*", markersize=12, color=colour, markeredgecolor="white", markeredgewidth=0.8, zorder=5
        )


def _legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    figure.legend(handles=list(handles), loc="outside lower center", ncols=len(handles))


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    """Give a figure under the report's style, without touching the style of the process."""
    with matplotlib.rc_context(dict(STYLE)):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
