"""Laws of the gate: what must pass, what must fail, and that the order of things is irrelevant."""

import json

import numpy
import pytest
from gate_tables import ENOUGH, MARGIN, SITES, dice, holdout, judge, policy, rows, rule, scored, verdict_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsilo.evaluation import gate, noninferiority, statistics, verdict
from fedsilo.evaluation.pairs import Pairs

few = settings(max_examples=15, deadline=None)
sizes = st.integers(ENOUGH, 40)
seeds = st.integers(0, 1000)


def noise(num_patients, seed, sd=0.02):
    return numpy.random.default_rng(seed).normal(0, sd, num_patients)


@few
@given(sizes, seeds)
def test_the_champion_passes_against_itself(num_patients, seed):
    champion = scored("a", *(rows(site, dice(num_patients, seed)) for site in SITES))

    found = judge(champion, champion, holdout(num_patients))

    assert found.verdict == "pass"
    assert {(unit.mean, unit.low, unit.high, unit.method) for unit in found.units} == {(0.0, 0.0, 0.0, "point")}
    assert found.lost.num_lost == 0


@few
@given(st.integers(6, ENOUGH - 1), seeds)
def test_too_few_patients_are_inconclusive_however_well_they_do(num_patients, seed):
    gain = 0.2 + noise(num_patients, seed)

    found = verdict_of(dict.fromkeys(SITES, gain))

    assert found.verdict == "inconclusive"
    assert "non-inferiority" in found.decided_by


@few
@given(st.integers(6, 40), seeds, st.sampled_from(sorted(SITES)), st.floats(2.0, 4.0))
def test_a_site_that_loses_twice_the_margin_fails(num_patients, seed, worse, times):
    found = verdict_of({site: noise(num_patients, seed, 0.0) - (times * MARGIN if site == worse else 0.0) for site in SITES})

    assert found.verdict == "fail"
    assert "worst site" in found.decided_by


@few
@given(sizes, seeds, st.sampled_from(sorted(SITES)), st.sampled_from(["champion", "candidate"]))
def test_a_missing_site_fails(num_patients, seed, missing, of):
    whole = scored("a", *(rows(site, dice(num_patients, seed)) for site in SITES))
    part = scored("b", *(rows(site, dice(num_patients, seed)) for site in SITES if site != missing))

    found = judge(part, whole, holdout(num_patients)) if of == "champion" else judge(whole, part, holdout(num_patients))

    assert (found.verdict, found.decided_by) == ("fail", ("validity",))
    assert f"{of}: site {missing} is missing" in rule(found, "validity").why
    assert found.units == ()


@few
@given(sizes, st.data(), st.sampled_from([float("nan"), float("inf"), -0.1, 1.1]))
def test_a_score_that_is_none_fails(num_patients, data, wrong):
    values = dice(num_patients)
    values[data.draw(st.integers(0, num_patients - 1))] = wrong
    champion = scored("a", *(rows(site, dice(num_patients)) for site in SITES))
    candidate = scored("b", rows("ct-a", values), rows("mr-a", dice(num_patients)))

    found = judge(champion, candidate, holdout(num_patients))

    assert (found.verdict, found.decided_by) == ("fail", ("validity",))


@few
@given(sizes, seeds, st.randoms(use_true_random=False))
def test_order_is_irrelevant(num_patients, seed, random):
    old = [row for site in SITES for row in rows(site, dice(num_patients, seed))]
    new = [row | {"value": row["value"] + round(0.1 * row["value"], 6)} for row in old]
    before = judge(scored("a", old), scored("b", new), holdout(num_patients))
    random.shuffle(old)
    random.shuffle(new)
    sites = list(SITES.items())
    random.shuffle(sites)

    after = judge(scored("a", old), scored("b", new), holdout(num_patients, sites=dict(sites)))

    assert verdict.text(after) == verdict.text(before)


@few
@given(sizes, seeds, st.floats(0.0, 0.4), st.floats(0.0, 0.4))
def test_the_better_candidate_never_has_the_worse_verdict(num_patients, seed, loss, more):
    change = noise(num_patients, seed)
    order = ["fail", "inconclusive", "pass"]

    better, worse = (verdict_of(dict.fromkeys(SITES, change - part)) for part in (loss, min(loss + more, 0.45)))

    assert order.index(better.verdict) >= order.index(worse.verdict)


@few
@given(st.floats(0.005, 0.3), st.floats(0.01, 0.2))
def test_patients_needed_are_the_fewest_that_show_total_failures_at_a_rate_of_the_margin(margin, unseen):
    needed = policy(unseen=unseen, min_patients=1).patients_needed(margin)

    assert (1 - margin) ** needed <= unseen * (1 + 1e-6)
    assert needed == 1 or (1 - margin) ** (needed - 1) > unseen * (1 - 1e-6)


def test_the_patients_needed_by_the_shipped_margins():
    assert [policy().patients_needed(margin) for margin in (0.01, 0.02, 0.05, 0.1)] == [299, 149, 59, 29]


def passes(values, margin):
    """Say whether differences of one site pass the rules non-inferiority and catastrophes as the gate has them."""
    patients = {f"p{index:03}": float(value) for index, value in enumerate(values)}
    interval = statistics.mean_interval(
        patients, confidence=noninferiority.CONFIDENCE, num_resamples=999, generator=numpy.random.default_rng(0)
    )
    by_site = {"liver": {"ct-a": patients}}
    paired = Pairs({"dice": by_site}, by_site, {}, {}, {"ct-a": frozenset(patients)}, (), ())
    few_lost = gate.catastrophes(paired, policy()).verdict == "pass"
    return few_lost and gate.noninferior(interval, margin, policy()) == "pass"


@pytest.mark.parametrize("rate", [None, 0.05, 0.1])
def test_a_candidate_whose_mean_loss_is_the_margin_seldom_passes(rate):
    """The study has every n and shape; here 400 hold-outs of the smallest size that may pass at a margin of .05."""
    generator, margin, num_patients = numpy.random.default_rng(7), 0.05, 59
    if rate is None:
        samples = generator.normal(-margin, 0.05, (400, num_patients))
    else:
        samples = numpy.where(generator.random((400, num_patients)) < rate, -margin / rate, 0.0)
    passed = numpy.mean([passes(sample, margin) for sample in samples])

    assert passed <= 0.07 + 2 * numpy.sqrt(0.05 * 0.95 / 400)


def test_an_equal_candidate_often_passes():
    generator = numpy.random.default_rng(8)

    assert numpy.mean([passes(generator.normal(0, 0.05, 59), 0.05) for _ in range(50)]) > 0.9


def rounded(value):
    """Say whether all numbers in a record have nine decimals at most."""
    if isinstance(value, dict | list):
        return all(map(rounded, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or value == round(value, 9)


@few
@given(st.integers(6, 40), seeds)
def test_a_verdict_is_written_in_one_way(num_patients, seed):
    """As JSON with sorted keys that every reader takes, and without the digits in which machines differ."""
    found = verdict_of({site: noise(num_patients, seed) / 3 for site in SITES})

    record = json.loads(verdict.text(found), parse_constant=pytest.fail)

    assert json.dumps(record, indent=2, sort_keys=True) + "\n" == verdict.text(found)
    assert rounded(record)
    assert not rounded([unit.mean for unit in found.units]), "as they are computed they have more"
    assert all(unit["differences"] == sorted(unit["differences"]) for unit in record["units"])


def test_equal_verdicts_have_one_hash_and_others_another():
    def text(**changes):
        return verdict.text(verdict_of({site: noise(30, 1) for site in SITES}, policy(**changes)))

    assert text() == text()
    assert text() != text(seed=43), "another seed draws other resamples"
