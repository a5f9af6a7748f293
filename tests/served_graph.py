"""A workspace with two small stages a cohort, and a Prefect server and a process that serves deployments of it, for tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import serving
import yaml

STEP = """
import pathlib, sys, time
source, made = map(pathlib.Path, sys.argv[1:])
with open("ran", "a") as log:
    print(made, file=log)
time.sleep(float(pathlib.Path("seconds").read_text()))
made.write_text(source.read_text())
"""
STAGES = {"prepare": ("source", "prepared"), "report": ("prepared", "made")}
COHORTS = ("liver", "slow")
"""Of them, the second one's stages take a while."""


def build(folder, *, slow_seconds=0):
    """Make a repository of git and DVC; the embedded cohort's files are in its root, another's in a folder of its name."""
    folder.mkdir(parents=True)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "step.py").write_text(STEP)

    def graph(step, more):
        return {
            stage: {"cmd": f"python {step} {source} {out}", "deps": [source], "outs": [out], **more}
            for stage, (source, out) in STAGES.items()
        }

    each = {"wdir": "../${item.cohort}", "matrix": {"cohort": "${cohorts}"}}
    listed = {"vars": [{"cohorts": list(COHORTS)}], "stages": graph("../step.py", each)}
    (folder / "cohorts").mkdir()
    (folder / "cohorts" / "dvc.yaml").write_text(yaml.safe_dump(listed))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph("step.py", {})}))
    for cohort in (".", *COHORTS):
        (folder / cohort).mkdir(exist_ok=True)
        (folder / cohort / "source").write_text(f"data of {cohort}")
        (folder / cohort / "seconds").write_text(str(slow_seconds if cohort == "slow" else 0))
    return folder


def ran(folder):
    """List what stages ran in a cohort's folder, in order, once for each time."""
    log = folder / "ran"
    return log.read_text().split() if log.is_file() else []


def listing():
    """Read the deployments of prefect.yaml."""
    return yaml.safe_load((serving.ROOT / "prefect.yaml").read_text())["deployments"]


def entry(name, of="report", **changes):
    """Give a deployment that prefect.yaml has, that of the report's stage if no other is named, under another name and changed."""
    (found,) = [deployment for deployment in listing() if deployment["name"] == of]
    return found | {"name": name, **changes}


def triggers(cohort):
    """Give the triggers that prefect.yaml has for the retraining of a cohort."""
    (listed,) = [deployment for deployment in listing() if deployment["name"] == "liver"]
    return json.loads(json.dumps(listed["triggers"]).replace("liver", cohort))


@dataclass
class Standing(serving.Served):
    """A server, and a process that serves, each on its own."""

    server: subprocess.Popen
    mark: str
    flow: str

    def deployment(self, name):
        """Read a deployment of the flow from the server."""
        with self.api() as api:
            return api.read_deployment_by_name(f"{self.flow}/{name}")

    def start_run(self, name, **parameters):
        """Ask the server for a run, whatever it thinks of the parameters; give its id."""
        with self.api() as api:
            made = {"parameters": parameters, "enforce_parameter_schema": False}
            answer = api.request("POST", f"/deployments/{self.deployment(name).id}/create_flow_run", json=made)
        return answer.json()["id"]

    def run(self, run_id):
        """Read a run."""
        with self.api() as api:
            return api.read_flow_run(run_id)

    def wait_for(self, run_id, *states, seconds=120):
        """Wait until a run is in one of some states; give the run."""
        deadline = time.monotonic() + seconds
        while (found := self.run(run_id)).state_name not in states:
            late = time.monotonic() > deadline
            assert not late, f"{found.name} is {found.state} after {seconds} s, not {' or '.join(states)}:\n{self.log()}"
            time.sleep(0.5)
        return found

    def log(self):
        """Read the end of what the serving process wrote."""
        return (self.home.parent / "serve.log").read_text()[-4000:]

    def end(self):
        """End both as Ctrl-C does."""
        for process in (self.process, self.server):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

    def kill(self):
        """Kill the serving process and all it started at once, as a power cut does; the server stays."""
        while found := serving.processes_with(self.mark):
            for number, _ in found:
                os.kill(number, signal.SIGKILL)
            self.process.wait(timeout=10)


def start(folder, workspace, deployments, flow="stage"):
    """Serve deployments of a flow in a workspace; the caller ends both processes."""
    home, port = folder / "home", serving.free_port()
    (folder / "prefect.yaml").write_text(yaml.safe_dump({"deployments": deployments}))
    shutil.copy(serving.ROOT / "params.yaml", folder)
    variables = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    # stages run `python`, which has to be ours
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables |= {"PREFECT_HOME": str(home), "PREFECT_RUNNER_POLL_FREQUENCY": "1", "PYTHONPATH": str(serving.ROOT), "PATH": path}
    url = f"http://127.0.0.1:{port}/api"

    def run(name, variables, ready, *arguments):
        log_path = folder / f"{name}.log"
        with log_path.open("w") as log:
            command = [sys.executable, "-u", "-m", f"flows.{name}", *arguments]
            process = subprocess.Popen(command, cwd=workspace, env=variables, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + serving.WAIT_SECONDS
        while ready not in log_path.read_text():
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, f"{name} is not ready after {serving.WAIT_SECONDS} s: {log_path.read_text()}"
            time.sleep(0.2)
        return process

    server = run("server", variables, "Prefect's UI is at", "--port", str(port))
    mark = f"FEDSILO_TEST_MARK={folder}"
    variables |= {"PREFECT_API_URL": url, "FEDSILO_TEST_MARK": str(folder)}
    options = ["--listing", str(folder / "prefect.yaml"), "--params", str(folder / "params.yaml")]
    process = run("serve", variables, f"serving {flow}/{deployments[-1]['name']}", *options)
    return Standing(process, url, home, server, mark, flow)
