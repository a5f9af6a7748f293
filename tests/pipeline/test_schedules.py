"""Against a real server: a schedule and arriving data start runs by themselves, for the right cohort, and one at a time."""

import pytest
import served_graph
from served_graph import ran

from tasks import arrivals

EVERY_SECONDS = 10
BOTH = ["prepared", "made"]
BEGUN = {"Pending", "Running", "Completed"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One deployment with a schedule, one a cohort with the trigger that prefect.yaml has."""
    folder = tmp_path_factory.mktemp("schedules")
    workspace = served_graph.build(folder / "workspace", slow_seconds=3)
    often = {"interval": EVERY_SECONDS, "timezone": "UTC", "slug": "often"}
    started = served_graph.start(
        folder, workspace, [served_graph.entry("often", schedules=[often]), *map(arriving, served_graph.COHORTS)]
    )
    yield started
    started.end()


def arriving(cohort):
    """The report's stage of a cohort, with the trigger that prefect.yaml has for the retraining of one."""
    return served_graph.entry(cohort, triggers=served_graph.triggers(cohort), parameters={"stage": "report", "cohort": cohort})


@pytest.fixture(scope="module")
def workspace(served):
    return served.home.parent / "workspace"


def test_a_schedule_starts_a_run_by_itself(served, workspace):
    began = served.wait("often", lambda runs: BEGUN & {run.state_name for run in runs}, seconds=90)
    with served.api() as api:
        api.pause_deployment(served.deployment("often").id)
    first = min((run for run in began if run.state_name in BEGUN), key=lambda run: run.expected_start_time)

    done = served.wait_for(first.id, "Completed", "Failed", "Crashed")

    assert done.state_name == "Completed", served.log()
    assert done.auto_scheduled
    assert (done.name, done.parameters["cohort"]) == ("report demo", "demo")
    assert ran(workspace) == BOTH
    assert (workspace / "made").read_text() == "data of ."


def test_a_run_says_what_became_of_each_stage(served):
    done = next(run for run in served.runs("often") if run.state_name == "Completed")

    with served.api() as api:
        (table,) = [artifact for artifact in api.read_artifacts() if artifact.flow_run_id == done.id]
        history = [state.name for state in api.read_flow_run_states(done.id)]
    assert table.key == "repro-report"
    assert table.data.count("executed") == len(BOTH)
    assert history[-2:] == ["Running", "Completed"]


def test_data_that_arrive_start_a_run_for_their_cohort(served, workspace):
    arrivals.announce.fn(served.url, "liver", "site-a")

    served.wait("liver", lambda runs: len(runs) == 1, seconds=60)
    (run,) = served.runs("liver")
    done = served.wait_for(run.id, "Completed", "Failed", "Crashed")

    assert done.state_name == "Completed", served.log()
    assert (done.name, done.auto_scheduled) == ("report liver", False)
    assert ran(workspace / "liver") == BOTH
    assert (workspace / "liver" / "made").read_text() == "data of liver"
    assert ran(workspace) == BOTH, "another cohort was not touched"


def test_data_of_two_sites_at_once_make_one_run_and_cancel_none_of_another_cohort(served, workspace):
    for site in ("site-a", "site-b"):
        arrivals.announce.fn(served.url, "slow", site)
    arrivals.announce.fn(served.url, "liver", "site-a")

    def both(runs):
        return sorted(run.state_name for run in runs) == ["Cancelled", "Completed"]

    runs = served.wait("slow", both, seconds=120)
    (stopped,) = [run for run in runs if run.state_name == "Cancelled"]
    assert "concurrency limit" in stopped.state.message
    with served.api() as api:
        assert "Running" not in {state.name for state in api.read_flow_run_states(stopped.id)}
    assert ran(workspace / "slow") == BOTH, "each stage ran once"
    found = served.wait("liver", lambda runs: len(runs) == 2, seconds=60)
    newest = max(found, key=lambda run: run.created)
    assert served.wait_for(newest.id, "Completed", "Failed", "Crashed", "Cancelled").state_name == "Completed"


def test_a_run_that_finds_nothing_new_runs_no_stage(served, workspace):
    assert len(served.runs("liver")) == 2
    assert ran(workspace / "liver") == BOTH
