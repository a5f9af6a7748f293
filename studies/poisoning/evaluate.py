"""Table of the poisoning study: mean Dice of each run's global model at the honest sites, and what an attack cost.

    python studies/poisoning/evaluate.py --runs runs/poisoning --out studies/poisoning/results

Dice is averaged over the organs of a patient, over patients of a site, over the honest sites, then over seeds.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import pandas
from hostile import SITE

from fedsilo import files
from fedsilo.errors import DataError, FedsiloError
from fedsilo.evaluation import cases

RUN = re.compile(r"^(?P<case>[a-z0-9_-]+?)--s(?P<seed>\d+)$")
CLEAN = "clean"
HEAD = "| run | Dice at honest sites | SD over seeds | loss to clean | largest of a seed | worst site | rounds refused |"
COLUMNS = ("case", "dice", "seeds_sd", "loss", "worst_seed_loss", "worst_site", "worst_site_dice", "refused_rounds")


def site_means(folder: Path) -> dict[str, float]:
    """Mean Dice of the global model by honest site.

    Raises:
        DataError: The run has no such scores.
    """
    table = cases.read(folder / "inside_evaluation" / "cases.csv")
    dice = table[(table["metric"] == "dice") & (table["method"] == "global") & (table["site"] != SITE)]
    if dice.empty:
        raise DataError(f"{folder} has no Dice of a global model")
    patients = dice.groupby(["site", "patient"], sort=True)["value"].mean()
    return {str(site): float(value) for site, value in patients.groupby("site").mean().items()}


def refused_rounds(folder: Path) -> int:
    """Count the rounds in which the hostile site's update did not count."""
    table = pandas.read_csv(folder / "rounds.csv")
    return int(table.loc[table["site"] == SITE, "weight"].isna().sum())


def rows(runs: Path) -> list[dict[str, object]]:
    """Give a row a case, the clean one first, then from the smallest loss.

    Raises:
        DataError: There is no clean run of a seed.
    """
    found: dict[str, dict[int, Path]] = {}
    for folder in sorted(path for path in runs.iterdir() if path.is_dir()):
        match = RUN.match(folder.name)
        if match:
            found.setdefault(match["case"], {})[int(match["seed"])] = folder
    if CLEAN not in found:
        raise DataError(f"{runs} has no run {CLEAN}")
    scores = {case: {seed: site_means(folder) for seed, folder in by_seed.items()} for case, by_seed in found.items()}
    made = []
    for case, by_seed in scores.items():
        if by_seed.keys() != scores[CLEAN].keys():
            raise DataError(f"{runs}: {case} and {CLEAN} have different seeds")
        means = {seed: mean(sites.values()) for seed, sites in by_seed.items()}
        losses = {seed: mean(scores[CLEAN][seed].values()) - value for seed, value in means.items()}
        sites = {site: mean(by_seed[seed][site] for seed in by_seed) for site in next(iter(by_seed.values()))}
        worst = min(sites, key=lambda site: sites[site])
        made.append(
            {
                "case": case,
                "dice": mean(means.values()),
                "seeds_sd": stdev(means.values()) if len(means) > 1 else 0.0,
                "loss": mean(losses.values()),
                "worst_seed_loss": max(losses.values()),
                "worst_site": worst,
                "worst_site_dice": sites[worst],
                "refused_rounds": mean(refused_rounds(folder) for folder in found[case].values()),
            }
        )
    return sorted(made, key=lambda row: (row["case"] != CLEAN, row["loss"]))


def markdown(table: Sequence[dict[str, object]]) -> str:
    """Write the table for readers."""
    lines = [
        f"| {row['case']} | {row['dice']:.3f} | {row['seeds_sd']:.3f} | {row['loss']:+.3f} | {row['worst_seed_loss']:+.3f} | "
        f"{row['worst_site']} {row['worst_site_dice']:.3f} | {row['refused_rounds']:.1f} |"
        for row in table
    ]
    return "\n".join([HEAD, "|---|---|---|---|---|---|---|", *lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Write table.csv and table.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        table = rows(options.runs)
        lines = [",".join(COLUMNS), *(",".join(_cell(row[column]) for column in COLUMNS) for row in table), ""]
        files.write_text(options.out / "table.csv", "\n".join(lines))
        files.write_text(options.out / "table.md", markdown(table))
    except FedsiloError as error:
        sys.stderr.write(f"fedsilo: {error}\n")
        return 1
    return 0


def _cell(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
