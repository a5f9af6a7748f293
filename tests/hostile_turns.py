"""A site that sends something else than it learnt, in the place of `tasks.turns.site_turn`; worker processes import it by name."""

from unittest import mock

from fedsilo.federation import algorithms
from tasks import turns

SITE, ROUND, FACTOR = "ct-b", 2, -40.0
HONEST = turns.site_turn


def site_turn(*, site, round_index, **rest):
    """Take a turn; the hostile site answers the hostile round with its update reversed and enlarged."""
    if (site, round_index) != (SITE, ROUND):
        return HONEST(site=site, round_index=round_index, **rest)
    with mock.patch.object(algorithms, "withhold", reversed_update(algorithms.withhold)):
        return HONEST(site=site, round_index=round_index, **rest)


def reversed_update(withhold):
    """Reverse what a site would send."""

    def send(local, server, names):
        state = withhold(local, server, names)
        return {
            name: server[name] + FACTOR * (value - server[name]) if name.endswith(("weight", "bias")) else value
            for name, value in state.items()
        }

    return send
