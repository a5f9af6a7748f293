"""What a phase over sites needs while it runs: its federations, their folders for itself, and a process a site."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from flows import cli
from tasks import locks, workers
from tasks.federation import Federation


@contextmanager
def assembled(run: cli.Run, *, preload: Sequence[str] = workers.NETWORKS) -> Iterator[tuple[Federation, ...]]:
    """Give the federations of a run, one a seed, and hold their folders and a pool of workers until the phase is over.

    Raises:
        OutputError: Another process works in one of the folders.
    """
    federations = tuple(
        Federation(roster=repeat.standing, params=repeat.params, paths=repeat.paths, surfaces=repeat.surfaces)
        for repeat in run.repeats()
    )
    runtime = run.params.runtime
    with ExitStack() as held:
        for federation in federations:
            held.enter_context(locks.hold_folder(federation.paths.checkpoints_dir))
        held.enter_context(workers.pool(runtime.parallel_sites, runtime.device, preload=preload))
        yield federations
