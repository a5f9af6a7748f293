"""A retraining as events tell of it: when it is under way, who is asked, and what a no undoes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from fedsilo.audit.events import Artifact, Decision, Event, Subject, Why
from fedsilo.audit.state import Candidate
from tasks import cycle

MODEL, OTHER, CHAMPION = (f"sha256:{digit * 64}" for digit in "123")
IN_USE = "demo/model"


def event(kind, *, verdict=None, gate="retrain", subject=None, inputs=()):
    told = None if verdict is None else Decision(gate, verdict)
    return Event(
        kind, Why("test", "of a test"), subject=subject, decision=told, inputs=tuple(inputs), v=1, seq=0, ts="", log="demo/federation",
        actor="server", actor_name="Server", role="server", key="k", prev="p", sig="s",
    )  # fmt: skip


def decided(verdict):
    return event("retrain.decision", verdict=verdict)


def ended(how):
    return event("retrain.decision", verdict=how, gate=cycle.RETRAIN_END)


def judged(verdict, model=MODEL, *, beside=None):
    inputs = [] if beside is None else [Artifact("champion/demo/global", beside.removeprefix("sha256:"))]
    return event(
        "gate.verdict", verdict=verdict, gate="gate", subject=Subject("model", "demo/global", after=model), inputs=inputs
    )


def said(kind, model=MODEL, name="demo/global"):
    return event(kind, subject=Subject("model", name, after=model))


def log(*events):
    """Count events on, as a log does."""
    return [replace(entry, seq=seq) for seq, entry in enumerate(events)]


@pytest.mark.parametrize(
    ("events", "opened"),
    [
        ([], None),
        ([decided("no")], None),
        ([decided("yes")], 0),
        ([decided("yes"), decided("no")], 0),
        ([decided("yes"), judged("pass"), decided("yes")], 0),
        ([decided("yes"), ended("failed")], None),
        ([decided("yes"), ended("promoted"), decided("no")], None),
        ([decided("yes"), ended("rejected"), decided("yes")], 2),
        ([decided("yes"), judged("pass"), said("approve"), said("promote")], 0),
    ],
)
def test_a_yes_opens_a_retraining_and_an_end_closes_it(events, opened):
    found = cycle.opened_by(log(*events))

    assert (found.seq if found else None) == opened


def test_any_promotion_of_the_model_in_use_since_then_counts_and_none_before_or_of_another_name():
    before, opened, elsewhere, now, later = log(
        said("promote", CHAMPION, IN_USE), decided("yes"), said("promote", OTHER, "liver/model"), said("promote", OTHER, IN_USE),
        said("promote", MODEL, IN_USE),
    )  # fmt: skip

    assert cycle.promotion_since([before, opened, elsewhere, now, later], opened, IN_USE) == now
    assert cycle.promotion_since([before, opened, elsewhere], opened, IN_USE) is None


def test_the_verdict_is_the_last_on_this_model_in_this_retraining():
    old, opened, first, other, last = log(
        judged("pass"), decided("yes"), judged("inconclusive"), judged("pass", OTHER), judged("pass")
    )

    assert cycle.verdict_since([old, opened, first, other, last], opened, MODEL) == last
    assert cycle.verdict_since([old, opened, other], opened, MODEL) is None


@pytest.mark.parametrize(
    ("verdict", "champion", "awaited"),
    [
        (None, None, False),
        (judged("inconclusive"), None, True),
        (judged("fail"), None, False),
        (judged("pass", beside=CHAMPION), CHAMPION, True),
        (judged("inconclusive", beside=CHAMPION), CHAMPION, False),
        (judged("fail", beside=CHAMPION), CHAMPION, False),
        (judged("pass", beside=OTHER), CHAMPION, False),  # another is in use by now
        (judged("inconclusive"), CHAMPION, False),
    ],
)
def test_persons_are_asked_about_a_model_that_may_go_into_use_beside_the_one_that_is(verdict, champion, awaited):
    assert cycle.is_awaited(verdict, champion) is awaited


class Trail:
    """What `answer` asks of an open trail, with a candidate that some persons approved."""

    def __init__(self, told, approvers, needed=1):
        self.told, self.register = told, {name: SimpleNamespace(entry=SimpleNamespace(actor=name)) for name in approvers}
        candidate = Candidate("pass", approvers=tuple(approvers))
        self.opened = SimpleNamespace(state=SimpleNamespace(candidates={MODEL: candidate}))
        self.founding = SimpleNamespace(policy=SimpleNamespace(approvals=needed))

    def events(self, *kinds):
        return [event for event in self.told if event.kind in kinds]


def at(entry, hours_ago, key="ann"):
    return replace(entry, ts=(datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat(), attached={"key": key})


@pytest.mark.parametrize(
    ("asked", "yes", "needed", "found"),
    [
        (1, (), 1, None),  # hours since the verdict; since each yes
        (1, (0.5,), 1, "approve"),
        (1, (0.5,), 2, None),
        (3, (), 1, "nobody"),
        (3, (2.5,), 1, "approve"),  # in time, whenever somebody looks
        (3, (0.5,), 1, "nobody"),  # too late
        (3, (2.5, 0.5), 2, "nobody"),
    ],
)
def test_no_answer_in_time_is_a_no(asked, yes, needed, found):
    persons = ["ann", "ben"][: len(yes)]
    given = [at(said("approve"), hours, person) for hours, person in zip(yes, persons, strict=True)]
    told = log(decided("yes"), at(judged("pass"), asked), *given)

    assert cycle.answer(Trail(told, persons, needed), told[0], MODEL, timedelta(hours=2)) == found


def test_a_no_since_the_verdict_stands_whatever_others_say_later():
    old, verdict, no, yes, other = log(said("reject"), judged("pass"), said("reject"), said("approve"), said("reject", OTHER))

    assert cycle.is_rejected([old, verdict, no, yes], verdict, MODEL)
    assert not cycle.is_rejected([old, verdict, yes, other], verdict, MODEL)
