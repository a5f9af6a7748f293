"""The server's step: from one round's updates to the next global state.

States are read entry by entry and summed site by site in float64, so that memory does not grow with the number of sites beyond
one entry; rules that look at each coordinate take slabs of it.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
import torch
from torch import Tensor

from fedsilo.aggregation_params import AggregationParams
from fedsilo.errors import UpdateRefusedError
from fedsilo.federation import rules, states
from fedsilo.federation.rules import Distances
from fedsilo.federation.server_optimizer import Moments, ServerOptimizer
from fedsilo.federation.updates import SiteUpdate
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

PlainWeighting = Literal["cases", "slices", "uniform"]
"""A site's weight: its training cases, its training slices, or the same for all."""


SLAB = 2**20
"""Values of an entry that are compared at once between all sites."""


@dataclass(frozen=True)
class AggregationRecord:
    """What one step did, for the round's log.

    Attributes:
        weights: Share of each site by its size; sums to 1.
        shares: Of each site in the step that was taken: its coefficient, or of a rule by coordinate the part of its coordinates
            that was used. 0 is a site that was left out.
        delta_norms: Euclidean norm of each site's delta, over parameters only: running statistics have another scale.
    """

    weights: Mapping[str, float]
    shares: Mapping[str, float]
    delta_norms: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """Of a step.

    Attributes:
        state: The next global state.
        moments: Of the server's optimiser, for the next step; None without one.
        record: What was done.
    """

    state: dict[str, Tensor]
    moments: Moments | None
    record: AggregationRecord


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
    server_state: StateDict,
    updates: Sequence[SiteUpdate],
    *,
    weights: Mapping[str, float],
    roles: Mapping[str, EntryRole],
    params: AggregationParams,
    moments: Moments | None = None,
) -> Outcome:
    """Take one step from the state ``x`` that a round started from; in float64, sites in sorted order whatever the order given.

    The rule makes one direction of the deltas ``y_k - x``, for FedAvg ``sum_k p_k (y_k - x)``; the server's optimiser, if there
    is one, makes the step of it. This holds for parameters and, without optimiser, for floating buffers. Running means and
    variances are pooled as moments by ``average``, krum and multi_krum, over the sites these take; other rules take the median
    of each. Counters are the maximum over the sites.

    Args:
        server_state: ``x``; not modified.
        updates: One or more admitted updates with states ``y_k``; not modified.
        weights: ``p_k`` of each update's site; sum to 1.
        roles: Role of every entry of the state.
        params: Rule and optimiser.
        moments: Of the optimiser after the step before; None at first.

    Returns:
        The next global state, new, with the names, dtypes and devices of ``server_state``; moments; and a record of the step.

    Raises:
        UpdateRefusedError: There is no update, or a site sent two.
        ParamsError: There are too few updates for the rule.
        ValueError: The weights are of other sites, or do not sum to 1.
        StateMismatchError: An update's state differs from the server's in names, shapes or dtypes, or a role does not fit.

    Reference:
        McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017, with weights
        by cases. FedGIN weighs by slices. Deviation: running variances are pooled, counters are not averaged (ADR 0004). Other
        rules: ``rules``, ``server_optimizer``.
    """
    by_site = {site: update.state for site, update in _by_site(updates).items()}
    if weights.keys() != by_site.keys() or not math.isclose(sum(weights.values()), 1.0):
        raise ValueError(f"cannot weigh {', '.join(by_site)} by {dict(weights)}: expected a share of each that sum to 1")
    weights = {site: weights[site] for site in by_site}
    for site in weights:
        states.check_same(server_state, by_site[site], f"update of {site!r}")
    states.check_roles(server_state, roles)
    rules.refuse_impossible(params, len(by_site))

    parameters = [name for name in server_state if roles[name] == "parameter"]
    compared = params.nearest_mixing or params.rule not in ("average", *rules.BY_COORDINATE)
    distances = measure(server_state, by_site, parameters, between=compared)
    shares: dict[str, float] | None = None
    if params.rule in rules.BY_COORDINATE:
        coordinates = _Coordinates(server_state, by_site, params, distances)
        direction = coordinates.direction
    else:
        found = rules.shares(distances, numpy.array(list(weights.values())), params)
        shares = dict(zip(by_site, found.tolist(), strict=True))
        direction = functools.partial(_mixture, server_state, by_site, shares)
    optimizer = ServerOptimizer(params.optimizer, moments)
    next_state: dict[str, Tensor] = {}
    for name, tensor in server_state.items():
        if roles[name] in ("parameter", "buffer"):
            moved = direction(name)
            moved = optimizer.step(name, moved) if roles[name] == "parameter" else moved
            next_state[name] = (tensor.to(torch.float64) + moved).to(tensor.dtype)
    next_state |= _statistics(server_state, by_site, shares if params.rule in rules.POOLING else None, roles)
    record = AggregationRecord(
        weights=weights,
        shares=coordinates.used() if shares is None else shares,
        delta_norms=dict(zip(by_site, distances.norms.tolist(), strict=True)),
    )
    return Outcome({name: next_state[name] for name in server_state}, optimizer.moments, record)


def measure(
    server_state: StateDict, by_site: Mapping[str, StateDict], names: Sequence[str], *, between: bool = True
) -> Distances:
    """Measure the squared distances between updates, and how far each moved, in float64 and by differences.

    Args:
        server_state: That they started from.
        by_site: State of each site, sorted.
        names: Entries that count.
        between: Also each to each; otherwise those are 0.
    """
    points = [*by_site.values(), server_state]
    squared = numpy.zeros((len(points), len(points)))
    for first, second in itertools.combinations(range(len(points)), 2):
        if between or second == len(by_site):
            blocks = (_squares(points[first][name], points[second][name]) for name in names)
            squared[first, second] = squared[second, first] = math.fsum(itertools.chain.from_iterable(blocks))
    return Distances(tuple(by_site), squared)


def _squares(first: Tensor, second: Tensor) -> list[float]:
    """Sum the squared differences of two entries, block by block."""
    return states.block_sums(first.to(second.device, torch.float64) - second.to(torch.float64))


def _mixture(server_state: StateDict, by_site: Mapping[str, StateDict], shares: Mapping[str, float], name: str) -> Tensor:
    """Sum the deltas of an entry by their shares."""
    base = server_state[name].to(torch.float64)
    total = torch.zeros_like(base)
    for site, state in by_site.items():
        total = total + shares[site] * (state[name].to(base.device, torch.float64) - base)
    return total


class _Coordinates:
    """Median and trimmed mean of each coordinate, and whose values were used."""

    def __init__(
        self, server_state: StateDict, by_site: Mapping[str, StateDict], params: AggregationParams, distances: Distances
    ) -> None:
        num_sites = len(by_site)
        self.server_state, self.by_site = server_state, by_site
        self.dropped = (num_sites - 1) // 2 if params.rule == "median" else params.num_hostile
        self.mixing = torch.from_numpy(rules.nearest_mixing(distances, params.num_hostile)) if params.nearest_mixing else None
        self.num_used = torch.zeros(num_sites, dtype=torch.float64)

    def direction(self, name: str) -> Tensor:
        """Combine the deltas of an entry, a slab at a time."""
        base = self.server_state[name].to(torch.float64)
        states_of = [state[name].reshape(-1) for state in self.by_site.values()]
        flat, parts = base.reshape(-1), []
        for start in range(0, max(flat.numel(), 1), SLAB):
            slab = slice(start, start + SLAB)
            deltas = torch.stack([state[slab].to(base.device, torch.float64) - flat[slab] for state in states_of])
            parts.append(self._combine(deltas))
        return torch.cat(parts).reshape(base.shape)

    def used(self) -> dict[str, float]:
        """Return the part of the coordinates for which each site's value was used."""
        total = max(float(self.num_used.sum()), 1.0)
        return {site: float(count) / total for site, count in zip(self.by_site, self.num_used, strict=True)}

    def _combine(self, deltas: Tensor) -> Tensor:
        mixed = deltas if self.mixing is None else self.mixing.to(deltas.device) @ deltas
        ordered, places = mixed.sort(dim=0, stable=True)
        kept = slice(self.dropped, len(mixed) - self.dropped)
        self.num_used += torch.bincount(places[kept].reshape(-1), minlength=len(mixed)).to("cpu", torch.float64)
        return ordered[kept].mean(dim=0)


def _statistics(
    server_state: StateDict,
    by_site: Mapping[str, StateDict],
    shares: Mapping[str, float] | None,
    roles: Mapping[str, EntryRole],
) -> dict[str, Tensor]:
    """Bring together what is no parameter: moments pooled by shares, or the median of each without; counters by their maximum."""
    names = [name for name, role in roles.items() if role in ("norm_mean", "norm_variance", "counter") and name in server_state]
    if shares is not None:
        taken = {site: {name: by_site[site][name] for name in names} for site, share in shares.items() if share > 0}
        return states.weighted_average(list(taken.values()), [shares[site] for site in taken], roles) if names else {}
    found = {}
    for name in names:
        like = server_state[name]
        stacked = torch.stack([state[name].to(like.device) for state in by_site.values()])
        if roles[name] == "counter":
            found[name] = stacked.amax(dim=0)
        else:
            found[name] = stacked.to(torch.float64).quantile(0.5, dim=0).to(like.dtype)
    return found


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
