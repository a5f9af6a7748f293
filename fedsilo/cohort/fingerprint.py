"""The federated fingerprint: histograms that sites may share, from which a plan follows as from pooled data."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import Float
from numpy.typing import NDArray

from fedsilo.cohort.facts import Facts
from fedsilo.errors import DataError

SPACING_BIN_MM = 0.05
LOWEST_HU, HIGHEST_HU = -1024, 3071
NUM_HU = HIGHEST_HU - LOWEST_HU + 1
FEWEST_CASES = 5
"""A site with fewer cases names the bins of its medians only, each with all its cases: histograms of few are those few."""

NUM_AXES = 3
ANISOTROPY = 3
COARSE_PERCENTILE = 10
CLIP_PERCENTILES = (0.5, 99.5)

Histogram = Mapping[int, float]
"""Bin number -> cases."""


@dataclass(frozen=True)
class CaseShape:
    """What of a case enters the fingerprint.

    Attributes:
        spacing_zyx: In mm.
        shape_zyx: In voxels.
        foreground: Of a CT in HU, how much of its organs lies at each whole HU from -1024 to 3071, summing to 1; None of another
            image, or without organs.
    """

    spacing_zyx: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]
    foreground: Float[NDArray[numpy.float64], "4096"] | None


@dataclass(frozen=True)
class Fingerprint:
    """Histograms of a site, or of several merged.

    Attributes:
        num_cases: Cases behind the geometry.
        spacing: Along z, y, x, in bins of 0.05 mm.
        shape: Along z, y, x, in bins of a voxel.
        num_foreground: Cases behind the intensities.
        foreground: Cases at each whole HU from -1024 to 3071; each case weighs 1, however large its organs.
    """

    num_cases: int
    spacing: tuple[Histogram, Histogram, Histogram]
    shape: tuple[Histogram, Histogram, Histogram]
    num_foreground: int
    foreground: Float[NDArray[numpy.float64], "4096"]


@dataclass(frozen=True)
class Plan:
    """What the server derives for all sites.

    Attributes:
        spacing_zyx: Target spacing in mm.
        shape_zyx: Median shape at the target spacing, in voxels.
        clip_hu: Range to clip CT to; None without CT in HU.
        mean_hu: To subtract from CT after that.
        std_hu: To divide it by.
    """

    spacing_zyx: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]
    clip_hu: tuple[float, float] | None
    mean_hu: float | None
    std_hu: float | None


def case_shapes(rows: Iterable[Facts]) -> list[CaseShape]:
    """Take what the fingerprint needs from facts; of cases in pixels nothing."""
    found = []
    for row in rows:
        spacing = [edge for edge in (row.spacing_z, row.spacing_y, row.spacing_x) if edge is not None]
        shape = [edge for edge in (row.shape_z, row.shape_y, row.shape_x) if edge is not None]
        if len(spacing) == len(shape) == NUM_AXES:
            foreground = _dense(row.foreground_hu)
            found.append(CaseShape((spacing[0], spacing[1], spacing[2]), (shape[0], shape[1], shape[2]), foreground))
    return found


def hu_counts(values: NDArray[numpy.generic]) -> tuple[tuple[int, int], ...]:
    """Count intensities at each whole HU that is there; those beyond -1024 to 3071 count at the ends."""
    whole = numpy.rint(values.astype(numpy.float64)).clip(LOWEST_HU, HIGHEST_HU).astype(int)
    found, counts = numpy.unique(whole, return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))


def of_site(cases: Sequence[CaseShape], *, fewest: int = FEWEST_CASES) -> Fingerprint:
    """Make a site's fingerprint.

    Args:
        cases: In any order.
        fewest: Below as many cases only medians are told.

    Raises:
        DataError: There is no case.
    """
    if not cases:
        raise DataError("cannot make a fingerprint of no case")
    spacing = tuple(_histogram(spacing_bin(case.spacing_zyx[axis]) for case in cases) for axis in range(3))
    shape = tuple(_histogram(case.shape_zyx[axis] for case in cases) for axis in range(3))
    told = [case.foreground for case in cases if case.foreground is not None]
    foreground = numpy.sum(told, axis=0) if told else numpy.zeros(NUM_HU)
    if len(cases) < fewest:
        spacing, shape = (tuple(median_only(histogram) for histogram in part) for part in (spacing, shape))
    if len(told) < fewest:
        told, foreground = [], numpy.zeros(NUM_HU)
    return Fingerprint(
        num_cases=len(cases),
        spacing=(spacing[0], spacing[1], spacing[2]),
        shape=(shape[0], shape[1], shape[2]),
        num_foreground=len(told),
        foreground=foreground,
    )


def merge(parts: Sequence[Fingerprint]) -> Fingerprint:
    """Add the sites' histograms bin for bin; two halves of a cohort give the fingerprint of the whole.

    Raises:
        DataError: There is none.
    """
    if not parts:
        raise DataError("cannot merge no fingerprint")
    spacing = tuple(_sum(part.spacing[axis] for part in parts) for axis in range(3))
    shape = tuple(_sum(part.shape[axis] for part in parts) for axis in range(3))
    return Fingerprint(
        num_cases=sum(part.num_cases for part in parts),
        spacing=(spacing[0], spacing[1], spacing[2]),
        shape=(shape[0], shape[1], shape[2]),
        num_foreground=sum(part.num_foreground for part in parts),
        foreground=numpy.sum([part.foreground for part in parts], axis=0),
    )


def plan(fingerprint: Fingerprint) -> Plan:
    """Derive target spacing, median shape and CT normalisation.

    The spacing is the median along each axis. If that of one axis is more than three times the larger of the others, and it has
    less than a third of their voxels, it becomes its 10th percentile, but no finer than the others. CT is clipped to the 0.5 and
    99.5 percentiles of the foreground, then mean and standard deviation are those within.

    Reference:
        Isensee et al., nnU-Net, Nature Methods 2021, and the planner of its version 2. Deviation: percentiles are read off
        histograms of bins of 0.05 mm, a voxel and 1 HU, so they are exact to half a bin, and over all voxels, not a sample.
    """
    spacing = [(_median(histogram) + 0.5) * SPACING_BIN_MM for histogram in fingerprint.spacing]
    shape = [_median(histogram) for histogram in fingerprint.shape]
    coarse = int(numpy.argmax(spacing))
    others = [axis for axis in range(3) if axis != coarse]
    finest = max(spacing[axis] for axis in others)
    if spacing[coarse] > ANISOTROPY * finest and shape[coarse] * ANISOTROPY < min(shape[axis] for axis in others):
        tenth = (_percentile(fingerprint.spacing[coarse], COARSE_PERCENTILE) + 0.5) * SPACING_BIN_MM
        target = max(tenth, finest + SPACING_BIN_MM)
        shape[coarse] *= spacing[coarse] / target
        spacing[coarse] = target
    clip, mean, std = _normalisation(fingerprint.foreground) if fingerprint.num_foreground else (None, None, None)
    return Plan((spacing[0], spacing[1], spacing[2]), (round(shape[0]), round(shape[1]), round(shape[2])), clip, mean, std)


def _normalisation(foreground: Float[NDArray[numpy.float64], "4096"]) -> tuple[tuple[float, float], float, float]:
    """Read clip range, mean and deviation off the intensities."""
    values = numpy.arange(LOWEST_HU, HIGHEST_HU + 1, dtype=numpy.float64)
    cumulated = numpy.cumsum(foreground) / foreground.sum()
    low, high = (float(values[int(numpy.searchsorted(cumulated, percent / 100 - 1e-12))]) for percent in CLIP_PERCENTILES)
    clipped = values.clip(low, high)
    mean = float((clipped * foreground).sum() / foreground.sum())
    return (low, high), mean, float(numpy.sqrt(((clipped - mean) ** 2 * foreground).sum() / foreground.sum()))


def spacing_bin(spacing_mm: float) -> int:
    """Number the bin of a spacing."""
    return int(spacing_mm / SPACING_BIN_MM + 1e-9)


def _histogram(bins: Iterable[int]) -> Histogram:
    counts = Counter(bins)
    return {number: float(counts[number]) for number in sorted(counts)}


def _sum(histograms: Iterable[Histogram]) -> Histogram:
    total: dict[int, float] = {}
    for histogram in histograms:
        for number, count in histogram.items():
            total[number] = total.get(number, 0.0) + count
    return {number: total[number] for number in sorted(total)}


def median_only(histogram: Histogram) -> Histogram:
    """Keep what may be told of few cases: their number, in the bin of their median."""
    return {_percentile(histogram, 50): sum(histogram.values())}


def _median(histogram: Histogram) -> float:
    """Give the mean of the two middle cases' bins, which are one bin if their number is odd."""
    half = sum(histogram.values()) / 2
    seen = numpy.cumsum([histogram[number] for number in sorted(histogram)])
    bins = sorted(histogram)
    lower = bins[int(numpy.searchsorted(seen, half - 1e-9))]
    upper = bins[int(numpy.searchsorted(seen, half + 1e-9))]
    return (lower + upper) / 2


def _percentile(histogram: Histogram, percent: float) -> int:
    """Give the first bin at which as many per cent of the cases lie at or below."""
    wanted, seen = sum(histogram.values()) * percent / 100, 0.0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen >= wanted - 1e-9:
            return number
    raise DataError("an empty histogram has no percentile")


def _dense(counts: Sequence[tuple[int, int]]) -> Float[NDArray[numpy.float64], "4096"] | None:
    """Spread counts of a case over whole HU."""
    if not counts:
        return None
    mass = numpy.zeros(NUM_HU)
    total = sum(count for _, count in counts)
    for value, count in counts:
        mass[value - LOWEST_HU] = count / total
    return mass
