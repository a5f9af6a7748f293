"""A made-up run for tests of the report: plausible tables of four inside and three outside sites, as the phases write them.

What is planted, so that tests can ask for it: ``ct-b`` annotates liver and kidneys only; ``mr-d`` is in pixels and shows no
images; ``ct-c`` has five test patients with two cases each, and the experts are almost one model there; the first case of
``mr-b`` has no gallbladder; ``local`` misses every pancreas at ``mr-a``; ``finetuned`` and ``global`` agree everywhere at
``ct-a``; the contract of ``mr-c`` warns.
"""

import csv
import io
import itertools
import json
from pathlib import Path

import numpy
from PIL import Image

from fedsilo.cohort import manifest
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.contract import Finding
from fedsilo.cohort.manifest import ManifestRow
from fedsilo.cohort.roster import Roster
from fedsilo.evaluation import cases, overlays
from fedsilo.evaluation.cases import CaseRow
from fedsilo.evaluation.metrics import Score
from fedsilo.evaluation.overlays import OverlayRow
from fedsilo.params import ReportParams
from fedsilo.report.inputs import Sources

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_ROUNDS = 20
INSIDE_METHODS = {"global": 0.0, "inside": 0.04, "local": -0.06, "finetuned": 0.03}
OUTSIDE_METHODS = {"global": 0.0, "ensemble": -0.02, "soup": -0.05, "routing-paper": 0.03, "routing-release": 0.02}
LEVEL = {"ct-a": 0.84, "ct-b": 0.78, "mr-a": 0.74, "mr-b": 0.66, "ct-c": 0.62, "mr-c": 0.52, "mr-d": 0.44}
EASE = {"liver": 0.08, "kidneys": 0.04, "spleen": 0.02, "pancreas": -0.14, "gallbladder": -0.18}
SPACING = (8.0, 6.0, 6.0)
PARAMS = ReportParams(bootstrap_resamples=199, confidence=0.95)


def roster() -> Roster:
    """The demo cohort, with ``mr-d`` not showing images."""
    demo = rosters.load(REPOSITORY / "cohorts" / "demo.yaml")
    sites = [site if site.name != "mr-d" else site.model_copy(update={"show_images": False}) for site in demo.sites]
    return demo.model_copy(update={"sites": tuple(sites)})


def fabricate(workspace: Path, generator: numpy.random.Generator) -> Sources:
    """Write the run's files into a workspace and say where they are."""
    demo = roster()
    run_dir = workspace / "runs" / "demo"
    sources = Sources(
        workspace=workspace,
        rounds=run_dir / "rounds.csv",
        federation=run_dir / "federation.json",
        phases={"inside": run_dir / "inside_evaluation", "outside": run_dir / "outside_evaluation"},
        prepared={site.name: workspace / "data" / "prepared" / "demo" / site.name for site in demo.sites},
    )
    _write_federation(sources, demo, generator)
    for site in demo.sites:
        _write_prepared(sources.prepared[site.name], site.name, demo)
    for role, methods, sites in (("inside", INSIDE_METHODS, demo.inside), ("outside", OUTSIDE_METHODS, demo.outside)):
        rows = [row for site in sites for row in case_rows(site.name, role, methods, generator)]
        cases.write(rows, sources.phases[role] / "cases.csv")
        _write_overlays(sources.phases[role], rows, generator)
    _write_routing(sources.phases["outside"], demo, generator)
    return sources


def annotated(site: str) -> list[str]:
    """Organs annotated at a site."""
    return ["liver", "kidneys"] if site == "ct-b" else list(EASE)


def scored_cases(site: str) -> list[tuple[str, str]]:
    """Test cases of a site with their patients."""
    if site == "ct-c":
        return [(f"{site}-{patient:02}-{visit}", f"{site}-{patient:02}") for patient in range(5) for visit in "ab"]
    return [(f"{site}-{patient:02}", f"{site}-{patient:02}") for patient in range(6)]


def case_rows(site: str, role: str, methods: dict[str, float], generator: numpy.random.Generator) -> list[CaseRow]:
    """Rows of all test cases of a site under all methods."""
    rows: list[CaseRow] = []
    pixel = site == "mr-d"
    for index, (case, patient) in enumerate(scored_cases(site)):
        effect = generator.normal(0, 0.06)
        for organ in annotated(site):
            base = LEVEL[site] + EASE[organ] + effect + generator.normal(0, 0.04)
            for method, gain in methods.items():
                noise = generator.normal(0, 0.025)
                dice = base if site == "ct-a" and method in ("global", "finetuned") else base + gain + noise
                scores = _scores(
                    organ,
                    float(numpy.clip(dice, 0.01, 0.98)),
                    pixel=pixel,
                    absent=(site, index, organ) == ("mr-b", 0, "gallbladder"),
                    missed=(site, method, organ) == ("mr-a", "local", "pancreas"),
                )
                rows += cases.rows(
                    scores,
                    cohort="demo",
                    site=site,
                    role=role,
                    patient=patient,
                    case=case,
                    method=method,
                    seed=42,
                    round_index=None if method == "local" else 17,
                    spacing_mm=None if pixel else SPACING,
                    model="0" * 64,
                )
    return rows


def _scores(organ: str, dice: float, *, pixel: bool, absent: bool, missed: bool) -> list[Score]:
    distance_unit, volume_unit = ("px", "px") if pixel else ("mm", "ml")
    if absent:
        values, flag, volume = (None, None, None, None, None), "absent", 3.5
    elif missed:
        values, flag, volume = (0.0, 0.0, 480.0, 480.0, 0.0), "missed", 0.0
    else:
        values, flag, volume = (dice, dice / (2 - dice), 60 * (1 - dice), 15 * (1 - dice), dice**0.5), "", 120.0
    names = ("dice", "1"), ("iou", "1"), ("hd95", distance_unit), ("assd", distance_unit), ("nsd", "1")
    return [Score(organ, metric, value, unit, flag) for (metric, unit), value in zip(names, values, strict=True)] + [
        Score(organ, "volume_ml", volume, volume_unit, flag)
    ]


def _write_federation(sources: Sources, demo: Roster, generator: numpy.random.Generator) -> None:
    inside = [site.name for site in demo.inside]
    header = [
        "round",
        "site",
        "num_cases",
        "num_slices",
        "weight",
        "train_loss",
        "val_dice_global",
        "val_dice_inside",
        "update_norm",
        "update_bytes",
        "latent_size",
        "selected_global",
        "selected_inside",
    ]
    lines: list[list[object]] = []
    selected = {site: 12 + index for index, site in enumerate(inside)}
    for round_index in range(NUM_ROUNDS):
        for site in inside:
            progress = 1 - numpy.exp(-(round_index + 1) / 6)
            dice = (
                [f"{LEVEL[site] * progress + generator.normal(0, 0.015):.6f}" for _ in range(2)] if round_index % 2 else ["", ""]
            )
            loss = f"{1.6 - LEVEL[site] * progress + generator.normal(0, 0.02):.6f}"
            chosen = [int(round_index == 17), int(round_index == selected[site] | 1)]
            lines.append([round_index, site, 7, 168, 0.25, loss, *dice, 3.2, 1_700_000, "", *chosen])
    _write_csv(sources.rounds, header, lines)
    record = {
        "run": "demo",
        "cohort": "demo",
        "seed": 42,
        "global_round": 17,
        "inside_rounds": {site: round_index | 1 for site, round_index in selected.items()},
        "model_sha256": {"global": "a" * 64} | {f"inside/{site}": "b" * 64 for site in inside},
        "num_parameters": 402_812,
    }
    sources.federation.write_text(json.dumps(record))


def _write_prepared(folder: Path, site: str, demo: Roster) -> None:
    entry = demo.site(site)
    splits = dict.fromkeys(scored_cases(site), "test")
    if entry.role == "inside":
        splits |= {(f"{site}-t{index}", f"{site}-t{index}"): "val" if index == 0 else "train" for index in range(8)}
    pixel = site == "mr-d"
    rows = [
        ManifestRow(
            case=case,
            patient=patient,
            split=split,
            file=f"cases/{case}.safetensors",
            sha256="c" * 64,
            content_hash="d" * 64,
            label_hash="e" * 64,
            modality=entry.modality,
            geometry="pixel" if pixel else "mm",
            annotated=manifest.joined(demo.organs.index(organ) for organ in annotated(site)),
            num_slices=1 if pixel else 24,
            spacing_zyx="" if pixel else manifest.joined(SPACING),
        )
        for (case, patient), split in splits.items()
    ]
    manifest.write(rows, folder / "manifest.csv")
    finding = Finding(
        rule="L4",
        action="warn",
        site=site,
        case="mr-c-03",
        field="volume_spleen",
        meaning="organ volume <unusual>",
        expected="36 to 900 ml",
        got="1204 ml",
        fix="look at the label",
    )
    verdict = {"site": site, "rules": [{"rule": "L4"}, {"rule": "G1"}], "findings": [vars(finding)] if site == "mr-c" else []}
    (folder / "contract.json").write_text(json.dumps(verdict))


def _write_overlays(folder: Path, rows: list[CaseRow], generator: numpy.random.Generator) -> None:
    index: list[OverlayRow] = []
    for site in sorted({row.site for row in rows}):
        dice = {
            case: float(
                numpy.mean(
                    [row.value for row in rows if (row.case, row.metric, row.method) == (case, "dice", "global") and row.value]
                )
            )
            for case in sorted({row.case for row in rows if row.site == site})
        }
        for rank, case in overlays.ranked(dice).items():
            for method in sorted({row.method for row in rows}):
                file = f"overlays/{case}-{method}.png"
                (folder / "overlays").mkdir(exist_ok=True)
                grey = numpy.kron(generator.integers(30, 180, (12, 16)), numpy.ones((20, 20))).astype(numpy.uint8)
                buffer = io.BytesIO()
                Image.fromarray(grey).save(buffer, format="PNG")
                (folder / file).write_bytes(buffer.getvalue())
                index.append(OverlayRow(site, case, case, method, rank, dice[case], file))
    overlays.write_index(index, folder / "overlays.csv")


def _write_routing(folder: Path, demo: Roster, generator: numpy.random.Generator) -> None:
    experts = ["global", *(site.name for site in demo.inside)]
    routes: list[list[object]] = []
    objective: list[list[object]] = []
    for site in demo.outside:
        for case, _ in scored_cases(site.name):
            for method in ("routing-paper", "routing-release"):
                after = generator.dirichlet([4.0, *([1.0 + 2 * (expert[:2] == site.name[:2]) for expert in experts[1:]])])
                for step, weights in ((0, [0.5, *([0.125] * 4)]), (3, after)):
                    for layer in ("encoder.0", "decoder.1"):
                        routes += [
                            [site.name, case, method, step, layer, expert, f"{weight:.6f}"]
                            for expert, weight in zip(experts, weights, strict=True)
                        ]
                for step in range(4):
                    parts = [0.02 / (step + 1), 0.4 - 0.03 * step, 0.3 - 0.02 * step]
                    objective.append([site.name, case, method, step, *parts, sum(parts)])
    _write_csv(folder / "routes.csv", ["site", "case", "method", "step", "layer", "expert", "weight"], routes)
    router = [
        [site.name, case, expert, 0.4 if expert == "global" else 0.15, 1.5, 0.3, 0.62, 0.6, int(place > 0), 2.8]
        for site in demo.outside
        for place, (case, _) in enumerate(scored_cases(site.name))
        for expert in experts
    ]
    header = ["site", "case", "expert", "weight", "distance", "entropy", "quality", "fallback_quality", "kept", "passes"]
    _write_csv(folder / "router.csv", header, router)
    pairs = [[site.name, one, other] for site in demo.outside for one, other in itertools.combinations(experts, 2)]
    shares = [0.01 if site == "ct-c" else float(generator.uniform(0.03, 0.2)) for site, _, _ in pairs]
    lines = [[*pair, f"{share:.6f}"] for pair, share in zip(pairs, shares, strict=True)]
    _write_csv(folder / "disagreement.csv", ["site", "expert_a", "expert_b", "disagreement"], lines)
    _write_csv(
        folder / "objective.csv", ["site", "case", "method", "step", "consistency", "shape", "entropy", "total"], objective
    )


def _write_csv(path: Path, header: list[str], lines: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(header)
        table.writerows(lines)
