"""Reproduce a cohort or a study with one Prefect server for all phases, then show its results."""

import sys
from collections.abc import Sequence
from pathlib import Path

from flows import cli, server
from tasks import leash, results, trails


def reproduce_and_show(cohort: str, workspace: str, study: str | None) -> int:
    """Hold a server while a cohort or study is reproduced; then say where the results are, and of a cohort what they are."""
    # a process of its own: it ends, and hands over its last log lines, before the server does
    command = [sys.executable, "-m", "flows.reproduce", "--workspace", workspace]
    command += ["--cohort", cohort] if study is None else ["--study", study]
    with server.running() as url:
        sys.stdout.write(f"Watch this run at {server.page(url)}\n")
        sys.stdout.flush()
        with leash.hold(command) as reproducing:
            code = reproducing.wait()
    if not code:
        root = Path(workspace)
        sys.stdout.write(results.summary(root, cohort) if study is None else results.study_summary(root, study))
        if study is None:
            sys.stdout.write(trails.summary(root, cohort))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Reproduce and show; 130 after Ctrl-C, as shells have it."""
    options = cli.cohort_parser(__doc__).parse_args(argv)
    codes: list[int] = []
    failed = cli.guard(lambda: codes.append(reproduce_and_show(options.cohort, options.workspace, options.study)))
    return failed or codes[0]


if __name__ == "__main__":
    sys.exit(main())
