"""Reproduce a cohort with one Prefect server for all phases, then show its results."""

import sys
from collections.abc import Sequence
from pathlib import Path

from flows import cli, server
from tasks import leash, results

INTERRUPTED = 130


def reproduce_and_show(cohort: str, workspace: str) -> int:
    """Hold a server while the cohort is reproduced; then say where the report is and what it found."""
    # a process of its own: it ends, and hands over its last log lines, before the server does
    command = [sys.executable, "-m", "flows.retrain", "--cohort", cohort, "--workspace", workspace]
    with server.running() as url:
        sys.stdout.write(f"Watch this run at {server.page(url)}\n")
        sys.stdout.flush()
        with leash.hold(command) as retraining:
            code = retraining.wait()
    if not code:
        sys.stdout.write(results.summary(Path(workspace), cohort))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Reproduce and show; 130 after Ctrl-C, as shells have it."""
    options = cli.cohort_parser(__doc__).parse_args(argv)
    codes: list[int] = []
    try:
        failed = cli.guard(lambda: codes.append(reproduce_and_show(options.cohort, options.workspace)))
    except KeyboardInterrupt:
        sys.stderr.write("fedsilo: interrupted; the next run goes on from the last finished step\n")
        return INTERRUPTED
    return failed or codes[0]


if __name__ == "__main__":
    sys.exit(main())
