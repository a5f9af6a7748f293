"""Laws of drift: what does not matter to it, and that its rate of false alarms is the one it says."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsilo import seeds
from fedsilo.evaluation import drift, drift_reports

ALPHA = 0.05


def table(seed, num_cases, num_features=4, shift=0.0):
    return seeds.numpy_generator(seed, "drift", "laws").normal(shift, 1.0, (num_cases, num_features))


def compared(reference, window, permutations=99):
    generator = seeds.numpy_generator(1, "permutations")
    return drift.compare(reference, window, alpha=ALPHA, permutations=permutations, generator=generator)


SEEDS = st.integers(0, 10_000)


@settings(max_examples=25)
@given(SEEDS, st.integers(5, 20))
def test_the_same_window_twice_is_no_drift(seed, num_cases):
    values = table(seed, num_cases)

    found = compared(values, values.copy())

    assert found.p_value == found.mmd_p == 1
    assert set(found.ks) == {0}
    assert max(found.psi) == pytest.approx(0, abs=1e-12)


@settings(max_examples=25)
@given(SEEDS, st.permutations(range(9)))
def test_the_order_of_cases_does_not_matter(seed, order):
    old, new = table(seed, 12), table(seed + 1, 9)

    assert compared(old, new) == compared(old[::-1], new[list(order)])


@settings(max_examples=15)
@given(SEEDS, st.permutations(range(4)))
def test_the_order_of_features_does_not_matter_to_the_statistics(seed, order):
    old, new = table(seed, 12), table(seed + 1, 9, shift=0.3)
    found, moved = compared(old, new), compared(old[:, order], new[:, order])

    assert moved.mmd == pytest.approx(found.mmd, abs=1e-12)
    assert moved.ks == pytest.approx([found.ks[index] for index in order])


@settings(max_examples=25)
@given(SEEDS, st.floats(0.01, 100), st.floats(-50, 50))
def test_units_of_features_do_not_matter(seed, scale, offset):
    old, new = table(seed, 12), table(seed + 1, 9, shift=0.3)
    scales, offsets = numpy.array([scale, 1.0, 1.0, 1.0]), numpy.array([offset, 0.0, 0.0, 0.0])
    found, other = compared(old, new), compared(old * scales + offsets, new * scales + offsets)

    assert other.mmd == pytest.approx(found.mmd, abs=1e-9)
    assert other.ks == pytest.approx(found.ks)
    assert other.psi == pytest.approx(found.psi)


@settings(max_examples=15)
@given(SEEDS)
def test_which_sample_is_new_does_not_matter_to_the_statistics(seed):
    old, new = table(seed, 12), table(seed + 1, 9, shift=0.3)

    assert compared(new, old).mmd == pytest.approx(compared(old, new).mmd, abs=1e-12)
    assert compared(new, old).ks == pytest.approx(compared(old, new).ks)


@settings(max_examples=20)
@given(SEEDS)
def test_what_is_far_away_is_found_whatever_the_noise(seed):
    assert compared(table(seed, 12), table(seed + 1, 12, shift=5.0)).p_value <= ALPHA


@settings(max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3), max_size=60), st.sampled_from([0.05, 1.0, 25.0]))
def test_no_bin_counts_fewer_than_five_and_no_case_is_lost(values, step):
    found = drift_reports.histogram(numpy.array(values, dtype=numpy.float64), step=step)

    assert all(count >= drift_reports.FEWEST_IN_A_BIN for count in found.counts)
    assert sum(found.counts) == (len(values) if len(values) >= drift_reports.FEWEST_IN_A_BIN else 0)
    assert len(found.cuts) == max(0, len(found.counts) - 1)
    assert list(found.cuts) == sorted(set(found.cuts))


def test_without_drift_p_is_uniform_and_alarms_are_as_rare_as_they_say():
    """300 pairs of windows without drift: the permutation p cannot be told from uniform, alarms stay below 5 % and noise."""
    p_values, alarms = [], 0
    for index in range(300):
        both = seeds.numpy_generator(7, "calibration", index).gamma(2.0, 1.0, (24, 5))
        generator = seeds.numpy_generator(7, "permutations", index)
        found = drift.compare(both[:14], both[14:], alpha=ALPHA, permutations=99, generator=generator)
        p_values.append(found.mmd_p)
        alarms += found.p_value <= ALPHA

    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert alarms <= stats.binom.ppf(0.99, 300, ALPHA)
    assert min(p_values) <= 0.02


def several_cases(seed, num_patients, num_cases):
    """Cases that resemble those of the same patient, with their patients."""
    generator = seeds.numpy_generator(seed, "drift", "patients")
    own = generator.normal(0, 1, (num_patients, 4))
    cases = own.repeat(num_cases, axis=0) + generator.normal(0, 0.1, (num_patients * num_cases, 4))
    return cases, [f"{seed} {row // num_cases}" for row in range(num_patients * num_cases)]


def alarms_of_several_cases(*, known):
    """Count alarms over 200 windows without drift, of 10 patients with 4 cases each; whose they are may be known."""
    alarms = 0
    for index in range(200):
        (old, old_owners), (new, new_owners) = several_cases(2 * index, 14, 4), several_cases(2 * index + 1, 10, 4)
        patients = (old_owners, new_owners) if known else None
        generator = seeds.numpy_generator(7, "permutations", index)
        found = drift.compare(old, new, alpha=ALPHA, permutations=99, generator=generator, patients=patients)
        alarms += found.p_value <= ALPHA
    return alarms


def test_several_cases_of_one_patient_make_no_more_alarms():
    assert alarms_of_several_cases(known=True) <= stats.binom.ppf(0.99, 200, ALPHA)
    assert alarms_of_several_cases(known=False) > 100, "what patients are for"


@settings(max_examples=15)
@given(SEEDS, st.permutations(range(12)))
def test_the_order_of_cases_of_patients_does_not_matter(seed, order):
    (old, old_owners), (new, new_owners) = several_cases(2 * seed, 7, 2), several_cases(2 * seed + 1, 6, 2)

    def compared_in(order):
        owners = old_owners, [new_owners[row] for row in order]
        generator = seeds.numpy_generator(1, "permutations")
        found = drift.compare(old, new[list(order)], alpha=ALPHA, permutations=99, generator=generator, patients=owners)
        return found.p_value, found.mmd, found.ks, found.psi_threshold

    assert compared_in(order) == compared_in(range(12))


def test_more_drift_is_found_more_often():
    def found(shift):
        return sum(compared(table(2 * seed, 15), table(2 * seed + 1, 15, shift=shift)).p_value <= ALPHA for seed in range(40))

    none, little, much = found(0.0), found(0.5), found(1.0)
    assert none <= 6
    assert none < little < much
