"""When to train again: six triggers, one decision, and the evidence of each; also where the answer is no.

A trigger is fired by evidence alone. What fired is held back for some time after a retraining, as its candidate is still to be
judged; a person's request is not.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from fedsilo.errors import DataError
from fedsilo.evaluation import drift_reports
from fedsilo.evaluation.drift_reports import DriftReport
from fedsilo.trigger_params import TriggerPolicy

Trigger = Literal["manual", "upstream", "drift", "decay", "new-data", "schedule"]


@dataclass(frozen=True)
class News:
    """How many of a site's cases the champion knew, and how many came since."""

    site: str
    known: int
    new: int


@dataclass(frozen=True)
class Decay:
    """Labelled cases of a site in use, against what the champion promised.

    Attributes:
        site: The site.
        num_cases: Scored so far.
        sum: What ``cusum`` has reached at the last of them.
        alarm: Whether it was ever above the limit.
    """

    site: str
    num_cases: int
    sum: float
    alarm: bool


@dataclass(frozen=True)
class Evidence:
    """All that a decision is made from.

    Attributes:
        now: When it is made, with a time zone.
        champion_since: When the champion was promoted; None without one.
        last_retrained: When a decision was last yes; None if none was.
        news: One a site.
        reports: Of drift since the champion, in any order; one that is there twice counts once.
        decay: One a site that scores cases in use.
        manual: What a person asked for, and why; empty if nobody did.
        upstream: What changed in code, libraries or base models; empty if nothing did.
    """

    now: datetime
    champion_since: datetime | None
    last_retrained: datetime | None
    news: tuple[News, ...]
    reports: tuple[DriftReport, ...]
    decay: tuple[Decay, ...]
    manual: str
    upstream: str


@dataclass(frozen=True)
class Signal:
    """Whether one trigger fired, and on what evidence."""

    trigger: Trigger
    fired: bool
    why: str


@dataclass(frozen=True)
class Decision:
    """Whether to train again.

    Attributes:
        verdict: ``yes`` or ``no``.
        trigger: The first that fired, in the order of :data:`Trigger`; None if none did.
        why: One line.
        signals: All triggers, in that order.
    """

    verdict: Literal["yes", "no"]
    trigger: Trigger | None
    why: str
    signals: tuple[Signal, ...]


def decide(evidence: Evidence, policy: TriggerPolicy) -> Decision:
    """Decide whether to train again.

    Yes if a trigger fired and the last retraining is long enough ago, or if a person asked for it.

    Args:
        evidence: Its order is irrelevant.
        policy: What fires.

    Raises:
        DataError: A time lies in the future, or evidence contradicts itself.
    """
    _check(evidence)
    signals = tuple(signal(evidence, policy) for signal in SIGNALS)
    fired = [signal for signal in signals if signal.fired]
    if not fired:
        return Decision("no", None, "no trigger fired", signals)
    first = fired[0]
    told = "; ".join(f"{signal.trigger}: {signal.why}" for signal in fired)
    rest = _cool_down(evidence, policy)
    if rest > timedelta(0) and first.trigger != "manual":
        return Decision("no", first.trigger, f"cool-down for {_days(rest)} more; {told}", signals)
    return Decision("yes", first.trigger, told, signals)


def cusum(scores: Sequence[float], *, mean: float, deviation: float, slack: float, limit: float) -> tuple[list[float], bool]:
    """Sum up how far scores fall below what was promised: ``s = max(0, s + (mean - x) / deviation - slack)``.

    Args:
        scores: Higher is better, in the order in which cases came.
        mean: What the champion scored when it was judged.
        deviation: Of its scores from case to case, above 0.
        slack: In deviations; half the loss that is to be found soon.
        limit: In deviations.

    Returns:
        The sum after each score, and whether it was ever above the limit.

    Raises:
        DataError: A number is not finite, or the deviation not above 0.

    Reference:
        Page, Continuous inspection schemes, Biometrika 1954, one-sided.

    Example:
        >>> cusum([0.9, 0.7, 0.7], mean=0.9, deviation=0.1, slack=0.5, limit=2.9)
        ([0.0, 1.5, 3.0], True)
    """
    if not all(math.isfinite(value) for value in (*scores, mean, deviation, slack, limit)) or deviation <= 0:
        raise DataError("cannot sum up scores: expected finite numbers and a deviation above 0")
    sums: list[float] = []
    for score in scores:
        before = sums[-1] if sums else 0.0
        sums.append(round(max(0.0, before + (mean - score) / deviation - slack), 9))
    return sums, any(value > limit for value in sums)


def decay_of(scores: Sequence[float], policy: TriggerPolicy, *, site: str, mean: float, deviation: float) -> Decay:
    """Say what became of a site's scores in use, under the policy."""
    sums, alarm = cusum(scores, mean=mean, deviation=deviation, slack=policy.decay.slack, limit=policy.decay.limit)
    return Decay(site, len(scores), sums[-1] if sums else 0.0, alarm)


def _manual(evidence: Evidence, _policy: TriggerPolicy) -> Signal:
    return Signal("manual", bool(evidence.manual), evidence.manual or "nobody asked")


def _upstream(evidence: Evidence, _policy: TriggerPolicy) -> Signal:
    return Signal("upstream", bool(evidence.upstream), evidence.upstream or "nothing changed")


def _drift(evidence: Evidence, policy: TriggerPolicy) -> Signal:
    """Fire if enough of the newest windows of a site raised an alarm."""
    rule = policy.drift
    windows = {(report.site, report.window): report.verdict for report in evidence.reports}
    verdicts = {site: [windows[key] for key in sorted(windows) if key[0] == site] for site, _ in windows}
    drifted = sorted(
        site for site, found in verdicts.items() if drift_reports.persistent(found, alarms=rule.alarms, windows=rule.windows)
    )
    asked = f"{rule.alarms} alarms in the newest {rule.windows} windows"
    return Signal("drift", bool(drifted), f"{asked}: {', '.join(drifted) or 'at no site'}")


def _decay(evidence: Evidence, policy: TriggerPolicy) -> Signal:
    """Fire if the scores of a site fell."""
    fallen = sorted(entry.site for entry in evidence.decay if entry.alarm)
    return Signal("decay", bool(fallen), f"a sum of losses above {policy.decay.limit:g}: {', '.join(fallen) or 'at no site'}")


def _new_data(evidence: Evidence, policy: TriggerPolicy) -> Signal:
    """Fire if enough cases came to a site."""

    def enough(news: News) -> bool:
        by_number = policy.new_cases is not None and news.new >= policy.new_cases
        by_share = policy.new_share is not None and news.known > 0 and 0 < news.new >= policy.new_share * news.known
        return by_number or by_share

    ordered = sorted(evidence.news, key=lambda news: news.site)
    told = ", ".join(f"{news.site} {news.new} beside {news.known}" for news in ordered)
    return Signal("new-data", any(enough(news) for news in ordered), f"new cases: {told or 'none counted'}")


def _schedule(evidence: Evidence, policy: TriggerPolicy) -> Signal:
    """Fire if there is no champion, or it is old."""
    if evidence.champion_since is None:
        return Signal("schedule", True, "there is no champion")  # noqa: FBT003  # fired
    age = evidence.now - evidence.champion_since
    due = policy.calendar_days is not None and age >= timedelta(days=policy.calendar_days)
    limit = "no limit" if policy.calendar_days is None else f"{policy.calendar_days} days"
    return Signal("schedule", due, f"the champion is {_days(age)} old, of {limit}")


SIGNALS: tuple[Callable[[Evidence, TriggerPolicy], Signal], ...] = (_manual, _upstream, _drift, _decay, _new_data, _schedule)
"""All triggers, in the order in which they name a decision."""


def _cool_down(evidence: Evidence, policy: TriggerPolicy) -> timedelta:
    """Give the time that is left of the cool-down."""
    if evidence.last_retrained is None:
        return timedelta(0)
    return max(timedelta(0), evidence.last_retrained + timedelta(days=policy.cool_down_days) - evidence.now)


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.1f} days"


def _check(evidence: Evidence) -> None:
    """Refuse evidence that cannot be."""
    before = [moment for moment in (evidence.champion_since, evidence.last_retrained) if moment is not None]
    if any(moment > evidence.now for moment in before):
        raise DataError("cannot decide whether to train again: a time lies in the future")
    _once("news", (news.site for news in evidence.news))
    _once("decay", (entry.site for entry in evidence.decay))
    seen: dict[tuple[str, int], DriftReport] = {}
    for report in evidence.reports:
        if seen.setdefault((report.site, report.window), report) != report:
            raise DataError(f"cannot decide whether to train again: two reports of window {report.window} of {report.site}")
    if any(news.new < 0 or news.known < 0 for news in evidence.news):
        raise DataError("cannot decide whether to train again: a number of cases is negative")


def _once(what: str, sites: Iterable[str]) -> None:
    """Refuse two entries of one site."""
    named = list(sites)
    if len(set(named)) < len(named):
        raise DataError(f"cannot decide whether to train again: {what} has a site twice")
