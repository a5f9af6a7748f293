"""Served flows while somebody with the API's credential forges records, runs are cancelled and killed, and a machine dies.

A run does what the code that is served does: whatever a forged record asks for would leave a file, and none may be there.
"""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import served_graph
import serving
import yaml
from served_graph import ran

from flows import deployments, notices

HEARTBEAT = "prefect.flow-run.heartbeat"
SILENT_SECONDS = deployments.HEARTBEAT_SECONDS + 5
"""Shorter than what is shipped, and still longer than the shortest time between heartbeats that Prefect has."""

EVIL_FLOW = """
import pathlib
from prefect import flow
pathlib.Path({loot!r}, "import").touch()

def hook(flow, flow_run, state):
    pathlib.Path({loot!r}, "hook").touch()

@flow(on_crashed=[hook], on_cancellation=[hook])
def steal(stage: str = "", cohort: str = ""):
    pathlib.Path({loot!r}, "body").touch()
"""

LOAD = """
import asyncio, sys
from prefect import get_client
from prefect.flows import load_flow_from_flow_run
with get_client(sync_client=True) as api:
    run = api.read_flow_run(sys.argv[1])
asyncio.run(load_flow_from_flow_run(run))
"""
"""What a worker does to learn what a run is to run."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    workspace = served_graph.build(folder / "workspace", slow_seconds=300)
    started = served_graph.start(folder, workspace, [served_graph.entry("report"), served_graph.entry("slow")])
    yield started
    started.kill()
    started.end()


@pytest.fixture(scope="module")
def workspace(served):
    return served.home.parent / "workspace"


@pytest.fixture(scope="module")
def loot(tmp_path_factory):
    """The folder in which whatever a forged record asks for would leave a file."""
    folder = tmp_path_factory.mktemp("loot")
    (folder / "files").mkdir()
    (folder / "evil.py").write_text(EVIL_FLOW.format(loot=str(folder / "files")))
    stages = {name: {"cmd": f"touch {folder / 'files' / 'stage'}"} for name in ("report", "prepare")}
    graph = yaml.safe_dump({"stages": stages})
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "dvc.yaml").write_text(graph)
    return folder


def stolen(loot):
    return sorted(path.name for path in (loot / "files").iterdir())


def job(loot):
    """Variables of the infrastructure that make a worker run a command."""
    return {"command": f"touch {loot / 'files' / 'command'}", "env": {"FEDSILO_OUTER_RUN": "forged"}}


@pytest.fixture(scope="module")
def forge(served, loot):
    """Change a deployment's records as anybody with the API's credential can: where its code is and what comes before it."""

    def change(name):
        shell = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {loot / 'files' / 'pull'}"}}
        made = served.deployment(name)
        forged = {
            "name": name,
            "flow_id": str(made.flow_id),
            "entrypoint": f"{loot / 'evil.py'}:steal",
            "path": str(loot),
            "pull_steps": [shell],
            "job_variables": job(loot),
            "enforce_parameter_schema": False,
            "parameters": made.parameters,
        }
        with served.api() as api:
            answer = api.request("POST", "/deployments/", json=forged)
        assert answer.json()["id"] == str(made.id), "the deployment that is served"
        return served.deployment(name)

    return change


def test_forged_records_change_nothing_of_what_a_run_does(served, workspace, loot, forge):
    forged = forge("report")
    assert forged.entrypoint.endswith("evil.py:steal")
    assert forged.pull_steps
    with served.api() as api:
        made = api.create_flow_run_from_deployment(forged.id, job_variables=job(loot))

    done = served.wait_for(made.id, "Completed", "Failed", "Crashed")

    assert done.state_name == "Completed", served.log()
    assert stolen(loot) == []
    assert ran(workspace) == ["prepared", "made"]


def test_the_same_records_would_run_code_where_flows_are_loaded_by_them(served, loot):
    """Without this the test above could not fail: it is what a worker of a pool does."""
    (done,) = served.runs("report")
    variables = {**os.environ, "PREFECT_API_URL": served.url, "PREFECT_HOME": str(loot / "home")}
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, str(done.id)], cwd=loot, env=variables, capture_output=True, text=True, check=False
    )

    assert loaded.returncode == 0, loaded.stderr
    assert stolen(loot) == ["import", "pull"]
    for path in (loot / "files").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "parameters",
    [
        {"workspace": "LOOT"},
        {"cohort": "../LOOT"},
        {"stage": "LOOT/dvc.yaml:report"},
        {"stage": "report --cwd LOOT"},
    ],
)
def test_parameters_that_name_another_folder_are_refused(served, workspace, loot, parameters):
    forged = {name: value.replace("LOOT", str(loot)) for name, value in parameters.items()}

    run_id = served.start_run("report", **{"stage": "report", "cohort": "demo"} | forged)

    assert served.wait_for(run_id, "Completed", "Failed", "Crashed").state_name == "Failed"
    assert stolen(loot) == []


def under_way(served, name):
    """Start a run whose stage takes minutes, and wait until that is running."""
    run_id = served.start_run(name, stage="report", cohort="slow")
    served.wait_for(run_id, "Running", seconds=60)
    deadline = time.monotonic() + 60
    while not stages_of(served):
        assert time.monotonic() < deadline, f"no stage began within 60 s:\n{served.log()}"
        time.sleep(0.2)
    return run_id


def stages_of(served):
    """List the processes of stages."""
    return [number for number, command in serving.processes_with(served.mark) if re.search(r"python \S*step\.py", command)]


def is_over(served):
    deadline = time.monotonic() + 45
    while stages_of(served) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not stages_of(served)


def test_a_forged_run_that_is_cancelled_runs_no_hook_but_ours(served, loot, forge):
    forge("slow")
    run_id = under_way(served, "slow")

    with served.api() as api:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        api.request("POST", f"/flow_runs/{run_id}/set_state", json={"state": state}).raise_for_status()

    served.wait_for(run_id, "Cancelled", seconds=90)
    assert is_over(served), "its stage went on"
    assert stolen(loot) == []


def test_a_forged_run_that_is_killed_runs_no_hook_but_ours(served, loot, forge):
    forge("slow")
    run_id = under_way(served, "slow")

    (child,) = [number for number, command in serving.processes_with(served.mark) if "spawn_main" in command]
    os.kill(child, signal.SIGKILL)

    served.wait_for(run_id, "Crashed", seconds=60)
    deadline = time.monotonic() + 30
    while f"stage {run_id}: Crashed" not in served.log() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert f"stage {run_id}: Crashed" in served.log(), "our hook tells people"
    assert is_over(served), "its stage went on"
    assert stolen(loot) == []


def heartbeats(api, run_id):
    """Count the heartbeats of a run that the server has."""
    wanted = {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    return api.request("POST", "/events/filter", json={"filter": wanted}).json()["total"]


def test_a_run_whose_machine_died_is_called_crashed_and_told_of_and_one_that_ended_is_not(served, inbox):
    """Last in this module: afterwards nobody serves."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: served.url}):
        serving.tell_through(inbox[0])
    with served.api() as api:
        (automation,) = api.read_automations_by_name(deployments.ZOMBIES)
        assert automation.trigger.within == timedelta(seconds=deployments.SILENT_SECONDS)
        api.update_automation(automation.id, deployments.zombies(SILENT_SECONDS, notices.block_id(api)))
        ended = served.start_run("report", stage="prepare", cohort="demo")
        served.wait_for(ended, "Completed", seconds=60)
        run_id = under_way(served, "slow")
        deadline = time.monotonic() + 30
        while not (heartbeats(api, run_id) and heartbeats(api, ended)):
            assert time.monotonic() < deadline, f"no heartbeat within 30 s:\n{served.log()}"
            time.sleep(0.5)
    served.kill()
    assert stages_of(served) == []
    assert served.run(run_id).state_name == "Running", "nobody has told the server"

    found = served.wait_for(run_id, "Crashed", seconds=SILENT_SECONDS + 30)

    assert found.state.message == f"no heartbeat for {SILENT_SECONDS} s"
    with served.api() as api:
        history = [state.name for state in api.read_flow_run_states(ended)]
    assert history[-1] == "Completed"
    deadline = time.monotonic() + 30
    while not inbox[1] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert inbox[1] == [{"text": f"{run_id}: Crashed", "title": "fedsilo: Crashed"}], "once, and of this run alone"
