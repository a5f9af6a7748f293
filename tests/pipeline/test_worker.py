"""A worker of a process pool runs a deployment of prefect.yaml, by the commands that docs/operations.md gives.

And what the page says of it: who has the API's credential runs any code on the worker's machine.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import served_graph

POOL = "fedsilo"


@pytest.fixture(scope="module")
def commands(repository):
    """The block of the page: make the pool, deploy, start a worker."""
    text = (repository / "docs" / "operations.md").read_text()
    block = re.search(r"^## Work pools\n.*?```\n(.*?)```", text, flags=re.DOTALL | re.MULTILINE)[1]
    return block.splitlines()


@pytest.fixture(scope="module")
def checkout(repository, tmp_path_factory):
    """A workspace with small stages, this repository's code and its prefect.yaml."""
    folder = served_graph.build(tmp_path_factory.mktemp("worker") / "checkout")
    shutil.copy(repository / "prefect.yaml", folder)
    for package in ("flows", "tasks", "fedsilo"):
        (folder / package).symlink_to(repository / package)
    return folder


@pytest.fixture(scope="module")
def shell(checkout, prefect_backend):
    """Run a command as a person does, in a shell in the workspace."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_HOME": str(checkout / "home"), "PATH": path}

    def run(command):
        made = ["bash", "-c", command]
        done = subprocess.run(made, cwd=checkout, env=variables, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    forget = ["bash", "-c", f"prefect --no-prompt work-pool delete {POOL}"]
    subprocess.run(forget, cwd=checkout, env=variables, capture_output=True, check=False)  # what another test deployed
    yield run
    with get_client(sync_client=True) as api:
        api.request("DELETE", f"/work_pools/{POOL}")


@pytest.fixture(scope="module")
def deployed(shell, commands):
    """The deployments of prefect.yaml, on the pool; give the command that starts a worker."""
    create, deploy, work = commands
    shell(create)
    shell(deploy)
    assert work == f"prefect worker start --pool {POOL}"
    return work


def newest(name):
    """Read the newest run of a stage's deployment."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as api:
        found = api.read_deployment_by_name(f"stage/{name}")
        made = api.request("POST", "/flow_runs/filter", json={"deployments": {"id": {"any_": [str(found.id)]}}}).json()
        return api.read_flow_run(max(made, key=lambda run: run["created"])["id"])


def test_a_worker_runs_a_deployment(shell, deployed, checkout):
    shell("prefect deployment run stage/report")
    shell(f"{deployed} --run-once")

    done = newest("report")
    assert done.state_name == "Completed", done.state
    assert (done.name, done.work_pool_name) == ("report demo", POOL)
    assert served_graph.ran(checkout) == ["prepared", "made"]


def test_who_has_the_credential_runs_any_command_on_it(shell, deployed, checkout, tmp_path):
    shell(f"prefect deployment run stage/prepare --job-variable command='touch {tmp_path / 'loot'}'")
    shell(f"{deployed} --run-once")

    assert (tmp_path / "loot").exists()
    assert served_graph.ran(checkout) == ["prepared", "made"], "it ran instead of the flow"
