"""The form in which a paused run asks persons for their answer: it transports what they signed elsewhere, and decides nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prefect import flow
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from fedsilo import files
from fedsilo.audit import approvals
from fedsilo.errors import DataError

POLL_SECONDS = 2


class Answer(RunInput):
    """A person's yes or no, with the whole document that they signed."""

    decision: Literal["approve", "reject"]
    reason: str = Field(description="as it was signed")
    signature: str = Field(description="the line that `python -m flows.approve ... --out FILE` wrote")


@flow(name="ask", flow_run_name="may {candidate} go into use?", validate_parameters=False, persist_result=False)
def ask(federation: str, candidate: str, verdict: Path, told: str, *, seconds: float) -> Mapping[str, object] | str:
    """Pause until somebody fills the form in; what cannot be read is said, and asked for again by the caller.

    A run of its own: the server calls a run failed whose form nobody answered, and no answer is no fault of a retraining.

    Args:
        federation: Whose model it is.
        candidate: Hash of the model.
        verdict: What the gate said of it.
        told: What became of the last answer; empty before the first.
        seconds: That remain.

    Returns:
        The signed document, or why it is none.

    Raises:
        FlowPauseTimeout: Nobody answered in time.
    """
    given = pause_flow_run(
        wait_for_input=Answer.with_initial_data(description=_description(federation, candidate, verdict, told)),
        timeout=max(1, int(seconds)),
        poll_interval=POLL_SECONDS,
    )
    try:
        return approvals.from_form(given.decision, given.reason, given.signature)
    except DataError as error:
        return str(error)


def _description(federation: str, candidate: str, verdict: Path, told: str) -> str:
    """Write what the form says above its fields: the question, and the command by which a person signs."""
    command = (
        f"python -m flows.approve --federation {federation} --candidate {candidate} --verdict {verdict.name} "
        "--decision approve --reason TEXT --key FILE --out FILE"
    )
    lines = [
        f"**The last answer:** {told}" if told else "",
        f"May **{candidate}** go into use? The gate's verdict: `{verdict}`, sha256 {files.sha256_file(verdict)}",
        "Sign on your own machine, with a copy of the verdict; add `--missing TEXT` if it is inconclusive:",
        f"```\n{command}\n```",
    ]
    return "\n\n".join(filter(None, lines))
