"""The mathematics of statistics over patients: swapping, shifting and reordering, and how often the null is rejected."""

import gc

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsilo import seeds
from fedsilo.evaluation import statistics

ALPHA = 0.05
few = settings(max_examples=30)
numbers = st.integers(-100, 100).map(lambda hundredths: hundredths / 100)
samples = st.lists(numbers, min_size=1, max_size=14)


@pytest.fixture(autouse=True, scope="module")
def no_collecting():
    """Statsmodels collects garbage at every correction: a third of a second each time in a process full of modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda: 0)
        yield


def patients(values):
    return {f"p{index:02}": float(value) for index, value in enumerate(values)}


def generator():
    return seeds.numpy_generator(1, "bootstrap", "laws")


def interval(values):
    return statistics.mean_interval(patients(values), confidence=0.95, num_resamples=199, generator=generator())


def compare(values):
    return statistics.compare({"site": patients(values)}, confidence=0.95, num_resamples=199, generator=generator())


@few
@given(samples, samples)
def test_swapping_new_and_reference_mirrors_everything(new, reference):
    pairs = list(zip(new, reference, strict=False))
    new_values, reference_values = patients(one for one, _ in pairs), patients(other for _, other in pairs)
    there = statistics.differences(new_values, reference_values, higher_is_better=True)
    back = statistics.differences(reference_values, new_values, higher_is_better=True)

    first, second = compare(there.values()), compare(back.values())

    assert first.difference.mean == pytest.approx(-second.difference.mean)
    assert first.difference.low == pytest.approx(-second.difference.high)
    assert first.difference.high == pytest.approx(-second.difference.low)
    assert first.hodges_lehmann == pytest.approx(-second.hodges_lehmann)
    assert first.rank_biserial == pytest.approx(-second.rank_biserial)
    assert first.p_value == (None if second.p_value is None else pytest.approx(second.p_value))


@few
@given(samples, samples)
def test_positive_is_better_for_distances_too(new, reference):
    pairs = list(zip(new, reference, strict=False))
    new_values, reference_values = patients(one for one, _ in pairs), patients(other for _, other in pairs)

    as_overlap = statistics.differences(new_values, reference_values, higher_is_better=True)
    as_distance = statistics.differences(new_values, reference_values, higher_is_better=False)

    assert as_distance == {patient: -value for patient, value in as_overlap.items()}


@few
@given(samples, numbers)
def test_adding_a_constant_moves_the_estimates_by_it(values, shift):
    plain, moved = compare(values), compare([value + shift for value in values])

    assert moved.hodges_lehmann == pytest.approx(plain.hodges_lehmann + shift)
    assert moved.difference.mean == pytest.approx(plain.difference.mean + shift)


@few
@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_rows_is_irrelevant(values, random):
    rows = list(patients(values).items())
    random.shuffle(rows)

    assert interval(values) == statistics.mean_interval(dict(rows), confidence=0.95, num_resamples=199, generator=generator())


@few
@given(samples)
def test_hodges_lehmann_is_the_median_of_walsh_averages(values):
    averages = [(one + other) / 2 for index, one in enumerate(values) for other in values[index:]]

    assert statistics.hodges_lehmann(numpy.array(values)) == pytest.approx(float(numpy.median(averages)))


@few
@given(samples)
def test_an_interval_stays_among_the_values(values):
    found = interval(values)

    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.mean == pytest.approx(sum(values) / len(values))


@few
@given(samples, st.integers(2, 4))
def test_sites_weigh_the_same_whatever_their_size(values, copies):
    small, large = patients(values), patients(values * copies)
    other = patients([0.5])

    assert statistics.macro_interval(
        {"a": small, "b": other}, confidence=0.95, num_resamples=99, generator=generator()
    ).mean == pytest.approx(
        statistics.macro_interval({"a": large, "b": other}, confidence=0.95, num_resamples=99, generator=generator()).mean
    )


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_helps_and_keeps_the_order(p_values):
    adjusted = statistics.holm(p_values)

    assert all(before - 1e-12 <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [after for _, after in ranked] == sorted(after for _, after in ranked)


def test_the_null_is_rejected_in_at_most_six_percent():
    draws = seeds.numpy_generator(3, "null").normal(size=(2000, 12))

    rejected = [statistics.signed_rank_p(differences) <= ALPHA for differences in draws]

    assert numpy.mean(rejected) <= 0.06


def test_a_table_of_nulls_rejects_any_in_at_most_six_percent():
    tables = seeds.numpy_generator(4, "null").normal(size=(300, 6, 8))

    any_rejected = [
        min(statistics.holm([statistics.signed_rank_p(differences) for differences in table])) <= ALPHA for table in tables
    ]

    assert numpy.mean(any_rejected) <= 0.06


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    draws = seeds.numpy_generator(5, "coverage").normal(loc=0.7, scale=0.1, size=(300, 24))

    covered = [found.low <= 0.7 <= found.high for found in map(interval, draws)]

    assert 0.89 <= numpy.mean(covered) <= 0.99
