"""Programs that end with the process that started them: `python -m tasks.leash PROGRAM ARGUMENT...`.

A program on a leash runs in a process group of its own. The leash waits on a pipe that only the starter holds; when the pipe
closes, because the starter let go or died of whatever cause, the whole group is asked to end, then forced to.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

STOP_SECONDS = 20
POLL_SECONDS = 0.05


@contextlib.contextmanager
def hold(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    output: "int | IO[bytes] | None" = None,
    errors: "int | IO[bytes] | None" = None,
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a program for as long as the body lasts; it and its children are gone when this returns.

    The process that is yielded has the program's exit code (128 + its number after a signal) and, with ``output=PIPE``, its
    output.
    """
    process = subprocess.Popen(  # noqa: S603  # argv, no shell
        [sys.executable, "-m", "tasks.leash", *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        process.wait()
        if process.stdout:
            process.stdout.close()


def main(command: Sequence[str]) -> int:
    """Run a program until it ends, our standard input closes or a signal asks us to end; return its exit code."""
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603  # argv, no shell
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    while program.poll() is None and not asked.is_set() and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
        pass
    _end_group(program)
    return program.returncode if program.returncode >= 0 else 128 - program.returncode


def _end_group(leader: "subprocess.Popen[bytes]") -> None:
    """End what is left of a process group: politely, then by force."""
    deadline = time.monotonic() + STOP_SECONDS
    with contextlib.suppress(ProcessLookupError):  # raised as soon as the group is empty
        os.killpg(leader.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            leader.poll()  # a dead leader that nobody waited for still counts as a member
            os.killpg(leader.pid, 0)
            time.sleep(POLL_SECONDS)
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
