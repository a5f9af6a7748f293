"""A site that turns hostile, in the place of `tasks.turns.site_turn`; worker processes import it by name.

What it sends moves each parameter the wrong way, and further than it learnt; its running statistics are left as they are.
"""

from pathlib import Path
from unittest import mock

from torch import Tensor

import flows  # noqa: F401  # sets the environment, before anything imports Prefect
from fedsilo.federation import algorithms
from fedsilo.tensors import StateDict
from tasks import turns
from tasks.federation import Federation
from tasks.orders import Asked

SITE, FIRST_ROUND = "ct-b", 2
HONEST = turns.site_turn
PARAMETERS = ("weight", "bias")


def reversed_tenfold(*, site: str, round_index: int, federation: Federation, asked: Asked | None, device: str) -> Path:
    """Take a turn; the hostile one sends ten times its update, reversed: within what admission lets pass."""
    return _turn(-10.0, site=site, round_index=round_index, federation=federation, asked=asked, device=device)


def reversed_hundredfold(*, site: str, round_index: int, federation: Federation, asked: Asked | None, device: str) -> Path:
    """The same, a hundred times: beyond it."""
    return _turn(-100.0, site=site, round_index=round_index, federation=federation, asked=asked, device=device)


def _turn(factor: float, *, site: str, round_index: int, federation: Federation, asked: Asked | None, device: str) -> Path:
    if site != SITE or round_index < FIRST_ROUND:
        return HONEST(site=site, round_index=round_index, federation=federation, asked=asked, device=device)
    withhold = algorithms.withhold

    def send(local: StateDict, server: StateDict, names: frozenset[str]) -> StateDict:
        state = withhold(local, server, names)
        return {name: _away(server[name], value, factor) if name.endswith(PARAMETERS) else value for name, value in state.items()}

    with mock.patch.object(algorithms, "withhold", send):
        return HONEST(site=site, round_index=round_index, federation=federation, asked=asked, device=device)


def _away(base: Tensor, value: Tensor, factor: float) -> Tensor:
    return base + factor * (value - base)
