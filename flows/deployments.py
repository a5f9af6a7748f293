"""Serve the deployments that prefect.yaml lists on this machine; `python -m flows.serve` starts it beside a server.

Flows are served from memory: a run does what the code that is here does, whatever the server's records were changed to.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, StateType
from prefect.events import AutomationCore, EventTrigger, Posture
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from prefect.runner import Runner
from prefect.schedules import Cron, Interval, Schedule
from pydantic import model_validator

from fedsilo import params as params_module
from fedsilo import sections
from fedsilo.errors import ParamsError
from fedsilo.sections import Section
from flows import checkpoint, cli, environment, notices, reproduce, retrain, stage
from tasks import repro, slots

LISTING = Path("prefect.yaml")
FLOWS: dict[str, Flow[..., Any]] = {
    "flows/retrain.py:retrain": retrain.retrain,
    "flows/reproduce.py:reproduce": reproduce.reproduce,
    "flows/stage.py:reproduce_stage": stage.reproduce_stage,
    "flows/checkpoint.py:state_checkpoint": checkpoint.state_checkpoint,
}
"""Entrypoints that may stand in the listing."""

HEARTBEAT_SECONDS = 30
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
PATIENCE_SECONDS = 12 * 3600
"""How long a run waits for one of another cohort or by hand, of which one at a time works in a folder."""
ZOMBIES = "fedsilo: crashed without a word"
ENDS = ("Completed", notices.WAITING, "Failed", "Cancelled", "Crashed", "TimedOut")


class Timing(Section):
    """One schedule of a deployment: by a cron expression or every so many seconds."""

    cron: str | None = None
    interval: float | None = None
    timezone: str
    slug: str

    @model_validator(mode="after")
    def _one(self) -> "Timing":
        if (self.cron is None) == (self.interval is None):
            raise ValueError("expected either cron or interval")
        return self

    @property
    def schedule(self) -> Schedule:
        """The schedule as Prefect has it."""
        if self.cron is not None:
            return Cron(self.cron, timezone=self.timezone, slug=self.slug)
        return Interval(timedelta(seconds=self.interval or 0), timezone=self.timezone, slug=self.slug)


class Deployment(Section):
    """One deployment of the listing; its work pool is for workers, not for serving."""

    name: str
    description: str
    entrypoint: str
    parameters: dict[str, object]
    tags: list[str]
    schedules: tuple[Timing, ...] = ()
    triggers: tuple[DeploymentTriggerTypes, ...] = ()
    concurrency_limit: ConcurrencyLimitConfig
    work_pool: dict[str, str]

    @property
    def flow(self) -> Flow[..., Any]:
        """The flow it runs.

        Raises:
            ParamsError: The entrypoint is none of ours.
        """
        if self.entrypoint not in FLOWS:
            raise ParamsError(f"deployment {self.name}: no entrypoint {self.entrypoint!r}; there are {', '.join(FLOWS)}")
        return FLOWS[self.entrypoint]


def read(listing: Path) -> list[Deployment]:
    """Read the deployments of a file such as prefect.yaml.

    Raises:
        ParamsError: It cannot be read, or a deployment is wrong.
    """
    entries = sections.read_yaml(listing).get("deployments")
    if not isinstance(entries, list) or not entries:
        raise ParamsError(f"cannot use {listing}: expected a list of deployments")
    found = [sections.validate(Deployment, entry, source=str(listing)) for entry in entries]
    for deployment in found:
        deployment.flow  # noqa: B018  # refuses an unknown entrypoint before anything is registered
    return found


def set_up(num_devices: int) -> None:
    """Make a global concurrency limit a device, and the automation that calls a run crashed whose heartbeat stopped.

    It tells people through the block that failed runs use, if there is one by now.
    """
    with get_client(sync_client=True) as api:
        for index in range(num_devices):
            api.upsert_global_concurrency_limit_by_name(slots.name(index), 1)
        known, wanted = api.read_automations_by_name(ZOMBIES), zombies(told_by=notices.block_id(api))
        if known:
            api.update_automation(known[0].id, wanted)
        else:
            api.create_automation(wanted)


def zombies(silent_seconds: int = SILENT_SECONDS, told_by: UUID | None = None) -> AutomationCore:
    """Describe the automation: a run that gave a heartbeat and neither gives another nor ends is crashed.

    Args:
        silent_seconds: How long that may take; more than the seconds between two heartbeats.
        told_by: Id of the notification block that says so; None tells nobody.
    """
    crashed = ChangeFlowRunState(
        state=StateType.CRASHED, name="Crashed", force=False, message=f"no heartbeat for {silent_seconds} s"
    )
    heartbeat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=ZOMBIES,
        description=f"no heartbeat for {silent_seconds} s: its process was killed",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{end}" for end in ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silent_seconds),
        ),
        actions=[crashed] if told_by is None else [crashed, notices.of_silence(told_by)],
    )


def serve(deployments: Sequence[Deployment]) -> None:
    """Register deployments and run what comes until SIGTERM or Ctrl-C; then their schedules are paused.

    Runs may work in the folders that the deployments name, and in no other; where another run works already they wait.
    """
    folders = {str(deployment.parameters.get("workspace", ".")) for deployment in deployments}
    os.environ[environment.WORKSPACES] = os.pathsep.join(sorted(folders))
    os.environ.setdefault(repro.PATIENCE, str(PATIENCE_SECONDS))
    runner = Runner(name="fedsilo", heartbeat_seconds=HEARTBEAT_SECONDS)
    for deployment in deployments:
        runner.add_flow(  # not add_deployment, which would load the flow by what the server says
            deployment.flow,
            name=deployment.name,
            description=deployment.description,
            parameters=deployment.parameters,
            tags=deployment.tags,
            schedules=[timing.schedule for timing in deployment.schedules],
            triggers=list(deployment.triggers),
            concurrency_limit=deployment.concurrency_limit,
            paused=False,
        )
        sys.stdout.write(f"serving {deployment.flow.name}/{deployment.name}\n")
    sys.stdout.flush()
    asyncio.run(runner.start())


def body(listing: Path, params_path: Path) -> None:
    """Read the listing, set the server up and serve."""
    deployments = read(listing)
    set_up(params_module.load(params_path, {}, ()).runtime.parallel_sites)
    serve(deployments)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve in the foreground; PREFECT_API_URL names the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listing", type=Path, default=LISTING, help="file with deployments (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (default: %(default)s)")
    options = parser.parse_args(argv)
    return cli.guard(lambda: body(options.listing, options.params))


if __name__ == "__main__":
    sys.exit(main())
