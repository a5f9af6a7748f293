"""The change plan: what is read, what a wrong key says, and which changes it allows."""

import operator
from dataclasses import replace

import pytest
import yaml

from fedsilo import params
from fedsilo.errors import ParamsError
from fedsilo.evaluation import pccp
from fedsilo.evaluation.pccp import Make, MethodParams

GLOBAL = MethodParams(inside="global", outside="global")


def using(method):
    """What predicts at outside sites."""
    return GLOBAL.model_copy(update={"outside": method})


@pytest.fixture
def tree(repository):
    return yaml.safe_load((repository / "pccp.yaml").read_text())


@pytest.fixture
def read(tmp_path):
    """Write a tree as pccp.yaml and read it."""

    def from_tree(tree):
        path = tmp_path / "pccp.yaml"
        path.write_text(yaml.safe_dump(tree))
        return pccp.load(path)

    return from_tree


@pytest.fixture
def shipped(tree, read):
    """What the project's plan allows to change."""
    return read(tree).changes


@pytest.fixture
def make(repository):
    """What a model is made of, with changed params."""

    def with_changes(*assignments, organs=("background", "liver"), sites=None, data=None):
        loaded = params.load(repository / "params.yaml", assignments=assignments)
        return Make(loaded, organs, {"ct-a": "inside"} if sites is None else sites, {"ct-a": "1"} if data is None else data)

    return with_changes


def test_the_projects_plan_is_valid_and_names_params_that_exist(repository):
    plan = pccp.load(repository / "pccp.yaml")
    loaded = params.load(repository / "params.yaml")
    shipped = {name: operator.attrgetter(name)(loaded) for name in (*plan.changes.ranges, *plan.changes.values)}

    assert shipped["federate.weighting"] in plan.changes.values["federate.weighting"]
    assert plan.gate.metrics["dice"].margin("liver") == 0.01
    assert plan.gate.metrics["dice"].margin("pancreas") == 0.02
    assert all(low <= shipped[name] <= high for name, (low, high) in plan.changes.ranges.items())


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("changes", {"organs": True}, "unknown key changes.organs"),
        ("changes", {"values": {"federate.network.channels": [1]}}, "federate.network.channels is the architecture"),
        ("changes", {"ranges": {"federate.network": [0, 1]}}, "federate.network is the architecture"),
        ("changes", {"ranges": {"seed": [2, 1]}}, "the range of seed ends before it begins"),
        ("changes", {"values": {"seed": [1]}}, "seed has a range and a list of values"),
        ("gate", {"metrics": {}}, "lacks dice with use gate"),
        ("gate", {"reasons": ["New data"]}, r"gate\.reasons"),
        ("gate", {"unseen": 0.0}, r"gate\.unseen.*got 0\.0"),
        ("gate", {"unsen": 0.1}, r"unknown key gate\.unsen \(did you mean unseen\?\)"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(tree, read, section, change, message):
    tree[section] |= change

    with pytest.raises(ParamsError, match=message):
        read(tree)


def test_volumes_have_two_units(tree, read):
    tree["gate"]["catastrophe"]["false_volume"] = {"ml": 5.0}

    with pytest.raises(ParamsError, match="false_volume needs ml and px"):
        read(tree)


def test_a_metric_with_other_bounds_cannot_be_asked_for(tree, read):
    tree["gate"]["metrics"]["hd95"] = tree["gate"]["metrics"]["nsd"]

    with pytest.raises(ParamsError, match="hd95"):
        read(tree)


def test_the_same_is_inside(make, shipped):
    assert pccp.check_changes(make(), make(), shipped, methods=GLOBAL).verdict == "inside"


@pytest.mark.parametrize(
    ("assignment", "name", "allowed"),
    [
        ("federate.rounds=40", "federate.rounds", True),
        ("federate.rounds=101", "federate.rounds", False),
        ("seed=7", "seed", True),
        ("federate.weighting=uniform", "federate.weighting", True),
        ("federate.weighting=slices", "federate.weighting", False),
        ("federate.aggregation.rule=median", "federate.aggregation.rule", False),
        ("federate.network.channels=[8, 16, 32]", "federate.network.channels", False),
        ("prepare.val_share=0.2", "prepare.val_share", False),
    ],
)
def test_a_changed_param_is_named_and_allowed_by_the_plan_alone(make, shipped, assignment, name, allowed):
    (change,) = pccp.check_changes(make(), make(assignment), shipped, methods=GLOBAL).changes

    assert (change.name, change.allowed) == (name, allowed)
    assert change.before != change.after


def test_how_the_machine_is_used_is_no_change(make, shipped):
    check = pccp.check_changes(make(), make("runtime.parallel_sites=1", "report.confidence=0.9"), shipped, methods=GLOBAL)

    assert check.changes == ()


def test_params_of_evaluation_count_where_a_method_of_the_phase_is_in_use(make, shipped):
    other = make("outside.router.gain=0.5")

    assert pccp.check_changes(make(), other, shipped, methods=GLOBAL).changes == ()
    (change,) = pccp.check_changes(make(), other, shipped, methods=using("router")).changes
    assert (change.name, change.allowed) == ("outside.router.gain", False)


def test_of_methods_that_learn_the_one_in_use_counts_and_which_are_scored_does_not(make, shipped):
    scored = make("outside.methods=[global]")
    outside = scored.params.outside
    paper = outside.adaptations["routing-paper"].model_copy(update={"steps": 9})
    outside = outside.model_copy(update={"adaptations": {**outside.adaptations, "routing-paper": paper}})
    learned = replace(scored, params=scored.params.model_copy(update={"outside": outside}))

    def changed(method):
        return [change.name for change in pccp.check_changes(make(), learned, shipped, methods=using(method)).changes]

    assert changed("routing-paper") == ["outside.adaptations.routing-paper.steps"]
    assert changed("routing-release") == changed("router") == []


def test_the_phases_that_count_are_those_whose_method_is_not_the_global_model(repository):
    methods = pccp.load(repository / "pccp.yaml").gate.methods

    assert methods.phases == ()
    assert methods.model_copy(update={"outside": "router"}).phases == ("outside",)


def test_params_of_which_nothing_is_said_are_outside_the_plan(make, shipped):
    (change,) = pccp.check_changes(replace(make(), unknown=frozenset({"prepare"})), make(), shipped, methods=GLOBAL).changes

    assert (change.name, change.before, change.after, change.allowed) == ("prepare", "unknown", "given", False)


def test_a_rule_may_change_if_it_is_listed(make, read, tree):
    tree["changes"]["values"]["federate.aggregation.rule"] = ["average", "median"]

    check = pccp.check_changes(make(), make("federate.aggregation.rule=median"), read(tree).changes, methods=GLOBAL)

    assert check.verdict == "inside"
    assert check.changes[0].why == "the plan allows average, median"


def test_true_is_not_one(make, read, tree):
    tree["changes"]["values"]["prepare.fix"] = [1]

    assert pccp.check_changes(make(), make("prepare.fix=true"), read(tree).changes, methods=GLOBAL).verdict == "outside"


def test_organs_sites_and_data(make, shipped):
    grown = {"ct-a": "inside", "mr-a": "inside"}

    organs = pccp.check_changes(make(), make(organs=("background", "spleen")), shipped, methods=GLOBAL)
    joined = pccp.check_changes(make(), make(sites=grown), shipped, methods=GLOBAL)
    role = pccp.check_changes(make(), make(sites={"ct-a": "outside"}), shipped, methods=GLOBAL)
    data = pccp.check_changes(make(), make(data={"ct-a": "2"}), shipped, methods=GLOBAL)

    assert (organs.verdict, organs.changes[0].name) == ("outside", "organs")
    assert (joined.verdict, joined.changes[0].name, joined.changes[0].before) == ("outside", "sites.mr-a", "none")
    assert role.verdict == "outside"
    assert (data.verdict, data.changes[0].why) == ("inside", "changes.data is true")


def test_a_plan_may_let_sites_join_and_forbid_new_data(make, read, tree):
    tree["changes"] |= {"sites": True, "data": False}
    plan = read(tree).changes

    assert pccp.check_changes(make(), make(sites={"mr-a": "inside"}), plan, methods=GLOBAL).verdict == "inside"
    assert pccp.check_changes(make(), make(data={"ct-a": "2"}), plan, methods=GLOBAL).verdict == "outside"
