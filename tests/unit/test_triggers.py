"""When to train again: every trigger by itself, the cool-down, decay by hand, and policies that cannot be."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from fedsilo.errors import DataError, ParamsError
from fedsilo.evaluation import pccp, triggers
from fedsilo.evaluation.drift_reports import DriftReport
from fedsilo.evaluation.triggers import Decay, Evidence, News

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def policy(repository):
    return pccp.load(repository / "pccp.yaml").triggers


def report(window, verdict, site="ct-a"):
    p_value = {"alarm": 0.01, "quiet": 0.5, "too few": None}[verdict]
    return DriftReport(
        "demo", site, window, 40, 10, 40, 10, verdict, 0.05, p_value, p_value, p_value, p_value, 99, 1, (), "0" * 64
    )


def evidence(**changes):
    """Nothing that would fire."""
    quiet = Evidence(
        now=NOW,
        champion_since=NOW - timedelta(days=30),
        last_retrained=NOW - timedelta(days=31),
        news=(News("ct-a", 40, 3), News("mr-a", 10, 0)),
        reports=(report(1, "quiet"), report(2, "alarm")),
        decay=(Decay("ct-a", 20, 1.0, alarm=False),),
        manual="",
        upstream="",
    )
    return replace(quiet, **changes)


FIRING = {
    "manual": {"manual": "Ada asks: a scanner was exchanged"},
    "upstream": {"upstream": "a library was mended"},
    "drift": {"reports": (report(1, "alarm"), report(2, "quiet"), report(3, "alarm"))},
    "decay": {"decay": (Decay("ct-a", 20, 6.0, alarm=True),)},
    "new-data": {"news": (News("ct-a", 400, 20),)},
    "schedule": {"champion_since": NOW - timedelta(days=180)},
}


def test_nothing_fired_is_a_no_with_all_its_evidence(policy):
    decision = triggers.decide(evidence(), policy)

    assert (decision.verdict, decision.trigger, decision.why) == ("no", None, "no trigger fired")
    assert [signal.trigger for signal in decision.signals] == list(FIRING)
    assert not any(signal.fired for signal in decision.signals)
    assert decision.signals[4].why == "new cases: ct-a 3 beside 40, mr-a 0 beside 10"


@pytest.mark.parametrize("trigger", FIRING)
def test_each_trigger_fires_by_itself(policy, trigger):
    decision = triggers.decide(evidence(**FIRING[trigger]), policy)

    assert (decision.verdict, decision.trigger) == ("yes", trigger)
    assert [signal.trigger for signal in decision.signals if signal.fired] == [trigger]
    assert decision.why.startswith(f"{trigger}: ")


@pytest.mark.parametrize("trigger", FIRING)
def test_in_the_cool_down_only_a_person_is_heard(policy, trigger):
    recent = evidence(last_retrained=NOW - timedelta(days=13), **FIRING[trigger])

    decision = triggers.decide(recent, policy)

    assert (decision.verdict, decision.trigger) == ("yes" if trigger == "manual" else "no", trigger)
    assert decision.why.startswith("manual: " if trigger == "manual" else f"cool-down for 1.0 days more; {trigger}: ")
    assert triggers.decide(replace(recent, last_retrained=NOW - timedelta(days=14)), policy).verdict == "yes"


def test_several_are_all_told_and_the_first_names_the_decision(policy):
    decision = triggers.decide(evidence(**FIRING["schedule"], **FIRING["drift"]), policy)

    assert decision.trigger == "drift"
    assert "; schedule: the champion is 180.0 days old, of 180 days" in decision.why


def test_without_a_champion_it_is_time(policy):
    assert triggers.decide(evidence(champion_since=None, last_retrained=None), policy).trigger == "schedule"


@pytest.mark.parametrize(
    ("known", "new", "fired"), [(40, 9, False), (40, 10, True), (400, 19, False), (400, 20, True), (0, 19, False), (0, 20, True)]
)
def test_new_cases_count_by_number_and_by_share(policy, known, new, fired):
    decision = triggers.decide(evidence(news=(News("ct-a", known, new),)), policy)

    assert (decision.trigger == "new-data") == fired


def test_what_is_null_never_fires(policy):
    off = policy.model_copy(update={"calendar_days": None, "new_cases": None, "new_share": None})
    changed = evidence(champion_since=NOW - timedelta(days=5000), news=(News("ct-a", 10, 5000),))

    assert triggers.decide(changed, off).trigger is None


@pytest.mark.parametrize(
    ("verdicts", "fired"),
    [
        (("alarm",), False),
        (("alarm", "quiet", "alarm"), True),
        (("alarm", "quiet", "quiet", "alarm"), False),
        (("alarm", "too few", "quiet", "alarm"), True),
        (("alarm", "alarm", "quiet", "quiet"), False),
    ],
)
def test_drift_must_last(policy, verdicts, fired):
    reports = tuple(report(index, verdict) for index, verdict in enumerate(verdicts, start=1))

    assert (triggers.decide(evidence(reports=reports), policy).trigger == "drift") == fired


def test_alarms_of_two_sites_are_not_added(policy):
    reports = (report(1, "alarm"), report(1, "alarm", site="mr-a"))

    assert triggers.decide(evidence(reports=reports), policy).trigger is None


def test_a_report_that_is_there_twice_counts_once(policy):
    assert triggers.decide(evidence(reports=(report(1, "alarm"), report(1, "alarm"))), policy).trigger is None


def test_cusum_by_hand():
    sums, alarm = triggers.cusum([0.9, 0.8, 1.0, 0.5, 0.5], mean=0.9, deviation=0.1, slack=0.5, limit=5)

    assert sums == pytest.approx([0, 0.5, 0, 3.5, 7])
    assert alarm
    assert triggers.cusum([], mean=0.9, deviation=0.1, slack=0.5, limit=5) == ([], False)


def test_decay_remembers_an_alarm(policy):
    found = triggers.decay_of([0.9, 0.1, 0.9, 0.9, *([1.0] * 20)], policy, site="ct-a", mean=0.9, deviation=0.1)

    assert found == Decay("ct-a", 24, 0.0, alarm=True)


class TestRefusals:
    @pytest.mark.parametrize(
        "changes",
        [
            {"champion_since": NOW + timedelta(days=1)},
            {"last_retrained": NOW + timedelta(seconds=1)},
            {"news": (News("ct-a", 1, 1), News("ct-a", 2, 2))},
            {"news": (News("ct-a", 1, -1),)},
            {"decay": (Decay("ct-a", 1, 0, alarm=False), Decay("ct-a", 1, 0, alarm=True))},
            {"reports": (report(1, "alarm"), report(1, "quiet"))},
        ],
    )
    def test_evidence_that_contradicts_itself(self, policy, changes):
        with pytest.raises(DataError, match="cannot decide whether to train again"):
            triggers.decide(evidence(**changes), policy)

    @pytest.mark.parametrize(("scores", "deviation"), [([float("nan")], 0.1), ([0.5], 0.0), ([0.5], float("inf"))])
    def test_scores_that_cannot_be_summed(self, scores, deviation):
        with pytest.raises(DataError, match="cannot sum up scores"):
            triggers.cusum(scores, mean=0.9, deviation=deviation, slack=0.5, limit=5)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("alarms", 4, "expected at most as many alarms as windows, 3, got 4"),
            ("alpha", 0.001, "999 permutations cannot bring p down to 0.001"),
            ("alpha", 0.7, "drift.alpha"),
            ("fewest", 4, "drift.fewest"),
            ("alarm", 1, "unknown key triggers.drift.alarm"),
        ],
    )
    def test_a_policy_that_cannot_be(self, repository, tmp_path, key, value, message):
        tree = yaml.safe_load((repository / "pccp.yaml").read_text())
        tree["triggers"]["drift"][key] = value
        (tmp_path / "pccp.yaml").write_text(yaml.safe_dump(tree))

        with pytest.raises(ParamsError, match=message):
            pccp.load(tmp_path / "pccp.yaml")

    def test_a_plan_without_triggers(self, repository, tmp_path):
        tree = yaml.safe_load((repository / "pccp.yaml").read_text())
        del tree["triggers"]
        (tmp_path / "pccp.yaml").write_text(yaml.safe_dump(tree))

        with pytest.raises(ParamsError, match="triggers"):
            pccp.load(tmp_path / "pccp.yaml")
