"""The federated fingerprint: sites that share histograms plan as if their data lay in one place."""

import numpy
import pytest

from fedsilo.cohort import fingerprint
from fedsilo.cohort.fingerprint import CaseShape
from fedsilo.errors import DataError


def cases(number, seed, *, spacing=(5.0, 1.0, 1.0), shape=(30, 200, 200)):
    generator = numpy.random.default_rng(seed)
    return [
        CaseShape(
            spacing_zyx=tuple(edge * float(generator.uniform(0.8, 1.2)) for edge in spacing),
            shape_zyx=tuple(int(edge * generator.uniform(0.8, 1.2)) for edge in shape),
            foreground_hu=generator.normal(60 + 40 * generator.normal(), 25, int(generator.integers(50, 5000))).round(),
        )
        for _ in range(number)
    ]


def pooled(found):
    """Percentiles, mean and deviation over the cases in one place, each case with weight one."""
    values = numpy.concatenate([case.foreground_hu for case in found])
    weights = numpy.concatenate([numpy.full(case.foreground_hu.size, 1 / case.foreground_hu.size) for case in found])
    order = numpy.argsort(values, kind="stable")
    cumulated = numpy.cumsum(weights[order]) / weights.sum()
    low, high = (values[order][numpy.searchsorted(cumulated, share - 1e-12)] for share in (0.005, 0.995))
    clipped = values.clip(low, high)
    mean = numpy.average(clipped, weights=weights)
    return low, high, mean, numpy.sqrt(numpy.average((clipped - mean) ** 2, weights=weights))


def test_two_halves_are_the_whole_bin_for_bin():
    found = cases(31, 1)

    merged = fingerprint.merge([fingerprint.of_site(found[:12]), fingerprint.of_site(found[12:])])
    whole = fingerprint.of_site(found)

    assert (merged.num_cases, merged.spacing, merged.shape) == (whole.num_cases, whole.spacing, whole.shape)
    assert merged.foreground == pytest.approx(whole.foreground, abs=1e-12)
    one, other = fingerprint.plan(merged), fingerprint.plan(whole)
    assert (one.spacing_zyx, one.shape_zyx, one.clip_hu) == (other.spacing_zyx, other.shape_zyx, other.clip_hu)
    assert (one.mean_hu, one.std_hu) == pytest.approx((other.mean_hu, other.std_hu), abs=1e-9)


def test_the_plan_is_that_of_pooled_data():
    found = cases(41, 2, spacing=(2.0, 1.5, 1.5))

    made = fingerprint.plan(fingerprint.merge([fingerprint.of_site(found[start::3]) for start in range(3)]))

    low, high, mean, std = pooled(found)
    assert made.spacing_zyx == pytest.approx(
        [numpy.median([case.spacing_zyx[axis] for case in found]) for axis in range(3)], abs=fingerprint.SPACING_BIN_MM / 2 + 1e-9
    )
    assert made.shape_zyx == tuple(int(numpy.median([case.shape_zyx[axis] for case in found])) for axis in range(3))
    assert made.clip_hu == (low, high)
    assert (made.mean_hu, made.std_hu) == pytest.approx((mean, std), abs=1e-6)


def test_thick_slices_are_planned_at_their_finest_tenth():
    found = cases(40, 3, spacing=(6.0, 1.0, 1.0))

    made = fingerprint.plan(fingerprint.of_site(found))

    z_mm = [case.spacing_zyx[0] for case in found]
    assert made.spacing_zyx[0] == pytest.approx(numpy.percentile(z_mm, 10, method="inverted_cdf"), abs=0.03)
    assert made.spacing_zyx[0] < numpy.median(z_mm)
    assert made.shape_zyx[0] > 30


def test_a_large_organ_weighs_no_more_than_a_small_one():
    large, small = (
        CaseShape((1.0, 1.0, 1.0), (10, 10, 10), numpy.full(size, value)) for size, value in ((100000, 100.0), (10, 0.0))
    )

    made = fingerprint.plan(fingerprint.of_site([large, small], fewest=1))

    assert made.mean_hu == pytest.approx(50)


def test_few_cases_tell_their_medians_and_no_intensities():
    found = cases(fingerprint.FEWEST_CASES - 1, 4)

    made = fingerprint.of_site(found)

    assert [len(histogram) for histogram in (*made.spacing, *made.shape)] == [1] * 6
    assert (made.num_cases, made.num_foreground, float(made.foreground.sum())) == (4, 0, 0.0)
    assert fingerprint.plan(made).clip_hu is None


def test_images_without_hu_have_no_clip_range():
    found = [CaseShape((1.0, 1.0, 1.0), (10, 10, 10), None)] * 6

    assert fingerprint.plan(fingerprint.of_site(found)).mean_hu is None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: fingerprint.of_site([]), "no case"),
        (lambda: fingerprint.merge([]), "no fingerprint"),
        (lambda: fingerprint.of_site([CaseShape((1.0, 1.0, 1.0), (1, 1, 1), numpy.zeros(0))]), "empty"),
    ],
)
def test_nothing_has_no_fingerprint(made, message):
    with pytest.raises(DataError, match=message):
        made()
