"""What can go wrong on a machine: a phase says so in a line, nothing is lost, and the next run ends with the same bytes."""

import os
import resource
import subprocess
import sys

import pytest
from prefect.settings import PREFECT_API_URL
from tiny_run import ROOT, hashes

from flows import federate
from tasks import trails

LARGER = ("--set", "federate.network.channels=[32, 64]")
"""A network whose states are larger than the trail; those of the usual one are smaller."""
LARGEST = 60_000
"""Bytes of the largest file on a disk that has room for the trail and not for larger states."""


def run_federate(made, *more, **options):
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    command = [sys.executable, "-m", "flows.federate", *made.arguments(*more)]
    return subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.parametrize(("first", "network"), [("trail", ()), ("states", LARGER)])
def test_a_disk_that_takes_no_more_stops_the_run_and_room_lets_it_go_on(copied, prepared, tmp_path, first, network):
    undisturbed = prepared.copy(tmp_path / "undisturbed")
    assert federate.main(undisturbed.arguments(*network)) == 0
    trail_bytes = (copied.folder / "audit/demo/federation.jsonl").stat().st_size
    limit = trail_bytes if first == "trail" else LARGEST
    full = run_federate(copied, *network, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))

    assert full.returncode == 1
    told = full.stderr.splitlines()[-1]
    assert told.startswith("fedsilo: cannot write")
    assert ("federation.jsonl" in told) == (first == "trail")
    assert "Traceback" not in full.stderr
    assert not list(copied.folder.rglob("*.part"))

    assert federate.main(copied.arguments(*network)) == 0
    assert hashes(copied.folder) == hashes(undisturbed.folder)
    assert "lines verified" in trails.summary(copied.folder, "demo")
