"""Compare models at the inside sites: global, inside, local-only and fine-tuned."""

import sys

from prefect import flow

from flows import cli, crew, environment
from tasks import inside, progress
from tasks.federation import Federation


@flow(
    name="inside",
    flow_run_name="inside {run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def compare_inside(federations: tuple[Federation, ...], run: str) -> None:
    """Train each site's baselines, then score every model on every site's test cases."""
    params = federations[0].params  # they differ in their seeds alone
    everyone = [(site, federation) for federation in federations for site in federation.sites]
    if "local" in params.inside.methods:
        with progress.view(params.federate.rounds * len(everyone), f"local-only models of {run}"):
            for trained in [inside.train_alone.submit(site, federation) for site, federation in everyone]:
                trained.result()
    if any(method.startswith("finetuned") for method in params.inside.methods):
        for tuned in [inside.finetune.submit(site, federation) for site, federation in everyone]:
            tuned.result()
    scored = [[inside.evaluate.submit(site, federation) for site in federation.sites] for federation in federations]
    for federation, parts in zip(federations, scored, strict=True):
        inside.collect([part.result() for part in parts], federation)


def body(run: cli.Run) -> None:
    """Compare the models of each seed."""
    with crew.assembled(run) as federations:
        for federation in federations:
            federation.require_sites("inside")
        compare_inside(federations, run.paths.run)


def main(argv: list[str] | None = None) -> int:
    """Run the phase from the command line."""
    return cli.phase(__doc__, body, argv, repeatable=True, scoring=True)


if __name__ == "__main__":
    sys.exit(main())
