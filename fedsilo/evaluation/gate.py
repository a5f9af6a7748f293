"""The gate: whether a candidate may replace the champion, by rules in a fixed order and every number behind them.

A verdict is ``pass`` if all is shown, ``fail`` if harm is, and ``inconclusive`` in between, which keeps the champion. How often
it errs: docs/gate.md. The same scores in any order give the same verdict, to the bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy

from fedsilo import seeds
from fedsilo.evaluation import noninferiority, pairs, statistics
from fedsilo.evaluation.pairs import GATE, Holdout, Pairs, Scored
from fedsilo.evaluation.pccp import ChangeCheck, GateParams
from fedsilo.evaluation.statistics import Patients
from fedsilo.evaluation.verdict import DECIMALS, FAIL, INCONCLUSIVE, PASS, Lost, Outcome, Rule, Unit, Verdict

NEW_DATA = "new-data"
"""A reason that what the models were made of must bear out."""

NO_CHAMPION = Rule("champion", INCONCLUSIVE, "no model is in use, so there is nothing to compare with")


def judge(
    champion: Scored | None,
    candidate: Scored,
    holdout: Holdout,
    policy: GateParams,
    *,
    changes: ChangeCheck,
    reason: str,
    code: str,
) -> Verdict:
    """Judge a candidate against the champion on one hold-out.

    Without a champion nothing is compared: the verdict is inconclusive, or fail if the candidate's scores are not valid.

    Args:
        champion: The model in use and its scores; None if no model is in use.
        candidate: The model that may replace it, and its scores.
        holdout: On whose test cases both must have been scored.
        policy: What must be shown.
        changes: What differs in the making of the models; outside the plan nothing passes. Without a champion nothing does.
        reason: Why the candidate should replace the champion even if it is better nowhere, ``KIND: WORDS`` with a kind of the
            policy; empty if there is none.
        code: Hash of the code that judges.
    """
    paired = None if champion is None else pairs.pair(champion, candidate, holdout, policy)
    flaws = pairs.flaws_of("candidate", candidate, holdout, policy) if paired is None else paired.flaws
    units: tuple[Unit, ...] = ()
    lost = None
    rules = [NO_CHAMPION if paired is None else _planned(changes), _valid(flaws)]
    if paired is not None and not flaws:
        units = tuple(_units(paired, holdout, policy))
        lost = catastrophes(paired, policy)
        rules += [
            _noninferior(
                "non-inferiority",
                [unit for unit in units if unit.kind == "site"],
                paired.unseen if policy.unseen_organs == GATE else (),
            ),
            _no_catastrophe(lost),
            _worst_site(units, policy),
            _reason(units, reason, changes, policy),
            _noninferior("subgroups", [unit for unit in units if unit.kind != "site"]),
        ]
    if not flaws:
        rules.append(_fresh(holdout, policy))
    verdict = _worst(rule.verdict for rule in rules)
    return Verdict(
        verdict=verdict,
        decided_by=() if verdict == PASS else tuple(rule.name for rule in rules if rule.verdict == verdict),
        rules=tuple(rules),
        champion=None if champion is None else champion.model,
        candidate=candidate.model,
        holdout=holdout.digest,
        holdout_sites=dict(sorted(holdout.sha256.items())),
        uses=dict(sorted(holdout.uses.items())),
        reason=reason,
        changes=changes,
        policy=policy,
        code=code,
        units=units,
        lost=lost,
    )


def noninferior(interval: statistics.Interval, margin: float, policy: GateParams) -> Outcome:
    """Say whether bounds of a mean difference show that it is above ``-margin``, that it is not, or neither.

    A hold-out in which nobody fails says nothing of failures that are rarer than it can show. If patients lose everything at a
    rate of the margin, so that the mean loss is the margin, all of n do well with a chance of ``(1 - margin)^n``: where that is
    above ``policy.unseen`` nothing passes.
    """
    if interval.num_patients < policy.min_patients:
        return INCONCLUSIVE
    if round(interval.high, DECIMALS) <= -margin:
        return FAIL
    enough = interval.num_patients >= policy.patients_needed(margin)
    return PASS if enough and round(interval.low, DECIMALS) > -margin else INCONCLUSIVE


def catastrophes(paired: Pairs, policy: GateParams) -> Lost:
    """Count the patients of all sites whom the candidate loses in any case and organ, and bound their share."""
    thresholds = {organ: policy.catastrophe.threshold(organ) for organ in sorted(paired.worst)}
    found: dict[str, dict[str, set[str]]] = {}  # site, organ, patients
    for organ, sites in paired.worst.items():
        for site, patients in sites.items():
            fallen = {patient for patient, value in patients.items() if value < -thresholds[organ]}
            found.setdefault(site, {}).setdefault(organ, set()).update(fallen)
    for more in (paired.newly_missed, paired.newly_false):
        for organ, of_organ in more.items():
            for site, named in of_organ.items():
                found.setdefault(site, {}).setdefault(organ, set()).update(named)
    num_lost = sum(len(set().union(*organs.values())) for organs in found.values())
    total = sum(map(len, paired.patients.values()))
    low, high = noninferiority.share_floor(num_lost, total), noninferiority.share_bound(num_lost, total)
    tolerated = policy.catastrophe.tolerated_share
    verdict = PASS if high <= tolerated else FAIL if low > tolerated else INCONCLUSIVE
    counts = {site: {organ: len(found[site][organ]) for organ in sorted(found[site]) if found[site][organ]} for site in found}
    by_site = {site: counts[site] for site in sorted(counts) if counts[site]}
    return Lost(num_lost, total, by_site, thresholds, low, high, tolerated, verdict)


def _units(paired: Pairs, holdout: Holdout, policy: GateParams) -> Iterator[Unit]:
    """Compare by every metric and organ: each site, then each group of sites."""
    groups = {"role": policy.subgroups.role, "modality": policy.subgroups.modality}
    for metric, organs in sorted(paired.differences.items()):
        for organ, sites in sorted(organs.items()):
            by = _Comparison(metric, organ, policy)
            for site in sorted(sites):
                yield by.unit("site", site, sites[site], GATE)
            for kind, use in groups.items():
                found: dict[str, dict[str, float]] = {}
                for site in sorted(sites):
                    members = found.setdefault(str(getattr(holdout.sites[site], kind)), {})
                    members |= {f"{site}/{patient}": value for patient, value in sites[site].items()}
                for group in sorted(found):
                    yield by.unit(kind, group, found[group], use)


@dataclass(frozen=True)
class _Comparison:
    """By what units are compared."""

    metric: str
    organ: str
    policy: GateParams

    def unit(self, kind: str, name: str, patients: Patients, use: str) -> Unit:
        """Compare patients; it decides if both the use of their group and of the metric do."""
        params = self.policy.metrics[self.metric]  # type: ignore[index]  # one of its keys
        margin = params.margin(self.organ)
        interval = statistics.mean_interval(
            patients,
            confidence=noninferiority.CONFIDENCE,
            num_resamples=self.policy.resamples,
            generator=seeds.numpy_generator(self.policy.seed, "gate", kind, name, self.metric, self.organ),
        )
        return Unit(
            kind=kind,  # type: ignore[arg-type]  # one of three
            name=name,
            metric=self.metric,
            organ=self.organ,
            use="gate" if use == params.use == GATE else "report",
            num_patients=interval.num_patients,
            num_needed=self.policy.patients_needed(margin),
            margin=margin,
            mean=interval.mean,
            low=interval.low,
            high=interval.high,
            method=interval.method,
            differences=tuple(sorted(patients.values())),
            verdict=noninferior(interval, margin, self.policy),
        )


def _noninferior(name: str, units: Sequence[Unit], unseen: Sequence[tuple[str, str]] = ()) -> Rule:
    """Ask every comparison that decides to pass, and that there is one of each organ that a site annotates."""
    asked = [unit for unit in units if unit.use == GATE]
    verdict = _worst((*(unit.verdict for unit in asked), *(INCONCLUSIVE for _ in unseen)))
    num_asked = len(asked) + len(unseen)
    if verdict == PASS:
        return Rule(name, verdict, f"shown by {num_asked} of {num_asked} comparisons")
    shown = [_said(unit) for unit in asked if unit.verdict == verdict]
    if verdict == INCONCLUSIVE:
        shown += [f"{organ} dice at {site} has no patient, as it is present in no case" for site, organ in unseen]
    return Rule(name, verdict, f"{len(shown)} of {num_asked} comparisons: {'; '.join(shown)}")


def _said(unit: Unit) -> str:
    where = f"{unit.organ} {unit.metric} at {unit.name}"
    if unit.verdict == FAIL:
        return f"{where} is lower by {-unit.mean:.4f}, at least {-unit.high:.4f}, margin {unit.margin:g}"
    if unit.num_patients < unit.num_needed:
        return f"{where} has {unit.num_patients} patients, needed are {unit.num_needed}"
    return f"{where} may be lower by {-unit.low:.4f}, margin {unit.margin:g}"


def _planned(changes: ChangeCheck) -> Rule:
    """A change that the plan does not allow takes people: the gate cannot judge what it was not made for."""
    outside = [change for change in changes.changes if not change.allowed]
    if outside:
        return Rule("plan", INCONCLUSIVE, "; ".join(f"{change.name}: {change.why}" for change in outside))
    return Rule("plan", PASS, f"it allows all of {len(changes.changes)} changes")


def _valid(flaws: Sequence[str]) -> Rule:
    return Rule("validity", FAIL if flaws else PASS, "; ".join(flaws) or "every case of every site has scores")


def _no_catastrophe(lost: Lost) -> Rule:
    shown = f"{lost.num_lost} of {lost.num_patients} patients are lost"
    return Rule("catastrophes", lost.verdict, f"{shown}, at most {lost.high:.1%}, tolerated {lost.tolerated_share:.1%}")


def _worst_site(units: Iterable[Unit], policy: GateParams) -> Rule:
    """Fail if the mean of a site with patients enough to have one is a multiple of the margin or more below."""
    asked = [unit for unit in units if unit.kind == "site" and unit.use == GATE and unit.num_patients >= policy.min_patients]
    if not asked:
        return Rule("worst site", INCONCLUSIVE, f"no site has {policy.min_patients} patients")
    worst = min(asked, key=lambda unit: (unit.mean / unit.margin, unit.name, unit.organ, unit.metric))
    limit = -policy.worst_site_margins * worst.margin
    verdict = PASS if round(worst.mean, DECIMALS) > round(limit, DECIMALS) else FAIL
    return Rule("worst site", verdict, f"{worst.name}: {worst.organ} {worst.metric} {worst.mean:+.4f}, limit {limit:+g}")


def _reason(units: Iterable[Unit], reason: str, changes: ChangeCheck, policy: GateParams) -> Rule:
    """Ask for something that is better, of all that was looked at, or for a reason of a kind that the plan knows.

    Better is a lower bound above 0 where the signed-rank test, corrected by Holm for all comparisons that decide, says so too:
    of many comparisons of equal models some have a bound above 0 by chance.
    """
    asked = [unit for unit in units if unit.kind == "site" and unit.use == GATE]
    p_values = statistics.holm([statistics.signed_rank_p(numpy.array(unit.differences)) for unit in asked])
    level = 1 - noninferiority.CONFIDENCE
    better = [
        (unit, p_value)
        for unit, p_value in zip(asked, p_values, strict=True)
        if round(unit.low, DECIMALS) > 0 and p_value is not None and p_value <= level
    ]
    if better:
        best, p_value = max(better, key=lambda found: (found[0].low, found[0].name, found[0].organ, found[0].metric))
        shown = f"{best.organ} {best.metric} at {best.name} is better by {best.mean:.4f}"
        return Rule("reason", PASS, f"{shown}, p {p_value:.4f} by Holm over {len(asked)} comparisons")
    kind, _, words = (part.strip() for part in reason.partition(":"))
    if not reason:
        return Rule("reason", INCONCLUSIVE, "better nowhere, and none stated")
    if kind not in policy.reasons or not words:
        return Rule("reason", INCONCLUSIVE, f"better nowhere, and the plan asks for KIND: WORDS of {', '.join(policy.reasons)}")
    if kind == NEW_DATA and not any(change.name.startswith(("data.", "sites.")) for change in changes.changes):
        return Rule("reason", INCONCLUSIVE, "better nowhere, and new data are stated, but the models were made of the same")
    return Rule("reason", PASS, f"stated: {reason}")


def _fresh(holdout: Holdout, policy: GateParams) -> Rule:
    """Doubt a hold-out that chose among many candidates: the best of them is good by chance.

    The site whose test cases were used most often counts: a new case at one site makes the others' no fresher.
    """
    uses, site = max((number, site) for site, number in holdout.uses.items())
    verdict = PASS if uses < policy.holdout_uses else INCONCLUSIVE
    return Rule("hold-out", verdict, f"{site} gave {uses} verdicts before, allowed are {policy.holdout_uses} in all")


def _worst(verdicts: Iterable[Outcome]) -> Outcome:
    found = set(verdicts)
    return FAIL if FAIL in found else INCONCLUSIVE if INCONCLUSIVE in found else PASS
