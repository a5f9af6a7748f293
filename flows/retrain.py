"""Retrain a federation as a whole: decide, train, judge, ask persons, promote; given again after a crash it goes on.

Exit code 0: the model is in use. 3: nothing to do. 4: the champion stays. 5: persons must approve first. 1: a fault.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from prefect import flow

from flows import cli, environment, notices, retraining
from flows.retraining import Ending, Order
from tasks import repro

KEY, TAG_KEY = "FEDSILO_PROMOTER_KEY", "FEDSILO_TAG_KEY"
"""Variables with the files of the promoter's key and of the key that signs tags; runs of deployments have no other way."""


@flow(
    name="retrain",
    flow_run_name="retrain {cohort}",
    timeout_seconds=notices.LONGEST_SECONDS,
    on_failure=[notices.tell],
    on_crashed=[notices.tell],
    persist_result=False,
)
def retrain(cohort: str = "demo", manual: str = "", wait_minutes: int = 0) -> str:
    """Retrain a federation as a whole, in the folder that this process serves.

    Plan, params and keys are those of that folder and of the process: who may start runs may not choose them.

    Args:
        cohort: Name of a file in ``cohorts/``, without its ending.
        manual: Why a person asks for it; empty for a schedule.
        wait_minutes: For persons to answer in the form of the paused run; 0: nobody is asked there.

    Raises:
        ParamsError: There is no such cohort.
        FedsiloError: A step failed, or another run is at it; the next run goes on from there.
    """
    folder = environment.workspace(".")
    repro.target_of(folder, cohort)  # refuses what is no cohort before it names a file
    order = Order(
        cohort=Path("cohorts") / f"{cohort}.yaml",
        workspace=folder,
        manual=manual,
        key=environment.file_of(KEY),
        tag_key=environment.file_of(TAG_KEY),
        wait_seconds=60 * wait_minutes,
    )
    return retraining.retrain_once(order).text


@flow(name="retrain here", flow_run_name="retrain {order.cohort.stem}", validate_parameters=False, persist_result=False)
def retrain_here(order: Order) -> Ending:
    """Retrain as the command line says."""
    return retraining.retrain_once(order)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--cohort", type=Path, default=Path("cohorts/demo.yaml"), help="in the workspace (default: %(default)s)")
    made.add_argument("--params", type=Path, default=Path("params.yaml"), help="in the workspace (default: %(default)s)")
    made.add_argument("--pccp", type=Path, default=Path("pccp.yaml"), help="in the workspace (default: %(default)s)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder of the repository (default: here)")
    made.add_argument(
        "--manual", default="", metavar="WHY", help='ask for it, and say why: "KIND: WORDS" with a kind of the plan\'s reasons'
    )
    made.add_argument("--upstream", default="", metavar="WHAT", help="what changed in code, libraries or base models")
    made.add_argument("--audited", type=Path, metavar="FILE", help="JSON with scores of labelled cases in use, by site")
    made.add_argument("--version", default="", metavar="vX.Y.Z", help="of the model, if it is promoted (default: the next minor)")
    made.add_argument("--key", type=Path, metavar="FILE", help=f"private key: a promoter's (default: {KEY}, or the demo's)")
    made.add_argument("--tag-key", type=Path, metavar="FILE", help=f"ssh-ed25519 key that signs the tags (default: {TAG_KEY})")
    made.add_argument("--wait", type=int, default=0, metavar="SECONDS", help="for answers in Prefect's form (default: none)")
    made.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(argv)
    order = Order(
        cohort=options.cohort,
        params=options.params,
        plan=options.pccp,
        workspace=options.workspace,
        manual=options.manual,
        upstream=options.upstream,
        audited=options.audited,
        version=options.version,
        key=options.key or environment.file_of(KEY),
        tag_key=options.tag_key or environment.file_of(TAG_KEY),
        wait_seconds=options.wait,
        dry=options.dry_run,
    )
    run: Callable[[Order], Ending] = retraining.retrain_once if order.dry else retrain_here
    ends: list[Ending] = []
    failed = cli.guard(lambda: ends.append(run(order)))
    if not failed:
        sys.stdout.write(f"{ends[0].text}\n")
    return failed or ends[0].code


if __name__ == "__main__":
    sys.exit(main())
