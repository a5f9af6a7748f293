"""Child processes that do a site's heavy work: one site a process, one process a device.

A pool's children are forked from a server that has imported what they need, once; a job is a module-level function with
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, TypeVar, cast

from fedsilo.errors import DeadlineError, FedsiloError, LostError
from tasks import slots

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

ResultT = TypeVar("ResultT")
ARRAYS = ("numpy", "scipy.ndimage", "scipy.interpolate")
VOLUMES = (*ARRAYS, "nibabel", "pandas", "torch")
NETWORKS = (*VOLUMES, "monai.networks.nets", "monai.metrics", "monai.inferers")
"""What the fork server of a phase imports before it forks."""

STOP_SECONDS = 10


@dataclass
class _Worker:
    """One child: its process, the pipe for jobs, the pipe whose end of file tells it that we died, its device and the slot."""

    process: BaseProcess
    jobs: Connection
    lifeline: Connection
    device: str = "cpu"
    slot: str | None = None


class _GoneError(Exception):
    """A child is of no more use."""

    def __init__(self, reason: FedsiloError) -> None:
        """Keep what its job's caller is told."""
        super().__init__(str(reason))
        self.reason = reason


class Pool:
    """Children that take jobs one at a time."""

    def __init__(self, parallel_sites: int, device: str, preload: Sequence[str], *, shared: bool) -> None:
        """Start a child a device, in a thread: the fork server imports while the flow opens its run."""
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on CUDA
        self._preload = tuple(preload)
        self._shared = shared
        self._context = multiprocessing.get_context("forkserver")
        self._workers: list[_Worker] = []
        self._free: queue.Queue[_Worker | Exception] = queue.Queue()
        self._failure: Exception | None = None
        self._starter = threading.Thread(target=self._start, args=(parallel_sites, device), name="start of the pool")
        self._starter.start()

    def run(
        self, function: Callable[..., ResultT], kwargs: dict[str, object], *, deadline_seconds: float | None = None
    ) -> ResultT:
        """Run ``function(**kwargs, device=...)`` in a free child and wait for its result.

        A child that died, or had to be ended because its job took longer than ``deadline_seconds``, is replaced.

        Raises:
            DeadlineError: The job took too long.
            LostError: Its child died.
            FedsiloError: The job raised one, or there is no such device.
            RuntimeError: The job failed with a fault of ours; the message is the child's traceback.
        """
        worker = self._free.get()
        if isinstance(worker, Exception):
            self._free.put(worker)
            raise worker
        try:
            with slots.hold(worker.slot):
                return _answer(worker, function, {**kwargs, "device": worker.device}, deadline_seconds)
        except _GoneError as error:
            worker = self._replace(worker)
            raise error.reason from error
        finally:
            self._free.put(worker)

    def check(self) -> None:
        """Wait until the children are up.

        Raises:
            FedsiloError: There is no such device.
        """
        self._starter.join()
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """End the children: first by closing their pipes, then by force."""
        self._starter.join()
        for worker in self._workers:
            worker.jobs.close()
            worker.lifeline.close()
        for worker in self._workers:
            worker.process.join(STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _start(self, parallel_sites: int, device: str) -> None:
        """Start the children; what goes wrong is raised by whoever waits for one."""
        context = self._context
        context.set_forkserver_preload(list(self._preload))
        try:
            first = self._child(context)
            devices = ["cpu"] * parallel_sites
            if device != "cpu":
                available = _answer(first, count_cuda_devices, {})
                devices = [f"cuda:{index}" for index in range(min(available, parallel_sites))] or devices
                if device == "cuda" and not available:
                    raise FedsiloError("runtime.device is cuda, but torch finds no CUDA device")
            for index, name in enumerate(devices):
                worker = self._child(context) if index else first
                worker.device, worker.slot = name, slots.name(index) if self._shared else None
                self._free.put(worker)
        except Exception as error:  # raised by run and check
            self._failure = error.reason if isinstance(error, _GoneError) else error
            self._free.put(self._failure)

    def _replace(self, lost: _Worker) -> _Worker:
        """End a child that is of no more use, and start another in its place."""
        lost.process.kill()
        lost.process.join()
        lost.jobs.close()
        lost.lifeline.close()
        self._workers.remove(lost)
        worker = self._child(self._context)
        worker.device, worker.slot = lost.device, lost.slot
        return worker

    def _child(self, context: "ForkServerContext") -> _Worker:
        """Fork one child; waits for the fork server's imports the first time."""
        ours, theirs = context.Pipe()
        lifeline_in, lifeline_out = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, lifeline_in, "torch" in self._preload), daemon=True)
        process.start()
        theirs.close()
        lifeline_in.close()
        worker = _Worker(process, ours, lifeline_out)
        self._workers.append(worker)
        return worker


def _answer(
    worker: _Worker, function: Callable[..., ResultT], kwargs: dict[str, object], deadline_seconds: float | None = None
) -> ResultT:
    """Send a job to a child and wait; see `Pool.run` for errors."""
    named = f"{function.__name__} of {kwargs.get('site', 'a device')}"
    try:
        worker.jobs.send((function, kwargs))
        if not worker.jobs.poll(deadline_seconds):
            raise _GoneError(DeadlineError(f"{named} took longer than {deadline_seconds:.0f} s and was ended"))
        kind, answer = worker.jobs.recv()
    except (EOFError, OSError) as error:
        raise _GoneError(LostError(f"the process of {named} died (out of memory?)")) from error
    if kind == "error":
        raise cast("FedsiloError", answer)
    if kind == "fault":
        raise RuntimeError(cast("str", answer))
    return cast("ResultT", answer)


def count_cuda_devices() -> int:
    """Count CUDA devices; a job, so that only children ever ask CUDA anything."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


_open: list[Pool] = []


@contextlib.contextmanager
def pool(parallel_sites: int, device: str, *, preload: Sequence[str], shared: bool = False) -> Iterator[Pool]:
    """Hold a pool open for ``run``.

    Args:
        parallel_sites: Jobs at the same time; at most one a CUDA device.
        device: ``auto``, ``cpu`` or ``cuda``.
        preload: Modules that every job needs, imported once; without ``torch`` no job may use it.
        shared: Other runs use the devices too: each job holds its device's slot, and waits for it.

    Raises:
        FedsiloError: ``device`` is ``cuda`` and there is none.
    """
    opened = Pool(parallel_sites, device, preload, shared=shared)
    _open.append(opened)
    try:
        if device == "cuda":
            opened.check()
        yield opened
    finally:
        _open.remove(opened)
        opened.close()


def run(function: Callable[..., ResultT], /, *, deadline_seconds: float | None = None, **kwargs: object) -> ResultT:
    """Run a job in the pool that is open.

    Raises:
        RuntimeError: No pool is open.
    """
    if not _open:
        raise RuntimeError("no pool of workers is open")
    return _open[-1].run(function, kwargs, deadline_seconds=deadline_seconds)


def _serve(jobs: Connection, lifeline: Connection, has_torch: bool) -> None:  # noqa: FBT001  # only _child calls it
    """Take jobs until the pipe closes."""
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    if has_torch:
        import torch

        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
    while True:
        try:
            function, kwargs = jobs.recv()
        except EOFError:
            return
        if has_torch:
            torch.use_deterministic_algorithms(True, warn_only=kwargs.get("device") != "cpu")  # noqa: FBT003  # torch's own signature
        try:
            answer = ("result", function(**kwargs))
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
