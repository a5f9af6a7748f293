"""What a site tells of drift: statistics and histograms that name no case, as a value and as a file.

Features are numbers of single cases and stay at the site; only a :class:`DriftReport` leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy
from jaxtyping import Float
from numpy.typing import NDArray

from fedsilo import files, seeds
from fedsilo.errors import DataError
from fedsilo.evaluation import drift
from fedsilo.evaluation.drift import NewTable, Table

FEWEST_IN_A_BIN = 5
ON_AN_EDGE = 1e-12
"""Shares of a bin by which floating point misses a multiple of its width."""

Verdict = Literal["alarm", "quiet", "too few"]


@dataclass(frozen=True)
class Histogram:
    """How many patients' cases, one of each, lie between cuts; the first and last bin are open, none counts fewer than five.

    Attributes:
        cuts: Rising, on a grid that does not depend on the data; one fewer than counts.
        counts: Patients a bin; empty if there are fewer than five in all.
    """

    cuts: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class FeatureDrift:
    """What is told of a feature.

    Attributes:
        name: Of the feature.
        ks: Largest distance of the two distribution functions.
        p_adjusted: Of KS, by Holm over all features.
        psi: Population stability index over bins with as many pooled cases each.
        psi_threshold: What permuted cases exceed at the rate of false alarms; a fixed threshold would fire by chance.
        reference: One case of each patient whom the model knew.
        window: One of each new patient.
    """

    name: str
    ks: float
    p_adjusted: float
    psi: float
    psi_threshold: float
    reference: Histogram
    window: Histogram


@dataclass(frozen=True)
class DriftReport:
    """All that leaves a site about drift: no case, no patient, no feature of one.

    Attributes:
        cohort: The cohort.
        site: The site.
        window: Number of the window, from 1; a window's cases are new, none is in another.
        num_reference: Cases that the model knew.
        num_window: New cases, without those of patients whom the model knew.
        reference_patients: Whose cases the model knew.
        window_patients: Whose cases are new.
        verdict: ``alarm`` if ``p_value`` is at most ``alpha``; ``too few`` if nothing could be tested; else ``quiet``.
        alpha: Rate of false alarms.
        p_value: Of MMD and KS together, by Holm; None if nothing could be tested.
        mmd: Unbiased squared MMD; negative values are chance.
        mmd_p: Its permutation p.
        ks_p: Smallest adjusted p of the features.
        permutations: Behind ``mmd_p`` and the thresholds of PSI.
        seed: Of their generator.
        features: One a feature, by name.
        origin: Hash of how features are made, and by which model.
    """

    cohort: str
    site: str
    window: int
    num_reference: int
    num_window: int
    reference_patients: int
    window_patients: int
    verdict: Verdict
    alpha: float
    p_value: float | None
    mmd: float | None
    mmd_p: float | None
    ks_p: float | None
    permutations: int
    seed: int
    features: tuple[FeatureDrift, ...]
    origin: str


@dataclass(frozen=True)
class Samples:
    """A site's features before and now; they stay at the site.

    Attributes:
        names: Of the features.
        steps: Width of the bins of each.
        reference: Of the cases that the model knew.
        window: Of the new cases.
        patients: Of the reference's and of the window's cases; nobody is in both.
        origin: Hash of how features are made.
    """

    names: tuple[str, ...]
    steps: Mapping[str, float]
    reference: Table
    window: NewTable
    patients: tuple[Sequence[str], Sequence[str]]
    origin: str


def histogram(values: Float[NDArray[numpy.float64], " n"], *, step: float) -> Histogram:
    """Count cases in bins of a fixed width, and join neighbours until none counts fewer than five.

    Ends are open: the smallest and the largest value are those of one case. All zeros beyond are not told.

    Example:
        >>> histogram(numpy.array([1.0, 1.0, 1.1, 1.2, 1.4, 2.0, 3.0, 3.0, 3.0, 3.1]), step=0.5)
        Histogram(cuts=(1.5,), counts=(5, 5))
    """
    if len(values) < FEWEST_IN_A_BIN:
        return Histogram((), ())
    numbers, counts = numpy.unique(numpy.floor(values / step + ON_AN_EDGE).astype(int), return_counts=True)
    cuts, joined, current = [], [], 0
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        current += count
        if current >= FEWEST_IN_A_BIN:
            joined.append(current)
            cuts.append(round((number + 1) * step, 9))
            current = 0
    joined[-1] += current
    return Histogram(tuple(cuts[:-1]), tuple(joined))


def report(
    samples: Samples,
    *,
    cohort: str,
    site: str,
    window: int,
    alpha: float,
    permutations: int,
    seed: int,
    fewest: int = drift.MIN_PATIENTS,
) -> DriftReport:
    """Compare a site's new cases with those that the model knew.

    Args:
        samples: Features of both.
        cohort: The cohort.
        site: The site.
        window: Number of the window, from 1.
        alpha: Rate of false alarms.
        permutations: Of the pooled patients.
        seed: Of the run; the window's generator is named after cohort, site and window.
        fewest: New patients below whom nothing is tested.

    Raises:
        DataError: A value is not finite.
    """
    told = DriftReport(
        cohort=cohort,
        site=site,
        window=window,
        num_reference=len(samples.reference),
        num_window=len(samples.window),
        reference_patients=len(set(samples.patients[0])),
        window_patients=len(set(samples.patients[1])),
        verdict="too few",
        alpha=alpha,
        p_value=None,
        mmd=None,
        mmd_p=None,
        ks_p=None,
        permutations=permutations,
        seed=seed,
        features=(),
        origin=samples.origin,
    )
    if told.window_patients < max(fewest, drift.MIN_PATIENTS) or told.reference_patients < drift.MIN_PATIENTS:
        return told
    generator = seeds.numpy_generator(seed, "drift", cohort, site, window)
    found = drift.compare(
        samples.reference,
        samples.window,
        alpha=alpha,
        permutations=permutations,
        generator=generator,
        patients=samples.patients,
    )
    reference, new = (table[list(rows)] for table, rows in zip((samples.reference, samples.window), found.chosen, strict=True))
    features = tuple(
        FeatureDrift(
            name=name,
            ks=found.ks[index],
            p_adjusted=found.ks_adjusted[index],
            psi=found.psi[index],
            psi_threshold=found.psi_threshold[index],
            reference=histogram(reference[:, index], step=samples.steps[name]),
            window=histogram(new[:, index], step=samples.steps[name]),
        )
        for index, name in enumerate(samples.names)
    )
    return replace(
        told,
        verdict="alarm" if found.p_value <= alpha else "quiet",
        p_value=found.p_value,
        mmd=found.mmd,
        mmd_p=found.mmd_p,
        ks_p=min(found.ks_adjusted),
        features=features,
    )


def persistent(verdicts: Sequence[Verdict], *, alarms: int, windows: int) -> bool:
    """Say whether at least some of the newest windows raised an alarm; windows with too few cases do not count.

    Args:
        verdicts: In the order of the windows.
        alarms: How many.
        windows: Of how many of the newest.

    Example:
        >>> persistent(["alarm", "quiet", "too few", "alarm"], alarms=2, windows=3)
        True
        >>> persistent(["alarm", "quiet", "quiet", "alarm"], alarms=2, windows=3)
        False
    """
    tested = [verdict for verdict in verdicts if verdict != "too few"]
    return tested[-windows:].count("alarm") >= alarms


def write(report: DriftReport, path: Path) -> Path:
    """Write a report as JSON; equal reports are equal files."""
    return files.write_json(path, asdict(report))


def read(path: Path) -> DriftReport:
    """Read what ``write`` wrote; a report comes from elsewhere, so unknown fields are refused.

    Raises:
        DataError: It is missing, damaged, or has other fields.
    """
    content: Mapping[str, Any] = files.read_json(path)
    _same(content, DriftReport, path)
    if content["verdict"] not in get_args(Verdict):
        raise DataError(
            f"cannot use {path}: expected a verdict of {', '.join(get_args(Verdict))}, got {content['verdict']!r:.40}"
        )
    return DriftReport(**{**content, "features": tuple(_feature(entry, path) for entry in _listed(content["features"], path))})


def _feature(content: object, path: Path) -> FeatureDrift:
    entry = _same(content, FeatureDrift, path)
    return FeatureDrift(**{**entry, **{name: _histogram(entry[name], path) for name in ("reference", "window")}})


def _histogram(content: object, path: Path) -> Histogram:
    entry = _same(content, Histogram, path)
    return Histogram(tuple(_listed(entry["cuts"], path)), tuple(_listed(entry["counts"], path)))


def _same(content: object, kind: type, path: Path) -> dict[str, Any]:
    """Refuse an object with other fields than a dataclass has."""
    expected = {field.name for field in fields(kind)}
    if not isinstance(content, dict) or content.keys() != expected:
        raise DataError(f"cannot use {path}: expected the fields {', '.join(sorted(expected))}")
    return content


def _listed(content: object, path: Path) -> list[Any]:
    if not isinstance(content, list):
        raise DataError(f"cannot use {path}: expected a list")
    return content
