"""The gate: whether a candidate may replace the champion, by rules in a fixed order and every number behind them.

A verdict is ``pass`` if all is shown, ``fail`` if harm is, and ``inconclusive`` in between, which keeps the champion. How often
it errs: docs/gate.md. The same scores in any order give the same verdict, to the bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedsilo import seeds
from fedsilo.evaluation import noninferiority, pairs, statistics
from fedsilo.evaluation.pairs import DICE, GATE, Holdout, Pairs, Scored
from fedsilo.evaluation.pccp import ChangeCheck, GateParams
from fedsilo.evaluation.statistics import Patients
from fedsilo.evaluation.verdict import DECIMALS, FAIL, INCONCLUSIVE, PASS, Lost, Outcome, Rule, Unit, Verdict

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
        reason: Why the candidate should replace the champion even if it is better nowhere; empty if there is none.
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
            _noninferior("non-inferiority", [unit for unit in units if unit.kind == "site"]),
            _no_catastrophe(lost),
            _worst_site(units, policy),
            _reason(units, reason),
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
        uses=holdout.uses,
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
    """Count the patients of all sites whom the candidate loses, and bound their share."""
    by_organ = paired.differences[DICE]
    thresholds = {organ: policy.catastrophe.threshold(organ) for organ in sorted(by_organ)}
    everyone = {(site, patient) for sites in by_organ.values() for site, patients in sites.items() for patient in patients}
    lost = {(site, patient) for site, patients in paired.newly_missed.items() for patient in patients}
    for organ, sites in by_organ.items():
        lost |= {
            (site, patient) for site, found in sites.items() for patient, value in found.items() if value < -thresholds[organ]
        }
    low, high = noninferiority.share_floor(len(lost), len(everyone)), noninferiority.share_bound(len(lost), len(everyone))
    tolerated = policy.catastrophe.tolerated_share
    verdict = PASS if high <= tolerated else FAIL if low > tolerated else INCONCLUSIVE
    named = tuple(f"{site}/{patient}" for site, patient in sorted(lost))
    return Lost(named, len(everyone), thresholds, low, high, tolerated, verdict)


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


def _noninferior(name: str, units: Sequence[Unit]) -> Rule:
    """Ask every comparison that decides to pass."""
    asked = [unit for unit in units if unit.use == GATE]
    verdict = _worst(unit.verdict for unit in asked)
    if verdict == PASS:
        return Rule(name, verdict, f"shown by {len(asked)} of {len(asked)} comparisons")
    shown = [_said(unit) for unit in asked if unit.verdict == verdict]
    return Rule(name, verdict, f"{len(shown)} of {len(asked)} comparisons: {'; '.join(shown)}")


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
    shown = f"{len(lost.patients)} of {lost.num_patients} patients are lost"
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


def _reason(units: Iterable[Unit], reason: str) -> Rule:
    """Ask for something that is better, or for a reason that a person gave."""
    better = [unit for unit in units if unit.kind == "site" and unit.use == GATE and round(unit.low, DECIMALS) > 0]
    better = [unit for unit in better if unit.num_patients >= statistics.MIN_PATIENTS_TO_TEST]
    if better:
        best = max(better, key=lambda unit: (unit.low, unit.name, unit.organ, unit.metric))
        return Rule("reason", PASS, f"{best.organ} {best.metric} at {best.name} is better by {best.mean:.4f}")
    return (
        Rule("reason", PASS, f"stated: {reason}") if reason else Rule("reason", INCONCLUSIVE, "better nowhere, and none stated")
    )


def _fresh(holdout: Holdout, policy: GateParams) -> Rule:
    """Doubt a hold-out that chose among many candidates: the best of them is good by chance."""
    verdict = PASS if holdout.uses < policy.holdout_uses else INCONCLUSIVE
    return Rule("hold-out", verdict, f"it gave {holdout.uses} verdicts before, allowed are {policy.holdout_uses} in all")


def _worst(verdicts: Iterable[Outcome]) -> Outcome:
    found = set(verdicts)
    return FAIL if FAIL in found else INCONCLUSIVE if INCONCLUSIVE in found else PASS
