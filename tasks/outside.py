"""Adapters of the outside comparison: an outside site's cases under the global model, ensemble, soup and test-time routing."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks import progress, scoring, workers
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from fedsilo.cohort.manifest import ManifestRow
    from fedsilo.cohort.preprocess import PreparedCase
    from fedsilo.routing.adaptation import Adapted
    from fedsilo.tensors import StateDict

TABLES = {
    "routes": ("site", "case", "method", "step", "layer", "expert", "weight"),
    "objective": ("site", "case", "method", "step", "consistency", "shape", "entropy", "total"),
    "disagreement": ("site", "expert_a", "expert_b", "disagreement"),
}
"""Tables beside the cases; ``step`` counts the gradient steps made: 0 before, ``outside.steps`` after."""

LOW_DISAGREEMENT = 0.02
DECIMALS = 6
Line = tuple[str | int | float | None, ...]


@task(name="evaluate outside", task_run_name="{site}: adapt and score", cache_policy=NO_CACHE, persist_result=False)
def evaluate(site: str, federation: Federation) -> Path:
    """Score every method on an outside site's cases."""
    part = workers.run(evaluate_site, site=site, federation=federation)
    shares = [float(line.rpartition(",")[2] or 0) for line in _lines(part / "disagreement.csv")]
    if shares and max(shares) < LOW_DISAGREEMENT:
        get_run_logger().warning("%s: experts differ in at most %.1f %% of voxels, nothing to route", site, 100 * max(shares))
    progress.advance(site=site)
    get_run_logger().info("%s: scored, %s", site, part.name)
    return part


@task(name="collect outside", task_run_name="collect cases", cache_policy=NO_CACHE, persist_result=False)
def collect(parts: list[Path], federation: Federation) -> Path:
    """Join the sites' tables and pictures; without outside sites the tables hold their headers only."""
    folder = federation.paths.phase_dir("outside")
    for name in TABLES:
        _write_lines(name, (line for part in sorted(parts) for line in _lines(part / f"{name}.csv")), folder)
    if not parts:
        get_run_logger().info("cohort %s has no outside site: the tables are empty", federation.roster.name)
    return scoring.collect_parts(federation, "outside", parts)


def evaluate_site(*, site: str, federation: Federation, device: str) -> Path:
    """Adapt to, predict and score the cases of one outside site; runs in a worker process."""
    from fedsilo.cohort import preprocess
    from tasks import sites

    panel = _panel(federation, device)
    folder = federation.paths.prepared_site(site)
    drawn = _drawn_methods(federation, site)
    scored: list[scoring.ScoredCase] = []
    routed: list[_Routed] = []
    differing: list[dict[tuple[str, str], tuple[int, int]]] = []
    for row in sites.rows_of(folder, "test"):
        case = preprocess.load(folder / row.file)
        probs = {name: panel.predictor.predict(case.image, state) for name, state in panel.experts.items()}
        differing.append(_differing(probs))
        adapted = {f"routing-{name}": made for name, made in _adapt(panel, site, row, case)}
        routed += [_Routed(row.case, method, made) for method, made in adapted.items()]
        outcomes = [
            scoring.score(federation, site, row, case, prediction, drawn=prediction.method in drawn)
            for prediction in _predictions(panel, case, probs, adapted)
        ]
        scored.append(scoring.ScoredCase(row, outcomes))
    part = scoring.write_part(federation, "outside", site, scored)
    _write_table("routes", _routes(site, routed, experts=list(panel.experts)), part)
    _write_table("objective", _objective(site, routed), part)
    _write_table("disagreement", _disagreement(site, differing), part)
    return part


@dataclass(frozen=True)
class _Panel:
    """What is the same for all cases: the experts by name, the global model first, and the networks that take them."""

    predictor: scoring.Predictor
    experts: Mapping[str, StateDict]
    hashes: Mapping[str, str]
    global_round: int
    soup: StateDict
    routed: nn.Module


@dataclass(frozen=True)
class _Routed:
    """A case adapted to by one preset."""

    case: str
    method: str
    adapted: Adapted


def _panel(federation: Federation, device: str) -> _Panel:
    """Load the experts and build what is the same for all cases."""
    from fedsilo import files
    from fedsilo.federation import states
    from fedsilo.routing import baselines, experts

    paths, params = federation.paths, federation.params.outside
    stored = {"global": paths.global_state} | {site: paths.inside_state(site) for site in federation.sites}
    loaded = {name: states.load(path) for name, path in stored.items()}
    predictor = scoring.predictor(federation, device)
    prior = experts.global_prior(len(loaded), params.prior_global)
    return _Panel(
        predictor=predictor,
        experts=loaded,
        hashes={name: files.sha256_file(path) for name, path in stored.items()},
        global_round=int(str(files.read_json(paths.federation_record)["global_round"])),
        soup=baselines.uniform_soup(list(loaded.values())),
        routed=experts.build(predictor.network, list(loaded.values()), prior=prior, gate=params.gate).to(device),
    )


def _adapt(panel: _Panel, site: str, row: ManifestRow, case: PreparedCase) -> Iterator[tuple[str, Adapted]]:
    """Adapt to a case by every preset; only the image is handed on."""
    from fedsilo import seeds
    from fedsilo.routing import adaptation
    from fedsilo.segmentation import network

    params = panel.predictor.federation.params
    if "routing" not in params.outside.methods:
        return
    for name, preset in params.outside.presets.items():
        adapted = adaptation.adapt(
            panel.routed,
            case.image,
            params=params.outside,
            preset=preset,
            spatial_dims=params.federate.network.spatial_dims,
            divisor=network.divisor(params.federate.network),
            # the same pieces and views for every preset: they differ in their losses only
            generator=seeds.generator(params.seed, "adapt", site, row.case),
            device=panel.predictor.device,
            patch_zyx=params.federate.patch_zyx,
            spacing_zyx_mm=case.recipe.target_spacing_zyx,
        )
        yield name, adapted


def _predictions(
    panel: _Panel, case: PreparedCase, probs: Mapping[str, Tensor], adapted: Mapping[str, Adapted]
) -> Iterator[scoring.Prediction]:
    """Predict a case by each method that is asked for, one after the other; ``probs`` are the experts'."""
    from fedsilo.federation import states
    from fedsilo.routing import baselines

    methods, predict = panel.predictor.federation.params.outside.methods, panel.predictor.predict
    if "global" in methods:
        yield scoring.Prediction("global", probs["global"], panel.hashes["global"], panel.global_round)
    if "ensemble" in methods:
        joined = hashlib.sha256("".join(panel.hashes.values()).encode()).hexdigest()
        yield scoring.Prediction("ensemble", baselines.ensemble_probs(probs.values()), joined)
    if "soup" in methods:
        yield scoring.Prediction("soup", predict(case.image, panel.soup), states.digest(panel.soup))
    for method, made in adapted.items():
        yield scoring.Prediction(method, predict(case.image, made.state), states.digest(made.state))


def _differing(probs: Mapping[str, Tensor]) -> dict[tuple[str, str], tuple[int, int]]:
    """Count, for each pair of experts, the voxels where they differ and those where either sees an organ."""
    from fedsilo.routing import experts

    classes = {name: found.argmax(dim=0) for name, found in probs.items()}
    return {
        (first, second): experts.disagreement(classes[first], classes[second])
        for first, second in itertools.combinations(classes, 2)
    }


def _drawn_methods(federation: Federation, site: str) -> tuple[str, ...]:
    """Name the methods whose outlines may be shown: the global model, and routing by its first preset."""
    if not federation.roster.site(site).show_images:
        return ()
    return "global", f"routing-{next(iter(federation.params.outside.presets))}"


def _routes(site: str, routed: Sequence[_Routed], *, experts: Sequence[str]) -> Iterator[Line]:
    """Give a line a case, preset, layer and expert: before the first step and after the last."""
    for entry in routed:
        steps = len(entry.adapted.objective) - 1
        for step, routes in {0: entry.adapted.routes_before, steps: entry.adapted.routes_after}.items():
            for layer, route in routes.items():
                for expert, weight in zip(experts, route.tolist(), strict=True):
                    yield site, entry.case, entry.method, step, layer, expert, round(weight, DECIMALS)


def _objective(site: str, routed: Sequence[_Routed]) -> Iterator[Line]:
    """Give a line a case, preset and step."""
    for entry in routed:
        for step, losses in enumerate(entry.adapted.objective):
            values = (losses.consistency, losses.shape, losses.entropy, losses.total)
            yield site, entry.case, entry.method, step, *(round(value, DECIMALS) for value in values)


def _disagreement(site: str, differing: Sequence[Mapping[tuple[str, str], tuple[int, int]]]) -> Iterator[Line]:
    """Give a line a pair of experts: the share of voxels, over all cases, where they differ and either sees an organ."""
    for first, second in differing[0] if differing else ():
        differ, either = (sum(counts[first, second][index] for counts in differing) for index in range(2))
        yield site, first, second, round(differ / either, DECIMALS) if either else None


def _write_table(name: str, lines: Iterable[Line], folder: Path) -> Path:
    """Write a table from its cells; None is an empty cell."""
    return _write_lines(name, (",".join("" if cell is None else str(cell) for cell in line) for line in lines), folder)


def _write_lines(name: str, lines: Iterable[str], folder: Path) -> Path:
    """Write a table from its lines, below its header."""
    from fedsilo import files

    return files.write_text(folder / f"{name}.csv", "".join(f"{line}\n" for line in (",".join(TABLES[name]), *lines)))


def _lines(path: Path) -> list[str]:
    """Read a table's lines without its header."""
    return path.read_text(encoding="utf-8").splitlines()[1:]
