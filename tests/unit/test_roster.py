"""Cohort files: the ones in the repository are sound, and mistakes are named."""

from pathlib import Path

import pytest
import yaml

from fedsilo.cohort import roster as rosters
from fedsilo.errors import ParamsError
from tests.unit import raw_site

COHORTS = raw_site.REPOSITORY / "cohorts"


def tree(**changes):
    return {**yaml.safe_load((COHORTS / "demo.yaml").read_text()), **changes}


def site(**changes):
    return {**tree()["sites"][0], **changes}


@pytest.mark.parametrize("name", ["demo", "kidneys", "liver"])
def test_the_cohorts_of_the_repository_can_be_loaded(name):
    roster, params = rosters.load_run(COHORTS / f"{name}.yaml", raw_site.REPOSITORY / "params.yaml")

    assert roster.name == name
    assert roster.inside
    assert roster.outside
    for key, value in roster.overrides.prepare.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(params.prepare, key) == expected


def test_sites_are_listed_by_role_and_name():
    roster = rosters.load(COHORTS / "demo.yaml")

    assert [entry.name for entry in roster.inside] == ["ct-a", "ct-b", "mr-a", "mr-b"]
    assert [entry.name for entry in roster.outside] == ["ct-c", "mr-c", "mr-d"]
    assert roster.site("mr-c").role == "outside"
    with pytest.raises(ParamsError, match="has no site mr-z; it has ct-a"):
        roster.site("mr-z")


def test_an_assignment_wins_over_the_cohort_and_the_cohort_over_params():
    params = raw_site.REPOSITORY / "params.yaml"
    _, plain = rosters.load_run(COHORTS / "kidneys.yaml", params)
    _, assigned = rosters.load_run(COHORTS / "kidneys.yaml", params, ["prepare.test_share=0.5"])

    assert plain.prepare.test_share == 0.25
    assert assigned.prepare.test_share == 0.5


def test_data_lie_where_the_cohort_says_or_else_the_params():
    demo, params = rosters.load_run(COHORTS / "demo.yaml", raw_site.REPOSITORY / "params.yaml", ["data.root=elsewhere"])
    kidneys = rosters.load(COHORTS / "kidneys.yaml")

    assert rosters.data_root(demo, params) == Path("data/raw/demo")
    assert rosters.data_root(kidneys, params) == Path("elsewhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": [site(), site(folder="other")]}, "ct-a is listed twice"),
        ({"sites": [site(), site(role="outside", folder="other")]}, "both inside and outside"),
        ({"sites": [site(), site(name="ct-b")]}, "two sites use the folder ct-a"),
        ({"sites": [site(role="outside")]}, "no site has the role inside"),
        ({"sites": [site(name="../up")]}, "name"),
        ({"sites": [site(modality="PET")]}, "modality"),
        ({"organs": ["liver", "kidneys"]}, "must start with background"),
        ({"organs": ["background", "liver", "liver"]}, "a name twice"),
        ({"aliases": {"left kidney": "kidney"}}, "unknown organ kidney"),
        ({"organ": []}, "unknown key organ"),
    ],
)
def test_a_mistake_is_named(tmp_path, changes, message):
    path = tmp_path / "cohort.yaml"
    path.write_text(yaml.safe_dump(tree(**changes)))

    with pytest.raises(ParamsError, match=message) as caught:
        rosters.load(path)

    assert "\n" not in str(caught.value)
