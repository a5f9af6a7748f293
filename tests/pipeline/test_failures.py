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
"""A network whose states are larger than the trail."""
LIMITS = {"trail": 2000, "states": 60_000}
"""Bytes of the largest file that the disk takes, so that it is too full for these first."""


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """Hashes of a federation that nothing happened to."""
    made = prepared.copy(tmp_path_factory.mktemp("undisturbed") / "run")
    assert federate.main(made.arguments(*LARGER)) == 0
    return hashes(made.folder)


def run_federate(made, **options):
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    command = [sys.executable, "-m", "flows.federate", *made.arguments(*LARGER)]
    return subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.parametrize("first", LIMITS)
def test_a_disk_that_takes_no_more_stops_the_run_and_room_lets_it_go_on(copied, undisturbed, first):
    limit = LIMITS[first]
    full = run_federate(copied, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))

    assert full.returncode == 1
    told = full.stderr.splitlines()[-1]
    assert told.startswith("fedsilo: cannot write")
    assert ("federation.jsonl" in told) == (first == "trail")
    assert "Traceback" not in full.stderr
    assert not list(copied.folder.rglob("*.part"))

    assert federate.main(copied.arguments(*LARGER)) == 0
    assert hashes(copied.folder) == undisturbed
    assert "lines verified" in trails.summary(copied.folder, "demo")
