"""The form in which a paused run asks persons for their answer: it transports what they signed elsewhere, and decides nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from fedsilo.audit import approvals
from fedsilo.errors import DataError

COMMAND = "`python -m flows.approve --candidate .. --verdict .. --decision .. --reason .. --key .. --out FILE`"


class Answer(RunInput):
    """A person's yes or no, with the whole document that they signed."""

    decision: Literal["approve", "reject"]
    reason: str = Field(description="as it was signed")
    signature: str = Field(description="the line that `python -m flows.approve ... --out FILE` wrote")


def ask(candidate: str, verdict: Path, told: str, *, seconds: float) -> Mapping[str, object] | str:
    """Pause the run until somebody fills the form in; what cannot be read is said, and asked for again by the caller.

    Args:
        candidate: Hash of the model.
        verdict: What the gate said of it.
        told: What became of the last answer; empty before the first.
        seconds: That remain.

    Returns:
        The signed document, or why it is none.

    Raises:
        FlowPauseTimeout: Nobody answered in time.
    """
    description = (
        f"{told}\n\nMay **{candidate}** go into use? The gate's verdict: `{verdict}`\n\nSign on your own machine:\n\n```\n"
    )
    description += "python -m flows.approve ... --out FILE\n```"
    given = pause_flow_run(
        wait_for_input=Answer.with_initial_data(description=description), timeout=max(1, int(seconds)), poll_interval=2
    )
    try:
        return approvals.from_form(given.decision, given.reason, given.signature)
    except DataError as error:
        return str(error)
