"""Statistics against numbers computed beforehand, and what they refuse to say."""

import numpy
import pytest

from fedsilo import seeds
from fedsilo.errors import DataError
from fedsilo.evaluation import statistics
from fedsilo.evaluation.statistics import Interval

GOLDEN = [0.03, 0.01, -0.02, 0.05, 0.04, 0.02, 0.0, 0.06]


def patients(values):
    return {f"p{index:02}": float(value) for index, value in enumerate(values)}


def options(num_resamples=999):
    generator = seeds.numpy_generator(1, "bootstrap", "unit")
    return {"confidence": 0.95, "num_resamples": num_resamples, "generator": generator}


def test_golden_comparison():
    found = statistics.compare({"site": patients(GOLDEN)}, **options())

    assert found.p_value == pytest.approx(0.0625)  # scipy 1.17, auto; the normal approximation gives .0491
    assert found.hodges_lehmann == pytest.approx(0.025)
    assert found.rank_biserial == pytest.approx(0.8)  # W+ 31.5, W- 3.5
    assert found.difference.mean == pytest.approx(0.02375)
    assert found.num_patients == 8


def test_golden_holm():
    assert statistics.holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])


def test_what_cannot_be_tested_is_no_part_of_a_family():
    assert statistics.holm([None, 0.02, None]) == [None, pytest.approx(0.02), None]
    assert statistics.holm([None]) == [None]
    assert statistics.benjamini_hochberg([0.01, None, 0.02]) == [pytest.approx(0.02), None, pytest.approx(0.02)]


@pytest.mark.parametrize(("num_patients", "testable"), [(5, False), (6, True)])
def test_under_six_patients_nothing_is_tested(num_patients, testable):
    found = statistics.compare({"site": patients(GOLDEN[:num_patients])}, **options())

    assert (found.p_value is not None) is testable
    assert numpy.isfinite(found.difference.low)


def test_smallest_p_of_six_patients():
    assert statistics.signed_rank_p(numpy.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])) == pytest.approx(0.03125)


def test_no_difference_anywhere():
    found = statistics.compare({"site": patients([0.0] * 7)}, **options())

    assert found.difference == Interval(0.0, 0.0, 0.0, "point", 7)
    assert (found.hodges_lehmann, found.rank_biserial, found.p_value) == (0, 0, 1)


def test_equal_differences_stay_equal_in_spite_of_float_noise():
    new, reference = patients([0.3, 0.7, 0.9]), patients([0.2, 0.6, 0.8])

    assert set(statistics.differences(new, reference, higher_is_better=True).values()) == {0.1}


def test_cases_of_a_patient_are_averaged_first():
    found = statistics.patient_means([1.0, 0.0, 0.2], ["a", "a", "b"])

    assert found == {"a": 0.5, "b": 0.2}
    assert statistics.mean_interval(found, **options()).mean == pytest.approx(0.35)  # .4 over cases


@pytest.mark.parametrize(
    ("values", "method"),
    [(GOLDEN, "percentile"), ([*GOLDEN, 0.01, 0.02], "bca"), ([0.4] * 12, "point"), ([0.4], "point")],
)
def test_an_interval_says_how_it_was_made(values, method):
    found = statistics.mean_interval(patients(values), **options())

    assert found.method == method
    assert found.num_patients == len(values)
    assert found.low <= found.mean <= found.high


def test_bca_leans_towards_the_long_tail():
    skewed = [0.9] * 8 + [0.8, 0.7, 0.5, 0.1]

    found = statistics.mean_interval(patients(skewed), **options(9999))

    assert found.method == "bca"
    assert found.mean - found.low > found.high - found.mean


def test_sites_are_averaged_and_resampled_within():
    sites = {"large": patients([0.9, 0.8, 0.9, 0.8, 0.9, 0.8, 0.9, 0.8]), "small": patients([0.2, 0.4])}

    found = statistics.macro_interval(sites, **options())

    assert found.mean == pytest.approx((0.85 + 0.3) / 2)
    assert found.num_patients == 10
    # sites are never drawn, so the bounds stay near the middle of the two
    assert 0.5 < found.low < found.high < 0.65


def test_a_patient_alone_at_a_site_is_resampled_as_itself():
    sites = {"alone": patients([0.5]), "other": patients([0.1 * index for index in range(12)])}

    found = statistics.macro_interval(sites, **options())

    assert found.method == "percentile"
    other = statistics.mean_interval(sites["other"], **options())
    assert found.high - found.low == pytest.approx((other.high - other.low) / 2, rel=0.2)


def test_the_worst_site_by_direction():
    sites = {"b": patients([0.2]), "a": patients([0.2]), "c": patients([0.9])}

    assert statistics.worst_site(sites, higher_is_better=True) == "a"
    assert statistics.worst_site(sites, higher_is_better=False) == "c"


def test_spread_between_sites():
    assert statistics.between_sites_sd({"a": patients([0.2, 0.4]), "b": patients([0.7])}) == pytest.approx(0.08**0.5)
    assert statistics.between_sites_sd({"a": patients([0.2, 0.4])}) is None


def test_methods_scored_on_other_patients_are_not_compared():
    with pytest.raises(DataError, match=r"patients \['p02'\] are scored by one of them only"):
        statistics.differences(patients([0.1, 0.2, 0.3]), patients([0.1, 0.2]), higher_is_better=True)


@pytest.mark.parametrize("sites", [{}, {"a": {}}])
def test_no_patients_have_no_mean(sites):
    with pytest.raises(DataError, match="expected at least one at every site"):
        statistics.macro_interval(sites, **options())


def test_no_sites_have_no_worst():
    with pytest.raises(DataError, match="there is none"):
        statistics.worst_site({}, higher_is_better=True)


def test_the_same_generator_gives_the_same_interval():
    assert statistics.mean_interval(patients(GOLDEN), **options()) == statistics.mean_interval(patients(GOLDEN), **options())


@pytest.mark.parametrize("noisy", [[0.3, 0.1 + 0.2] * 6, [1.0] * 40 + [1 + 2**-52]])
def test_float_noise_is_no_spread(noisy):
    assert statistics.mean_interval(patients(noisy), **options()).method == "point"  # BCa would divide by zero
