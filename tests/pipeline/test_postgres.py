"""The profile with Postgres: a real one from Debian's package, a Prefect server on it, and a flow that runs."""

import subprocess
import sys

import postgres
import pytest

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


pytestmark = pytest.mark.skipif(postgres.program("initdb") is None, reason="needs Debian's package postgresql")


@pytest.fixture
def database():
    """A Postgres of its own."""
    with postgres.running("prefect") as found:
        yield found


def test_a_server_on_postgres_runs_a_flow_and_keeps_it(database, tmp_path, monkeypatch):
    from flows import server

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database.url().replace("postgresql", "postgresql+asyncpg", 1))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "small.py").write_text(FLOW)

    with server.running():
        done = subprocess.run([sys.executable, "small.py"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    found = database.rows("select flow.name, flow_run.state_type::text from flow_run join flow on flow.id = flow_run.flow_id")
    assert found == [("small", "COMPLETED")]
    assert not list((tmp_path / "home").glob("*.db")), "a server on Postgres keeps no SQLite"
