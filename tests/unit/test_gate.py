"""The gate rule by rule, and what it says of scores that cannot be compared."""

import dataclasses
import json

import numpy
import pandas
import pytest
from gate_tables import ENOUGH, SITES, absent, dice, hashes, holdout, judge, policy, rows, rule, scored, verdict_of

from fedsilo.evaluation import verdict
from fedsilo.evaluation.pairs import Site
from fedsilo.evaluation.pccp import Change, ChangeCheck

N = 40


def pair(change=0.0, **more):
    """Champion and candidate, whose Dice differs by the same everywhere."""
    old = [row for site in SITES for row in rows(site, dice(N), **more)]
    return old, [row | {"value": round(row["value"] + change, 6)} for row in old]


def test_a_verdict_says_every_number():
    old, new = pair()
    new[3]["value"] = round(old[3]["value"] - 0.3, 6)

    found = verdict.plain(judge(scored("a", old), scored("b", new), holdout(N, uses=2)))

    unit = found["units"][0]
    assert (found["verdict"], found["champion"], found["candidate"]) == ("pass", "a", "b")
    assert found["uses"] == {"ct-a": 2, "mr-a": 2}
    assert (unit["name"], unit["organ"], unit["metric"], unit["num_patients"], unit["num_needed"]) == (
        "ct-a",
        "liver",
        "dice",
        N,
        29,
    )
    assert unit["differences"] == [-0.3] + [0.0] * (N - 1)
    assert unit["mean"] == pytest.approx(-0.3 / N)
    assert unit["low"] < unit["mean"] < unit["high"]
    assert (found["lost"]["num_lost"], found["lost"]["num_patients"]) == (1, 2 * N)
    assert found["lost"]["by_site"] == {"ct-a": {"liver": 1}}
    assert found["lost"]["high"] == pytest.approx(0.0579, abs=1e-3)
    assert found["policy"]["seed"] == 42
    assert found["holdout"] == holdout(N).digest
    text = verdict.text(judge(scored("a", old), scored("b", new), holdout(N, uses=2)))
    assert json.loads(text) == found
    assert "p003" not in text, "who it is stays in the tables"
    assert "c003" not in text


def test_a_loss_that_is_shown_fails_and_one_that_is_not_is_inconclusive():
    shown = verdict_of({"ct-a": [-0.15] * N, "mr-a": [0.0] * N})
    assert (shown.verdict, shown.decided_by) == ("fail", ("non-inferiority",))
    assert "liver dice at ct-a is lower by 0.1500" in rule(shown, "non-inferiority").why

    wide = verdict_of({"ct-a": [0.19, -0.19, -0.19, -0.19] * 10, "mr-a": [0.0] * N})
    assert (wide.verdict, wide.decided_by) == ("inconclusive", ("non-inferiority",))


def test_catastrophes_are_counted_over_all_sites_and_organs():
    lost = [-0.3] * 9 + [0.03] * (N - 9)
    found = verdict_of({"ct-a": lost, "mr-a": lost}, policy(margin=0.3))

    assert (found.lost.num_lost, found.lost.num_patients, found.lost.verdict) == (18, 80, "fail")
    assert found.lost.by_site == {"ct-a": {"liver": 9}, "mr-a": {"liver": 9}}
    assert found.decided_by == ("catastrophes",)

    few = verdict_of({"ct-a": [-0.3] * 5 + [0.05] * (N - 5), "mr-a": [0.01] * N}, policy(margin=0.3))
    assert (few.lost.verdict, few.decided_by) == ("inconclusive", ("catastrophes",))


def test_a_newly_missed_organ_is_a_catastrophe_however_little_dice_it_costs():
    old, new = pair()
    for row in old[:6]:
        row["value"] = 0.05
    for row in new[:6]:
        row |= {"value": 0.0, "flag": "missed"}
    old[5] |= {"value": 0.0, "flag": "missed"}

    found = judge(scored("a", old), scored("b", new), holdout(N))

    assert found.lost.by_site == {"ct-a": {"liver": 5}}


def test_a_patient_is_lost_by_the_worst_case_and_organ():
    parts = [rows(site, [0.6] * N, organ=organ) for site in SITES for organ in ("liver", "spleen")]
    old = [row for part in parts for row in part]
    new = [dict(row) for row in old]
    for table in (old, new):  # the second case is of the first patient
        for index in (1, N + 1):
            table[index]["patient"] = "p000"
    new[0]["value"], new[1]["value"] = 0.3, 0.9  # their mean is as before
    new[N]["value"] = 0.3
    new[N + 2]["value"] = 0.3

    found = judge(scored("a", old), scored("b", new), holdout(N, organs=("liver", "spleen")))

    assert found.units[0].differences == (0.0,) * (N - 1)
    assert found.lost.by_site == {"ct-a": {"liver": 1, "spleen": 2}}
    assert (found.lost.num_lost, found.lost.num_patients) == (2, 2 * N - 1)


def test_an_organ_that_is_absent_and_newly_marked_is_a_catastrophe():
    old, new = pair()
    marked_before = [0.0, 9.0, 0.0, 4.0, *[0.0] * (N - 4)]
    marked = [6.0, 9.0, 5.0, 6.0, *[0.0] * (N - 4)]
    champion = scored("a", old, absent("ct-a", marked_before), absent("mr-a", [0.0] * N))
    candidate = scored("b", new, absent("ct-a", marked), absent("mr-a", [0.0] * N))

    found = judge(champion, candidate, holdout(N))

    assert found.lost.by_site == {"ct-a": {"spleen": 2}}, "more than 5 ml where there was less"
    assert {unit.organ for unit in found.units} == {"liver"}, "Dice of an absent organ is not defined"


def test_an_organ_that_a_site_annotates_must_be_scored():
    old, new = pair()

    assert flaws(old, new, holdout(N, organs=("liver", "spleen"))) == (
        "candidate: c000, c001, c002 and 37 more of ct-a without Dice of spleen; "
        "candidate: c000, c001, c002 and 37 more of mr-a without Dice of spleen; "
        "champion: c000, c001, c002 and 37 more of ct-a without Dice of spleen; "
        "champion: c000, c001, c002 and 37 more of mr-a without Dice of spleen"
    )


def test_an_organ_that_a_site_annotates_and_no_case_shows_is_inconclusive():
    old, new = pair()
    spleens = [row for site in SITES for row in (absent if site == "ct-a" else rows)(site, [0.5] * N, organ="spleen")]

    found = judge(scored("a", old, spleens), scored("b", new, spleens), holdout(N, organs=("liver", "spleen")))

    assert (found.verdict, found.decided_by) == ("inconclusive", ("non-inferiority",))
    assert rule(found, "non-inferiority").why == (
        "1 of 4 comparisons: spleen dice at ct-a has no patient, as it is present in no case"
    )
    told = judge(
        scored("a", old, spleens),
        scored("b", new, spleens),
        holdout(N, organs=("liver", "spleen")),
        policy(unseen_organs="report"),
    )
    assert told.verdict == "pass"


def test_noise_between_seeds_raises_the_loss_that_counts():
    catastrophe = policy().catastrophe.model_copy(update={"seed_sd": {"liver": 0.11}})

    found = verdict_of({"ct-a": [-0.3] * 5 + [0.05] * (N - 5), "mr-a": [0.0] * N}, policy(catastrophe=catastrophe))

    assert found.lost.thresholds == {"liver": pytest.approx(0.33)}
    assert found.lost.num_lost == 0


def test_a_candidate_that_is_better_nowhere_needs_a_reason():
    old, new = pair()
    champion, candidate = scored("a", old), scored("b", new)

    assert judge(champion, candidate, holdout(N), reason="").decided_by == ("reason",)
    stated = judge(champion, candidate, holdout(N), reason="security: a fault is mended")
    assert rule(stated, "reason").why == "stated: security: a fault is mended"
    assert stated.verdict == "pass"
    better = judge(champion, scored("b", pair(0.01)[1]), holdout(N), reason="")
    assert better.verdict == "pass"
    assert "is better by 0.0100" in rule(better, "reason").why


@pytest.mark.parametrize("reason", ["because", "security", "security:", ": a fault", "whim: I like it", "secure: a fault"])
def test_a_reason_is_of_a_kind_that_the_plan_knows(reason):
    old, new = pair()

    found = judge(scored("a", old), scored("b", new), holdout(N), reason=reason)

    assert found.decided_by == ("reason",)
    assert "asks for KIND: WORDS of new-data, drift, decay, upstream, security" in rule(found, "reason").why


def test_new_data_are_a_reason_if_there_are_some():
    old, new = pair()
    changed = ChangeCheck((Change("data.ct-a", "1", "2", allowed=True, why="changes.data is true"),))
    seed = ChangeCheck((Change("seed", "1", "2", allowed=True, why="the plan allows 0 to 9"),))

    def judged(changes):
        return judge(scored("a", old), scored("b", new), holdout(N), changes=changes, reason="new-data: March")

    assert judged(changed).verdict == "pass"
    assert judged(seed).decided_by == ("reason",)


def test_one_look_of_many_is_no_reason():
    organs = tuple(f"organ-{index}" for index in range(10))
    gain = numpy.array([0.02] * 28 + [-0.02] * 12)

    def judged(names):
        old = [row for site in SITES for organ in names for row in rows(site, [0.6] * N, organ=organ)]
        new = [dict(row) for row in old]
        for row, change in zip(new[:N], gain, strict=True):
            row["value"] = round(row["value"] + change, 6)
        return judge(scored("a", old), scored("b", new), holdout(N, organs=names), reason="")

    alone, among_many = judged(organs[:1]), judged(organs)

    assert alone.units[0].low > 0
    assert alone.verdict == "pass"
    assert "by Holm over 2 comparisons" in rule(alone, "reason").why
    assert among_many.units[0].low > 0, "by itself it looks better"
    assert among_many.decided_by == ("reason",)


def test_a_hold_out_wears_out():
    old, new = pair()

    found = judge(scored("a", old), scored("b", new), holdout(N, uses=20))

    assert (found.verdict, found.decided_by) == ("inconclusive", ("hold-out",))


def test_the_site_whose_cases_were_used_most_counts():
    old, new = pair()
    champion, candidate = scored("a", old), scored("b", new)

    worn = judge(champion, candidate, dataclasses.replace(holdout(N), uses={"ct-a": 0, "mr-a": 20}))
    fresh = judge(champion, candidate, dataclasses.replace(holdout(N), uses={"ct-a": 19, "mr-a": 0}))

    assert worn.decided_by == ("hold-out",)
    assert rule(worn, "hold-out").why == "mr-a gave 20 verdicts before, allowed are 20 in all"
    assert fresh.verdict == "pass"


def test_outside_the_plan_nothing_passes():
    old, new = pair(0.05)
    check = ChangeCheck((Change("federate.rounds", "10", "900", allowed=False, why="the plan allows 10 to 100"),))

    found = judge(scored("a", old), scored("b", new), holdout(N), changes=check)

    assert (found.verdict, found.decided_by) == ("inconclusive", ("plan",))
    assert rule(found, "plan").why == "federate.rounds: the plan allows 10 to 100"


def test_groups_of_sites_decide_if_the_plan_says_so():
    sites = {name: Site("inside", "MR") for name in ("mr-a", "mr-b")} | {"ct-a": Site("inside", "CT")}
    old = [row for site in sites for row in rows(site, dice(20))]
    champion, candidate = (scored(name, old, holdout=hashes(sites)) for name in ("a", "b"))
    gating = policy().subgroups.model_copy(update={"modality": "gate"})

    told = judge(champion, candidate, holdout(20, sites=sites))
    asked = judge(champion, candidate, holdout(20, sites=sites), policy(subgroups=gating))

    groups = {unit.name: unit for unit in told.units if unit.kind == "modality"}
    assert (groups["MR"].num_patients, groups["MR"].verdict, groups["MR"].use) == (40, "pass", "report")
    assert (groups["CT"].num_patients, groups["CT"].verdict) == (20, "inconclusive")
    assert rule(told, "subgroups").verdict == "pass"
    assert rule(asked, "subgroups").verdict == "inconclusive"
    assert "at CT has 20 patients, needed are 29" in rule(asked, "subgroups").why


def test_a_site_of_a_few_patients_is_no_worst_site():
    sites = {"ct-a": Site("inside", "CT"), "mr-a": Site("outside", "MR")}
    old = rows("ct-a", dice(N)) + rows("mr-a", dice(5), role="outside")
    new = rows("ct-a", dice(N)) + rows("mr-a", [value - 0.3 for value in dice(5)], role="outside")
    asked = holdout(N, sites=sites)
    asked = dataclasses.replace(asked, cases={**asked.cases, "mr-a": holdout(5).cases["mr-a"]})

    found = judge(scored("a", old, holdout=hashes(sites)), scored("b", new, holdout=hashes(sites)), asked)

    assert found.verdict == "inconclusive"
    assert rule(found, "worst site").verdict == "pass"


def test_a_patient_with_several_cases_is_one_patient():
    old, new = pair()
    new[0]["value"] = round(old[0]["value"] + 0.2, 6)
    for table in (old, new):
        table[1]["patient"] = "p000"

    found = judge(scored("a", old), scored("b", new), holdout(N))

    assert found.units[0].num_patients == N - 1
    assert found.units[0].differences[-1] == pytest.approx(0.1)


def test_only_the_method_that_is_in_use_and_present_organs_count():
    old, new = pair()
    noise = [row | {"method": "local", "value": 0.0} for row in new]
    spleens = absent("ct-a", [0.0] * 4)

    found = judge(scored("a", old, spleens), scored("b", new, noise, spleens), holdout(N))

    assert found.verdict == "pass"
    assert {unit.organ for unit in found.units} == {"liver"}


def flaws(old, new, asked=None, **holdouts):
    champion = scored("a", old, holdout=holdouts.get("champion"))
    found = judge(champion, scored("b", new), asked or holdout(N))
    assert (found.verdict, found.decided_by, found.units) == ("fail", ("validity",), ())
    return rule(found, "validity").why


def test_scores_that_cannot_be_compared_are_named():
    old, new = pair()

    assert flaws(old, new[1:]) == "c000 with scores of one model alone; candidate: c000 of ct-a without Dice of liver"
    assert "champion: c000 scored twice" in flaws([*old, old[0]], new)
    assert "candidate: mr-x is no site of the cohort" in flaws(old, new + rows("mr-x", [0.5]))
    assert "c040 of ct-a no test case" in flaws(*(part + rows("ct-a", dice(N + 1))[N:] for part in (old, new)))
    assert "c000 with another reference" in flaws(old, [new[0] | {"value": float("nan"), "flag": "absent"}, *new[1:]])
    moved = [row | {"patient": "other"} if row["case"] == "c001" and row["organ"] == "liver" else row for row in new]
    assert "c001 with scores of one model alone" in flaws(old, moved)
    gone = [*rows("ct-a", dice(N)), *absent("mr-a", [0.0] * N, organ="liver")]
    assert "no organ is present at mr-a" in flaws(gone, gone)
    unmeasured = [row for row in gone if row["metric"] == "dice"]
    assert "of mr-a without the volume that is marked of an organ that is absent" in flaws(unmeasured, unmeasured)


def test_without_a_champion_there_is_nothing_to_compare_with():
    candidate = scored("b", pair()[1])

    found = judge(None, candidate, holdout(N))

    assert (found.verdict, found.decided_by, found.champion) == ("inconclusive", ("champion",), None)
    assert [rule.name for rule in found.rules] == ["champion", "validity", "hold-out"]
    assert (found.units, found.lost) == ((), None)
    worn = judge(None, candidate, holdout(N, uses=20))
    assert worn.decided_by == ("champion", "hold-out")


def test_a_first_candidate_is_checked_without_a_champion_too():
    found = judge(None, scored("b", pair()[1][1:]), holdout(N))

    assert (found.verdict, found.decided_by) == ("fail", ("validity",))
    assert rule(found, "validity").why == "candidate: c000 of ct-a without Dice of liver"


def test_scores_of_another_hold_out_are_named():
    old, new = pair()

    other = flaws(old, new, champion=hashes(SITES) | {"mr-a": "e" * 64})
    unknown = flaws(old, new, champion={"ct-a": hashes(SITES)["ct-a"]})

    assert other == "champion: it was scored on another hold-out of mr-a"
    assert unknown == "champion: nothing says on which hold-out of mr-a it was scored"


def test_a_flaw_names_three_cases_at_most():
    old, new = pair()

    assert "c000, c001, c002 and 37 more of ct-a without Dice of liver" in flaws(
        old, [row for row in new if row["site"] == "mr-a"] + new[:0] + rows("ct-a", dice(N), metric="nsd")
    )


def test_other_metrics_are_told_and_decide_nothing():
    old, new = pair()
    nsd = [row for site in SITES for row in rows(site, dice(N), metric="nsd")]
    worse = [row | {"value": row["value"] - 0.4} for row in nsd]

    found = judge(scored("a", old, nsd), scored("b", new, worse), holdout(N))

    assert found.verdict == "pass"
    assert {unit.verdict for unit in found.units if unit.metric == "nsd"} == {"fail"}
    assert {unit.use for unit in found.units if unit.metric == "nsd"} == {"report"}


def test_tables_are_not_changed():
    old, new = pair()
    champion, candidate = scored("a", old), scored("b", new)
    before = champion.table.copy()

    judge(champion, candidate, holdout(N))

    pandas.testing.assert_frame_equal(champion.table, before)
    assert ENOUGH < N
