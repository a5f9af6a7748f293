"""A run that fails is told of: which, and how it ended; never what the fault said. Timeouts end it; only sending is retried."""

import time

import pytest
import serving
from prefect import Task, flow
from serving import processes_with

from fedsilo.errors import ParamsError
from flows import deployments, notices
from tasks import arrivals


@pytest.fixture
def block(prefect_backend, inbox):
    """A notification block that sends to the inbox, named by the variable."""
    from prefect.variables import Variable

    serving.tell_through(inbox[0])
    yield inbox[1]
    Variable.unset(notices.VARIABLE)


def failing(message):
    @flow(name="failing", on_failure=[notices.tell])
    def fails():
        raise ValueError(message)

    return fails(return_state=True)


def test_a_failed_run_is_told_of_without_what_the_fault_said(block):
    state = failing("patient 4711 has no liver")

    assert block == [{"text": f"failing {state.state_details.flow_run_id}: Failed", "title": "fedsilo: Failed"}]


def test_without_a_block_a_failed_run_is_logged(prefect_backend, inbox, caplog):
    state = failing("patient 4711 has no liver")

    assert f"failing {state.state_details.flow_run_id}: Failed" in caplog.messages
    assert inbox[1] == []


def test_a_run_that_takes_too_long_is_ended_with_all_it_started(block, tmp_path, monkeypatch):
    from flows.reproduce import reproduce

    monkeypatch.setenv("FEDSILO_TEST_MARK", str(tmp_path))
    workspace = serving.small_workspace(tmp_path / "slow", seconds=300)
    began = time.monotonic()

    # long enough for a busy machine to be at the stage: a request that a timeout interrupts leaves its socket open
    state = reproduce.with_options(timeout_seconds=20)("demo", str(workspace), return_state=True)

    assert state.name == "TimedOut"
    assert time.monotonic() - began < 120
    assert [text["title"] for text in block] == ["fedsilo: TimedOut"]
    ours = [process for process in processes_with(f"FEDSILO_TEST_MARK={tmp_path}") if "dvc" in process[1]]
    assert ours == []


def test_the_automation_of_silent_runs_tells_through_the_same_block(block):
    from prefect import get_client

    with get_client(sync_client=True) as api:
        deployments.set_up(0)
        (found,) = api.read_automations_by_name(deployments.ZOMBIES)
        wanted = api.read_block_document_by_name("fedsilo-test", "custom-webhook").id
    assert [action.type for action in found.actions] == ["change-flow-run-state", "send-notification"]
    assert found.actions[1].block_document_id == wanted


def test_a_block_that_is_not_there_is_said_when_serving_starts(block):
    from prefect.variables import Variable

    Variable.set(notices.VARIABLE, "slack-webhook/nothere", overwrite=True)
    with pytest.raises(ParamsError, match="names 'slack-webhook/nothere', and there is no such block"):
        deployments.set_up(0)


def test_the_automation_tells_nobody_without_a_block(prefect_backend):
    from prefect import get_client

    with get_client(sync_client=True) as api:
        deployments.set_up(0)
        (found,) = api.read_automations_by_name(deployments.ZOMBIES)
    assert [action.type for action in found.actions] == ["change-flow-run-state"]


@flow(name="announcing")
def announcing(url):
    arrivals.announce.with_options(retry_delay_seconds=0.1)(url, "liver", "ct-a")


def test_an_announcement_is_repeated_until_it_arrives(prefect_backend, inbox):
    url, received, refusing = inbox
    refusing[0] = 2

    announcing(url)

    assert len(received) == 3
    assert received[-1][0]["event"] == "fedsilo.data.accepted"
    assert received[-1][0]["payload"] == {"cohort": "liver"}


def test_an_announcement_that_never_arrives_fails(prefect_backend, inbox):
    from prefect.client.base import PrefectHTTPStatusError

    url, received, refusing = inbox
    refusing[0] = 99

    with pytest.raises(PrefectHTTPStatusError):
        announcing(url)

    assert len(received) == 1 + arrivals.RETRIES


def test_only_what_sends_or_fetches_is_retried(repository):
    import importlib

    found = {}
    for path in sorted((repository / "tasks").glob("[a-z]*.py")):
        module = importlib.import_module(f"tasks.{path.stem}")
        found |= {value.name: value.retries for value in vars(module).values() if isinstance(value, Task)}

    assert {name for name, retries in found.items() if retries} == {"announce data", "dvc pull", "dvc push"}
    assert len(found) > 20
