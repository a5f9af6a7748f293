"""What people are told when a run fails or waits for them: which run and how it ended, no more, through a block of their choice.

Set the Prefect variable ``fedsilo-notify`` to the slug of a notification block, such as ``slack-webhook/fedsilo``.
"""

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from prefect.events.actions import SendNotification
from prefect.exceptions import ObjectNotFound
from prefect.variables import Variable

from fedsilo.errors import ParamsError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import Flow, State
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

VARIABLE = "fedsilo-notify"
WAITING = "Waiting"
"""How a run ends that can go on only when persons have answered: completed, under this name."""
LONGEST_SECONDS = 24 * 3600
"""After which a run that reproduces a graph is ended: more than any cohort or study needs."""


def tell(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Send which run came to which end through the block that the variable names; without one only log it; a flow's hook.

    The state's message may quote a fault, and a fault may quote data: neither is sent.

    Raises:
        TypeError: The block sends no notifications.
    """
    import prefect.blocks.notifications  # noqa: F401  # makes Prefect's own blocks known by their slugs
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    text = f"{flow.name} {flow_run.id}: {state.name}"
    logging.getLogger("fedsilo.notices").warning("%s", text)
    slug = Variable.get(VARIABLE, default="")
    if not slug:
        return
    block: object = Block.load(str(slug))
    if not isinstance(block, NotificationBlock):
        raise TypeError(f"{slug} sends no notifications")
    sending: object = block.notify(body=text, subject=f"fedsilo: {state.name}")
    if inspect.iscoroutine(sending):  # of blocks that others wrote; Prefect's own have sent it by now
        asyncio.run(sending)


def block_id(api: "SyncPrefectClient") -> "UUID | None":
    """Find the id of the block that the variable names; None if it is not set.

    Raises:
        ParamsError: There is no such block.
    """
    named = api.read_variable_by_name(VARIABLE)
    if named is None or not named.value:
        return None
    kind, _, name = str(named.value).partition("/")
    try:
        return api.read_block_document_by_name(name, kind).id
    except ObjectNotFound as error:
        raise ParamsError(f"the variable {VARIABLE} names {named.value!r}, and there is no such block") from error


def of_silence(block: "UUID") -> SendNotification:
    """Describe what an automation of the server sends of a run whose process died, which runs no hook."""
    run = "{{ labels.prefect.resource.id | replace('prefect.flow-run.', '') }}"
    return SendNotification(block_document_id=block, subject="fedsilo: Crashed", body=f"{run}: Crashed")
