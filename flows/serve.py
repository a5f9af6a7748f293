"""Prefect on a laptop: a server with its UI, and all deployments served, until Ctrl-C."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedsilo.errors import FedsiloError
from flows import cli, server
from tasks import leash

LISTING = Path("prefect.yaml")


def serve(port: int, listing: Path, params_path: Path) -> None:
    """Hold a server and a process that serves; neither outlives this one.

    Raises:
        FedsiloError: The port is taken, the server did not come up, or serving ended by itself.
    """
    if server.find() is None:
        server.require_free(port, "make serve")
    # a process of its own: Prefect reads where its server is when it is imported
    command = [sys.executable, "-m", "flows.deployments", "--listing", str(listing), "--params", str(params_path)]
    with server.running(port) as url, leash.hold(command) as serving:
        sys.stdout.write(f"Prefect's UI is at {server.page(url)} (Ctrl-C stops it and pauses the schedules).\n")
        sys.stdout.flush()
        code = serving.wait()
    raise FedsiloError(f"serving ended with exit code {code}; the reason stands above")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve in the foreground."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=server.UI_PORT, help="of the server (default: %(default)s)")
    parser.add_argument("--listing", type=Path, default=LISTING, help="file with deployments (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (default: %(default)s)")
    options = parser.parse_args(argv)
    return cli.guard(lambda: serve(options.port, options.listing, options.params))


if __name__ == "__main__":
    sys.exit(main())
