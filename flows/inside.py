"""Compare models at the inside sites: global, inside, local-only and fine-tuned."""

import sys

from prefect import flow, unmapped

from flows import cli, environment
from tasks import inside, locks, progress, workers
from tasks.federation import Federation


@flow(
    name="inside",
    flow_run_name="inside {federation.paths.run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
)
def compare_inside(federation: Federation) -> None:
    """Train each site's baselines, then score every model on every site's test cases."""
    sites, methods = federation.sites, federation.params.inside.methods
    if "local" in methods:
        with progress.view(federation.params.federate.rounds * len(sites), f"local-only models of {federation.paths.run}"):
            inside.train_alone.map(sites, unmapped(federation)).result()
    if "finetuned" in methods:
        inside.finetune.map(sites, unmapped(federation)).result()
    parts = inside.evaluate.map(sites, unmapped(federation)).result()
    inside.collect(parts, federation)


def body(run: cli.Run) -> None:
    """Hold the run's folder and a process a site while the flow runs."""
    federation = Federation(roster=run.roster, params=run.params, paths=run.paths)
    federation.require_sites("inside")
    runtime = run.params.runtime
    with (
        locks.hold_folder(run.paths.checkpoints_dir),
        workers.pool(runtime.parallel_sites, runtime.device, preload=workers.NETWORKS),
    ):
        compare_inside(federation)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv)


if __name__ == "__main__":
    sys.exit(main())
