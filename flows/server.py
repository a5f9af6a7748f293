"""One Prefect server for a whole run, and `python -m flows.server` for its UI.

Every phase that finds no server starts an ephemeral one of its own, which costs many seconds and forgets its runs.
:func:`running` keeps one server for all phases of a run, on a leash: it stops at the end, also when this process is killed.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedsilo import files
from fedsilo.errors import FedsiloError
from flows import cli
from tasks import leash

HOST = "127.0.0.1"
UI_PORT = 4200
START_SECONDS = 180
WATCH_SECONDS = 15
POLL_SECONDS = 0.25


@contextlib.contextmanager
def running(port: int | None = None) -> Iterator[str]:
    """Hold a server for the body and yield its API's URL, which is also set as ``PREFECT_API_URL``.

    The server that ``PREFECT_API_URL`` names, or that another process of this project holds (``make ui``), is used as it is.
    Otherwise one starts on ``port`` (default: a free one) of the local host, and ends with the body.

    Raises:
        FedsiloError: The server did not answer in time; names its log.
    """
    given = os.environ.get("PREFECT_API_URL")
    url = given or find()
    with contextlib.nullcontext(url) if url else _start(port or _free_port()) as url:
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            if given is None:
                del os.environ["PREFECT_API_URL"]


def find() -> str | None:
    """Find the API's URL of the server that this project runs now, if it does."""
    try:
        port = json.loads(_note().read_text(encoding="utf-8"))["port"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _api(port) if isinstance(port, int) and healthy(port) else None


def healthy(port: int) -> bool:
    """Say whether a Prefect server answers on a port of the local host."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().read() == b"true"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def page(url: str) -> str:
    """Say where the UI of an API's server is."""
    return url.removesuffix("/api")


@contextlib.contextmanager
def _start(port: int) -> Iterator[str]:
    """Start a server, wait until it answers, and stop it in the end."""
    log_path = _home() / "server.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    variables = {**os.environ, "PREFECT_SERVER_UI_API_URL": _api(port)}  # else pages of any port ask port 4200
    with (
        log_path.open("wb") as log,
        cli.terminations(),
        leash.hold(command, environment=variables, output=log, errors=log) as process,
    ):
        deadline = time.monotonic() + START_SECONDS
        while not healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise FedsiloError(f"no Prefect server came up at {_api(port)} within {START_SECONDS} s; see {log_path}")
            time.sleep(POLL_SECONDS)
        files.write_json(_note(), {"port": port})
        try:
            yield _api(port)
        finally:
            _note().unlink(missing_ok=True)


def _home() -> Path:
    """Folder of Prefect's database and of our note about the running server."""
    return Path(os.environ["PREFECT_HOME"])


def _note() -> Path:
    """File that names the port of the server this project runs now."""
    return _home() / "server.json"


def _api(port: int) -> str:
    return f"http://{HOST}:{port}/api"


def _free_port() -> int:
    """Ask the system for a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _serve_ui(port: int) -> None:
    """Keep a server with its UI in the foreground until Ctrl-C."""
    present = find()
    if present:
        sys.stdout.write(f"A server of this project runs already; its UI is at {page(present)}\n")
        return
    require_free(port, "make ui")
    with running(port) as url, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(
            f"Prefect's UI is at {page(url)} (Ctrl-C stops it).\n"
            "Runs of `make run` in another terminal appear there by themselves.\n"
            f"For `dvc repro` and `python -m flows.<phase>`: export PREFECT_API_URL={url}\n"
        )
        sys.stdout.flush()
        while healthy(port):
            time.sleep(WATCH_SECONDS)


def require_free(port: int, command: str) -> None:
    """Refuse a port that another process listens on.

    Raises:
        FedsiloError: It is taken; says how to choose another.
    """
    if not _is_free(port):
        raise FedsiloError(f"port {port} of {HOST} is taken; choose another: {command} PORT={port + 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return True
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the UI in the foreground."""
    parser = argparse.ArgumentParser(description="Run a local Prefect server with its UI until Ctrl-C.")
    parser.add_argument("--port", type=int, default=UI_PORT, help="default: %(default)s")
    options = parser.parse_args(argv)
    return cli.guard(lambda: _serve_ui(options.port))


if __name__ == "__main__":
    sys.exit(main())
