"""The tuning of the router: every setting tried is valid and new, the gate takes the global model where it should, sites weigh alike."""

import re
import sys

import pandas
import pytest

from fedsilo.cohort import roster
from fedsilo.errors import ParamsError
from fedsilo.outside_params import RouterParams


@pytest.fixture(scope="module")
def tune(repository):
    """The study's script as a module."""
    sys.path.insert(0, str(repository / "studies" / "iopfl-tuning"))
    import tune as module

    yield module
    sys.path.remove(str(repository / "studies" / "iopfl-tuning"))


@pytest.fixture(scope="module")
def loaded(repository):
    return roster.load_run(repository / "studies/iopfl-tuning/cohort.yaml", repository / "params.yaml")


def case(site, knob, gain, margin, value=0.0):
    return {
        "site": site, "seed": 7, "case": f"{site}-1", "knob": knob, "value": value, "gain": gain,
        "quality": None if margin is None else 0.5 + margin, "fallback_quality": None if margin is None else 0.5, "passes": 2.5,
    }  # fmt: skip


def test_every_trial_changes_one_knob_of_the_shipped_router_to_a_valid_value(tune, loaded):
    shipped = loaded[1].outside.router
    first, *others = tune.trials(shipped)

    assert first.params == shipped.model_copy(update={"budget": tune.BUDGET, "slices": tune.SLICES})
    assert {trial.knob for trial in others} == set(tune.TRIED)
    for trial in others:
        changed = RouterParams.model_validate(trial.params.model_dump())
        assert {name for name, value in changed if value != getattr(first.params, name)} == {trial.knob}


def test_gains_over_the_global_model_need_it_as_the_fallback(tune, loaded):
    with pytest.raises(ParamsError, match="expected fallback global, got ensemble"):
        tune.trials(loaded[1].outside.router.model_copy(update={"fallback": "ensemble"}))


def test_a_refused_model_gains_nothing_and_loses_nothing(tune):
    rows = pandas.DataFrame([case("a", "k", 0.3, 0.02), case("a", "k", -0.4, -0.02), case("b", "k", 0.1, 0.0)])

    found = tune.gated(rows, 0.0)

    assert list(found["gain"]) == [0.3, 0.0, 0.1]
    assert list(found["kept"]) == [True, False, True]


def test_sites_weigh_alike_and_every_gate_sees_the_same_models(tune, loaded):
    shipped = loaded[1].outside.router.model_copy(update={"gain": 0.0})
    table = pandas.DataFrame([
        case("a", tune.ENSEMBLE, -0.1, None), case("b", tune.ENSEMBLE, 0.3, None),
        *(case("a", tune.SHIPPED, gain, margin) for gain, margin in ((0.2, 0.03), (0.0, 0.03), (-0.4, -0.03))),
        case("b", tune.SHIPPED, 0.1, 0.015),
    ])  # fmt: skip

    summary = tune.summarise(table, shipped).set_index(["knob", "value"])

    assert summary.loc[(tune.ENSEMBLE, 0.0), "gain"] == pytest.approx(0.1)
    assert summary.loc[(tune.SHIPPED, 0.0), "gain"] == pytest.approx((0.2 / 3 + 0.1) / 2)
    assert summary.loc[("gain", tune.NO_GATE), "gain"] == pytest.approx((-0.2 / 3 + 0.1) / 2)
    assert summary.loc[("gain", tune.NO_GATE), "worst_case_gain"] == pytest.approx(-0.4)
    assert summary.loc[("gain", 0.02), "worst_site_gain"] == 0
    assert summary.loc[("gain", 0.02), "used"] == pytest.approx(0.5)
    assert re.search(r"^\| gain \| off \|.*25.0 %", tune.markdown(tune.summarise(table, shipped)), re.MULTILINE)


def test_no_case_of_the_tuning_cohort_is_one_of_the_studies(repository, loaded):
    stages = (repository / "studies/iopfl-tuning/dvc.yaml").read_text()

    assert "flows.phantoms --cohort studies/iopfl-tuning/cohort.yaml --set seed=7" in stages
    assert loaded[1].seed != 7
