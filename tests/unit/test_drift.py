"""Drift: small numbers by hand, scipy beside, and what is refused or not told."""

import json
import math
from dataclasses import asdict

import numpy
import pytest
from scipy import stats

from fedsilo import seeds
from fedsilo.errors import DataError
from fedsilo.evaluation import drift, drift_reports, statistics
from fedsilo.evaluation.drift_reports import Histogram, Samples

ALPHA = 0.05


def generator(*names):
    return seeds.numpy_generator(1, "drift", *names)


def normal(num_cases, num_features, *names, shift=0.0):
    return generator(*names).normal(shift, 1.0, (num_cases, num_features))


def compared(reference, window, permutations=199):
    return drift.compare(reference, window, alpha=ALPHA, permutations=permutations, generator=generator("permutations"))


def samples(reference, window, owners=None):
    names = tuple(f"shape_{index}" for index in range(reference.shape[1]))
    return Samples(names, dict.fromkeys(names, 0.5), reference, window, owners or alone(reference, window), "0" * 64)


def alone(reference, window):
    """Patients with one case each."""
    return tuple([f"{kind} {row}" for row in range(len(table))] for kind, table in (("old", reference), ("new", window)))


def reported(reference, window, owners=None, **changes):
    options = {"cohort": "demo", "site": "ct-a", "window": 1, "alpha": ALPHA, "permutations": 99, "seed": 1} | changes
    return drift_reports.report(samples(reference, window, owners), **options)


def test_mmd_by_hand():
    similarity = numpy.array([[1.0, 0.9, 0.3, 0.1], [0.9, 1.0, 0.2, 0.4], [0.3, 0.2, 1.0, 0.8], [0.1, 0.4, 0.8, 1.0]])

    found = drift.mmd_of_labels(similarity, numpy.array([[False, False, True, True], [False, True, False, True]]))

    assert found == pytest.approx([0.9 + 0.8 - (0.3 + 0.1 + 0.2 + 0.4) / 2, 0.3 + 0.4 - (0.9 + 0.1 + 0.2 + 0.8) / 2])


def test_mmd_is_what_the_formula_says_pair_by_pair():
    old, new = normal(6, 3, "old"), normal(4, 3, "new", shift=1)
    similarity = drift.kernel(numpy.concatenate([old, new]))
    first, second = range(6), range(6, 10)

    def mean(left, right):
        return numpy.mean([similarity[i, j] for i in left for j in right if i != j])

    (found,) = drift.mmd_of_labels(similarity, numpy.array([[False] * 6 + [True] * 4]))
    assert found == pytest.approx(mean(first, first) + mean(second, second) - 2 * mean(first, second))


def test_the_bandwidth_is_the_median_distance():
    similarity = drift.kernel(numpy.array([[0.0], [1.0], [3.0]]))

    assert similarity[0, 1] == pytest.approx(math.exp(-1 / 8))  # distances 1, 2, 3
    assert similarity[0, 2] == pytest.approx(math.exp(-9 / 8))


def test_a_feature_that_never_varies_counts_for_nothing():
    pooled = numpy.array([[1.0, 0.1], [3.0, 0.1], [5.0, 0.1]])

    assert drift.scaled(pooled)[:, 1].tolist() == [0, 0, 0]
    assert drift.scaled(pooled)[:, 0] == pytest.approx(stats.zscore(pooled[:, 0]))


def test_ks_is_scipy_s_and_holm_ours():
    old, new = normal(12, 3, "old"), normal(10, 3, "new", shift=0.8)
    expected = [stats.ks_2samp(old[:, index], new[:, index]) for index in range(3)]

    found = compared(old, new)

    assert found.ks == pytest.approx([one.statistic for one in expected])
    assert found.ks_adjusted == pytest.approx(statistics.holm([one.pvalue for one in expected]))
    assert found.p_value == pytest.approx(min(1, 2 * min(found.mmd_p, *found.ks_adjusted)))


def test_many_cases_have_the_limiting_distribution():
    old, new = normal(150, 1, "old"), normal(80, 1, "new")

    expected = stats.ks_2samp(old[:, 0], new[:, 0], method="asymp")
    assert compared(old, new).ks_adjusted == pytest.approx([expected.pvalue])


def test_psi_by_hand():
    pooled = numpy.array([[0.0], [0.0], [0.0], [0.0], [0.0], [1.0], [1.0], [1.0], [1.0], [1.0]])
    is_new = numpy.array([[True] * 4 + [False] * 5 + [True]])  # old: 1 and 4 of 5; new: 4 and 1 of 5

    assert drift.psi_of_labels(pooled, is_new) == pytest.approx(2 * 0.6 * math.log(4))


def test_psi_of_an_empty_bin_has_a_value():
    pooled = numpy.arange(10.0)[:, None]

    (found,) = drift.psi_of_labels(pooled, pooled.T > 4)

    assert found == pytest.approx(10 * (0.2 - 0.1) * math.log(2))


@pytest.mark.parametrize("num_cases", [20, 50])
def test_psi_above_a_fixed_threshold_is_noise_and_above_its_own_is_not(num_cases):
    fired = numpy.zeros(2)
    for index in range(40):
        found = compared(normal(num_cases, 1, "old", index), normal(num_cases, 1, "new", index))
        fired += [found.psi[0] > 0.2, found.psi[0] > found.psi_threshold[0]]

    assert fired[0] > 20
    assert fired[1] <= 6  # 40 times 5 %: more than six has a chance of less than 1 %


def test_what_moved_is_named():
    old, new = normal(30, 3, "old"), normal(30, 3, "new")
    new[:, 1] += 2

    report = reported(old, new)

    assert report.verdict == "alarm"
    assert [feature.name for feature in report.features if feature.p_adjusted <= ALPHA] == ["shape_1"]
    assert (report.num_reference, report.num_window, report.window) == (30, 30, 1)


@pytest.mark.parametrize(("num_old", "num_new", "fewest"), [(30, 4, 5), (4, 30, 5), (30, 9, 10), (30, 0, 5)])
def test_too_few_cases_are_not_tested_and_nothing_of_them_is_told(num_old, num_new, fewest):
    report = reported(normal(num_old, 2, "old"), normal(num_new, 2, "new"), fewest=fewest)

    assert (report.verdict, report.p_value, report.mmd, report.features) == ("too few", None, None, ())
    assert report.num_window == num_new


def test_few_patients_are_too_few_however_many_cases_they_have():
    old, new = normal(30, 2, "old"), normal(40, 2, "new", shift=5)
    owners = [f"old {row}" for row in range(30)], [f"new {row % 9}" for row in range(40)]

    few, enough = reported(old, new, owners, fewest=10), reported(old, new, owners, fewest=9)

    assert (few.verdict, few.num_window, few.window_patients) == ("too few", 40, 9)
    assert enough.verdict == "alarm"


def test_a_histogram_counts_one_case_of_each_patient():
    old, new = normal(30, 2, "old"), normal(40, 2, "new")
    owners = [f"old {row}" for row in range(30)], [f"new {row % 8}" for row in range(40)]

    report = reported(old, new, owners)

    assert {sum(feature.window.counts) for feature in report.features} == {8}
    assert {sum(feature.reference.counts) for feature in report.features} == {30}


def test_a_patient_in_both_samples_is_refused():
    old, new = normal(9, 2, "old"), normal(9, 2, "new")
    names = [f"p{row}" for row in range(9)]

    with pytest.raises(DataError, match="9 patients have cases in both samples"):
        drift.compare(old, new, alpha=ALPHA, permutations=99, generator=generator("x"), patients=(names, names))


def test_patients_of_one_case_are_the_same_as_no_patients():
    old, new = normal(12, 3, "old"), normal(9, 3, "new", shift=0.5)
    owners = [f"b{row}" for row in range(12)], [f"a{row}" for row in range(9)]

    found = drift.compare(old, new, alpha=ALPHA, permutations=199, generator=generator("permutations"), patients=owners)

    assert found == compared(old, new)


def test_a_report_is_json_without_nan():
    report = reported(normal(10, 2, "old"), normal(10, 2, "new"))

    assert json.loads(json.dumps(asdict(report), allow_nan=False))["site"] == "ct-a"


class TestHistogram:
    def test_bins_are_joined_until_five_cases_are_in_each(self):
        values = numpy.array([0.1, 0.2, 1.1, 1.2, 1.3, 1.4, 5.5, 5.6, 5.7, 5.8, 5.9, 9.9])

        assert drift_reports.histogram(values, step=1.0) == Histogram(cuts=(2.0,), counts=(6, 6))

    def test_fewer_than_five_are_not_told(self):
        assert drift_reports.histogram(numpy.arange(4.0), step=1.0) == Histogram((), ())

    def test_a_single_value_has_no_cut(self):
        assert drift_reports.histogram(numpy.full(7, 3.0), step=1.0) == Histogram((), (7,))

    def test_extremes_cannot_be_read_off(self):
        values = numpy.array([-50.0, *([1.5] * 8), 99.0])

        assert drift_reports.histogram(values, step=1.0) == Histogram((), (10,))

    def test_values_on_the_grid_are_where_they_belong(self):
        """Floating-point noise below a multiple of the width moves no case to the bin before."""
        values = numpy.array([0.1 * 3] * 5 + [0.35] * 5)  # 0.30000000000000004, and 0.3 / 0.05 is 5.999...

        assert drift_reports.histogram(values, step=0.05).cuts == (0.35,)


class TestRefusals:
    def test_too_few_cases(self):
        with pytest.raises(DataError, match="4 patients against 9: expected at least 5 each"):
            compared(normal(9, 2, "old"), normal(4, 2, "new"))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_values_that_are_not_finite(self, value):
        new = normal(9, 2, "new")
        new[3, 1] = value

        with pytest.raises(DataError, match="not finite"):
            compared(normal(9, 2, "old"), new)
