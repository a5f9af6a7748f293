"""Sites that break, in the place of `tasks.turns.site_turn`; worker processes import them by name."""

import os
from unittest import mock

import torch

from fedsilo.federation import algorithms
from tasks import turns

SITE, ROUND = "mr-b", 1
HONEST = turns.site_turn


def diverging(*, site, round_index, **rest):
    """Take a turn; one site sends NaN in one round."""
    if (site, round_index) != (SITE, ROUND):
        return HONEST(site=site, round_index=round_index, **rest)
    with mock.patch.object(algorithms, "withhold", _spoilt):
        return HONEST(site=site, round_index=round_index, **rest)


def dying(*, site, round_index, **rest):
    """Take a turn; the process of one site dies in one round, as often as it is begun."""
    if (site, round_index) == (SITE, ROUND):
        os._exit(3)
    return HONEST(site=site, round_index=round_index, **rest)


def _spoilt(local, server, names):
    name = next(name for name in sorted(local) if name.endswith("weight"))
    return {**local, name: torch.full_like(local[name], torch.nan)}
