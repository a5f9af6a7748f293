"""The report as values: every number and picture that the page shows, computed here and only laid out there."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedsilo.errors import DataError
from fedsilo.params import ReportParams
from fedsilo.report import cohort, comparisons, figures, pictures, tables, traces
from fedsilo.report.cohort import LeftOut, SiteRow
from fedsilo.report.comparisons import ComparisonRow
from fedsilo.report.figures import Colours
from fedsilo.report.inputs import Inputs, Phase
from fedsilo.report.pictures import SitePictures
from fedsilo.report.scores import Bootstrap, ScoreTable, score_table
from fedsilo.report.tables import AbsentCell, FailureRow, HeadlineRow, Leaders, Summary
from fedsilo.report.traces import Curve, Disagreement, Objective, Route, RouterUse
from fedsilo.types import SiteRole

METRICS = ("dice", "hd95", "nsd")


@dataclass(frozen=True)
class PhaseResults:
    """Everything about the sites of one role.

    Attributes:
        role: Role of the sites.
        scores: The table of each metric.
        summaries: Metric and unit -> method -> summary over sites; pixels and millimetres stand apart.
        absent: Organs absent from the reference: site -> method -> cell.
        failures: What means hide, a row a method.
        comparisons: Dice over all organs against the global model.
        by_organ: The same organ by organ, exploratory.
        pictures: Overlays, by site.
    """

    role: SiteRole
    scores: Mapping[str, ScoreTable]
    summaries: Mapping[tuple[str, str], Mapping[str, Summary]]
    absent: Mapping[str, Mapping[str, AbsentCell]]
    failures: tuple[FailureRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    by_organ: tuple[ComparisonRow, ...]
    pictures: tuple[SitePictures, ...]


@dataclass(frozen=True)
class Drawings:
    """The figures as SVG; without outside sites there are no routes."""

    dice: str
    training: str
    routes: str | None


@dataclass(frozen=True)
class Document:
    """A whole report."""

    run: str
    cohort: str
    seed: int
    confidence: float
    num_resamples: int
    tool: str
    colours: Colours
    headline: tuple[HeadlineRow, ...]
    leaders: Leaders
    sites: tuple[SiteRow, ...]
    left_out: tuple[LeftOut, ...]
    curves: tuple[Curve, ...]
    phases: tuple[PhaseResults, ...]
    routes: tuple[Route, ...]
    objectives: tuple[Objective, ...]
    disagreements: tuple[Disagreement, ...]
    router: tuple[RouterUse, ...]
    federation: tuple[tuple[str, str], ...]
    environment: Mapping[str, str]
    input_hashes: Mapping[str, str]
    drawings: Drawings


def build(inputs: Inputs, params: ReportParams, *, run: str, seed: int, environment: Mapping[str, str]) -> Document:
    """Compute everything a report shows.

    Args:
        inputs: Result tables, manifests and contracts.
        params: Resamples and coverage of the intervals.
        run: Name of the run.
        seed: Seed of the run; intervals draw from generators named after their table and row.
        environment: Versions by package, as they were when the report was made.

    Raises:
        DataError: A contract or a table cannot be used, or a method was not scored on the same patients as the global model.
    """
    tool = _tool(inputs)
    sites = cohort.site_rows(inputs.sites, inputs.roster.organs)
    bootstrap = Bootstrap(seed, params.bootstrap_resamples, params.confidence)
    phases = tuple(_phase(phase, inputs.roster.organs[1:], bootstrap) for phase in inputs.phases)
    dice_tables = [phase.scores["dice"] for phase in phases]
    headline = tables.headline({phase.role: phase.summaries["dice", "1"] for phase in phases})
    colours = Colours(tuple(entry.name for entry in (*inputs.roster.inside, *inputs.roster.outside)))
    curves = traces.curves(inputs.rounds)
    routes = traces.routes(inputs.routing) if inputs.routing is not None else ()
    return Document(
        run=run,
        cohort=inputs.roster.name,
        seed=seed,
        confidence=params.confidence,
        num_resamples=params.bootstrap_resamples,
        tool=tool,
        colours=colours,
        headline=headline,
        leaders=tables.leaders(headline),
        sites=sites,
        left_out=cohort.left_out(inputs.stopped),
        curves=curves,
        phases=phases,
        routes=routes,
        objectives=traces.objectives(inputs.routing) if inputs.routing is not None else (),
        disagreements=traces.disagreements(inputs.routing) if inputs.routing is not None else (),
        router=traces.router_use(inputs.routing) if inputs.routing is not None else (),
        federation=tuple((name, _text(value)) for name, value in traces.flattened(inputs.federation)),
        environment=dict(sorted(environment.items())),
        input_hashes=inputs.hashes,
        drawings=Drawings(
            dice=figures.dice_by_site(dice_tables, colours),
            training=figures.training_curves(curves, colours),
            routes=figures.routes(routes, colours) if routes else None,
        ),
    )


def _phase(phase: Phase, organs: tuple[str, ...], bootstrap: Bootstrap) -> PhaseResults:
    scores = {
        metric: score_table(phase.cases, role=phase.role, metric=metric, organs=organs, bootstrap=bootstrap) for metric in METRICS
    }
    return PhaseResults(
        role=phase.role,
        scores=scores,
        summaries={
            (metric, unit): tables.summaries(table, unit, bootstrap)
            for metric, table in scores.items()
            for unit in sorted({row.unit for row in table.rows})
        },
        absent=tables.absent_organs(phase.cases),
        failures=tables.failures(phase.cases, phase.role),
        comparisons=comparisons.confirmatory(scores["dice"], bootstrap),
        by_organ=comparisons.exploratory(scores["dice"], organs, bootstrap),
        pictures=pictures.arrange(phase.overlays),
    )


def _tool(inputs: Inputs) -> str:
    tools = sorted({str(tool) for phase in inputs.phases for tool in phase.cases["tool"].unique()})
    if len(tools) != 1:
        raise DataError(f"cannot compare scores: expected one tool in all cases tables, got {', '.join(tools)}")
    return tools[0]


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
