"""One site a device, also across runs: a site's turn takes the device's slot, a global concurrency limit of Prefect.

Within one run the pool of workers sees to that by itself; slots are for several runs that share devices. They are handed over
with gaps of seconds, and that of a killed process comes free when its lease ends.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fedsilo.errors import FedsiloError

LEASE_SECONDS = 60


def name(index: int) -> str:
    """Name the limit of a device."""
    return f"device-{index}"


@contextmanager
def hold(slot: str | None) -> Iterator[None]:
    """Hold a device's slot for the body, which waits until it is free; without a slot just run the body.

    Raises:
        FedsiloError: The server has no such limit; without that check it would let everyone in.
    """
    if slot is None:
        yield
        return
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    with ExitStack() as held:
        try:
            # training goes on if a lease cannot be renewed: results do not depend on who shares a device
            held.enter_context(concurrency(slot, lease_duration=LEASE_SECONDS, strict=True, raise_on_lease_renewal_failure=False))
        except ConcurrencySlotAcquisitionError as error:
            raise FedsiloError(
                f"no global concurrency limit {slot}; `make serve` makes it, or `prefect gcl create {slot} --limit 1`"
            ) from error
        yield
