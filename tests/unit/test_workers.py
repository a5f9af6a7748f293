"""Child processes: results, errors and deaths come back; nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fedsilo.errors import DataError, DeadlineError, FedsiloError
from tasks import workers

ROOT = Path(__file__).parents[2]


def where(*, word, device):
    import torch

    return word, device, os.getpid(), torch.get_num_threads()


def fail(*, kind, device, site=None):
    if kind == "ours":
        raise DataError("site a has no b")
    if kind == "fault":
        raise KeyError("planted")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_runs_elsewhere_with_a_device_and_one_thread():
    with workers.pool(1, "cpu", preload=["torch"]):
        word, device, pid, threads = workers.run(where, word="hello")

    assert (word, device, threads) == ("hello", "cpu", 1)
    assert pid != os.getpid()


def test_errors_keep_their_kind_and_a_death_is_one_too():
    with workers.pool(1, "cpu", preload=["torch"]):
        with pytest.raises(DataError, match="site a has no b"):
            workers.run(fail, kind="ours")
        with pytest.raises(RuntimeError, match="planted"):
            workers.run(fail, kind="fault")
        with pytest.raises(FedsiloError, match="the process of fail of ct-a died"):
            workers.run(fail, kind="death", site="ct-a")
        assert workers.run(where, word="again")[0] == "again", "another child takes its place"


def sleep(*, seconds, device):
    time.sleep(seconds)
    return os.getpid()


def test_a_job_that_takes_too_long_is_ended_and_the_next_one_runs_elsewhere():
    with workers.pool(1, "cpu", preload=["torch"]):
        first = workers.run(sleep, seconds=0.0, deadline_seconds=60.0)
        with pytest.raises(DeadlineError, match="sleep of a device took longer than 1 s and was ended"):
            workers.run(sleep, seconds=600.0, deadline_seconds=1.0)
        second = workers.run(sleep, seconds=0.0, deadline_seconds=60.0)

    assert first != second
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def is_imported(*, module, device):
    return module in sys.modules


def test_children_have_imported_what_they_are_told_to_and_no_more():
    """In a process of its own: a process has one fork server, and the first pool decides what it imports."""
    code = (
        "import sys\nsys.path.insert(0, 'tests/unit')\n"
        "from tasks import workers\n"
        "import test_workers\n"
        "if __name__ == '__main__':\n"
        "    with workers.pool(1, 'cpu', preload=['wave']):\n"
        "        print(*[workers.run(test_workers.is_imported, module=name) for name in ('wave', 'chunk')])\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "False"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error_and_auto_falls_back_to_the_cpu():
    with pytest.raises(FedsiloError, match="torch finds no CUDA device"), workers.pool(2, "cuda", preload=["torch"]):
        pytest.fail("the pool opened")
    with workers.pool(2, "auto", preload=["torch"]):
        assert workers.run(where, word="x")[1] == "cpu"


def test_a_start_that_fails_is_raised_to_everybody_who_waits(monkeypatch):
    def broken(*_arguments):
        raise OSError("no more processes")

    monkeypatch.setattr(workers.Pool, "_child", broken)
    with workers.pool(1, "cpu", preload=[]):
        for _ in range(2):
            with pytest.raises(OSError, match="no more processes"):
                workers.run(where, word="x")


def test_without_a_pool_nothing_runs():
    with pytest.raises(RuntimeError, match="no pool"):
        workers.run(where, word="x")


def test_children_end_when_their_parent_is_killed():
    code = (
        "import sys, time\nsys.path.insert(0, 'tests/unit')\n"
        "from tasks import workers\nfrom test_workers import where\n"
        "if __name__ == '__main__':\n"
        "    with workers.pool(1, 'cpu', preload=['torch']):\n"
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
