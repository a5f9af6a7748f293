"""Laws of non-inferiority and of the gate against catastrophes."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsilo.errors import DataError
from fedsilo.evaluation import noninferiority

GOLDEN = {f"p{index}": value for index, value in enumerate([0.03, 0.01, -0.02, 0.05, 0.04, 0.02, 0.0, 0.06])}
quick = settings(deadline=None, max_examples=25)


def assess(sites, margin=0.01):
    return noninferiority.non_inferiority(sites, margin=margin, num_resamples=999, generator=numpy.random.default_rng(0))


def patients(values, prefix="p"):
    return {f"{prefix}{index}": value for index, value in enumerate(values)}


def test_the_golden_p_value():
    """scipy 1.17, `wilcoxon(d + .01, alternative="greater")`: .0117."""
    assert assess({"a": GOLDEN}).p_value == pytest.approx(0.0117, abs=5e-5)


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [(0, 6, 0.393), (0, 12, 0.221), (0, 24, 0.117), (0, 42, 0.069), (1, 42, 0.108), (0, 59, 0.050), (1, 46, 0.099)],
)
def test_golden_bounds(count, total, expected):
    assert noninferiority.share_bound(count, total) == pytest.approx(expected, abs=6e-4)


@quick
@given(st.integers(0, 40), st.integers(1, 40))
def test_the_bound_is_above_the_share_and_grows_with_it(count, total):
    count = min(count, total)

    bound = noninferiority.share_bound(count, total)

    assert count / total <= bound <= 1
    assert count == total or bound <= noninferiority.share_bound(count + 1, total)


@quick
@given(st.lists(st.floats(-0.5, 0.5), min_size=7, max_size=20))
def test_a_wider_margin_is_easier(values):
    sites = {"a": patients(values)}

    narrow, wide = assess(sites, 0.01), assess(sites, 0.3)

    order = ["failed", "inconclusive", "passed"]
    assert order.index(narrow.verdict) <= order.index(wide.verdict)
    assert narrow.p_value >= wide.p_value - 1e-12
    assert narrow.difference == wide.difference


def test_the_worst_site_decides_as_well():
    good, bad = patients([0.02, 0.03, 0.025, 0.03, 0.02, 0.03, 0.04]), patients([-0.05, -0.049, -0.051], "q")

    assert assess({"a": good}).verdict == "passed"
    found = assess({"a": good, "b": good, "c": good, "d": bad})
    assert (found.worst_site, found.verdict) == ("d", "failed")
    assert found.difference.low > -0.01
    assert found.worst_site_difference == pytest.approx(-0.05)


def test_few_patients_are_not_testable():
    assert assess({"a": patients([0.1] * 5)}).p_value is None


def test_a_wide_interval_is_no_verdict():
    assert assess({"a": patients([0.3, -0.3, 0.2, -0.2, 0.1, -0.1])}).verdict == "inconclusive"


def test_the_smallest_margin_is_that_of_the_sample_size_formula():
    """sd .03, margin .01: 71 patients (n = ((1.96 + .84) sd / margin)^2)."""
    values = numpy.random.default_rng(0).normal(size=71)
    values = 0.03 * (values - values.mean()) / values.std(ddof=1)

    assert assess({"a": patients(values.tolist())}).smallest_margin == pytest.approx(0.01, rel=0.005)


def test_order_of_patients_and_sites_is_irrelevant():
    one = {"a": patients([0.1, -0.2, 0.05, 0.0]), "b": patients([0.02, 0.03, -0.01])}
    other = {site: dict(reversed(list(one[site].items()))) for site in ("b", "a")}

    assert assess(one) == assess(other)


@pytest.mark.parametrize("margin", [0.0, -0.1])
def test_a_margin_is_above_zero(margin):
    with pytest.raises(DataError, match="expected it above 0"):
        assess({"a": GOLDEN}, margin)


def catastrophes_of(num_patients, lost=(), missed=frozenset()):
    losses = {
        "a": {f"p{index:02d}": {"liver": 0.01, "spleen": -0.21 if index in lost else -0.19} for index in range(num_patients)}
    }
    return noninferiority.catastrophes(losses, {"a": frozenset(f"p{index:02d}" for index in missed)})


def test_one_organ_or_a_new_miss_is_a_catastrophe():
    found = catastrophes_of(40, lost=(3,), missed={3, 7})

    assert found.patients == ("a/p03", "a/p07")
    assert found.num_patients == 40


@pytest.mark.parametrize(
    ("num_patients", "lost", "verdict"),
    [(28, (), "inconclusive"), (29, (), "passed"), (45, (1,), "failed"), (46, (1,), "passed"), (10, (1,), "failed")],
)
def test_verdicts(num_patients, lost, verdict):
    assert catastrophes_of(num_patients, lost).verdict == verdict


def test_nobody_is_no_evidence():
    with pytest.raises(DataError, match="no patients"):
        noninferiority.catastrophes({}, {})


@pytest.mark.parametrize(("organ", "margin"), [("kidneys", 0.01), ("gallbladder", 0.02), ("lung", 0.02)])
def test_margins(organ, margin):
    assert noninferiority.dice_margin(organ) == margin
