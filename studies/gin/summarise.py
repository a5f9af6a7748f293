"""What GIN adds, from the cases tables of the study's runs: a tidy CSV, a JSON of numbers, a Markdown table and a figure.

    python studies/gin/summarise.py OUT_DIR RUN_DIR [RUN_DIR ...]

A run's folder is named ``<cohort>-<gin>-s<seed>``. Dice is averaged over organs and cases of a patient, then over seeds;
intervals are over patients, the spread is the standard deviation over seeds. Seeds are never counted as patients.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from fedsilo import files, seeds
from fedsilo.evaluation import cases, statistics

NAME = re.compile(r"^(?P<cohort>.+)-(?P<gin>none|gin)-s(?P<seed>\d+)$")
RESAMPLES = 9999
CONFIDENCE = 0.95

Scores = dict[tuple[str, str, str, int], dict[str, float]]
"""(role, site, gin, seed) -> patient -> Dice."""


def read(folders: list[Path]) -> Scores:
    """Average every run's Dice a patient."""
    scores: Scores = {}
    for folder in folders:
        match = NAME.match(folder.name)
        if match is None:
            sys.exit(f"cannot use {folder}: expected a folder named <cohort>-<gin>-s<seed>")
        for phase in ("inside", "outside"):
            table = cases.read(folder / f"{phase}_evaluation" / "cases.csv")
            table = table[(table["metric"] == "dice") & (table["method"] == "global") & table["value"].notna()]
            for (role, site), rows in table.groupby(["role", "site"]):
                key = (str(role), str(site), match["gin"], int(match["seed"]))
                scores[key] = statistics.patient_means(rows["value"].tolist(), rows["patient"].tolist())
    return scores


def over_seeds(scores: Scores, role: str, site: str, gin: str) -> tuple[dict[str, float], list[float]]:
    """Return each patient's mean over seeds, and the site's mean of each seed."""
    by_seed = [patients for (r, s, g, _), patients in sorted(scores.items()) if (r, s, g) == (role, site, gin)]
    collected: dict[str, list[float]] = defaultdict(list)
    for patients in by_seed:
        for patient, value in patients.items():
            collected[patient].append(value)
    return {patient: mean(values) for patient, values in collected.items()}, [mean(patients.values()) for patients in by_seed]


def main(out_dir: Path, folders: list[Path]) -> int:
    """Write the study's results."""
    scores = read(folders)
    sites = sorted({(role, site) for role, site, _, _ in scores})
    results: dict[str, dict[str, object]] = {}
    tidy = ["role,site,gin,seed,patient,dice"]
    tidy += [
        f"{role},{site},{gin},{seed},{patient},{value:.6f}"
        for (role, site, gin, seed), patients in sorted(scores.items())
        for patient, value in sorted(patients.items())
    ]
    groups = [(f"{role} {site}", [(role, site)]) for role, site in sites]
    outside = [(role, site) for role, site in sites if role == "outside"]
    groups.append(("all outside sites", outside))
    groups.append(("outside MR sites", [(role, site) for role, site in outside if site.startswith("mr")]))
    for name, members in groups:
        without = {site: over_seeds(scores, role, site, "none")[0] for role, site in members}
        with_gin = {site: over_seeds(scores, role, site, "gin")[0] for role, site in members}
        compared = statistics.compare(
            {site: statistics.differences(with_gin[site], without[site], higher_is_better=True) for site in without},
            confidence=CONFIDENCE,
            num_resamples=RESAMPLES,
            generator=seeds.numpy_generator(42, "bootstrap", "gin-study", name),
        )
        per_seed = [over_seeds(scores, role, site, "gin")[1] for role, site in members]
        per_seed_none = [over_seeds(scores, role, site, "none")[1] for role, site in members]
        gains = [mean(a) - mean(b) for a, b in zip(zip(*per_seed, strict=True), zip(*per_seed_none, strict=True), strict=True)]
        results[name] = {
            "dice_without": round(mean(mean(patients.values()) for patients in without.values()), 4),
            "dice_with": round(mean(mean(patients.values()) for patients in with_gin.values()), 4),
            "gain": round(compared.difference.mean, 4),
            "low": round(compared.difference.low, 4),
            "high": round(compared.difference.high, 4),
            "interval": compared.difference.method,
            "seed_sd": round(stdev(gains), 4) if len(gains) > 1 else None,
            "p_value": compared.p_value,
            "patients": compared.difference.num_patients,
        }
    files.write_text(out_dir / "patients.csv", "\n".join(tidy) + "\n")
    files.write_json(out_dir / "gain.json", {name: dict(row) for name, row in results.items()})
    files.write_text(out_dir / "table.md", markdown(results))
    files.write_bytes(out_dir / "gain.svg", figure(results))
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return 0


def markdown(results: dict[str, dict[str, object]]) -> str:
    """Write the table of the README."""
    lines = [
        "| test cases | FedAvg | FedAvg + GIN | gain (95 % interval over patients) | SD over seeds | patients |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        gain = f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(
            f"| {name} | {row['dice_without']:.3f} | {row['dice_with']:.3f} | {gain} | {row['seed_sd']:.3f} | {row['patients']} |"
        )
    return "\n".join(lines) + "\n"


def figure(results: dict[str, dict[str, object]]) -> bytes:
    """Draw the gains with their intervals."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "fedsilo"
    canvas = Figure(figsize=(7, 0.45 * len(results) + 1.2), layout="constrained")
    axes = canvas.subplots()
    names = list(reversed(results))
    for place, name in enumerate(names):
        row = results[name]
        axes.plot([row["low"], row["high"]], [place, place], color="#0072B2", linewidth=2)
        axes.plot([row["gain"]], [place], marker="o", color="#0072B2")
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("Dice with GIN minus Dice without (95 % interval over patients)")
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
