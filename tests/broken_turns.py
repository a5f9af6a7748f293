"""Sites that break, in the place of `tasks.turns.site_turn`; worker processes import them by name."""

import math
import os
from dataclasses import replace
from unittest import mock

import torch

from fedsilo.federation import algorithms
from tasks import turns

SITE, ROUND = "mr-b", 1
REVERSED = ("ct-b", 2)
HONEST, TAKE_TURN = turns.site_turn, algorithms.take_turn


def diverging(*, site, round_index, **rest):
    """Take a turn; one site diverges in one round: its loss and its weights are NaN."""
    if (site, round_index) != (SITE, ROUND):
        return HONEST(site=site, round_index=round_index, **rest)
    with mock.patch.object(algorithms, "withhold", _spoilt), mock.patch.object(algorithms, "take_turn", _without_loss):
        return HONEST(site=site, round_index=round_index, **rest)


def reversing(*, site, round_index, **rest):
    """Take a turn; one site sends forty times its update, reversed, in one round."""
    if (site, round_index) != REVERSED:
        return HONEST(site=site, round_index=round_index, **rest)
    with mock.patch.object(algorithms, "withhold", _reversed(algorithms.withhold)):
        return HONEST(site=site, round_index=round_index, **rest)


def dying(*, site, round_index, **rest):
    """Take a turn; the process of one site dies in one round, as often as it is begun."""
    if (site, round_index) == (SITE, ROUND):
        os._exit(3)
    return HONEST(site=site, round_index=round_index, **rest)


def _without_loss(*arguments, **rest):
    return replace(TAKE_TURN(*arguments, **rest), mean_loss=math.nan)


def _spoilt(local, server, names):
    name = next(name for name in sorted(local) if name.endswith("weight"))
    return {**local, name: torch.full_like(local[name], torch.nan)}


def _reversed(withhold):
    def send(local, server, names):
        return {
            name: server[name] - 40 * (value - server[name]) if name.endswith(("weight", "bias")) else value
            for name, value in withhold(local, server, names).items()
        }

    return send
