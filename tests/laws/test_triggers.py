"""Laws of triggers: more evidence never talks out of a retraining, order is irrelevant, the cool-down holds, a person wins."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsilo.evaluation import pccp, triggers
from fedsilo.evaluation.drift_reports import DriftReport
from fedsilo.evaluation.triggers import Decay, Evidence, News

NOW = datetime(2026, 6, 1, tzinfo=UTC)
POLICY = pccp.load(Path(__file__).parents[2] / "pccp.yaml").triggers
SITES = ("ct-a", "ct-b", "mr-a")
DAYS = st.one_of(st.none(), st.integers(0, 400))


def report(site, window, verdict):
    return DriftReport("demo", site, window, 40, 10, 40, 10, verdict, 0.05, None, None, None, None, 99, 1, (), "0" * 64)


ASKED = st.sampled_from(["", "Ada asks"])


@st.composite
def evidences(draw, manual=ASKED):
    champion, last = draw(DAYS), draw(DAYS)
    verdicts = st.lists(st.sampled_from(["alarm", "quiet", "too few"]), max_size=5)
    reports = [report(site, window, verdict) for site in SITES for window, verdict in enumerate(draw(verdicts), start=1)]
    return Evidence(
        now=NOW,
        champion_since=None if champion is None else NOW - timedelta(days=champion),
        last_retrained=None if last is None else NOW - timedelta(days=last),
        news=tuple(News(site, draw(st.integers(0, 60)), draw(st.integers(0, 40))) for site in SITES),
        reports=tuple(reports),
        decay=tuple(Decay(site, 5, 1.0, alarm=draw(st.booleans())) for site in SITES),
        manual=draw(manual),
        upstream=draw(st.sampled_from(["", "a library was mended"])),
    )


@given(evidences(), st.randoms(use_true_random=False))
def test_the_order_of_evidence_does_not_matter(evidence, random):
    shuffled = {
        name: tuple(random.sample(getattr(evidence, name), len(getattr(evidence, name)))) for name in ("news", "reports", "decay")
    }

    assert triggers.decide(replace(evidence, **shuffled), POLICY) == triggers.decide(evidence, POLICY)


@given(evidences(), st.integers(0, 2), st.integers(1, 50))
def test_more_cases_never_turn_yes_into_no(evidence, index, more):
    news = list(evidence.news)
    news[index] = replace(news[index], new=news[index].new + more)

    if triggers.decide(evidence, POLICY).verdict == "yes":
        assert triggers.decide(replace(evidence, news=tuple(news)), POLICY).verdict == "yes"


@given(evidences(), st.integers(0, 20))
def test_an_alarm_for_a_quiet_window_never_turns_yes_into_no(evidence, index):
    reports = [
        replace(entry, verdict="alarm") if number == index and entry.verdict == "quiet" else entry
        for number, entry in enumerate(evidence.reports)
    ]

    if triggers.decide(evidence, POLICY).verdict == "yes":
        assert triggers.decide(replace(evidence, reports=tuple(reports)), POLICY).verdict == "yes"


@given(evidences(), st.integers(1, 1000))
def test_time_never_turns_yes_into_no(evidence, days):
    if triggers.decide(evidence, POLICY).verdict == "yes":
        assert triggers.decide(replace(evidence, now=NOW + timedelta(days=days)), POLICY).verdict == "yes"


@given(evidences(manual=st.just("")))
def test_the_cool_down_holds(evidence):
    recent = replace(evidence, last_retrained=NOW - timedelta(days=POLICY.cool_down_days) + timedelta(seconds=1))

    assert triggers.decide(recent, POLICY).verdict == "no"


@given(evidences(manual=st.just("Ada asks")))
def test_a_person_wins(evidence):
    decision = triggers.decide(evidence, POLICY)

    assert (decision.verdict, decision.trigger) == ("yes", "manual")


@given(evidences())
def test_a_decision_is_yes_only_if_something_fired_and_says_what(evidence):
    decision = triggers.decide(evidence, POLICY)
    fired = [signal.trigger for signal in decision.signals if signal.fired]

    assert decision.trigger == (fired[0] if fired else None)
    assert decision.verdict == "no" or fired
    assert all(signal.why in decision.why for signal in decision.signals if signal.fired)


SCORES = st.lists(st.floats(0, 1), max_size=30)
OPTIONS = {"mean": 0.9, "deviation": 0.1, "slack": 0.5, "limit": 5.0}


@given(SCORES, st.integers(0, 29), st.floats(0, 1))
def test_a_worse_score_never_lowers_a_sum(scores, index, loss):
    worse = [score - loss if number == index else score for number, score in enumerate(scores)]
    sums, alarm = triggers.cusum(scores, **OPTIONS)
    other, other_alarm = triggers.cusum(worse, **OPTIONS)

    assert all(after >= before for before, after in zip(sums, other, strict=True))
    assert other_alarm or not alarm


@given(SCORES, st.floats(0.1, 10), st.floats(-5, 5))
def test_units_of_scores_do_not_matter(scores, scale, offset):
    sums, _ = triggers.cusum(scores, **OPTIONS)
    moved, _ = triggers.cusum(
        [scale * score + offset for score in scores], **{**OPTIONS, "mean": 0.9 * scale + offset, "deviation": 0.1 * scale}
    )

    assert moved == pytest.approx(sums, abs=1e-6)


@given(st.lists(st.floats(0.85, 1), max_size=200))
def test_scores_within_the_slack_never_decay(scores):
    assert triggers.cusum(scores, **OPTIONS) == ([0.0] * len(scores), False)
