"""The federated fingerprint: sites that share histograms plan as if their data lay in one place."""

from dataclasses import replace

import numpy
import pytest

from fedsilo.cohort import fingerprint
from fedsilo.cohort.facts import Facts
from fedsilo.cohort.fingerprint import CaseShape
from fedsilo.errors import DataError

FACTS = Facts(
    **dict.fromkeys(("cohort", "site", "role", "case", "patient", "modality", "problem"), ""),
    intensity_unit="hu",
    readable=True,
    has_label=True,
)


def drawn(number, seed):
    """Intensities of cases, whole HU."""
    generator = numpy.random.default_rng(seed)
    return [generator.normal(60 + 40 * generator.normal(), 25, int(generator.integers(50, 5000))).round() for _ in range(number)]


def cases(number, seed, *, spacing=(5.0, 1.0, 1.0), shape=(30, 200, 200)):
    generator = numpy.random.default_rng(seed + 1000)
    rows = []
    for values in drawn(number, seed):
        edges = [edge * float(generator.uniform(0.8, 1.2)) for edge in spacing]
        sizes = [int(edge * generator.uniform(0.8, 1.2)) for edge in shape]
        grid = {f"spacing_{axis}": edge for axis, edge in zip("zyx", edges, strict=True)}
        grid |= {f"shape_{axis}": size for axis, size in zip("zyx", sizes, strict=True)}
        rows.append(replace(FACTS, foreground_hu=fingerprint.hu_counts(values), **grid))
    return fingerprint.case_shapes(rows)


def pooled(found):
    """Percentiles, mean and deviation over the intensities in one place, each case with weight one."""
    values = numpy.concatenate(found)
    weights = numpy.concatenate([numpy.full(case.size, 1 / case.size) for case in found])
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

    low, high, mean, std = pooled(drawn(41, 2))
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
    grid = {f"{name}_{axis}": 10 for name in ("spacing", "shape") for axis in "zyx"}
    rows = [replace(FACTS, foreground_hu=((value, count),), **grid) for value, count in ((100, 100000), (0, 10))]

    made = fingerprint.plan(fingerprint.of_site(fingerprint.case_shapes(rows), fewest=1))

    assert made.mean_hu == pytest.approx(50)


def test_cases_in_pixels_are_no_part_of_it():
    assert fingerprint.case_shapes([FACTS]) == []


def test_intensities_beyond_the_range_count_at_its_ends():
    assert fingerprint.hu_counts(numpy.array([-3000.0, 5000.0, 5000.4, 12.4])) == ((-1024, 1), (12, 1), (3071, 2))


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
    ],
)
def test_nothing_has_no_fingerprint(made, message):
    with pytest.raises(DataError, match=message):
        made()
