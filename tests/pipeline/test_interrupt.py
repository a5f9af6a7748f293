"""A phase that is asked to end leaves nothing running, its Prefect server of its own included."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import federate

ROOT = Path(__file__).parents[2]
SECONDS = 180


def descendants(pid):
    """Processes that a process started, and those that these started."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
    found, grown = {pid}, True
    while grown:
        grown = {child for child, parent in parents.items() if parent in found} - found
        found |= grown
    return found - {pid}


def runs(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_phase_that_is_asked_to_end_leaves_no_process_behind(copied, number):
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.federate", *copied.arguments()]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as phase:
        deadline = time.monotonic() + SECONDS
        while not list((copied.folder / "checkpoints/demo/federate").glob("sites/*/00000/done.json")):
            assert phase.poll() is None, "it ended before it could be asked to"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started = descendants(phase.pid)
        assert len(started) > 2, "a server and workers"

        phase.send_signal(number)

        _, told = phase.communicate(timeout=SECONDS)
    assert phase.returncode == 130
    assert "fedsilo: interrupted" in told
    while any(runs(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in started if runs(pid)] == []
    assert federate.main(copied.arguments()) == 0, "it goes on"
