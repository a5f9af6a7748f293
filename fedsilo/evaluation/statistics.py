"""Statistics over patients: bootstrap intervals, averages over sites, paired comparisons, correction for many of them.

The unit is the patient: several cases of one patient are averaged first. Values come as patient -> number, and everything
is computed in the order of the patients' names, so the order of rows is irrelevant and swapping two methods mirrors the result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fedsilo.errors import DataError

MIN_PATIENTS_TO_TEST = 6  # the smallest two-sided p of a signed-rank test is .0625 with 5 patients, .03125 with 6
MIN_PATIENTS_BCA = 10
TIE_DECIMALS = 9  # tables carry six decimals; noise below would break ties between equal differences
SMALLEST_SPREAD = 1e-9  # the same for equal values, whose spread BCa would divide by

Patients = Mapping[str, float]
"""One number a patient."""

IntervalMethod = Literal["bca", "percentile", "point"]


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: Mean over patients, or over sites of the sites' means.
        low: Lower end; equal to ``mean`` if ``method`` is ``point``.
        high: Upper end; equal to ``mean`` if ``method`` is ``point``.
        method: ``bca``; ``percentile`` with fewer than ten patients or a patient alone at a
            site; ``point`` if all values are equal, where resampling says nothing.
        num_patients: Patients behind it.
    """

    mean: float
    low: float
    high: float
    method: IntervalMethod
    num_patients: int


@dataclass(frozen=True)
class Comparison:
    """A method against a reference, patient by patient; positive is better, for distances too.

    Attributes:
        difference: Mean difference with its interval.
        hodges_lehmann: Median of the averages of all pairs of differences.
        rank_biserial: ``(W+ - W-)/(W+ + W-)``, in [-1, 1]; 0 if no patient differs.
        p_value: Two-sided signed-rank test; None (**not testable**) with fewer than six patients.
    """

    difference: Interval
    hodges_lehmann: float
    rank_biserial: float
    p_value: float | None

    @property
    def num_patients(self) -> int:
        """Patients that were compared."""
        return self.difference.num_patients


def patient_means(values: Iterable[float], patients: Iterable[str]) -> dict[str, float]:
    """Average the cases of each patient.

    Example:
        >>> patient_means([0.5, 0.7, 0.9], ["b", "b", "a"])
        {'a': 0.9, 'b': 0.6}
    """
    by_patient: dict[str, list[float]] = {}
    for value, patient in zip(values, patients, strict=True):
        by_patient.setdefault(patient, []).append(value)
    return {patient: float(numpy.mean(numpy.sort(by_patient[patient]))) for patient in sorted(by_patient)}


def mean_interval(patients: Patients, *, confidence: float, num_resamples: int, generator: numpy.random.Generator) -> Interval:
    """Estimate the mean over patients and its bootstrap interval.

    Args:
        patients: At least one.
        confidence: Coverage, e.g. 0.95.
        num_resamples: Bootstrap resamples.
        generator: Draws the resamples.

    Raises:
        DataError: There is no patient.
    """
    return macro_interval({"": patients}, confidence=confidence, num_resamples=num_resamples, generator=generator)


def macro_interval(
    sites: Mapping[str, Patients], *, confidence: float, num_resamples: int, generator: numpy.random.Generator
) -> Interval:
    """Estimate the mean over sites of the sites' means; patients are resampled **within** their site.

    The interval speaks about these sites with other patients, not about other sites.

    Args:
        sites: Site -> patient -> value; at least one site, none of them empty.
        confidence: Coverage, e.g. 0.95.
        num_resamples: Bootstrap resamples.
        generator: Draws the resamples.

    Raises:
        DataError: There is no site, or a site has no patient.

    Reference:
        Efron 1987 (BCa) as in ``scipy.stats.bootstrap``; percentile with fewer than ten patients in all, or with a site of a
        single patient, for which BCa's jackknife is undefined.
    """
    samples = [_in_order(sites[site]) for site in sorted(sites)]
    if not samples or any(sample.size == 0 for sample in samples):
        raise DataError("cannot average over patients: expected at least one at every site, got none")
    mean = float(numpy.mean([sample.mean() for sample in samples]))
    num_patients = sum(sample.size for sample in samples)
    if all(numpy.ptp(sample) < SMALLEST_SPREAD for sample in samples):
        return Interval(mean, mean, mean, "point", num_patients)

    method: IntervalMethod = "bca"
    if num_patients < MIN_PATIENTS_BCA or any(sample.size == 1 for sample in samples):
        method = "percentile"
    # a patient who is alone at a site is resampled as itself; scipy asks for two
    data = tuple(numpy.repeat(sample, 2) if sample.size == 1 else sample for sample in samples)
    low, high = stats.bootstrap(
        data,
        _mean_of_means,
        n_resamples=num_resamples,
        confidence_level=confidence,
        method="BCa" if method == "bca" else "percentile",
        rng=generator,
    ).confidence_interval
    return Interval(mean, float(low), float(high), method, num_patients)


def between_sites_sd(sites: Mapping[str, Patients]) -> float | None:
    """Measure how much the sites' means differ: their standard deviation (n - 1); None with one site."""
    means = [_in_order(sites[site]).mean() for site in sorted(sites)]
    return float(numpy.std(means, ddof=1)) if len(means) > 1 else None


def worst_site(sites: Mapping[str, Patients], *, higher_is_better: bool) -> str:
    """Name the site with the worst mean; the first by name if several are equally bad.

    Raises:
        DataError: There is no site.

    Example:
        >>> worst_site({"a": {"p": 0.9}, "b": {"q": 0.4}}, higher_is_better=True)
        'b'
    """
    if not sites:
        raise DataError("cannot name the worst site: there is none")
    sign = 1.0 if higher_is_better else -1.0
    return min(sorted(sites), key=lambda site: sign * float(_in_order(sites[site]).mean()))


def differences(new: Patients, reference: Patients, *, higher_is_better: bool) -> dict[str, float]:
    """Subtract patient by patient, signed so that positive is better.

    Raises:
        DataError: The two methods were not scored on the same patients.
    """
    if new.keys() != reference.keys():
        unmatched = sorted(new.keys() ^ reference.keys())
        raise DataError(f"cannot compare two methods: patients {unmatched[:3]} are scored by one of them only")
    sign = 1.0 if higher_is_better else -1.0
    return {patient: sign * round(new[patient] - reference[patient], TIE_DECIMALS) + 0.0 for patient in sorted(new)}


def compare(
    sites: Mapping[str, Patients], *, confidence: float, num_resamples: int, generator: numpy.random.Generator
) -> Comparison:
    """Summarise paired differences: mean with interval, Hodges-Lehmann, rank-biserial and a signed-rank test.

    With several sites the mean is the mean of the sites' means; effect and test take all patients together.

    Args:
        sites: Site -> patient -> difference, from ``differences``.
        confidence: Coverage of the interval.
        num_resamples: Bootstrap resamples.
        generator: Draws the resamples.

    Reference:
        Wilcoxon's test with Pratt's treatment of zeros, ``scipy.stats.wilcoxon(zero_method="pratt", method="auto")``.
    """
    difference = macro_interval(sites, confidence=confidence, num_resamples=num_resamples, generator=generator)
    together = numpy.concatenate([_in_order(sites[site]) for site in sorted(sites)])
    return Comparison(difference, hodges_lehmann(together), rank_biserial(together), signed_rank_p(together))


def hodges_lehmann(values: Float[NDArray[numpy.float64], " n"]) -> float:
    """Estimate the shift: median of the Walsh averages ``(d_i + d_j)/2``, ``i <= j``.

    Example:
        >>> round(hodges_lehmann(numpy.array([0.03, 0.01, -0.02, 0.05, 0.04, 0.02, 0.0, 0.06])), 6)
        0.025
    """
    first, second = numpy.triu_indices(values.size)
    return float(numpy.median((values[first] + values[second]) / 2))


def rank_biserial(values: Float[NDArray[numpy.float64], " n"]) -> float:
    """Measure the effect in ranks: ``(W+ - W-)/(W+ + W-)``, W over ranks of ``|d|`` with the zeros among them (Pratt).

    0 if all differences are zero.

    Example:
        >>> round(rank_biserial(numpy.array([0.03, 0.01, -0.02, 0.05, 0.04, 0.02, 0.0, 0.06])), 6)
        0.8
    """
    ranks = stats.rankdata(numpy.abs(values))
    positive, negative = float(ranks[values > 0].sum()), float(ranks[values < 0].sum())
    return (positive - negative) / (positive + negative) if positive + negative > 0 else 0.0


def signed_rank_p(values: Float[NDArray[numpy.float64], " n"]) -> float | None:
    """Test whether differences are symmetric about zero, two-sided.

    Returns:
        The p-value; 1 if no patient differs; None with fewer than six patients, where no result could be significant.
    """
    if values.size < MIN_PATIENTS_TO_TEST:
        return None
    if not values.any():
        return 1.0
    return float(stats.wilcoxon(values, zero_method="pratt", method="auto").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust a family of p-values so that the chance of **any** false rejection is bounded (Holm).

    None stays None and counts for nothing.

    Example:
        >>> holm([0.01, 0.04, None, 0.03, 0.2])
        [0.04, 0.09, None, 0.09, 0.2]
    """
    return _adjust(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust exploratory p-values so that the expected **share** of false rejections is bounded (Benjamini-Hochberg).

    None stays None and counts for nothing.

    Example:
        >>> benjamini_hochberg([0.01, 0.02, None])
        [0.02, 0.02, None]
    """
    return _adjust(p_values, "fdr_bh")


def _adjust(p_values: Sequence[float | None], method: Literal["holm", "fdr_bh"]) -> list[float | None]:
    tested = [p for p in p_values if p is not None]
    if not tested:
        return list(p_values)
    adjusted = iter(multipletests(tested, method=method)[1].tolist())
    return [None if p is None else next(adjusted) for p in p_values]


def _in_order(patients: Patients) -> NDArray[numpy.float64]:
    return numpy.array([patients[patient] for patient in sorted(patients)], dtype=numpy.float64)


def _mean_of_means(*samples: NDArray[numpy.float64], axis: int = -1) -> NDArray[numpy.float64]:
    return numpy.asarray(numpy.mean([sample.mean(axis=axis) for sample in samples], axis=0), numpy.float64)
