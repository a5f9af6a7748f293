"""One server for a run: it answers, it is found, and it goes when its run goes, however that ends."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from flows import server

HOLDER = """
import sys, time
from flows import server
with server.running() as url:
    print(url, flush=True)
    time.sleep(300)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A Prefect home of its own, and no server in the environment."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


def port_of(url):
    return int(url.removesuffix("/api").rpartition(":")[2])


def is_gone(port, seconds=30):
    """Wait until nothing answers on a port."""
    deadline = time.monotonic() + seconds
    while server.healthy(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_a_server_lives_as_long_as_its_body(home):
    with server.running() as url:
        assert server.healthy(port_of(url))
        assert os.environ["PREFECT_API_URL"] == url == server.find()
        with urllib.request.urlopen(f"{server.page(url)}/ui-settings") as answer:  # noqa: S310  # our own server
            assert json.load(answer)["api_url"] == url

    assert is_gone(port_of(url), seconds=0)
    assert "PREFECT_API_URL" not in os.environ
    assert server.find() is None


def test_a_given_server_is_used_as_it_is(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")

    with server.running() as url:
        assert url == "http://127.0.0.1:1/api"

    assert os.environ["PREFECT_API_URL"] == url
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_goes_with_the_process_that_holds_it(home, repository, number):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    url = holder.stdout.readline().strip()
    assert server.healthy(port_of(url))
    assert server.find() == url  # another process of the project would use it

    holder.send_signal(number)
    holder.wait()
    holder.stdout.close()

    assert is_gone(port_of(url))
    assert server.find() is None


def test_a_server_that_cannot_start_is_reported_with_its_log(home, monkeypatch):
    from fedsilo.errors import FedsiloError

    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "nonsense")

    with pytest.raises(FedsiloError, match=r"no Prefect server came up at .*server\.log"), server.running():
        pass
