"""The profile with Postgres: a real one from Debian's package, a Prefect server on it, and a flow that runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import serving

FLOW = """
from prefect import flow, task

@task
def double(number: int) -> int:
    return 2 * number

@flow
def small() -> int:
    return sum(double.map([1, 2, 3]).result())

if __name__ == "__main__":
    assert small() == 12
"""


def program(name):
    """Find a program of Postgres, also where Debian keeps it; None if it is not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(versions[-1]) if versions else shutil.which(name)


pytestmark = pytest.mark.skipif(program("initdb") is None, reason="needs Debian's package postgresql")


@pytest.fixture
def database():
    """A Postgres of its own on a free port, run by a user without privileges, as it refuses root; give the URL for Prefect."""
    # not in pytest's folder, which only the user who runs the tests may enter
    with tempfile.TemporaryDirectory(prefix="fedsilo-postgres-") as name:
        folder, port = Path(name), serving.free_port()
        # a user that only exists where the tests run as root: Debian's package makes it
        become = []
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            become = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]

        def run(name, *arguments):
            subprocess.run([*become, program(name), *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)

        run(
            "initdb",
            "--pgdata",
            str(folder / "data"),
            "--username",
            "prefect",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--no-sync",
        )
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
        run("pg_ctl", "start", "--pgdata", str(folder / "data"), "--log", str(folder / "log"), "--options", options, "--wait")
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "--pgdata", str(folder / "data"), "--mode", "fast", "--wait")


def rows(url, query):
    """Ask the database."""
    import asyncio

    import asyncpg

    async def ask():
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_a_server_on_postgres_runs_a_flow_and_keeps_it(database, tmp_path, monkeypatch):
    from flows import server

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "small.py").write_text(FLOW)

    with server.running():
        done = subprocess.run([sys.executable, "small.py"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    found = rows(database, "select flow.name, flow_run.state_type::text from flow_run join flow on flow.id = flow_run.flow_id")
    assert found == [("small", "COMPLETED")]
    assert not list((tmp_path / "home").glob("*.db")), "a server on Postgres keeps no SQLite"
