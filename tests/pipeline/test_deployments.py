"""prefect.yaml: every deployment fits its flow, is served from memory, and deploys to a real server."""

import inspect
import os
import subprocess
import sys

import pytest
import yaml

from flows import deployments


@pytest.fixture(scope="module")
def listed(repository):
    """The deployments of prefect.yaml."""
    return deployments.read(repository / "prefect.yaml")


FREE = {"cohort", "study", "stage", "federation", "manual", "upstream", "wait_minutes", "share"}
"""What who starts runs may choose; beside it a workspace, which is refused unless the listing names it."""


def test_who_starts_a_run_chooses_no_plan_no_params_and_no_key(listed):
    for deployment in listed:
        assert set(inspect.signature(deployment.flow.fn).parameters) <= {*FREE, "workspace"}, deployment.name
    assert not [deployment.name for deployment in listed if "workspace" in deployment.parameters]


def test_names_are_unique_and_people_are_told_what_a_deployment_does(listed):
    assert len({(deployment.flow.name, deployment.name) for deployment in listed}) == len(listed)
    assert all(deployment.description.endswith(".") and deployment.tags for deployment in listed)
    assert {deployment.entrypoint for deployment in listed} == set(deployments.FLOWS)


def test_parameters_fit_and_entrypoints_are_where_they_say(repository, listed):
    for deployment in listed:
        path, _, function = deployment.entrypoint.partition(":")
        assert (repository / path).samefile(inspect.getfile(deployment.flow.fn))
        assert deployment.flow.fn.__name__ == function
        inspect.signature(deployment.flow.fn).bind(**deployment.parameters)


def test_only_retraining_is_scheduled_and_no_two_runs_are_at_once(listed):
    assert [deployment.name for deployment in listed if deployment.schedules] == ["nightly"]
    for deployment in listed:
        assert deployment.concurrency_limit.limit == 1
        assert deployment.concurrency_limit.collision_strategy.value == "CANCEL_NEW"
        assert deployment.flow.timeout_seconds
        assert deployment.flow.on_failure_hooks
        assert deployment.flow.on_crashed_hooks
        assert not deployment.flow.retries, "a run that failed is looked at, not repeated"


def test_stages_of_the_graph_have_deployments(repository, listed):
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"].keys() - {"phantoms"}

    assert {deployment.parameters["stage"] for deployment in listed if "stage" in deployment.parameters} == stages


def test_they_deploy_to_a_server(repository, listed, prefect_backend, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    variables = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_HOME": str(tmp_path)}

    def prefect(*arguments):
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, cwd=repository, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    prefect("work-pool", "create", "--type", "process", "fedsilo")
    prefect("deploy", "--all")

    with get_client(sync_client=True) as api:
        found = {
            deployment.name: api.read_deployment_by_name(f"{deployment.flow.name}/{deployment.name}") for deployment in listed
        }
        automations = api.request("POST", "/automations/filter").json()
    for deployment in listed:
        made = found[deployment.name]
        assert made.work_pool_name == "fedsilo"
        assert made.global_concurrency_limit.limit == 1
        assert made.parameters == deployment.parameters
        assert [schedule.slug for schedule in made.schedules] == [timing.slug for timing in deployment.schedules]
    assert found["nightly"].schedules[0].schedule.timezone == "UTC"
    for name in ("kidneys", "liver"):
        (automation,) = [automation for automation in automations if automation["name"].startswith(name)]
        assert automation["trigger"]["expect"] == ["fedsilo.data.accepted"]
        assert automation["trigger"]["match"] == {"prefect.resource.id": f"fedsilo.site.{name}.*"}
        assert found[name].parameters["cohort"] == name
