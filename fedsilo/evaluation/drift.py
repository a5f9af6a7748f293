"""Drift of data: whether a site's new cases come from another distribution than those a model knew.

Two tests, one alarm. The kernel two-sample test (MMD) looks at all features together and finds small changes of many; tests of
each feature (KS) find a large change of one and say which. Holm's rule joins their p-values, so that the alarm has one known
rate of false alarms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats

from fedsilo.errors import DataError

MIN_PATIENTS = 5
"""With fewer on a side nothing is tested."""

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
        chosen: Cases that KS looked at, one a patient: rows of the reference and of the window.
    """

    p_value: float
    mmd: float
    mmd_p: float
    ks: tuple[float, ...]
    ks_adjusted: tuple[float, ...]
    psi: tuple[float, ...]
    psi_threshold: tuple[float, ...]
    chosen: tuple[tuple[int, ...], tuple[int, ...]] = field(compare=False)


def compare(
    reference: Table,
    window: NewTable,
    *,
    alpha: float,
    permutations: int,
    generator: numpy.random.Generator,
    patients: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Comparison:
    """Test whether two samples come from one distribution.

    Features are divided by their standard deviation over both samples; one that never varies counts for nothing. Patients are
    what is drawn from a distribution: their cases resemble one another. MMD and PSI look at all cases and are permuted by
    patient, whose cases stay together; KS looks at one case a patient, drawn at random. The order of cases is irrelevant: all
    is drawn for the pooled cases sorted by their features.

    Args:
        reference: A row a case; of at least five patients.
        window: The same; the same features.
        alpha: Of the thresholds of PSI.
        permutations: Of the pooled patients; the smallest p is ``1 / (permutations + 1)``.
        generator: Draws them, then the cases of KS.
        patients: Of the reference's and of the window's cases; None: each case is of another one.

    Raises:
        DataError: A sample has too few patients, one is in both, or a value is not finite.

    Reference:
        Gretton et al., A kernel two-sample test, JMLR 2012: MMD of equation 3, by permutation.
    """
    if patients is None:
        patients = [f"old {row}" for row in range(len(reference))], [f"new {row}" for row in range(len(window))]
    _check(reference, window, patients)
    pooled, owners = numpy.concatenate([reference, window]), numpy.array([*patients[0], *patients[1]])
    is_new = numpy.arange(len(pooled)) >= len(reference)
    order = numpy.lexsort((is_new, *pooled.T))
    pooled, is_new, owners = pooled[order], is_new[order], owners[order]
    _, first, inverse = numpy.unique(owners, return_index=True, return_inverse=True)
    member = numpy.argsort(numpy.argsort(first))[inverse]  # patients by number, in the order of their first cases
    new_patients = is_new[numpy.sort(first)]
    by_patient = numpy.stack([new_patients, *(generator.permutation(new_patients) for _ in range(permutations))])
    drawn = by_patient[:, member]
    mmd = mmd_of_labels(kernel(scaled(pooled)), drawn)
    mmd_p = permutation_p(mmd)
    psi = psi_of_labels(pooled, drawn)
    chosen = _one_a_patient(member, generator)
    old_rows, new_rows = (numpy.sort(order[chosen[is_new[chosen] == side]]) for side in (False, True))
    new_rows = new_rows - len(reference)
    ks, ks_p = ks_of_features(reference[old_rows], window[new_rows])
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
        chosen=(tuple(old_rows.tolist()), tuple(new_rows.tolist())),
    )


def _one_a_patient(member: Int[NDArray[numpy.int64], " n"], generator: numpy.random.Generator) -> Int[NDArray[numpy.int64], " m"]:
    """Draw a case of each patient."""
    shuffled = generator.permutation(len(member))
    _, first = numpy.unique(member[shuffled], return_index=True)
    return numpy.asarray(shuffled[first])


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
        is_new: A row a division; each has two new cases and two others at least.
    """
    off_diagonal = similarity - numpy.diag(numpy.diag(similarity))
    chosen = is_new.astype(numpy.float64)
    num_new = chosen.sum(axis=1)
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
    method: Literal["exact", "asymp"] = "exact" if len(reference) * len(window) <= EXACT_PAIRS else "asymp"
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


def _check(reference: AnyTable, window: AnyTable, patients: tuple[Sequence[str], Sequence[str]]) -> None:
    """Refuse samples that cannot be compared."""
    old, new = (set(owners) for owners in patients)
    if min(len(old), len(new)) < MIN_PATIENTS:
        raise DataError(f"cannot test drift of {len(new)} patients against {len(old)}: expected at least {MIN_PATIENTS} each")
    if old & new:
        raise DataError(f"cannot test drift: {len(old & new)} patients have cases in both samples")
    if not (numpy.isfinite(reference).all() and numpy.isfinite(window).all()):
        raise DataError("cannot test drift: a feature is not finite")
