"""What a gate found: the verdict on a candidate with every number behind it, and how it is written."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedsilo.evaluation import statistics
from fedsilo.evaluation.pccp import ChangeCheck, GateParams
from fedsilo.evaluation.statistics import IntervalMethod

Outcome = Literal["pass", "fail", "inconclusive"]
PASS: Outcome
FAIL: Outcome
INCONCLUSIVE: Outcome
PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"

VERSION = 2
DECIMALS = statistics.TIE_DECIMALS
"""Of what is compared with a margin: noise below would decide where a mean is exactly the margin."""


@dataclass(frozen=True)
class Unit:
    """A comparison by one metric for one organ, at a site or in a group of sites.

    Attributes:
        kind: ``site``, ``role`` or ``modality``.
        name: Of the site or group.
        metric: What is compared.
        organ: Of which organ.
        use: ``gate`` if it decides.
        num_patients: Patients who have the organ.
        num_needed: Patients without whom it cannot pass.
        margin: The largest loss that does not matter.
        mean: Mean difference over patients; those of a group's sites count alike.
        low: Lower one-sided 97.5 % bound of the mean.
        high: Upper one-sided 97.5 % bound.
        method: How the bounds were computed (:class:`statistics.Interval`).
        differences: All patients' differences, from the worst up; they name nobody.
        verdict: ``pass`` if ``low`` is above ``-margin`` with patients enough, ``fail`` if ``high`` is not above it.
    """

    kind: Literal["site", "role", "modality"]
    name: str
    metric: str
    organ: str
    use: Literal["gate", "report"]
    num_patients: int
    num_needed: int
    margin: float
    mean: float
    low: float
    high: float
    method: IntervalMethod
    differences: tuple[float, ...]
    verdict: Outcome


@dataclass(frozen=True)
class Lost:
    """Patients who in a case lose more than the threshold in an organ, have it newly missed, or newly marked where it is absent.

    Attributes:
        num_lost: How many; who they are is in the cases tables, which stay where they are.
        num_patients: Of how many, at all sites.
        by_site: Site -> organ -> how many are lost in it; those of several organs count in each.
        thresholds: By organ.
        low: Lower one-sided 95 % Clopper-Pearson bound of their share.
        high: Upper one-sided 95 % bound.
        tolerated_share: That ``high`` may reach.
        verdict: ``pass`` if ``high`` is at most that, ``fail`` if ``low`` is above it.
    """

    num_lost: int
    num_patients: int
    by_site: Mapping[str, Mapping[str, int]]
    thresholds: Mapping[str, float]
    low: float
    high: float
    tolerated_share: float
    verdict: Outcome


@dataclass(frozen=True)
class Rule:
    """What one rule found, in words."""

    name: str
    verdict: Outcome
    why: str


@dataclass(frozen=True)
class Verdict:
    """All that a gate found.

    Attributes:
        verdict: ``fail`` if a rule failed, ``pass`` if all passed, else ``inconclusive``.
        decided_by: Rules with that verdict, if it is no pass.
        rules: In order: plan, validity, non-inferiority, catastrophes, worst site, reason, subgroups, hold-out; without a
            champion: champion, validity, hold-out.
        champion: SHA-256 of the model that is in use; None if none is.
        candidate: SHA-256 of the model that was judged.
        holdout: SHA-256 of the hold-out.
        holdout_sites: By site.
        uses: By site, verdicts on other candidates that its part of the hold-out gave before this one.
        reason: Stated for the candidate; empty if none was.
        changes: What differs in the making of the models, and whether the plan allows it.
        policy: The plan's section.
        code: Hash of the code that judged.
        units: Every comparison; none if the scores are not valid, or there is no champion.
        lost: The catastrophes; None if nothing was compared.
    """

    verdict: Outcome
    decided_by: tuple[str, ...]
    rules: tuple[Rule, ...]
    champion: str | None
    candidate: str
    holdout: str
    holdout_sites: Mapping[str, str]
    uses: Mapping[str, int]
    reason: str
    changes: ChangeCheck
    policy: GateParams
    code: str
    units: tuple[Unit, ...]
    lost: Lost | None


def plain(verdict: Verdict) -> dict[str, object]:
    """Write a verdict as a JSON object."""
    record = {name: _plain(value) for name, value in vars(verdict).items()}
    changes = {"verdict": verdict.changes.verdict, "changes": [_plain(change) for change in verdict.changes.changes]}
    return {"version": VERSION, **record, "changes": changes}


def text(verdict: Verdict) -> str:
    """Write a verdict as the one text whose hash approvals and the trail name: sorted keys, nine decimals, no NaN."""
    return json.dumps(plain(verdict), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    """Write a value as JSON; numbers with nine decimals, more of which differ between machines."""
    if isinstance(value, GateParams):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(inner) for name, inner in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return round(value, DECIMALS) + 0.0 if isinstance(value, float) else value
