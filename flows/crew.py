"""What a phase over sites needs while it runs: its federations, their folders for itself, and a process a site."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from flows import cli
from tasks import locks, trails, workers
from tasks.federation import Federation


@contextmanager
def assembled(run: cli.Run, *, preload: Sequence[str] = workers.NETWORKS) -> Iterator[tuple[Federation, ...]]:
    """Give the federations of a run, one a seed; until the phase is over, hold their folders, their trail and a pool of workers.

    Raises:
        OutputError: Another process works in one of the folders.
        AuditRefusedError: The federation's log is refused.
    """
    federations = tuple(
        Federation(roster=repeat.standing, params=repeat.params, paths=repeat.paths, surfaces=repeat.surfaces)
        for repeat in run.repeats()
    )
    runtime = run.params.runtime
    with ExitStack() as held:
        for federation in federations:
            held.enter_context(locks.hold_folder(federation.paths.checkpoints_dir))
        held.enter_context(workers.pool(runtime.parallel_sites, runtime.device, preload=preload, shared=runtime.device_slots))
        signing = {*federations[0].sites, *(site.name for site in run.roster.sites)}
        held.enter_context(trails.held(federations[0].paths, signing))
        yield federations
