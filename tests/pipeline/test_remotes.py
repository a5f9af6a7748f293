"""A stage's flow with a remote: fetched before, pushed afterwards, tried again when the network fails, and only then."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import object_store
import pytest
import served_graph
import yaml

from tasks import remotes, repro

BUCKET = "fedsilo"


@pytest.fixture(scope="module")
def s3():
    """A server of S3's interface that answers 503 as often as it is told to; give its URL, the number, and a client."""
    moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="needs the development extra: moto")
    import boto3
    from werkzeug.serving import make_server

    store = moto.DomainDispatcherApplication(moto.create_backend_app)
    refusing = [0]

    def answer(environ, start):
        if refusing[0] > 0:
            refusing[0] -= 1
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return store(environ, start)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # or the AWS library tries again by itself, and nobody else has to
        server = make_server("127.0.0.1", 0, answer, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        object_store.empty(url)
        yield url, refusing, boto3.client("s3", endpoint_url=url)
        server.shutdown()
        thread.join()
        server.server_close()


def dvc(folder, *arguments):
    variables = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A workspace whose prepared cases are never pushed."""
    folder = served_graph.build(tmp_path_factory.mktemp("remotes") / "template")
    graph = yaml.safe_load((folder / "dvc.yaml").read_text())
    graph["stages"]["prepare"]["outs"] = [{"prepared": {"push": False}}]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(graph))
    return folder


@pytest.fixture
def workspace(template, s3, tmp_path):
    """Such a workspace with an empty bucket as its default remote."""
    url, _, client = s3
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    folder = shutil.copytree(template, tmp_path / "workspace", symlinks=True)
    dvc(folder, "remote", "add", "--default", "shared", f"s3://{BUCKET}/dvc")
    dvc(folder, "remote", "modify", "shared", "endpointurl", url)
    yield folder
    for key in stored(client):
        client.delete_object(Bucket=BUCKET, Key=key)
    client.delete_bucket(Bucket=BUCKET)


def stored(client):
    """Contents of the bucket by their keys."""
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
    return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode() for key in keys}


@pytest.fixture
def quickly(monkeypatch):
    """Wait for a moment only before the same is tried again."""
    monkeypatch.setattr(remotes, "fetch", remotes.fetch.with_options(retry_delay_seconds=0.1))
    monkeypatch.setattr(remotes, "send", remotes.send.with_options(retry_delay_seconds=0.1))


def reproduce(workspace):
    """Run the report's stage with the remote; give its state, and how often each of the run's tasks was tried."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from flows.stage import reproduce_stage

    state = reproduce_stage("report", "demo", str(workspace), share=True, return_state=True)
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as api:
        tried = {run.name.rpartition(" ")[0]: run.run_count for run in api.read_task_runs(flow_run_filter=wanted)}
    return state, tried


def test_a_remote_that_fails_once_is_tried_again(prefect_backend, workspace, s3, quickly):
    _, refusing, client = s3
    reproduce(workspace)  # so that there is something to fetch, and nothing to be made
    shutil.rmtree(workspace / ".dvc" / "cache")
    (workspace / "made").unlink()
    refusing[0] = 1

    state, tried = reproduce(workspace)

    assert state.is_completed()
    assert (tried["dvc pull"], tried["dvc push"]) == (2, 1)
    assert served_graph.ran(workspace) == ["prepared", "made"], "the report came from the remote"
    assert list(stored(client).values()) == ["data of ."]
    assert dvc(workspace, "status", "dvc.yaml") == "Data and pipelines are up to date.\n"


def test_patient_data_are_not_sent(prefect_backend, workspace, s3):
    (workspace / "prepared").unlink(missing_ok=True)
    (workspace / "step.py").write_text((workspace / "step.py").read_text() + "\nmade.write_text(f'{made}')\n")

    state, tried = reproduce(workspace)

    assert state.is_completed()
    assert (tried["dvc pull"], tried["dvc push"]) == (1, 1)
    assert (workspace / "prepared").read_text() == "prepared"
    assert list(stored(s3[2]).values()) == ["made"]


def test_a_remote_that_does_not_come_back_fails_after_the_last_try(prefect_backend, workspace, s3, quickly):
    _, refusing, _ = s3
    refusing[0] = 10**6
    try:
        state, tried = reproduce(workspace)
    finally:
        refusing[0] = 0

    assert state.is_failed()
    assert (tried["dvc pull"], tried["dvc push"]) == (1, 1 + remotes.RETRIES), "there was nothing to fetch"
    assert served_graph.ran(workspace) == ["prepared", "made"], "what was made is there, and sent the next time"


def test_a_missing_remote_is_not_tried_again(prefect_backend, template, tmp_path, quickly):
    folder = shutil.copytree(template, tmp_path / "workspace", symlinks=True)

    state, tried = reproduce(folder)

    assert state.is_failed()
    assert "has no default remote; add one" in state.message
    assert served_graph.ran(folder) == [], "it says so before it trains"
    assert tried == {"dvc pull": 1}


def test_the_lock_is_held_while_files_are_fetched(prefect_backend, template, tmp_path, quickly):
    folder = shutil.copytree(template, tmp_path / "workspace", symlinks=True)

    with repro.held_lock(folder):
        state, tried = reproduce(folder)

    assert "another run holds" in state.message
    assert tried == {"dvc pull": 1}
