"""Choose the router's knobs: one after the other away from params.yaml, at every site of the tuning cohort left out once.

    python studies/iopfl-tuning/tune.py --cohort FILE --base FILE --runs FOLDER --out FOLDER

``FOLDER`` holds ``without-<site>--s<seed>``. Gains are Dice, mean over organs, minus that of the global
model on the same case. The cohort has no patient in common with the studies that the router is judged in;
its scanners are those of studies/iopfl and two more.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import pandas
import torch
from torch import Tensor

from fedsilo import files
from fedsilo.cohort import preprocess
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.manifest import ManifestRow
from fedsilo.cohort.preprocess import PreparedCase
from fedsilo.errors import FedsiloError, ParamsError
from fedsilo.evaluation import metrics
from fedsilo.federation import states
from fedsilo.outside_params import RouterParams
from fedsilo.routing import baselines, router
from fedsilo.routing.pieces import Geometry
from fedsilo.segmentation import network
from tasks import scoring, sites
from tasks.federation import Federation
from tasks.paths import RunPaths

RUN = re.compile(r"^without-(?P<site>[a-z0-9_-]+?)--s(?P<seed>\d+)$")
SHIPPED, ENSEMBLE = "params.yaml", "ensemble"
OFF = 1e6
"""A temperature that makes evidence weightless, a count of slices beside which a case's are."""

TRIED: Mapping[str, tuple[float, ...]] = {
    "prior_global": (0.2, 0.35, 0.5, 0.65, 0.8),
    "distance_temperature": (0.2, 0.5, 1.0, 2.0, OFF),
    "entropy_temperature": (0.02, 0.035, 0.05, 0.1, OFF),
    "source_slices": (4.0, 8.0, 16.0, 32.0, OFF),
    "slices": (1, 2, 3, 4, 8, 16),
}
SLICES = 3
"""What the shipped budget allows with six experts and 16 slices, as in studies/iopfl."""

BUDGET = 16.0
"""Of every setting: enough for as many slices as it asks for."""

NO_GATE = -1.0
GAINS = (NO_GATE, -0.05, -0.02, 0.0, 0.01, 0.015, 0.02, 0.05)
"""Tried on the same models."""

HARM = 0.05
WORKERS = 2


@dataclass(frozen=True)
class Trial:
    """A setting of the router, named by what it changes."""

    knob: str
    value: float
    params: RouterParams


def trials(shipped: RouterParams) -> list[Trial]:
    """List the shipped setting with three slices, then each change of one knob.

    Raises:
        ParamsError: The fallback is not the global model.
    """
    if shipped.fallback != "global":
        raise ParamsError(f"gains are those over the global model: expected fallback global, got {shipped.fallback}")
    free = shipped.model_copy(update={"budget": BUDGET, "slices": SLICES})
    found = [Trial(SHIPPED, 0.0, free)]
    for knob, values in TRIED.items():
        found += [Trial(knob, value, free.model_copy(update={knob: value})) for value in values if value != getattr(free, knob)]
    return found


@dataclass(frozen=True)
class Left:
    """A federation without one site, and where that site's cases are."""

    site: str
    seed: int
    federation: Federation


def left_out(options: argparse.Namespace) -> list[Left]:
    """Find the federations.

    Raises:
        ParamsError: There is none.
    """
    folder = Path(__file__).parent / "leave-out"
    found = []
    for path in sorted(options.runs.iterdir()):
        named = RUN.match(path.name)
        if named is not None:
            overlays = [options.base, folder / f"{named['site']}.yaml"]
            roster, params = rosters.load_run(options.cohort, Path("params.yaml"), [f"seed={named['seed']}"], overlays=overlays)
            paths = RunPaths(workspace=Path(), cohort=roster.name, run=str(path.relative_to("runs")))
            found.append(Left(named["site"], int(named["seed"]), Federation(roster=roster, params=params, paths=paths)))
    if not found:
        raise ParamsError(f"{options.runs} holds no run like without-ct-a--s7")
    return found


def measure(left: Left) -> list[dict[str, object]]:
    """Score the global model, the ensemble and every trial on the cases of the site left out; a record a case and trial."""
    torch.set_num_threads(1)
    federation = left.federation
    predictor = scoring.predictor(federation, "cpu")
    params, folder = federation.params, federation.paths.prepared_site(left.site)
    geometry = Geometry(params.federate.network.spatial_dims, network.divisor(params.federate.network), params.federate.patch_zyx)
    stored = [federation.paths.global_state, *(federation.paths.inside_state(name) for name in federation.sites)]
    experts = [states.load(path) for path in stored]
    records: list[dict[str, object]] = []
    for row in sites.all_rows(folder):
        case = preprocess.load(folder / row.file)

        probs = [predictor.predict(case.image, state) for state in experts]
        common = {"site": left.site, "seed": left.seed, "case": row.case}
        score = partial(dice, federation.roster.organs, row, case)
        reference = score(probs[0])
        records.append(common | {"knob": ENSEMBLE, "value": 0.0, "gain": score(baselines.ensemble_probs(probs)) - reference})
        for trial in trials(params.outside.router):
            made = router.route(
                predictor.network, experts, case.image, params=trial.params, geometry=geometry, device=predictor.device
            )
            records.append(
                common
                | {
                    "knob": trial.knob,
                    "value": trial.value,
                    "gain": score(predictor.predict(case.image, made.state)) - reference,
                    "quality": made.quality,
                    "fallback_quality": made.fallback_quality,
                    "passes": made.passes,
                }
            )
    return records


def dice(organs: Sequence[str], row: ManifestRow, case: PreparedCase, probs: Tensor) -> float:
    """Score a prediction on the stored grid: the mean over the organs that the case has."""
    found = metrics.score_case(
        preprocess.to_native(probs, case.recipe),
        case.native_label,
        organs={value: organs[value] for value in sites.annotated(row)},
        spacing_mm=preprocess.native_spacing(case.recipe),
        surfaces=False,
    )
    return mean(score.value for score in found if score.metric == "dice" and score.value is not None)


def summarise(table: pandas.DataFrame, shipped: RouterParams) -> pandas.DataFrame:
    """Give a row a setting: with the shipped gate, and for the shipped models with each gate that was tried."""
    return pandas.DataFrame(_summaries(table, shipped))


def _summaries(table: pandas.DataFrame, shipped: RouterParams) -> Iterator[dict[str, object]]:
    ensemble = table[table["knob"] == ENSEMBLE]
    yield _summary(ENSEMBLE, 0.0, ensemble.assign(kept=True))
    routed = table[table["knob"] != ENSEMBLE]
    for (knob, value), rows in routed.groupby(["knob", "value"], sort=False):
        yield _summary(str(knob), float(value), gated(rows, shipped.gain))
    for gain in GAINS:
        yield _summary("gain", gain, gated(routed[routed["knob"] == SHIPPED], gain))


def gated(rows: pandas.DataFrame, gain: float) -> pandas.DataFrame:
    """Use the router's model where its margin of quality is large enough, elsewhere the global model, whose gain is 0."""
    kept = rows["quality"] >= rows["fallback_quality"] + gain
    return rows.assign(kept=kept, gain=rows["gain"].where(kept, 0.0))


def _summary(knob: str, value: float, rows: pandas.DataFrame) -> dict[str, object]:
    by_site = rows.groupby("site")["gain"].mean()
    return {
        "knob": knob,
        "value": value,
        "gain": float(by_site.mean()),
        "worst_site_gain": float(by_site.min()),
        "worst_case_gain": float(rows["gain"].min()),
        "harmed": float((rows["gain"] < -HARM).mean()),
        "used": float(rows["kept"].mean()),
        "passes": float(rows["passes"].mean()),
    }


def markdown(table: pandas.DataFrame) -> str:
    """Write the summary as a table."""
    lines = [
        "| knob | value | gain | worst site | worst case | lose > .05 | used | passes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in table.itertuples():
        value = "" if row.knob in {SHIPPED, ENSEMBLE} else "off" if row.value in {OFF, NO_GATE} else f"{row.value:g}"
        passes = "" if pandas.isna(row.passes) else f"{row.passes:.2f}"
        lines.append(
            f"| {row.knob} | {value} | {row.gain:+.4f} | {row.worst_site_gain:+.4f} | {row.worst_case_gain:+.3f} | "
            f"{100 * row.harmed:.1f} % | {100 * row.used:.0f} % | {passes} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write what was tried and what it gave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("cohort", "base", "runs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        found = left_out(options)
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            records = [record for part in pool.map(measure, found) for record in part]
        table = pandas.DataFrame(records)
        summary = summarise(table, found[0].federation.params.outside.router)
        files.write_text(options.out / "cases.csv", table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
        files.write_text(options.out / "settings.csv", summary.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
        files.write_text(options.out / "table.md", markdown(summary))
    except FedsiloError as error:
        sys.stderr.write(f"tune: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
