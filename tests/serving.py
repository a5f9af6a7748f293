"""A workspace with small stages, deployments of it, and `python -m flows.serve` on them, for tests."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WAIT_SECONDS = 180


def small_workspace(folder, *, seconds=0):
    """Make a repository for the embedded cohort with one stage that takes some seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    work = f"import time; time.sleep({seconds}); open('made', 'w').write(open('source').read())"
    stages = {"report": {"cmd": f'python -c "{work}"', "deps": ["source"], "outs": ["made"]}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / "source").write_text("content")
    return folder


def tell_through(inbox_url):
    """Let failed runs of the server in use be told of by a block that sends to an inbox."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.variables import Variable

    from flows import notices

    block = CustomWebhookNotificationBlock(name="inbox", url=inbox_url, json_data={"text": "{{body}}", "title": "{{subject}}"})
    block.save("fedsilo-test", overwrite=True)
    Variable.set(notices.VARIABLE, "custom-webhook/fedsilo-test", overwrite=True)


def deployment(name, workspace, **changes):
    """Describe a deployment of reproduction as prefect.yaml does."""
    return {
        "name": name,
        "description": "of a test",
        "entrypoint": "flows/reproduce.py:reproduce",
        "parameters": {"cohort": "demo", "workspace": str(workspace)},
        "tags": ["test"],
        "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
        "work_pool": {"name": "fedsilo"},
        **changes,
    }


def free_port():
    """Find a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Served:
    """A process that serves, and its server's API."""

    process: subprocess.Popen
    url: str
    home: Path

    def api(self):
        """Open a client of the server."""
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.url)

    def runs(self, name):
        """Read the runs of a deployment of reproduction."""
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

        with self.api() as api:
            return api.read_flow_runs(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])))

    def wait(self, name, is_so, seconds=WAIT_SECONDS):
        """Wait until the runs of a deployment are so, and return them."""
        deadline = time.monotonic() + seconds
        while not is_so(found := self.runs(name)):
            assert time.monotonic() < deadline, [(run.name, run.state_name) for run in found]
            assert self.process.poll() is None
            time.sleep(1)
        return found

    def processes(self):
        """List the processes that have this server's home in their environment: all that serving started."""
        return processes_with(f"PREFECT_HOME={self.home}")


def processes_with(variable):
    """List the processes with a variable in their environment, but for those that have ended and wait to be asked."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]))
    return found


def start(folder, deployments):
    """Serve deployments in a home of their own; the caller ends the process."""
    home = folder / "home"
    listing = folder / "prefect.yaml"
    listing.write_text(yaml.safe_dump({"deployments": deployments}))
    port = free_port()
    variables = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    variables |= {"PREFECT_HOME": str(home), "PREFECT_RUNNER_POLL_FREQUENCY": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.serve", "--port", str(port), "--listing", str(listing)]
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT)
    log.close()
    deadline = time.monotonic() + WAIT_SECONDS
    while f"serving reproduce/{deployments[-1]['name']}" not in (folder / "serve.log").read_text():
        assert process.poll() is None, (folder / "serve.log").read_text()
        assert time.monotonic() < deadline, (folder / "serve.log").read_text()
        time.sleep(0.5)
    return Served(process, f"http://127.0.0.1:{port}/api", home)
