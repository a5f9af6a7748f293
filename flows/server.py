"""One Prefect server for a whole run, and `python -m flows.server` for its UI.

Every phase that finds no server starts an ephemeral one of its own, which costs many seconds and forgets its runs.
:func:`running` keeps one server for all phases of a run and stops it at the end, also when this process is killed: the
server's guardian waits on a pipe that only this process holds, and ends the server when the pipe closes.
"""

import argparse
import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from fedsilo import files
from fedsilo.errors import FedsiloError

HOST = "127.0.0.1"
UI_PORT = 4200
START_SECONDS = 180
STOP_SECONDS = 15
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
    """Start a guardian with its server, wait until it answers, and stop both in the end."""
    log_path = _home() / "server.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "flows.server", "--guard", "--port", str(port)]
    with log_path.open("wb") as log, terminations():
        guardian = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)  # noqa: S603  # our own argv
        try:
            deadline = time.monotonic() + START_SECONDS
            while not healthy(port):
                if guardian.poll() is not None or time.monotonic() > deadline:
                    raise FedsiloError(f"no Prefect server came up at {_api(port)} within {START_SECONDS} s; see {log_path}")
                time.sleep(POLL_SECONDS)
            files.write_json(_note(), {"port": port})
            yield _api(port)
        finally:
            _note().unlink(missing_ok=True)
            guardian.communicate()  # closes the pipe: the guardian ends its server, then itself


@contextlib.contextmanager
def terminations() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the body as Ctrl-C does, so that it cleans up; only the main thread can."""

    def interrupt(_signal_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _guard(port: int) -> None:
    """Run the server until the pipe on our standard input closes or the server ends; leave nothing of it behind."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)  # noqa: S603  # our own argv
    while server.poll() is None and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
        pass
    _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End a process that leads a group, and the group: politely, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


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
    if not _is_free(port):
        raise FedsiloError(f"port {port} of {HOST} is taken; choose another: make ui PORT={port + 1}")
    with running(port) as url, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(
            f"Prefect's UI is at {page(url)} (Ctrl-C stops it).\n"
            "Runs of `make run` in another terminal appear there by themselves.\n"
            f"For `dvc repro` and `python -m flows.<phase>`: export PREFECT_API_URL={url}\n"
        )
        sys.stdout.flush()
        while healthy(port):
            time.sleep(STOP_SECONDS)


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
    parser.add_argument("--guard", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.guard:
        _guard(options.port)
        return 0
    from flows import cli

    return cli.guard(lambda: _serve_ui(options.port))


if __name__ == "__main__":
    sys.exit(main())
