"""When a method may replace another: not worse by more than a margin, at no site, and no patient lost on the way.

Differences are those of ``statistics.differences``: patient by patient, positive is better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy
from scipy import stats

from fedsilo.errors import DataError
from fedsilo.evaluation import statistics
from fedsilo.evaluation.statistics import Interval, Patients

DICE_MARGIN = MappingProxyType({"liver": 0.01, "kidneys": 0.01, "spleen": 0.01})
"""Differences in Dice that do not matter; any other organ has ``DICE_MARGIN_OTHER``."""

DICE_MARGIN_OTHER = 0.02
CONFIDENCE = 0.95  # two-sided: the lower end is a one-sided bound of 97.5 %
WORST_SITE_MARGINS = 2
CATASTROPHIC_LOSS = 0.20
TOLERATED_SHARE = 0.10
BOUND_CONFIDENCE = 0.95
MIN_PATIENTS_FOR_BOUND = 29  # with fewer, not even 0 catastrophes bring the bound below the tolerated share
POWER_FACTOR = 1.96 + 0.84  # of a one-sided test at 2.5 % with a power of 80 %

Verdict = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class NonInferiority:
    """Whether a method is worse than a reference by less than a margin.

    Attributes:
        margin: The largest loss that does not matter, above 0.
        difference: Mean difference with its 95 % interval, over sites' means; its lower end decides.
        p_value: Signed-rank test of ``d + margin > 0``, one-sided; None (not testable) with fewer than six patients.
        worst_site: Site with the smallest mean difference.
        worst_site_difference: That mean.
        smallest_margin: What this many patients with this spread could have shown with a power of 80 %: ``2.8 sd / sqrt(n)``.
        verdict: ``passed`` if the lower end is above ``-margin`` and the worst site's mean above twice that; ``failed`` if the
            upper end is below ``-margin`` or the worst site's mean is not; else ``inconclusive``.
    """

    margin: float
    difference: Interval
    p_value: float | None
    worst_site: str
    worst_site_difference: float
    smallest_margin: float
    verdict: Verdict


@dataclass(frozen=True)
class Catastrophes:
    """Patients that a method loses: any organ worse by more than .20 Dice, or newly missed.

    Attributes:
        patients: Who, sorted, as ``site/patient``.
        num_patients: Of how many.
        bound: One-sided 95 % Clopper-Pearson bound of their share among patients like these.
        verdict: ``passed`` if the bound is at most 10 %; ``inconclusive`` with fewer than 29 patients; else ``failed``.
    """

    patients: tuple[str, ...]
    num_patients: int
    bound: float
    verdict: Verdict


def dice_margin(organ: str) -> float:
    """Look up the loss of Dice that does not matter for an organ.

    Example:
        >>> dice_margin("liver"), dice_margin("pancreas")
        (0.01, 0.02)
    """
    return DICE_MARGIN.get(organ, DICE_MARGIN_OTHER)


def non_inferiority(
    sites: Mapping[str, Patients], *, margin: float, num_resamples: int, generator: numpy.random.Generator
) -> NonInferiority:
    """Test whether a method is worse by less than a margin, on average over sites and at the worst one.

    Args:
        sites: Site -> patient -> difference.
        margin: Above 0, in the unit of the differences.
        num_resamples: Bootstrap resamples.
        generator: Draws the resamples.

    Raises:
        DataError: There is no site, a site has no patient, or the margin is not above 0.
    """
    if margin <= 0:
        raise DataError(f"cannot test non-inferiority with a margin of {margin}: expected it above 0")
    difference = statistics.macro_interval(sites, confidence=CONFIDENCE, num_resamples=num_resamples, generator=generator)
    together = numpy.array([sites[site][patient] for site in sorted(sites) for patient in sorted(sites[site])])
    means = {site: float(numpy.mean([sites[site][patient] for patient in sorted(sites[site])])) for site in sorted(sites)}
    worst = min(means, key=lambda site: means[site])
    p_value = None
    if together.size >= statistics.MIN_PATIENTS_TO_TEST:
        shifted = numpy.round(together + margin, statistics.TIE_DECIMALS)
        p_value = 1.0 if not shifted.any() else float(stats.wilcoxon(shifted, zero_method="pratt", alternative="greater").pvalue)
    spread = float(numpy.std(together, ddof=1)) if together.size > 1 else math.inf
    if difference.low > -margin and means[worst] > -WORST_SITE_MARGINS * margin:
        verdict: Verdict = "passed"
    elif difference.high < -margin or means[worst] <= -WORST_SITE_MARGINS * margin:
        verdict = "failed"
    else:
        verdict = "inconclusive"
    smallest = POWER_FACTOR * spread / math.sqrt(together.size)
    return NonInferiority(margin, difference, p_value, worst, means[worst], smallest, verdict)


def catastrophes(
    losses: Mapping[str, Mapping[str, Mapping[str, float]]], newly_missed: Mapping[str, frozenset[str]]
) -> Catastrophes:
    """Count the patients whom a method loses.

    Args:
        losses: Site -> patient -> organ -> difference in Dice, positive is better.
        newly_missed: Site -> patients with an organ that the method misses and the reference does not.

    Raises:
        DataError: There is no patient.
    """
    everyone = [(site, patient) for site in sorted(losses) for patient in sorted(losses[site])]
    lost = tuple(
        f"{site}/{patient}"
        for site, patient in everyone
        if patient in newly_missed.get(site, frozenset()) or min(losses[site][patient].values()) < -CATASTROPHIC_LOSS
    )
    bound = share_bound(len(lost), len(everyone))
    if bound <= TOLERATED_SHARE:
        verdict: Verdict = "passed"
    else:
        verdict = "inconclusive" if len(everyone) < MIN_PATIENTS_FOR_BOUND and not lost else "failed"
    return Catastrophes(lost, len(everyone), bound, verdict)


def share_bound(count: int, total: int) -> float:
    """Bound a share from above with 95 % confidence, one-sided (Clopper-Pearson).

    Raises:
        DataError: There is nothing to count among.

    Example:
        >>> round(share_bound(0, 29), 3), round(share_bound(1, 42), 3), share_bound(5, 5)
        (0.098, 0.108, 1.0)
    """
    if total < 1:
        raise DataError("cannot bound a share of no patients")
    return 1.0 if count == total else float(stats.beta.ppf(BOUND_CONFIDENCE, count + 1, total - count))


def share_floor(count: int, total: int) -> float:
    """Bound a share from below with 95 % confidence, one-sided (Clopper-Pearson).

    Raises:
        DataError: There is nothing to count among.

    Example:
        >>> share_floor(0, 29), round(share_floor(5, 29), 3)
        (0.0, 0.07)
    """
    if total < 1:
        raise DataError("cannot bound a share of no patients")
    return 0.0 if count == 0 else float(stats.beta.ppf(1 - BOUND_CONFIDENCE, count, total - count + 1))
