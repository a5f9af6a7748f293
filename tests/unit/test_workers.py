"""Child processes: results, errors and deaths come back; nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsilo.errors import DataError, FedsiloError
from tasks import workers

ROOT = Path(__file__).parents[2]


def where(*, word, device):
    import torch

    return word, device, os.getpid(), torch.get_num_threads()


def fail(*, kind, device):
    if kind == "ours":
        raise DataError("site a has no b")
    if kind == "fault":
        raise KeyError("planted")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_runs_elsewhere_with_a_device_and_one_thread():
    with workers.pool(1, "cpu"):
        word, device, pid, threads = workers.run(where, word="hello")

    assert (word, device, threads) == ("hello", "cpu", 1)
    assert pid != os.getpid()


def test_errors_keep_their_kind_and_a_death_is_one_too():
    with workers.pool(1, "cpu"):
        with pytest.raises(DataError, match="site a has no b"):
            workers.run(fail, kind="ours")
        with pytest.raises(RuntimeError, match="planted"):
            workers.run(fail, kind="fault")
        with pytest.raises(FedsiloError, match="the process of fail died"):
            workers.run(fail, kind="death")


def test_without_a_pool_nothing_runs():
    with pytest.raises(RuntimeError, match="no pool"):
        workers.run(where, word="x")


def test_children_end_when_their_parent_is_killed():
    code = (
        "import sys, time\nsys.path.insert(0, 'tests/unit')\n"
        "from tasks import workers\nfrom test_workers import where\n"
        "if __name__ == '__main__':\n"
        "    with workers.pool(1, 'cpu'):\n"
        "        print(workers.run(where, word='x')[2], flush=True)\n        time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"child {child} outlived its parent")
