"""The environment every process of a run gets unless the user set something else.

Nothing calls home, slow machines get time to start, and Prefect keeps its files inside the project. These must be set before
Prefect is imported, so ``flows/__init__.py`` calls :func:`set_defaults`; children inherit them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsilo.errors import ParamsError
from tasks.paths import OUTER_RUN

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun

WORKSPACES = "FEDSILO_WORKSPACES"
"""Variable with the folders that runs of deployments may work in, as PATH has them; without it the working folder alone."""

PROJECT_DIR = Path(__file__).resolve().parents[1]

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_HOME": str(PROJECT_DIR / ".prefect"),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "fedsilo",
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    # a sum over threads depends on their number: with one, results do not depend on the machine's cores
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Variables and their values; one that is already set wins."""


def set_defaults() -> None:
    """Set every variable of ``DEFAULTS`` that is not set yet."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def workspace(asked: str) -> Path:
    """Say in which folder a flow works.

    Who may start runs of deployments through the server may not choose it: a graph in it names commands. A process that
    serves names its folders in ``WORKSPACES``, and asks nobody whether a run is of a deployment.

    Args:
        asked: The flow's parameter.

    Raises:
        ParamsError: A run of a deployment asks for another folder than those that its process serves.
    """
    from prefect.runtime import deployment

    served = os.environ.get(WORKSPACES)
    if served is None and deployment.id is not None:
        served = "."
    if served is not None and Path(asked).resolve() not in {Path(folder).resolve() for folder in served.split(os.pathsep)}:
        raise ParamsError(f"a run of a deployment may not choose its workspace, {asked!r}")
    return Path(asked)


def file_of(variable: str) -> Path | None:
    """Give the file that a variable names; None if it is not set."""
    return Path(os.environ[variable]) if os.environ.get(variable) else None


def wear_outer_run(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:  # noqa: ARG001  # Prefect's names
    """Tag a flow run that a DVC stage started with the run that called DVC; a hook of every phase's flow.

    The flow run alone: its tasks would inherit a tag that stood in the context, and Prefect asks the server for a slot for
    every tag of every task run, which took two seconds each second time.
    """
    outer_run = os.environ.get(OUTER_RUN)
    if outer_run:
        from prefect import get_client

        with get_client(sync_client=True) as prefect_api:
            prefect_api.update_flow_run(flow_run.id, tags=[*flow_run.tags, f"repro:{outer_run}"])
