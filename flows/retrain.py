"""Retrain a federation as a whole: decide, train, judge, ask persons, promote; given again after a crash it goes on.

Exit code 0: the model is in use. 3: nothing to do. 4: the champion stays. 5: persons must approve first. 1: a fault.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.states import Completed

from fedsilo import files
from fedsilo.cohort import roster as rosters
from flows import cli, environment, notices, retraining
from flows.retraining import Ending, Order
from tasks import repro

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun

KEY, TAG_KEY, AUDITED = "FEDSILO_PROMOTER_KEY", "FEDSILO_TAG_KEY", "FEDSILO_AUDITED"
"""Variables with the files of the promoter's key, of the key that signs tags and of scores of labelled cases in use; runs of
deployments have no other way."""


def _tell_who_must_answer(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Send that a run waits for persons; a flow's hook."""
    if state.name == notices.WAITING:
        notices.tell(flow, flow_run, state)


@flow(
    name="retrain",
    flow_run_name="retrain {cohort}",
    timeout_seconds=notices.LONGEST_SECONDS,
    on_failure=[notices.tell],
    on_crashed=[notices.tell],
    on_completion=[_tell_who_must_answer],
    persist_result=False,
)
def retrain(cohort: str = "demo", manual: str = "", upstream: str = "", wait_minutes: int = 0) -> "State[str]":
    """Retrain a federation as a whole, in the folder that this process serves.

    Plan, params and keys are those of that folder and of the process: who may start runs may not choose them.

    Args:
        cohort: Name of a file in ``cohorts/``, without its ending.
        manual: Why a person asks for it; empty for a schedule.
        upstream: What changed in code, libraries or base models; empty if nothing did.
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
        upstream=upstream,
        audited=environment.file_of(AUDITED),
        key=environment.file_of(KEY),
        tag_key=environment.file_of(TAG_KEY),
        wait_seconds=60 * wait_minutes,
    )
    seen, ending = _data(order), retraining.retrain_once(order)
    # the run that these data would have started was cancelled, as this one was under way
    while ending.code != retraining.WAITS and (found := _data(order)) != seen:
        seen, ending = found, retraining.retrain_once(replace(order, manual="", upstream=""))
    return Completed(name=notices.WAITING if ending.code == retraining.WAITS else None, message=ending.text, data=ending.text)


def _data(order: Order) -> dict[str, str]:
    """Give the hashes of the files that name the data of the cohort's sites."""
    name = rosters.load_vocabulary(order.workspace / order.cohort).name
    return {path.name: files.sha256_file(path) for path in sorted((order.workspace / "data" / "raw" / name).glob("*.dvc"))}


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
    made.add_argument(
        "--audited", type=Path, metavar="FILE", help=f"JSON with scores of labelled cases in use, by site (default: {AUDITED})"
    )
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
        audited=options.audited or environment.file_of(AUDITED),
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
