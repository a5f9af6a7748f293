"""Serving on a laptop: limits and the zombie automation are there, and it ends cleanly; test_schedules.py has what it starts."""

import signal
import time

import pytest
import serving
import yaml

from fedsilo.errors import ParamsError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A deployment whose stage takes a while."""
    folder = tmp_path_factory.mktemp("serve")
    started = serving.start(folder, [serving.deployment("slow", serving.small_workspace(folder / "slow", seconds=60))])
    yield started
    started.process.kill()  # does nothing where a test ended it
    started.process.wait()


def test_there_are_a_limit_a_device_and_the_zombie_automation(served):
    from flows import deployments

    with served.api() as api:
        limits = {limit.name: limit.limit for limit in api.read_global_concurrency_limits(limit=10, offset=0)}
        (automation,) = api.read_automations_by_name(deployments.ZOMBIES)
    assert {"device-0": 1, "device-1": 1}.items() <= limits.items()
    assert automation.enabled
    assert automation.trigger.within.total_seconds() == deployments.SILENT_SECONDS


def test_nothing_is_left_of_it(served):
    """Last in this module: a run is under way when serving is asked to end."""
    with served.api() as api:
        api.create_flow_run_from_deployment(api.read_deployment_by_name("reproduce/slow").id)
    served.wait("slow", lambda runs: "Running" in [run.state_name for run in runs])
    assert len(served.processes()) > 3

    served.process.send_signal(signal.SIGTERM)

    assert served.process.wait(timeout=90) == 130
    deadline = time.monotonic() + 30
    while served.processes() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert served.processes() == []


def test_an_unknown_entrypoint_is_refused(tmp_path):
    from flows import deployments

    listing = tmp_path / "prefect.yaml"
    listing.write_text(yaml.safe_dump({"deployments": [serving.deployment("x", ".", entrypoint="flows/reproduce.py:main")]}))

    with pytest.raises(ParamsError, match=r"deployment x: no entrypoint 'flows/reproduce.py:main'; there are"):
        deployments.read(listing)


def test_a_port_that_is_taken_is_refused(tmp_path, monkeypatch):
    import socket

    from fedsilo.errors import FedsiloError
    from flows import serve

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(FedsiloError, match=r"is taken; choose another: make serve PORT="):
            serve.serve(other.getsockname()[1], serve.LISTING, serve.LISTING)


def test_killed_by_force_it_leaves_nothing_either(tmp_path):
    started = serving.start(tmp_path, [serving.deployment("idle", tmp_path)])

    started.process.send_signal(signal.SIGKILL)
    started.process.wait()

    deadline = time.monotonic() + 60
    while started.processes() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert started.processes() == []
