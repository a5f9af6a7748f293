"""How often drift is found on phantoms, where there is none and where there is some: rates.csv and table.md.

    python studies/drift/rates.py --out studies/drift/results

Subjects of two scanners are prepared as a site prepares them. Again and again two windows of other subjects are drawn, of which
the second is changed before it is prepared, and compared as `flows.drift` compares them.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
from scipy import ndimage

from fedsilo import files, seeds
from fedsilo.cohort import features, preprocess
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.phantoms import cohort
from fedsilo.cohort.phantoms.contrast import CtScanner, Scanner
from fedsilo.cohort.volumes import Image, Volume
from fedsilo.evaluation import drift
from fedsilo.params import Params

SEED = 11
SITES = ("ct-a", "mr-a")
SUBJECTS = 120
SIZES = (10, 20, 40)
REPETITIONS = {"none": 300}
REPETITIONS_OF_DRIFT = 60
PERMUTATIONS = 199
ALPHA = 0.05
FIXED_PSI = 0.2
GAMMAS = {"gamma 1.05": 1.05, "gamma 1.15": 1.15, "gamma 1.4": 1.4}
BLUR_PX = 0.7
KINDS = ("none", *GAMMAS, "blur 0.7 px", "noise x 1.25", "noise x 2")
NOISE = {"noise x 1.25": 1.25, "noise x 2": 2.0}
COLUMNS = ("site", "drift", "num_cases", "repetitions", "seed", "mmd", "ks", "alarm", "psi_fixed", "psi_permuted")
PROCESSES = 2


@dataclass(frozen=True)
class Job:
    """Windows of one site, size and kind of drift."""

    site: str
    kind: str
    num_cases: int


def noisier(scanner: Scanner, factor: float) -> Scanner:
    """Give a scanner more noise."""
    if isinstance(scanner, CtScanner):
        return replace(scanner, noise_hu=factor * scanner.noise_hu)
    return replace(scanner, snr=scanner.snr / factor)


def changed(values: numpy.ndarray, kind: str) -> numpy.ndarray:
    """Change the contrast or the sharpness of stored intensities (i, j, k)."""
    if kind in GAMMAS:
        low, high = values.min(), values.max()
        return low + (high - low) * ((values - low) / (high - low)) ** GAMMAS[kind]
    if kind.startswith("blur"):
        return ndimage.gaussian_filter(values, (BLUR_PX, BLUR_PX, 0))
    return values


def measured(site: str, image: Volume, label: Volume, kind: str, params: Params) -> dict[str, float]:
    """Prepare an image and measure its features."""
    unit = "hu" if isinstance(cohort.SCANNERS[site], CtScanner) else "au"
    stored = numpy.rint(changed(image.array.astype(numpy.float64), kind))
    case = preprocess.prepare(Image(stored[None], image.affine), label.array, unit=unit, params=params.prepare)
    facts = {"p50": float(numpy.median(stored)), "p99_5": float(numpy.percentile(stored, 99.5)), "std": float(stored.std())}
    return features.of_case(case, stored=facts if unit == "hu" else None)


def subject(site: str, number: int) -> dict[str, dict[str, float]]:
    """Measure one subject under every kind of drift."""
    _, params = rosters.load_run(Path("cohorts/demo.yaml"), Path("params.yaml"), [], overlays=[])
    scanner = cohort.SCANNERS[site]
    image, label = cohort.make_case(site, number, scanner, params.phantoms, seed=SEED)
    found = {kind: measured(site, image, label, kind, params) for kind in KINDS if kind not in NOISE}
    for kind, factor in NOISE.items():
        noisy, _ = cohort.make_case(site, number, noisier(scanner, factor), params.phantoms, seed=SEED)
        found[kind] = measured(site, noisy, label, kind, params)
    return found


def rate(job: Job, usual: numpy.ndarray, moved: numpy.ndarray) -> list[object]:
    """Count how often windows differ."""
    repetitions = REPETITIONS.get(job.kind, REPETITIONS_OF_DRIFT)
    counts = numpy.zeros(5)
    for repetition in range(repetitions):
        generator = seeds.numpy_generator(SEED, "study", job.site, job.kind, job.num_cases, repetition)
        order = generator.permutation(len(usual))
        old, new = usual[order[: job.num_cases]], moved[order[job.num_cases : 2 * job.num_cases]]
        found = drift.compare(old, new, alpha=ALPHA, permutations=PERMUTATIONS, generator=generator)
        psi, threshold = numpy.array(found.psi), numpy.array(found.psi_threshold)
        varies = threshold > 0
        counts += [
            found.mmd_p <= ALPHA,
            min(found.ks_adjusted) <= ALPHA,
            found.p_value <= ALPHA,
            (psi > FIXED_PSI)[varies].mean(),
            (psi > threshold)[varies].mean(),
        ]
    return [job.site, job.kind, job.num_cases, repetitions, SEED, *(f"{value:.4f}" for value in counts / repetitions)]


def table(rows: Sequence[Sequence[object]]) -> str:
    """Write the rates of MMD, KS and the alarm as Markdown, a line a site and size."""
    by_key = {(row[0], row[2], row[1]): row for row in rows}
    head = ["site", "cases", *KINDS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for site in SITES:
        for size in SIZES:
            cells = ["/".join(f"{float(str(value)):.2f}" for value in by_key[site, size, kind][5:8]) for kind in KINDS]
            lines.append(f"| {site} | {size} | {' | '.join(cells)} |")
    psi = ["", "| site | cases | PSI > 0.2 without drift | PSI > its permuted threshold |", "|---|---|---|---|"]
    psi += [
        f"| {site} | {size} | {float(str(by_key[site, size, 'none'][8])):.1%} | {float(str(by_key[site, size, 'none'][9])):.1%} |"
        for site in SITES
        for size in SIZES
    ]
    return "\n".join([*lines, *psi, ""])


def main(argv: list[str] | None = None) -> int:
    """Measure subjects, then rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    numbers = range(1, SUBJECTS + 1)
    with ProcessPoolExecutor(PROCESSES) as pool:
        values = {}
        for site in SITES:
            subjects = list(pool.map(subject, [site] * SUBJECTS, numbers, chunksize=10))
            values[site] = {kind: features.table([found[kind] for found in subjects])[1] for kind in KINDS}
        jobs = [Job(site, kind, size) for site in SITES for size in SIZES for kind in KINDS]
        parts = [(job, values[job.site]["none"], values[job.site][job.kind]) for job in jobs]
        rows = list(pool.map(rate, *zip(*parts, strict=True)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    files.write_text(options.out / "rates.csv", text.getvalue())
    files.write_text(options.out / "table.md", table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
