"""Two models' cases tables on a made-up hold-out, for tests of the gate."""

from pathlib import Path

import numpy
import pandas

from fedsilo.evaluation import gate, pccp
from fedsilo.evaluation.cases import COLUMNS
from fedsilo.evaluation.pairs import Holdout, Scored, Site
from fedsilo.evaluation.pccp import ChangeCheck

PLAN = pccp.load(Path(__file__).parents[1] / "pccp.yaml")
MARGIN = 0.1
ENOUGH = 29
"""Patients that a margin of .1 needs."""

SITES = {"ct-a": Site("inside", "CT"), "mr-a": Site("inside", "MR")}
SAME = ChangeCheck(())


def policy(*, margin=MARGIN, **changes):
    """The shipped policy with one margin for all organs and few resamples."""
    dice = PLAN.gate.metrics["dice"].model_copy(update={"margins": {}, "margin_other": margin})
    metrics = {**PLAN.gate.metrics, "dice": dice}
    return PLAN.gate.model_copy(update={"resamples": 999, "metrics": metrics, **changes})


def rows(site, dice, *, organ="liver", role="inside", method="global", metric="dice"):
    """Rows of a cases table, a patient each."""
    fixed = {"cohort": "demo", "site": site, "role": role, "organ": organ, "method": method, "seed": 1, "round": 1}
    fixed |= {"metric": metric, "unit": "1", "flag": "", "spacing": "1|1|1", "tool": "t", "model": "m"}
    return [fixed | {"patient": f"p{index:03}", "case": f"c{index:03}", "value": value} for index, value in enumerate(dice)]


def absent(site, volumes, *, organ="spleen", **more):
    """Rows of an organ that no case has, a patient each, by the volume that is marked of it."""
    found = []
    for metric, unit, values in (("dice", "1", [float("nan")] * len(volumes)), ("volume_ml", "ml", volumes)):
        found += [row | {"flag": "absent", "unit": unit} for row in rows(site, values, organ=organ, metric=metric, **more)]
    return found


def scored(model, *parts, holdout=None):
    """A model with the rows of some sites."""
    table = pandas.DataFrame([row for part in parts for row in part], columns=COLUMNS)
    return Scored(model, table, hashes(SITES) if holdout is None else holdout)


def hashes(sites):
    return {site: site[0] * 64 for site in sites}


def holdout(num_patients, *, uses=0, sites=None, organs=("liver",)):
    """As many test cases at each site."""
    sites = SITES if sites is None else sites
    cases = {site: {f"c{index:03}": frozenset(organs) for index in range(num_patients)} for site in sites}
    return Holdout(sites, cases, hashes(sites), dict.fromkeys(sites, uses))


def dice(num_patients, seed=0):
    """Plausible scores of a champion."""
    return numpy.random.default_rng(seed).uniform(0.55, 0.75, num_patients).round(6).tolist()


def judge(champion, candidate, asked, rules=None, *, changes=SAME, reason="security: a fault is mended"):
    """Judge by the policy of these tests, unless by other ``rules``."""
    return gate.judge(champion, candidate, asked, rules or policy(), changes=changes, reason=reason, code="c" * 64)


def verdict_of(differences, rules=None, **changes):
    """Judge a candidate that differs so from the champion, by site and patient."""
    num_patients = len(next(iter(differences.values())))
    old = {site: dice(num_patients, seed) for seed, site in enumerate(differences)}
    new = {site: (numpy.array(old[site]) + differences[site]).round(6).tolist() for site in differences}
    champion, candidate = (scored(name, *(rows(site, part[site]) for site in part)) for name, part in (("a", old), ("b", new)))
    return judge(champion, candidate, holdout(num_patients), rules, **changes)


def rule(verdict, name):
    return next(rule for rule in verdict.rules if rule.name == name)
