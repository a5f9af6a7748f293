"""What people are told when a run fails: which run and how it ended, no more, through a block of their choice.

Set the Prefect variable ``fedsilo-notify`` to the slug of a notification block, such as ``slack-webhook/fedsilo``.
"""

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from prefect.variables import Variable

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun

VARIABLE = "fedsilo-notify"
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
