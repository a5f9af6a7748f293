"""Serving on a laptop: schedules and events start runs, one at a time; limits and the zombie automation are there; it ends cleanly."""

import signal
import time

import pytest
import serving
import yaml

from fedsilo.errors import ParamsError

EVERY_SECONDS = 15


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two deployments, one with a schedule and a trigger, one whose stage takes a while."""
    folder = tmp_path_factory.mktemp("serve")
    small, slow = serving.small_workspace(folder / "small"), serving.small_workspace(folder / "slow", seconds=8)
    (trigger,) = yaml.safe_load((serving.ROOT / "prefect.yaml").read_text())["deployments"][0]["triggers"]
    often = {"interval": EVERY_SECONDS, "timezone": "UTC", "slug": "often"}
    started = serving.start(
        folder,
        [
            serving.deployment("scheduled", small, schedules=[often]),
            serving.deployment("arrived", small, triggers=[trigger]),
            serving.deployment("slow", slow),
        ],
    )
    yield started
    started.process.kill()  # does nothing where a test ended it
    started.process.wait()


def named(run):
    return run.state_name


def test_a_schedule_starts_a_run_that_does_the_work(served):
    (done, *_) = served.wait("scheduled", lambda runs: [run for run in runs if named(run) == "Completed"])

    assert (served.home.parent / "small" / "made").read_text() == "content"
    with served.api() as api:
        found = api.read_deployment_by_name("reproduce/scheduled")
        api.pause_deployment(found.id)
    assert done.auto_scheduled
    assert [schedule.schedule.interval.total_seconds() for schedule in found.schedules] == [EVERY_SECONDS]


def test_accepted_data_start_a_run_for_their_cohort(served):
    from tasks import arrivals

    arrivals.announce.fn(served.url, "liver", "site-a")

    (run,) = served.wait("arrived", lambda runs: [run for run in runs if named(run) == "Completed"])
    assert run.parameters["cohort"] == "liver"
    assert (served.home.parent / "small" / "liver" / "made").read_text() == "content"


def test_two_triggers_at_once_make_one_run(served):
    with served.api() as api:
        found = api.read_deployment_by_name("reproduce/slow")
        first, second = (api.create_flow_run_from_deployment(found.id).id for _ in range(2))

    def is_settled(runs):
        return sorted(map(named, runs)) == ["Cancelled", "Completed"]

    runs = served.wait("slow", is_settled)
    assert {run.id for run in runs} == {first, second}


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
        (served.home.parent / "slow" / "source").write_text("other")
        api.create_flow_run_from_deployment(api.read_deployment_by_name("reproduce/slow").id)
    served.wait("slow", lambda runs: "Running" in map(named, runs))
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
