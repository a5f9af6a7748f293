"""The server's step: from one round's updates to the next global state."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsilo.errors import UpdateRefusedError
from fedsilo.federation import states
from fedsilo.federation.updates import SiteUpdate
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

PlainWeighting = Literal["cases", "slices", "uniform"]
"""A site's weight: its training cases, its training slices, or the same for all."""


@dataclass(frozen=True)
class AggregationRecord:
    """What one step did, for the round's log.

    Attributes:
        weights: Share of each site; sums to 1.
        delta_norms: Euclidean norm of each site's delta, over parameters only: running statistics have another scale.
    """

    weights: Mapping[str, float]
    delta_norms: Mapping[str, float]


def site_weights(updates: Sequence[SiteUpdate], weighting: PlainWeighting) -> dict[str, float]:
    """Return each site's share in the average, by sorted site; shares sum to 1.

    Raises:
        UpdateRefusedError: There is no update, a site sent two, or one has nothing to be weighted by.
    """
    sizes = {
        site: {"cases": update.num_cases, "slices": update.num_slices, "uniform": 1}[weighting]
        for site, update in _by_site(updates).items()
    }
    for site, size in sizes.items():
        if size < 1:
            raise UpdateRefusedError("cases", f"update of {site!r} has {size} {weighting}, expected at least 1")
    return {site: size / sum(sizes.values()) for site, size in sizes.items()}


def latent_sizes(updates: Sequence[SiteUpdate]) -> dict[str, float]:
    """Read what each site says of its effective size, by sorted site.

    Raises:
        UpdateRefusedError: There is no update, a site sent two, or one says no size above 0.
    """
    sizes = {}
    for site, update in _by_site(updates).items():
        if update.latent_size is None or update.latent_size <= 0:
            raise UpdateRefusedError("cases", f"update of {site!r} has latent_size {update.latent_size}, expected it above 0")
        sizes[site] = update.latent_size
    return sizes


def step(
    server_state: StateDict, updates: Sequence[SiteUpdate], *, weights: Mapping[str, float], roles: Mapping[str, EntryRole]
) -> tuple[dict[str, Tensor], AggregationRecord]:
    """Take one FedAvg step: ``x + sum_k p_k (y_k - x)`` in float64, sites in sorted order whatever the order given.

    This holds for parameters and floating buffers; running means and variances are pooled as moments and counters are the
    maximum over the sites, as in `states.weighted_average`.

    Args:
        server_state: ``x``, the state that the round started from; not modified.
        updates: One or more admitted updates with states ``y_k``; not modified. One delta is held at a time.
        weights: ``p_k`` of each update's site; sum to 1.
        roles: Role of every entry of the state.

    Returns:
        The next global state, new, with the names, dtypes and devices of ``server_state``; and a record of the step.

    Raises:
        UpdateRefusedError: There is no update, or a site sent two.
        ValueError: The weights are of other sites, or do not sum to 1.
        StateMismatchError: An update's state differs from the server's in names, shapes or dtypes, or a role does not fit.

    Reference:
        McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017, with weights
        by cases. FedGIN weighs by slices. Deviation: running variances are pooled, counters are not averaged (ADR 0004).
    """
    by_site = {site: update.state for site, update in _by_site(updates).items()}
    if weights.keys() != by_site.keys() or not math.isclose(sum(weights.values()), 1.0):
        raise ValueError(f"cannot weigh {', '.join(by_site)} by {dict(weights)}: expected a share of each that sum to 1")
    weights = {site: weights[site] for site in by_site}
    for site in weights:
        states.check_same(server_state, by_site[site], f"update of {site!r}")
    states.check_roles(server_state, roles)

    moved = {name: tensor for name, tensor in server_state.items() if roles[name] in ("parameter", "buffer")}
    parameters = [name for name in moved if roles[name] == "parameter"]
    average = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in moved.items()}
    delta_norms = {}
    for site, weight in weights.items():
        delta = states.subtract({name: by_site[site][name] for name in moved}, moved)
        delta_norms[site] = states.norm({name: delta[name] for name in parameters})
        average = {name: average[name] + weight * delta[name] for name in moved}

    pooled_names = [name for name in server_state if name not in moved]
    pooled = states.weighted_average(
        [{name: by_site[site][name] for name in pooled_names} for site in weights], list(weights.values()), roles
    )
    next_state = {
        name: (tensor.to(torch.float64) + average[name]).to(tensor.dtype) if name in moved else pooled[name].to(tensor.device)
        for name, tensor in server_state.items()
    }
    return next_state, AggregationRecord(weights=weights, delta_norms=delta_norms)


def _by_site(updates: Sequence[SiteUpdate]) -> dict[str, SiteUpdate]:
    """Sort updates by site.

    Raises:
        UpdateRefusedError: There is none, or a site sent two.
    """
    if not updates:
        raise UpdateRefusedError("membership", "cannot aggregate a round without updates, expected at least one")
    by_site: dict[str, SiteUpdate] = {}
    for update in sorted(updates, key=lambda update: update.site):
        if update.site in by_site:
            raise UpdateRefusedError("membership", f"site {update.site!r} sent two updates in one round, expected one")
        by_site[update.site] = update
    return by_site
