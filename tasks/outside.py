"""Adapters of the outside comparison: an outside site's cases under the global model, ensemble, soup and test-time routing."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks import progress, scoring, workers
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from fedsilo.cohort.manifest import ManifestRow
    from fedsilo.cohort.preprocess import PreparedCase
    from fedsilo.outside_params import AdaptationParams, OutsideParams
    from fedsilo.routing.adaptation import Adapted, Image
    from fedsilo.routing.pieces import Geometry
    from fedsilo.routing.router import Routed
    from fedsilo.tensors import StateDict

TABLES = {
    "routes": ("site", "case", "method", "step", "layer", "expert", "weight"),
    "objective": ("site", "case", "method", "step", "consistency", "shape", "entropy", "total"),
    "router": (
        "site",
        "case",
        "expert",
        "weight",
        "distance",
        "entropy",
        "quality",
        "fallback_quality",
        "kept",
        "passes",
    ),
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
    panel = _panel(federation, site, device)
    drawn = _drawn_methods(federation, site)
    outcomes: dict[str, list[scoring.Outcome]] = {row.case: [] for row in panel.rows}
    notes = _Notes()
    for row, prediction in _predictions(panel, notes):
        case = panel.cases[row.case]
        outcome = scoring.score(federation, site, row, case, prediction, drawn=prediction.method in drawn)
        outcomes[row.case].append(outcome)
    scored = [scoring.ScoredCase(row, outcomes[row.case]) for row in panel.rows]
    part = scoring.write_part(federation, "outside", site, scored)
    for name, lines in {**notes.lines, "disagreement": _disagreement(site, notes.differing)}.items():
        _write_table(name, lines, part)
    return part


@dataclass(frozen=True)
class _Panel:
    """What is the same for all methods: the site's cases, and the experts by name, the global model first."""

    site: str
    rows: Sequence[ManifestRow]
    cases: Mapping[str, PreparedCase]
    predictor: scoring.Predictor
    experts: Mapping[str, StateDict]
    hashes: Mapping[str, str]
    rounds: Mapping[str, int]
    soup: StateDict
    geometry: Geometry

    @property
    def params(self) -> OutsideParams:
        """Params of the phase."""
        return self.predictor.federation.params.outside


@dataclass
class _Notes:
    """What the methods said beside their predictions: lines of tables, and no model, of which each case has several."""

    lines: dict[str, list[Line]] = field(default_factory=lambda: {"routes": [], "objective": [], "router": []})
    differing: list[dict[tuple[str, str], tuple[int, int]]] = field(default_factory=list)


def _panel(federation: Federation, site: str, device: str) -> _Panel:
    """Load the site's cases and the experts."""
    from fedsilo import files
    from fedsilo.cohort import preprocess
    from fedsilo.federation import states
    from fedsilo.routing import baselines
    from fedsilo.routing.pieces import Geometry
    from fedsilo.segmentation import network
    from tasks import sites

    paths, params = federation.paths, federation.params.federate
    folder = paths.prepared_site(site)
    rows = sites.all_rows(folder)  # nobody trained on any of them, whatever the split is called
    stored = {"global": paths.global_state} | {name: paths.inside_state(name) for name in federation.sites}
    experts = {name: states.load(path) for name, path in stored.items()}
    record = files.read_json(paths.federation_record)
    return _Panel(
        site=site,
        rows=rows,
        cases={row.case: preprocess.load(folder / row.file) for row in rows},
        predictor=scoring.predictor(federation, device),
        experts=experts,
        hashes={name: files.sha256_file(path) for name, path in stored.items()},
        rounds={"global": int(str(record["global_round"]))},
        soup=baselines.uniform_soup(list(experts.values())),
        geometry=Geometry(params.network.spatial_dims, network.divisor(params.network), params.patch_zyx),
    )


def _predictions(panel: _Panel, notes: _Notes) -> Iterator[tuple[ManifestRow, scoring.Prediction]]:
    """Predict the site's cases by each method that is asked for, one after the other."""
    for row in panel.rows:
        yield from ((row, prediction) for prediction in _plain_predictions(panel, row, notes))
    for name in panel.params.adaptations:
        yield from _adapted_predictions(panel, name, notes)


def _plain_predictions(panel: _Panel, row: ManifestRow, notes: _Notes) -> Iterator[scoring.Prediction]:
    """Predict a case by the methods that carry nothing from case to case."""
    from fedsilo import seeds
    from fedsilo.federation import states
    from fedsilo.routing import baselines, dg_tta, router

    image, methods, predict = panel.cases[row.case].image, panel.params.methods, panel.predictor.predict
    probs = {name: predict(image, state) for name, state in panel.experts.items()}
    notes.differing.append(_differing(probs))
    joined = hashlib.sha256("".join(panel.hashes.values()).encode()).hexdigest()
    if "global" in methods:
        yield scoring.Prediction("global", probs["global"], panel.hashes["global"], panel.rounds["global"])
    if "experts" in methods:
        for name, found in probs.items():
            yield scoring.Prediction(f"expert-{name}", found, panel.hashes[name], panel.rounds.get(name))
    if "ensemble" in methods:
        yield scoring.Prediction("ensemble", baselines.ensemble_probs(probs.values()), joined)
    if "soup" in methods:
        yield scoring.Prediction("soup", predict(image, panel.soup), states.digest(panel.soup))
    if {"router", "router_ungated"} & set(methods):
        made = router.route(
            panel.predictor.network,
            list(panel.experts.values()),
            image,
            params=panel.params.router,
            geometry=panel.geometry,
            device=panel.predictor.device,
        )
        notes.lines["router"] += _router(panel, row.case, made)
        asked = {"router": made.kept, "router_ungated": True}
        users = [name for name, used in asked.items() if used and name in methods]
        if users:
            routed, sha256 = predict(image, made.state), states.digest(made.state)
            yield from (scoring.Prediction(name, routed, sha256) for name in users)
        if "router" in methods and not made.kept:
            if panel.params.router.fallback == "global":
                yield scoring.Prediction("router", probs["global"], panel.hashes["global"])
            else:
                yield scoring.Prediction("router", baselines.ensemble_probs(probs.values()), joined)
    if "dg_tta" in methods:
        state = dg_tta.adapt(
            panel.predictor.network, panel.experts["global"], image, params=panel.params.dg_tta,
            batch_size=panel.params.batch_size, geometry=panel.geometry, device=panel.predictor.device,
            generator=seeds.generator(panel.predictor.federation.params.seed, "dg_tta", panel.site, row.case),
        )  # fmt: skip
        yield scoring.Prediction("dg_tta", predict(image, state), states.digest(state))


def _adapted_predictions(panel: _Panel, name: str, notes: _Notes) -> Iterator[tuple[ManifestRow, scoring.Prediction]]:
    """Predict the site's cases by a method that learns from them; only images are handed on."""
    from fedsilo import seeds
    from fedsilo.federation import states
    from fedsilo.routing import adaptation

    adapted_by = panel.params.adaptations[name]
    method = adaptation.Method(panel.params, adapted_by, panel.geometry, panel.predictor.device)
    images = [
        adaptation.Image(row.case, panel.cases[row.case].image, panel.cases[row.case].recipe.target_spacing_zyx)
        for row in panel.rows
    ]
    seed = panel.predictor.federation.params.seed

    def draws(case: str, index: int) -> torch.Generator:
        # the same pieces and views for every method: they differ in what they do with them
        return seeds.generator(seed, "adapt", panel.site, case, *([index] if index else []))

    start = _starts(panel, adapted_by)
    for row, made in zip(panel.rows, adaptation.adapt(images, method, start=start, draws=draws), strict=True):
        notes.lines["routes"] += _routes(panel, name, made)
        notes.lines["objective"] += _objective(panel, name, made)
        image = panel.cases[row.case].image
        if made.network is None:
            probs = panel.predictor.predict(image, made.state)
        else:
            probs = panel.predictor.predict_with(image, made.network)
        yield row, scoring.Prediction(name, probs, states.digest(made.state))


def _starts(panel: _Panel, adapted_by: AdaptationParams) -> Callable[[Image], nn.Module]:
    """Say which routed network a method starts from, for each case."""
    from fedsilo import seeds
    from fedsilo.routing import experts, router

    names = list(panel.experts) if adapted_by.experts == "all" else ["global"]
    states = [panel.experts[name] for name in names]
    template = panel.predictor.network

    def build(prior: Sequence[float]) -> nn.Module:
        made = experts.build(template, states, prior=prior, gate=adapted_by.gate, tie=adapted_by.tie)
        return made.to(panel.predictor.device)  # once: copies for each case share the experts

    routed = build(experts.global_prior(len(states), panel.params.prior_global))
    if adapted_by.start == "prior":
        return lambda _image: routed

    def by_case(image: Image) -> nn.Module:
        if adapted_by.start == "random":
            seed = panel.predictor.federation.params.seed
            return experts.randomise(routed, generator=seeds.generator(seed, "gates", panel.site, image.name))
        free = panel.params.router.model_copy(update={"fallback": "none"})
        made = router.route(template, states, image.voxels, params=free, geometry=panel.geometry, device=panel.predictor.device)
        return build(made.weights)

    return by_case


def _differing(probs: Mapping[str, Tensor]) -> dict[tuple[str, str], tuple[int, int]]:
    """Count, for each pair of experts, the voxels where they differ and those where either sees an organ."""
    from fedsilo.routing import experts

    classes = {name: found.argmax(dim=0) for name, found in probs.items()}
    return {
        (first, second): experts.disagreement(classes[first], classes[second])
        for first, second in itertools.combinations(classes, 2)
    }


def _drawn_methods(federation: Federation, site: str) -> tuple[str, ...]:
    """Name the methods whose outlines may be shown: the global model, and the router or else the first that adapts."""
    if not federation.roster.site(site).show_images:
        return ()
    params = federation.params.outside
    return ("global", *(["router"] if "router" in params.methods else list(params.adaptations)[:1]))


def _routes(panel: _Panel, method: str, made: Adapted) -> Iterator[Line]:
    """Give a line a layer and expert: before the first step and after the last; nothing where one expert is all."""
    steps = len(made.objective) - 1
    for step, routes in {0: made.routes_before, steps: made.routes_after}.items():
        for layer, route in routes.items():
            if len(route) == len(panel.experts):
                for expert, weight in zip(panel.experts, route.tolist(), strict=True):
                    yield panel.site, made.name, method, step, layer, expert, round(weight, DECIMALS)


def _objective(panel: _Panel, method: str, made: Adapted) -> Iterator[Line]:
    """Give a line a step."""
    for step, losses in enumerate(made.objective):
        values = (losses.consistency, losses.shape, losses.entropy, losses.total)
        yield panel.site, made.name, method, step, *(round(value, DECIMALS) for value in values)


def _router(panel: _Panel, case: str, made: Routed) -> Iterator[Line]:
    """Give a line an expert."""
    qualities = [None if value is None else round(value, DECIMALS) for value in (made.quality, made.fallback_quality)]
    for expert, weight, evidence in zip(panel.experts, made.weights, made.evidence, strict=True):
        numbers = (round(value, DECIMALS) for value in (weight, evidence.distance, evidence.entropy))
        yield panel.site, case, expert, *numbers, *qualities, int(made.kept), round(made.passes, DECIMALS)


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
