"""What a site's learned remapping does to images that it never saw, beside what it should do.

    python studies/learned_gin/acceptance.py --cohort FILE --run RUN [--overlay FILE ...] --out FILE

Reads a finished 2D run with ``appearance.method: learned`` or ``both``: its global model, and every participant's remapping from
the journal. Images are the test cases of the participant's own sites. Prints and writes one row a participant.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from torch import Generator, Tensor

from fedsilo import files, seeds
from fedsilo.cohort import preprocess
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.batches import MODALITIES
from fedsilo.evaluation import metrics
from fedsilo.federation import states
from fedsilo.segmentation import learned_gin
from fedsilo.segmentation.learned_gin import HistFlow, LearnedDraw, Look
from fedsilo.segmentation.remapper import Remapper
from tasks import rounds, sites, turns
from tasks.federation import Federation
from tasks.paths import RunPaths

DRAWS = 4
CODES_BEYOND = 3.0
"""Standard deviations of styles and codes under which outputs must stay inside the splines' range."""


@dataclass(frozen=True)
class Case:
    """A test case as slices."""

    images: Tensor
    labels: Tensor
    modality: str


def held_out(federation: Federation, participant: str) -> list[Case]:
    """Load the test cases of a participant's sites."""
    found = []
    for holding in federation.holdings(participant):
        for row in sites.rows_of(holding.folder, "test"):
            case = preprocess.load(holding.folder / row.file)
            found.append(Case(case.image.transpose(0, 1), case.label, row.modality))
    return found


def codes_of(case: Case) -> Tensor:
    """Write the code of a case's slices: its modality, a null style."""
    return learned_gin.image_codes(torch.full((len(case.images),), MODALITIES.index(case.modality)))


def likelihood(flow: HistFlow, cases: Sequence[Case], generator: Generator) -> float:
    """Measure the negative log-likelihood of foreground intensities, in nats; of an untrained flow: of N(0, 1)."""
    values = []
    for case in cases:
        flat = case.images.flatten(1)
        shown = learned_gin.foreground(flat)
        kept = shown.any(dim=1)
        flat, shown = flat[kept], shown[kept]
        style = torch.randn(len(flat), learned_gin.NUM_STYLES, generator=generator)
        look = Look(flat.clamp(-learned_gin.BOUND, learned_gin.BOUND), style, learned_gin.quantiles(flat, shown))
        latent, slope, _ = flow.encode(look, codes_of(case)[kept])
        nats = 0.5 * latent.values.square() + 0.5 * torch.log(torch.tensor(2 * torch.pi)) - slope
        values.append(float(nats[shown].mean()))
    return mean(values)


def inversion(flow: HistFlow, case: Case, generator: Generator) -> float:
    """Measure the largest error of going in and out under the same code."""
    flat = case.images.flatten(1).clamp(-learned_gin.BOUND, learned_gin.BOUND)
    style = torch.randn(len(flat), learned_gin.NUM_STYLES, generator=generator)
    look = Look(flat, style, learned_gin.quantiles(flat, learned_gin.foreground(flat)))
    back = flow.decode(flow.encode(look, codes_of(case))[0], codes_of(case))
    return float((back.values - flat).abs().max())


def farthest(flow: HistFlow, case: Case, generator: Generator) -> float:
    """Measure the largest output where every style and every style code is three standard deviations out."""
    draw = learned_gin.sample_learned(len(case.images), probability=1.0, generator=generator)
    code_out = draw.code_out.clone()
    code_out[:, len(MODALITIES) :] = CODES_BEYOND * code_out[:, len(MODALITIES) :].sign()
    far = replace(draw, style_out=CODES_BEYOND * draw.style_out.sign(), code_out=code_out)
    return float(learned_gin.remap(flow, case.images, far, codes=codes_of(case))[0].abs().max())


def correlations(flow: HistFlow, case: Case, generator: Generator) -> list[float]:
    """Correlate wholly remapped slices with their originals, over the foreground."""
    draw = learned_gin.sample_learned(len(case.images), probability=1.0, generator=generator)
    remapped = learned_gin.remap(flow, case.images, draw, codes=codes_of(case))[0]
    found = []
    for before, after in zip(case.images.flatten(1), remapped.flatten(1), strict=True):
        shown = learned_gin.foreground(before[None])[0]
        if shown.any():
            found.append(float(torch.corrcoef(torch.stack([before[shown], after[shown]]))[0, 1]))
    return found


def codes_only(draw: LearnedDraw) -> LearnedDraw:
    """Leave the latent where it is."""
    return replace(draw, move=replace(draw.move, identity=torch.ones_like(draw.move.identity)))


def dice(model: torch.nn.Module, images: Tensor, labels: Tensor, organs: dict[int, str]) -> float | None:
    """Score a case's slices as one volume, over the organs that it has."""
    with torch.no_grad():
        predicted = model(images).argmax(dim=1).byte()
    scores = metrics.score_case(predicted, labels, organs=organs, spacing_mm=None, surfaces=False)
    found = [score.value for score in scores if score.metric == "dice" and score.value is not None]
    return mean(found) if found else None


def measure(federation: Federation, participant: str) -> dict[str, object]:
    """Measure one participant's remapping."""
    journal, last = federation.journal(), federation.params.federate.rounds - 1
    record = journal.site_record(participant, last)
    remapper, plain = (turns.build_remapper(federation, participant, "cpu") for _ in range(2))
    if remapper is None or plain is None:
        sys.exit("this run has no learned remapping: its appearance.method is neither learned nor both")
    remapper.restore(states.load(journal.remapper_path(participant, last), record.remapper_sha256))
    model = rounds.build_network(federation)
    states.restore(model, states.load(federation.paths.global_state))
    model.eval()
    cases = held_out(federation, participant)
    generator = seeds.generator(federation.params.seed, "acceptance", participant)
    with torch.no_grad():
        correlated = [value for _ in range(DRAWS) for case in cases for value in correlations(remapper.flow, case, generator)]
        row: dict[str, object] = {
            "participant": participant,
            "cases": len(cases),
            "likelihood_identity": likelihood(plain.flow, cases, generator),
            "likelihood": likelihood(remapper.flow, cases, generator),
            "inversion": max(inversion(remapper.flow, case, generator) for case in cases),
            "farthest": max(farthest(remapper.flow, case, generator) for case in cases),
            "negative_correlation": mean(value < 0 for value in correlated),
            "critic_loss": (record.remapper or {})["critic_loss"],
        }
        row |= kept_dice(remapper, model, cases, federation, generator)
    return row


def kept_dice(
    remapper: Remapper, model: torch.nn.Module, cases: Sequence[Case], federation: Federation, generator: Generator
) -> dict[str, object]:
    """Score the frozen global model on originals, on images under other codes, and on training's remappings."""
    organs = {value: name for value, name in enumerate(federation.roster.organs) if value > 0}
    before, coded, moved = [], [], []
    for case in cases:
        own = dice(model, case.images, case.labels, organs)
        if own is None:
            continue
        before.append(own)
        for _ in range(DRAWS):
            draw = learned_gin.sample_learned(len(case.images), probability=1.0, generator=generator)
            under_codes = learned_gin.apply_learned(case.images, remapper.flow, codes_only(draw), codes=codes_of(case))
            modalities = torch.full((len(case.images),), MODALITIES.index(case.modality))
            trained_on = remapper.remap(case.images, draw, labels=case.labels.long(), modalities=modalities)
            coded.append(dice(model, under_codes, case.labels, organs) or 0.0)
            moved.append(dice(model, trained_on, case.labels, organs) or 0.0)
    return {"dice": mean(before), "dice_codes_only": mean(coded), "dice_moved": mean(moved)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all participants of a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--overlay", type=Path, action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--run", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    roster, params = rosters.load_run(options.cohort, Path("params.yaml"), options.set, overlays=options.overlay)
    federation = Federation(roster, params, RunPaths(Path(), roster.name, options.run))
    rows = [measure(federation, participant) for participant in federation.sites]
    names = list(rows[0])
    lines = [",".join(names)]
    lines += [",".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()) for row in rows]
    files.write_text(options.out, "\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
