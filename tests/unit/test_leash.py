"""A program on a leash: its exit code comes back, and it never outlives its starter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks import leash

# writes its own number and that of a child that would sleep on by itself
FAMILY = (
    "import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']);"
    "print(os.getpid(), child.pid, flush=True); time.sleep(300)"
)
STARTER = """
import subprocess, sys
from tasks import leash
with leash.hold([sys.executable, "-c", sys.argv[1]], output=subprocess.PIPE) as process:
    print(process.stdout.readline().decode(), flush=True)
    process.wait()
"""


def is_running(pid):
    """Say whether a process does anything; one that nobody waited for does not."""
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def are_gone(pids, seconds=10):
    """Wait until none of some processes runs."""
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(3)", 3), ("pass", 0), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_the_exit_code_comes_back(code, expected):
    with leash.hold([sys.executable, "-c", code]) as process:
        assert process.wait() == expected


def test_output_folder_and_environment_are_the_programs(tmp_path):
    code = "import os; print(os.getcwd(), os.environ['WORD'])"
    with leash.hold(
        [sys.executable, "-c", code], folder=tmp_path, environment={**os.environ, "WORD": "hello"}, output=subprocess.PIPE
    ) as process:
        assert process.stdout.read().decode().split() == [str(tmp_path), "hello"]


def test_a_program_and_its_children_end_with_the_body():
    with leash.hold([sys.executable, "-c", FAMILY], output=subprocess.PIPE) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(map(is_running, pids))

    assert not any(map(is_running, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_leash_itself_ends_the_program_too(number):
    with leash.hold([sys.executable, "-c", FAMILY], output=subprocess.PIPE) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(30) == 128 + signal.SIGTERM

    assert not any(map(is_running, pids))


def test_a_program_and_its_children_end_when_the_starter_is_killed(repository):
    starter = subprocess.Popen([sys.executable, "-c", STARTER, FAMILY], cwd=repository, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in starter.stdout.readline().split()]
    assert all(map(is_running, pids))

    starter.kill()
    starter.wait()
    starter.stdout.close()

    assert are_gone(pids)
