"""Data drift: whether a site's new cases come from another distribution than those a model knew, and what may be told of it.

Two tests, one alarm. The kernel two-sample test (MMD) looks at all features together and finds small changes of many; tests of
each feature (KS) find a large change of one and say which. Holm's rule joins their p-values, so that the alarm has one known
rate of false alarms. Features are numbers of single cases and stay at the site; only a :class:`DriftReport` leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import stats

from fedsilo import seeds
from fedsilo.errors import DataError

MIN_CASES = 5
"""With fewer on a side nothing is tested, and no bin of a histogram counts fewer."""

EXACT_PAIRS = 10_000
"""Up to as many pairs of cases KS has its exact distribution, above them the limiting one."""

TIE = 1e-12
"""Permuted statistics that are closer than this are the same: sums differ in their last digits."""

PSI_BINS = 10
PSI_FLOOR = 0.5
"""Cases that an empty bin counts for, as its logarithm has no value."""

Table = Float[NDArray[numpy.float64], "n f"]
NewTable = Float[NDArray[numpy.float64], "m f"]
AnyTable = Float[NDArray[numpy.float64], "_ _"]
Verdict = Literal["alarm", "quiet", "too few"]


@dataclass(frozen=True)
class Histogram:
    """How many cases lie between cuts; the first bin and the last are open, and none counts fewer than five.

    Attributes:
        cuts: Rising, on a grid that does not depend on the data; one fewer than counts.
        counts: Cases a bin; empty if there are fewer than five in all.
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
        reference: Cases that the model knew.
        window: New cases.
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
        num_window: New cases.
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
class Comparison:
    """Two samples compared.

    Attributes:
        p_value: ``min(1, 2 min(mmd_p, ks_p))``, the smaller of the two by Holm.
        mmd: Unbiased squared MMD.
        mmd_p: Its permutation p.
        ks: Statistic of each feature.
        ks_adjusted: p of each feature, by Holm.
        psi: Of each feature.
        psi_threshold: Of each feature.
    """

    p_value: float
    mmd: float
    mmd_p: float
    ks: tuple[float, ...]
    ks_adjusted: tuple[float, ...]
    psi: tuple[float, ...]
    psi_threshold: tuple[float, ...]


def compare(
    reference: Table, window: NewTable, *, alpha: float, permutations: int, generator: numpy.random.Generator
) -> Comparison:
    """Test whether two samples come from one distribution.

    Features are divided by their standard deviation over both samples; one that never varies counts for nothing. The order of
    cases is irrelevant to MMD and KS themselves; permutations are drawn for the pooled cases sorted by their features, so it is
    irrelevant to the p-values too.

    Args:
        reference: A row a case; at least five.
        window: The same; the same features.
        alpha: Of the thresholds of PSI.
        permutations: Of the pooled cases; the smallest p is ``1 / (permutations + 1)``.
        generator: Draws them.

    Raises:
        DataError: A sample is too small, or a value is not finite.

    Reference:
        Gretton et al., A kernel two-sample test, JMLR 2012: MMD of equation 3, by permutation.
    """
    _check(reference, window)
    pooled = numpy.concatenate([reference, window])
    is_new = numpy.arange(len(pooled)) >= len(reference)
    order = numpy.lexsort((is_new, *pooled.T))
    pooled, is_new = pooled[order], is_new[order]
    drawn = numpy.stack([is_new, *(generator.permutation(is_new) for _ in range(permutations))])
    mmd = mmd_of_labels(kernel(scaled(pooled)), drawn)
    mmd_p = permutation_p(mmd)
    psi = psi_of_labels(pooled, drawn)
    ks, ks_p = ks_of_features(reference, window)
    adjusted = _holm(numpy.array(ks_p))
    threshold = numpy.quantile(psi[1:], 1 - alpha, axis=0, method="higher")
    return Comparison(
        p_value=min(1.0, 2 * min(mmd_p, *adjusted)),  # the smaller of two by Holm
        mmd=float(mmd[0]),
        mmd_p=mmd_p,
        ks=tuple(ks),
        ks_adjusted=tuple(adjusted),
        psi=tuple(float(value) for value in psi[0]),
        psi_threshold=tuple(float(value) for value in threshold),
    )


def scaled(pooled: Table) -> Table:
    """Divide features by their standard deviation; one that never varies becomes zero."""
    spread = pooled.std(axis=0)
    varies = spread > TIE * (1 + numpy.abs(pooled).max(axis=0))
    return numpy.where(varies, (pooled - pooled.mean(axis=0)) / numpy.where(varies, spread, 1.0), 0.0)


def kernel(values: Table) -> Float[NDArray[numpy.float64], "n n"]:
    """Compare all cases by ``exp(-d² / (2 m²))``, m the median of the distances between cases that differ.

    Example:
        >>> kernel(numpy.array([[0.0], [1.0]])).round(4).tolist()
        [[1.0, 0.6065], [0.6065, 1.0]]
    """
    squares = ((values[:, None, :] - values[None, :, :]) ** 2).sum(axis=2)
    apart = squares[squares > 0]
    median = float(numpy.median(numpy.sqrt(apart))) if apart.size else 1.0
    return numpy.asarray(numpy.exp(-squares / (2 * median**2)))


def mmd_of_labels(
    similarity: Float[NDArray[numpy.float64], "n n"], is_new: Bool[NDArray[numpy.bool_], "p n"]
) -> Float[NDArray[numpy.float64], " p"]:
    """Compute the unbiased squared MMD for many divisions of the same cases at once.

    With s the 0/1 row of new cases and K without its diagonal: new-new is ``s K s``, new-old ``s K 1 - s K s``, and old-old what
    is left of ``1 K 1``.

    Args:
        similarity: Kernel of all pairs.
        is_new: A row a division; each has as many new cases.
    """
    off_diagonal = similarity - numpy.diag(numpy.diag(similarity))
    chosen = is_new.astype(numpy.float64)
    num_new = float(chosen[0].sum())
    num_old = is_new.shape[1] - num_new
    new_new = ((chosen @ off_diagonal) * chosen).sum(axis=1)
    new_all = chosen @ off_diagonal.sum(axis=1)
    old_old = off_diagonal.sum() - 2 * new_all + new_new
    between = new_all - new_new
    return numpy.asarray(
        new_new / (num_new * (num_new - 1)) + old_old / (num_old * (num_old - 1)) - 2 * between / (num_new * num_old)
    )


def permutation_p(statistic: Float[NDArray[numpy.float64], " p"]) -> float:
    """Give ``(1 + #{permuted >= observed}) / (P + 1)``; the first value is the observed one.

    Example:
        >>> permutation_p(numpy.array([2.0, 1.0, 3.0, 2.0]))
        0.75
    """
    observed, permuted = statistic[0], statistic[1:]
    return float((1 + numpy.count_nonzero(permuted >= observed - TIE)) / (1 + permuted.size))


def ks_of_features(reference: Table, window: NewTable) -> tuple[list[float], list[float]]:
    """Test each feature by itself, two-sided: statistics and p-values (Kolmogorov-Smirnov)."""
    method = "exact" if len(reference) * len(window) <= EXACT_PAIRS else "asymp"
    found = [stats.ks_2samp(old, new, method=method) for old, new in zip(reference.T, window.T, strict=True)]
    return [float(one.statistic) for one in found], [float(one.pvalue) for one in found]


def _holm(p_values: Float[NDArray[numpy.float64], " f"]) -> list[float]:
    """Adjust as ``statistics.holm`` does, whose library collects garbage at every call: 0.2 s in a large process."""
    order = numpy.argsort(p_values, kind="stable")
    stepped = numpy.maximum.accumulate(p_values[order] * numpy.arange(len(p_values), 0, -1))
    adjusted = numpy.empty_like(p_values)
    adjusted[order] = stepped.clip(max=1.0)
    return [float(value) for value in adjusted]


def psi_of_labels(pooled: Table, is_new: Bool[NDArray[numpy.bool_], "p n"]) -> Float[NDArray[numpy.float64], "p f"]:
    """Compute the population stability index of each feature for many divisions: ``Σ (a - b) ln(a / b)`` over bins.

    Bins hold as many pooled cases each, as far as ties allow; a and b are a bin's shares of old and new cases.
    """
    places = stats.rankdata(pooled, method="min", axis=0) - 1
    bins = (places * PSI_BINS // len(pooled)).astype(int)
    member = (bins[:, :, None] == numpy.arange(PSI_BINS)).astype(numpy.float64)  # cases, features, bins
    chosen, shape = is_new.astype(numpy.float64), (len(is_new), *member.shape[1:])
    new = (chosen @ member.reshape(len(pooled), -1)).reshape(shape)
    old = ((1 - chosen) @ member.reshape(len(pooled), -1)).reshape(shape)
    used = member.any(axis=0)
    new_share, old_share = (numpy.maximum(count, PSI_FLOOR) / count.sum(axis=2, keepdims=True) for count in (new, old))
    return numpy.asarray((numpy.where(used, (new_share - old_share) * numpy.log(new_share / old_share), 0.0)).sum(axis=2))


def histogram(values: Float[NDArray[numpy.float64], " n"], *, step: float) -> Histogram:
    """Count cases in bins of a fixed width, and join neighbours until none counts fewer than five.

    Ends are open: the smallest and the largest value are those of one case. All zeros beyond are not told.

    Example:
        >>> histogram(numpy.array([1.0, 1.0, 1.1, 1.2, 1.4, 2.0, 3.0, 3.0, 3.0, 3.1]), step=0.5)
        Histogram(cuts=(1.5,), counts=(5, 5))
    """
    if len(values) < MIN_CASES:
        return Histogram((), ())
    numbers, counts = numpy.unique(numpy.floor(values / step + TIE).astype(int), return_counts=True)
    cuts, joined, current = [], [], 0
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        current += count
        if current >= MIN_CASES:
            joined.append(current)
            cuts.append(round((number + 1) * step, 9))
            current = 0
    joined[-1] += current
    return Histogram(tuple(cuts[:-1]), tuple(joined))


def _check(reference: AnyTable, window: AnyTable) -> None:
    """Refuse samples that cannot be compared."""
    if min(len(reference), len(window)) < MIN_CASES:
        raise DataError(f"cannot test drift of {len(window)} cases against {len(reference)}: expected at least {MIN_CASES} each")
    if not (numpy.isfinite(reference).all() and numpy.isfinite(window).all()):
        raise DataError("cannot test drift: a feature is not finite")


@dataclass(frozen=True)
class Samples:
    """A site's features before and now; they stay at the site.

    Attributes:
        names: Of the features.
        steps: Width of the bins of each.
        reference: Of the cases that the model knew.
        window: Of the new cases.
        origin: Hash of how features are made.
    """

    names: tuple[str, ...]
    steps: Mapping[str, float]
    reference: Table
    window: NewTable
    origin: str


def report(
    samples: Samples, *, cohort: str, site: str, window: int, alpha: float, permutations: int, seed: int, fewest: int = MIN_CASES
) -> DriftReport:
    """Compare a site's new cases with those that the model knew.

    Args:
        samples: Features of both.
        cohort: The cohort.
        site: The site.
        window: Number of the window, from 1.
        alpha: Rate of false alarms.
        permutations: Of the pooled cases.
        seed: Of the run; the window's generator is named after cohort, site and window.
        fewest: New cases below which nothing is tested.

    Raises:
        DataError: A value is not finite.
    """
    told = {"cohort": cohort, "site": site, "window": window, "alpha": alpha, "permutations": permutations, "seed": seed}
    counts = {"num_reference": len(samples.reference), "num_window": len(samples.window), "origin": samples.origin}
    if len(samples.window) < max(fewest, MIN_CASES) or len(samples.reference) < MIN_CASES:
        return DriftReport(verdict="too few", p_value=None, mmd=None, mmd_p=None, ks_p=None, features=(), **told, **counts)
    generator = seeds.numpy_generator(seed, "drift", cohort, site, window)
    found = compare(samples.reference, samples.window, alpha=alpha, permutations=permutations, generator=generator)
    features = tuple(
        FeatureDrift(
            name=name,
            ks=found.ks[index],
            p_adjusted=found.ks_adjusted[index],
            psi=found.psi[index],
            psi_threshold=found.psi_threshold[index],
            reference=histogram(samples.reference[:, index], step=samples.steps[name]),
            window=histogram(samples.window[:, index], step=samples.steps[name]),
        )
        for index, name in enumerate(samples.names)
    )
    return DriftReport(
        verdict="alarm" if found.p_value <= alpha else "quiet",
        p_value=found.p_value,
        mmd=found.mmd,
        mmd_p=found.mmd_p,
        ks_p=min(found.ks_adjusted),
        features=features,
        **told,
        **counts,
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
