"""The veto names the update that did the harm, and nobody else's."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fedsilo.federation import veto

SITES = ("a", "b", "c", "d")
BEFORE = dict.fromkeys(SITES, 0.8)
BAD = dict.fromkeys(SITES, 0.4)


def left_out(harmful):
    """Scores of the states without each site: well again without the harmful one alone."""
    return {site: dict.fromkeys(SITES, 0.8 if site == harmful else 0.4) for site in SITES}


def test_nobody_is_suspected_where_nobody_loses():
    verdict = veto.judge(BEFORE, dict.fromkeys(SITES, 0.75), left_out("c"), margin=0.1)

    assert verdict == veto.Verdict({}, {}, None)


@pytest.mark.parametrize("harmful", SITES)
def test_the_suspect_is_who_is_not_missed(harmful):
    verdict = veto.judge(BEFORE, BAD, left_out(harmful), margin=0.1)

    assert verdict.suspect == harmful
    assert verdict.losses == dict.fromkeys(SITES, 0.4)
    assert verdict.recoveries[harmful] == pytest.approx(0.4)


def test_a_loss_that_no_update_explains_has_no_suspect():
    verdict = veto.judge(BEFORE, BAD, dict.fromkeys(SITES, BAD), margin=0.1)

    assert verdict.losses
    assert verdict.suspect is None


@given(told=st.lists(st.floats(0, 1), min_size=4, max_size=4), lost=st.floats(0, 1), liar=st.sampled_from(SITES))
def test_one_site_that_lies_about_its_scores_accuses_nobody(told, lost, liar):
    """Whatever it says that it lost, and that it would gain without another; the others see no harm."""
    fine = dict.fromkeys(SITES, 0.8)
    without = {site: fine | {liar: claimed} for site, claimed in zip(SITES, told, strict=True)}

    verdict = veto.judge(BEFORE, fine | {liar: 0.8 * lost}, without, margin=0.1)

    assert verdict.suspect is None


def test_the_word_of_the_one_left_out_does_not_count():
    """With two sites each judges the state that lacks the other's update."""
    before, candidate = {"a": 0.8, "b": 0.8}, {"a": 0.8, "b": 0.2}
    without = {"a": {"a": 0.0, "b": 0.7}, "b": {"a": 0.8, "b": 0.0}}

    verdict = veto.judge(before, candidate, without, margin=0.1)

    assert verdict.recoveries == pytest.approx({"a": 0.5, "b": 0.0})
    assert verdict.suspect == "a"


def test_sites_without_validation_cases_have_no_vote():
    verdict = veto.judge({"a": 0.8, "b": None}, {"a": 0.8, "b": None}, {}, margin=0.1)

    assert verdict.suspect is None
    assert veto.judge({"a": 0.8, "b": None}, {"a": 0.1, "b": None}, {"a": {"b": None}}, margin=0.1).recoveries == {}


def test_of_equals_the_first_by_name_is_suspected():
    assert veto.judge(BEFORE, BAD, dict.fromkeys(reversed(SITES), BEFORE), margin=0.1).suspect == "a"
