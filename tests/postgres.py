"""A Postgres of its own on a free port, for tests: Debian's package, run by a user without privileges, as it refuses root."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import serving

PASSWORD = "of-a-test"  # noqa: S105  # of a database that ends with the test


def program(name):
    """Find a program of Postgres, also where Debian keeps it; None if it is not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(versions[-1]) if versions else shutil.which(name)


@dataclass(frozen=True)
class Database:
    """Where it is, and who may do everything in it, by password."""

    port: int
    user: str

    def url(self, name="postgres", user=None, password=PASSWORD):
        """Write the address of a database as asyncpg takes it."""
        return f"postgresql://{user or self.user}:{password}@127.0.0.1:{self.port}/{name}"

    def rows(self, query, name="postgres"):
        """Ask a database."""
        import asyncio

        import asyncpg

        async def ask():
            connection = await asyncpg.connect(self.url(name))
            try:
                return [tuple(row) for row in await connection.fetch(query)]
            finally:
                await connection.close()

        return asyncio.run(ask())


@contextlib.contextmanager
def running(user):
    """Start it with one user, and end it."""
    # not in pytest's folder, which only the user who runs the tests may enter
    with tempfile.TemporaryDirectory(prefix="fedsilo-postgres-") as name:
        folder, port = Path(name), serving.free_port()
        (folder / "password").write_text(PASSWORD)
        # a user that only exists where the tests run as root: Debian's package makes it
        become = []
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
            become = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]

        def run(name, *arguments):
            command = [*become, program(name), *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        login = ["--username", user, "--pwfile", str(folder / "password"), "--auth", "scram-sha-256"]
        run("initdb", "--pgdata", str(folder / "data"), *login, "--encoding", "UTF8", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
        run("pg_ctl", "start", "--pgdata", str(folder / "data"), "--log", str(folder / "log"), "--options", options, "--wait")
        try:
            yield Database(port, user)
        finally:
            run("pg_ctl", "stop", "--pgdata", str(folder / "data"), "--mode", "fast", "--wait")
