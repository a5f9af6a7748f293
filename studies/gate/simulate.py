"""How often the gate errs, and how often it passes a model that is as good: simulated hold-outs of one site and organ.

    python studies/gate/simulate.py --plan pccp.yaml --out studies/gate/results [--repetitions N]

*Error* is how often a candidate passes whose true mean loss is the margin; *power* how often one whose true mean difference is
0. Differences are normal, or next to none with rare failures: a share of the patients loses an exponential amount of Dice, cut
at 1, which is all there is to lose; of an equal candidate all patients gain the mean of that. Simulations only.
"""

import argparse
import csv
import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import optimize, special, stats

from fedsilo import files, seeds
from fedsilo.evaluation import noninferiority, pccp, statistics
from fedsilo.evaluation.pccp import GateParams

SEED = 42
MARGINS = (0.01, 0.02)
SIZES = (12, 30, 60, 100, 149, 200, 299, 400, 600)
NORMAL_SDS = (0.02, 0.05, 0.10)
FAILURE_RATES = (0.02, 0.04, 0.08, 0.16)
NOISE_SD = 0.001
"""Of patients who do not fail: equal differences would make ties of resamples, which rounding breaks."""

RESAMPLES = 999
BLOCK = 500
"""Hold-outs that share resamples."""

STRICT_LOSS, STRICT_SHARE = 0.10, 0.05
T, BCA, DEFAULT, STRICT, SHIPPED = "t, 95 %", "BCa, 97.5 %", "BCa and .20/10 %", "BCa and strict", "shipped"
RULES = (T, BCA, DEFAULT, STRICT, SHIPPED)
ALLOWED = 0.07
POWERS = (0.5, 0.8)
WORKERS = 2

Samples = Float[NDArray[numpy.float64], "repetition patient"]
Bounds = Float[NDArray[numpy.float64], " repetition"]
Passed = Mapping[str, NDArray[numpy.bool_]]


@dataclass(frozen=True)
class Cell:
    """A kind of hold-out: how differences fall, how many patients there are, and the loss that does not matter."""

    shape: str
    spread: float
    margin: float
    num_patients: int

    @property
    def name(self) -> str:
        """Say how differences fall."""
        return f"normal, sd {self.spread:g}" if self.shape == "normal" else f"failures, {self.spread:.0%}"


def cells() -> Iterator[Cell]:
    """List all cells."""
    for margin in MARGINS:
        for shape, spreads in (("normal", NORMAL_SDS), ("failures", FAILURE_RATES)):
            for spread in spreads:
                for size in SIZES:
                    yield Cell(shape, spread, margin, size)


def draw(cell: Cell, mean: float, num: int, generator: numpy.random.Generator) -> Samples:
    """Draw hold-outs of patients whose true mean difference is ``mean``: minus the margin, or 0."""
    size = num, cell.num_patients
    if cell.shape == "normal":
        return generator.normal(mean, cell.spread, size)
    failed, loss = generator.random(size) < cell.spread, cell.margin / cell.spread
    amount = numpy.ones(size)
    if loss < 1:
        amount = numpy.minimum(generator.exponential(exponential_scale(loss), size), 1.0)
    return mean + cell.margin - failed * amount + generator.normal(0, NOISE_SD, size)


def exponential_scale(mean: float) -> float:
    """Find the scale at which an exponential amount, cut at 1, has a mean below 1: ``s (1 - exp(-1/s)) = mean``.

    Example:
        >>> round(exponential_scale(0.25), 4)
        0.255
    """
    return float(optimize.brentq(lambda scale: scale * -math.expm1(-1 / scale) - mean, 1e-4, 1e6))


def bca_lower(samples: Samples, indices: Int[NDArray[numpy.int64], "resample patient"]) -> Bounds:
    """Give the lower end of ``statistics.mean_interval`` for many hold-outs of ten patients or more, all with the same resamples.

    Reference:
        Efron 1987, as ``scipy.stats.bootstrap(method="BCa")`` has it.
    """
    lower = samples.mean(axis=1)
    varied = numpy.ptp(samples, axis=1) >= statistics.SMALLEST_SPREAD
    if varied.any():
        counts = numpy.zeros(indices.shape)
        numpy.add.at(counts, (numpy.arange(len(indices))[:, None], indices), 1)
        lower[varied] = _bca(samples[varied], counts / indices.shape[1])
    return lower


def _bca(samples: Samples, weights: Float[NDArray[numpy.float64], "resample patient"]) -> Bounds:
    means, boot = samples.mean(axis=1), numpy.sort(samples @ weights.T, axis=1)
    below = ((boot < means[:, None]).mean(axis=1) + (boot <= means[:, None]).mean(axis=1)) / 2
    centred = samples - means[:, None]  # the jackknife's means differ from theirs by -centred / (n - 1)
    acceleration = (centred**3).sum(axis=1) / (6 * (centred**2).sum(axis=1) ** 1.5)
    bias, tail = special.ndtri(below), special.ndtri((1 - noninferiority.CONFIDENCE) / 2)
    place = special.ndtr(bias + (bias + tail) / (1 - acceleration * (bias + tail))) * (len(weights) - 1)
    first, rows = numpy.minimum(place.astype(int), len(weights) - 2), numpy.arange(len(samples))
    low: Bounds = boot[rows, first] + (place - first) * (boot[rows, first + 1] - boot[rows, first])
    return low


def passes(
    samples: Samples, cell: Cell, policy: GateParams, generator: numpy.random.Generator
) -> dict[str, NDArray[numpy.bool_]]:
    """Say of each hold-out which rules let its candidate pass."""
    size, margin = cell.num_patients, cell.margin
    means, errors = samples.mean(axis=1), samples.std(axis=1, ddof=1) / math.sqrt(size)
    bca = bca_lower(samples, generator.integers(0, size, (RESAMPLES, size))) > -margin
    noise = cell.spread if cell.shape == "normal" else 0.0  # what two seeds differ by
    few = _few_lost(samples, policy.catastrophe.loss, policy.catastrophe.tolerated_share)
    strict = _few_lost(samples, max(STRICT_LOSS, policy.catastrophe.num_seed_sds * noise), STRICT_SHARE)
    enough = size >= policy.patients_needed(margin)
    near = means > -policy.worst_site_margins * margin
    return {
        T: means - stats.t.ppf(0.95, size - 1) * errors > -margin,
        BCA: bca,
        DEFAULT: bca & few,
        STRICT: bca & strict,
        SHIPPED: bca & few & near & enough,
    }


def _few_lost(samples: Samples, loss: float, tolerated: float) -> NDArray[numpy.bool_]:
    size = samples.shape[1]
    bounds = numpy.array([noninferiority.share_bound(count, size) for count in range(size + 1)])
    return bounds[(samples < -loss).sum(axis=1)] <= tolerated


def simulate(cell: Cell, *, policy: GateParams, repetitions: int) -> list[dict[str, object]]:
    """Count how often each rule lets a candidate pass: one row a rule."""
    found: dict[str, dict[str, float]] = {rule: {} for rule in RULES}
    for truth, mean in (("error", -cell.margin), ("power", 0.0)):
        generator = seeds.numpy_generator(SEED, "gate-study", cell.name, str(cell.margin), cell.num_patients, truth)
        passed = [passes(draw(cell, mean, BLOCK, generator), cell, policy, generator) for _ in range(repetitions // BLOCK)]
        for rule in RULES:
            found[rule][truth] = float(numpy.mean([block[rule] for block in passed]))
    fixed = {"margin": cell.margin, "differences": cell.name, "patients": cell.num_patients, "repetitions": repetitions}
    return [{**fixed, "rule": rule, **{truth: round(share, 4) for truth, share in found[rule].items()}} for rule in RULES]


def tables(rows: Sequence[Mapping[str, object]], policy: GateParams) -> str:
    """Write the numbers as Markdown: error and power by rule, then the largest error of the shipped rule."""
    lines = [f"Each cell: error; power in %, of {rows[0]['repetitions']} simulated hold-outs, seed {SEED}.", ""]
    for margin in MARGINS:
        lines += [f"## Margin {margin:g}: the shipped rule needs {policy.patients_needed(margin)} patients", ""]
        for rule in RULES:
            lines += [f"**{rule}**", "", f"| differences | {' | '.join(map(str, SIZES))} |", "|---" * (len(SIZES) + 1) + "|"]
            chosen = [row for row in rows if (row["margin"], row["rule"]) == (margin, rule)]
            for name in dict.fromkeys(str(row["differences"]) for row in chosen):
                of = {row["patients"]: row for row in chosen if row["differences"] == name}
                shown = (f"{_percent(of[size]['error'])}; {_percent(of[size]['power'])}" for size in SIZES)
                lines.append(f"| {name} | {' | '.join(shown)} |")
            lines.append("")
    lines += ["## Patients at a site for a power of 50 and 80 %, shipped rule; the smallest size that was tried", ""]
    lines += [f"| differences | {' | '.join(f'margin {margin:g}' for margin in MARGINS)} |", "|---" * (len(MARGINS) + 1) + "|"]
    for name in dict.fromkeys(str(row["differences"]) for row in rows):
        needed = (_sizes(rows, name, margin) for margin in MARGINS)
        lines.append(f"| {name} | {' | '.join(needed)} |")
    lines.append("")
    largest = max(float(str(row["error"])) for row in rows if row["rule"] == SHIPPED)
    return "\n".join([*lines, f"Largest error of the shipped rule: {largest:.1%}; allowed: {ALLOWED:.0%}.", ""])


def _sizes(rows: Sequence[Mapping[str, object]], name: str, margin: float) -> str:
    """Say from which size on the shipped rule has which power."""
    of = [row for row in rows if (row["rule"], row["differences"], row["margin"]) == (SHIPPED, name, margin)]
    found = []
    for power in POWERS:
        sizes = [int(str(row["patients"])) for row in of if float(str(row["power"])) >= power]
        found.append(str(min(sizes)) if sizes else f"over {SIZES[-1]}")
    return ", ".join(found)


def _percent(share: object) -> str:
    return f"{100 * float(str(share)):.0f}"


def main() -> int:
    """Simulate all cells and write the tables; 1 if the shipped rule errs more often than it may."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--plan", type=Path, required=True)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--repetitions", type=int, default=6000, help=f"a multiple of {BLOCK}")
    options = made.parse_args()
    policy = pccp.load(options.plan).gate
    with ProcessPoolExecutor(WORKERS) as pool:
        rows = [
            row for part in pool.map(partial(simulate, policy=policy, repetitions=options.repetitions), cells()) for row in part
        ]
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    files.write_text(options.out / "errors.csv", text.getvalue())
    files.write_text(options.out / "tables.md", tables(rows, policy))
    worst = max(rows, key=lambda row: float(str(row["error"])) if row["rule"] == SHIPPED else 0.0)
    sys.stdout.write(f"largest error of the shipped rule: {worst}\n")
    return int(float(str(worst["error"])) > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
