"""Child processes that do a site's heavy work: one site a process, one process a device.

A pool's children import torch and MONAI once, in a fork server, and are forked from it; a job is a module-level function with
ids, paths and frozen params, and its result is paths. A child whose parent dies ends at once, so that a killed run leaves no
second writer behind. Every child computes with one thread: results do not depend on how many run side by side, and two busy
OpenMP pools on few cores are slower than one thread each.
"""

import contextlib
import multiprocessing
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar, cast

from fedsilo.errors import FedsiloError

ResultT = TypeVar("ResultT")
PRELOADED = ["torch", "monai.networks.nets", "monai.metrics", "monai.inferers", "scipy.ndimage", "pandas"]
STOP_SECONDS = 10


@dataclass
class _Worker:
    """One child: its process, the pipe for jobs, and the pipe whose end of file tells it that we died."""

    process: BaseProcess
    jobs: Connection
    lifeline: Connection


class Pool:
    """Children that take jobs one at a time."""

    def __init__(self, devices: list[str]) -> None:
        """Start a child a device."""
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on CUDA
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._workers: list[_Worker] = []
        self._free: queue.Queue[_Worker] = queue.Queue()
        for device in devices:
            ours, theirs = context.Pipe()
            lifeline_in, lifeline_out = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(theirs, lifeline_in, device), daemon=True)
            process.start()
            theirs.close()
            lifeline_in.close()
            worker = _Worker(process, ours, lifeline_out)
            self._workers.append(worker)
            self._free.put(worker)

    def run(self, function: Callable[..., ResultT], kwargs: dict[str, object]) -> ResultT:
        """Run ``function(**kwargs, device=...)`` in a free child and wait for its result.

        Raises:
            FedsiloError: The job raised one, or its child died.
            RuntimeError: The job failed with a fault of ours; the message is the child's traceback.
        """
        worker = self._free.get()
        try:
            worker.jobs.send((function, kwargs))
            kind, answer = worker.jobs.recv()
        except (EOFError, OSError) as error:
            raise FedsiloError(f"the process of {function.__name__} died (out of memory?): {kwargs}") from error
        finally:
            self._free.put(worker)
        if kind == "error":
            raise cast("FedsiloError", answer)
        if kind == "fault":
            raise RuntimeError(cast("str", answer))
        return cast("ResultT", answer)

    def close(self) -> None:
        """End the children: first by closing their pipes, then by force."""
        for worker in self._workers:
            worker.jobs.close()
            worker.lifeline.close()
        for worker in self._workers:
            worker.process.join(STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


_open: list[Pool] = []


@contextlib.contextmanager
def pool(parallel_sites: int, device: str) -> Iterator[Pool]:
    """Hold a pool open for ``run``; ``device`` is ``auto``, ``cpu`` or ``cuda``."""
    opened = Pool(_devices(parallel_sites, device))
    _open.append(opened)
    try:
        yield opened
    finally:
        _open.remove(opened)
        opened.close()


def run(function: Callable[..., ResultT], /, **kwargs: object) -> ResultT:
    """Run a job in the pool that is open.

    Raises:
        RuntimeError: No pool is open.
    """
    if not _open:
        raise RuntimeError("no pool of workers is open")
    return _open[-1].run(function, kwargs)


def _devices(parallel_sites: int, device: str) -> list[str]:
    """List a device a child: distinct CUDA devices, else the CPU as often as sites run in parallel."""
    if device == "cpu":
        return ["cpu"] * parallel_sites
    import torch

    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not available:
        raise FedsiloError("runtime.device is cuda, but torch finds no CUDA device")
    return [f"cuda:{index}" for index in range(min(available, parallel_sites))] or ["cpu"] * parallel_sites


def _serve(jobs: Connection, lifeline: Connection, device: str) -> None:
    """Take jobs until the pipe closes."""
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")  # noqa: FBT003  # torch's own signature
    torch.backends.cudnn.benchmark = False
    while True:
        try:
            function, kwargs = jobs.recv()
        except EOFError:
            return
        try:
            answer = ("result", function(**kwargs, device=device))
        except FedsiloError as error:
            answer = ("error", error)
        except Exception:  # whatever it is, it crosses the process border as text and is raised there
            answer = ("fault", traceback.format_exc())
        jobs.send(answer)


def _end_with_parent(lifeline: Connection) -> None:
    """Exit this process as soon as its parent is gone."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)
