"""What the inside and the outside comparison share: predict a case, score it on its stored grid, draw some, join the sites."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import model_events, rounds, turns
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from fedsilo.cohort.manifest import ManifestRow
    from fedsilo.cohort.preprocess import PreparedCase
    from fedsilo.evaluation.cases import CaseRow
    from fedsilo.evaluation.overlays import OverlayRow
    from fedsilo.tensors import StateDict


@dataclass(frozen=True)
class Predictor:
    """A network that takes any state of the federation."""

    federation: Federation
    device: str
    network: nn.Module

    def predict(self, image: Tensor, state: StateDict) -> Tensor:
        """Predict the probabilities of a case with one state, on the working grid."""
        from fedsilo.federation import states

        states.restore(self.network, state)
        return self.predict_with(image, self.network)

    def predict_with(self, image: Tensor, other: nn.Module) -> Tensor:
        """Predict the probabilities of a case with another network that takes the same images."""
        from fedsilo.segmentation import inference, network

        params = self.federation.params.federate
        return inference.predict_probs(
            other,
            image,
            spatial_dims=params.network.spatial_dims,
            divisor=network.divisor(params.network),
            batch_size=turns.prediction_batch(params),
            device=self.device,
            window=turns.window_zyx(params),
        )


@dataclass(frozen=True)
class Prediction:
    """One method's probabilities of a case on the working grid, and the hash and round of what made them."""

    method: str
    probs: Tensor
    model: str
    round_index: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What one method made of a case; ``classes`` are kept where they may be drawn."""

    method: str
    rows: list[CaseRow]
    classes: Tensor | None

    @property
    def mean_dice(self) -> float | None:
        """Mean over the organs that the case has."""
        found = [row.value for row in self.rows if row.metric == "dice" and row.value is not None]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class ScoredCase:
    """A case under every method."""

    row: ManifestRow
    outcomes: Sequence[Outcome]


def predictor(federation: Federation, device: str) -> Predictor:
    """Build the network once for all cases and states."""
    return Predictor(federation, device, rounds.build_network(federation).to(device))


def score(
    federation: Federation,
    site: str,
    row: ManifestRow,
    case: PreparedCase,
    prediction: Prediction,
    *,
    drawn: bool,
) -> Outcome:
    """Score a prediction on the stored grid, over the organs that the site annotates."""
    from fedsilo.cohort import preprocess
    from fedsilo.evaluation import cases, metrics
    from tasks import sites

    roster = federation.roster
    spacing_mm = preprocess.native_spacing(case.recipe)
    scores = metrics.score_case(
        preprocess.to_native(prediction.probs, case.recipe),
        case.native_label,
        organs={value: roster.organs[value] for value in sites.annotated(row)},
        spacing_mm=spacing_mm,
        surfaces=federation.surfaces,
    )
    rows = cases.rows(
        scores,
        cohort=roster.name,
        site=site,
        role=federation.run_roster.site(site).role,
        patient=row.patient,
        case=row.case,
        method=prediction.method,
        seed=federation.params.seed,
        round_index=prediction.round_index,
        spacing_mm=spacing_mm,
        model=prediction.model,
    )
    return Outcome(prediction.method, rows, prediction.probs.argmax(dim=0).byte() if drawn else None)


def write_part(federation: Federation, phase: str, site: str, scored: Sequence[ScoredCase]) -> Path:
    """Write a site's cases table and pictures to a folder of its own, to be collected."""
    from fedsilo.evaluation import cases, overlays

    part = _parts_dir(federation, phase) / site
    shutil.rmtree(part, ignore_errors=True)
    cases.write([row for case in scored for outcome in case.outcomes for row in outcome.rows], part / "cases.csv")
    overlays.write_index(_draw(federation, site, scored, part), part / "overlays.csv")
    return part


def collect_parts(federation: Federation, phase: str, parts: Sequence[Path]) -> Path:
    """Join the sites' cases tables and pictures and remove the parts; without sites the tables hold their headers only."""
    from fedsilo import files
    from fedsilo.evaluation import cases, overlays

    folder = federation.paths.phase_dir(phase)
    table = cases.join([part / "cases.csv" for part in parts], federation.paths.cases_table(phase))
    shutil.rmtree(folder / "overlays", ignore_errors=True)
    shown = [(part, row) for part in parts for row in overlays.read_index(part / "overlays.csv")]
    for part, row in shown:
        files.write_bytes(folder / row.file, (part / row.file).read_bytes())
    overlays.write_index([row for _, row in shown], folder / "overlays.csv")
    shutil.rmtree(_parts_dir(federation, phase), ignore_errors=True)
    model_events.evaluated(federation, phase, table)
    return table


def _draw(federation: Federation, site: str, scored: Sequence[ScoredCase], part: Path) -> list[OverlayRow]:
    """Draw the worst, the median and the best case by the first method's mean Dice."""
    from fedsilo import files
    from fedsilo.cohort import preprocess
    from fedsilo.evaluation import overlays

    by_case = {case.row.case: case for case in scored}
    first = {name: case.outcomes[0].mean_dice for name, case in by_case.items() if case.outcomes}
    rows: list[OverlayRow] = []
    for rank, name in overlays.ranked(first).items():
        manifest_row = by_case[name].row
        for outcome in by_case[name].outcomes:
            if outcome.classes is None:
                continue
            case = preprocess.load(federation.paths.prepared_site(site) / manifest_row.file)
            file = f"overlays/{site}_{name}_{outcome.method}.png"
            picture = overlays.draw(case.image, case.label, outcome.classes)
            files.write_bytes(part / file, picture)
            rows.append(overlays.OverlayRow(site, name, manifest_row.patient, outcome.method, rank, outcome.mean_dice, file))
    return rows


def _parts_dir(federation: Federation, phase: str) -> Path:
    """Folder of the sites' tables until they are collected; beside the checkpoints, never an output."""
    return federation.paths.checkpoints_dir / f"{phase}-parts"
