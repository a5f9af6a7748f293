"""What the updates of a round look like beside each other: how far each moved, whereto, and what its rounds add up to.

Each site is compared with the others without weights, as a forged number of cases would buy weight. Entries are read one by
one and summed in float64, so that memory does not grow with the number of sites.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fedsilo.federation import states
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

MIN_SITES = 3
"""With two sites each is the other's only measure: nobody could say which of them is odd."""

PARAMETERS = "parameters"
GROUPS: Mapping[str, EntryRole] = {PARAMETERS: "parameter", "running means": "norm_mean", "running variances": "norm_variance"}
"""Entries whose norms are compared, each kind by itself: their scales differ."""


@dataclass(frozen=True)
class Peers:
    """The updates of a round that are compared.

    Attributes:
        base: State that they started from.
        by_site: Their states, sorted by site.
        roles: Role of every entry.
        sums: Of each site over its earlier rounds, what `drift_sum` gives; a site without one starts at 0.
    """

    base: StateDict
    by_site: Mapping[str, StateDict]
    roles: Mapping[str, EntryRole]
    sums: Mapping[str, StateDict]

    def without(self, site: str) -> "Peers":
        """Leave a site out."""
        return Peers(self.base, {name: state for name, state in self.by_site.items() if name != site}, self.roles, self.sums)

    def names(self, role: EntryRole) -> list[str]:
        """List the entries of a role, in the order of the base."""
        return [name for name in self.base if self.roles[name] == role]


def norm_ratios(peers: Peers) -> dict[str, dict[str, float]]:
    """Compare how far each site moved with the median of the others, for each of :data:`GROUPS` that the state has."""
    found = {}
    for group, role in GROUPS.items():
        names = peers.names(role)
        if names:
            norms = {site: _norm(_delta(peers, site, name) for name in names) for site in peers.by_site}
            found[group] = ratios(norms)
    return found


def cosines(peers: Peers) -> dict[str, float]:
    """Give the cosine of the angle between each site's delta and the mean of the others', over parameters; 0 if one is 0."""
    inner: dict[str, list[float]] = {site: [] for site in peers.by_site}
    own: dict[str, list[float]] = {site: [] for site in peers.by_site}
    rest: dict[str, list[float]] = {site: [] for site in peers.by_site}
    for name in peers.names("parameter"):
        total = _total(peers, name)
        for site in peers.by_site:
            delta = _delta(peers, site, name)
            others = total - delta
            inner[site] += _products(delta, others)
            own[site] += states.block_sums(delta)
            rest[site] += states.block_sums(others)
    found = {}
    for site in peers.by_site:
        length = math.sqrt(math.fsum(own[site])) * math.sqrt(math.fsum(rest[site]))
        found[site] = math.fsum(inner[site]) / length if length else 0.0
    return found


def drift_ratios(peers: Peers) -> dict[str, float]:
    """Compare the norm of each site's sum over rounds, this one included, with the median of the others'."""
    squares: dict[str, list[float]] = {site: [] for site in peers.by_site}
    for name in peers.names("parameter"):
        total = _total(peers, name)
        for site in peers.by_site:
            squares[site] += states.block_sums(_drifted(peers, site, name, total))
    return ratios({site: math.sqrt(math.fsum(sums)) for site, sums in squares.items()})


def drift_sum(peers: Peers, site: str) -> dict[str, Tensor]:
    """Add a round to a site's sum of distances to the mean of the others, over parameters; in the dtypes of the base."""
    return {
        name: _drifted(peers, site, name, _total(peers, name)).to(peers.base[name].dtype) for name in peers.names("parameter")
    }


def ratios(values: Mapping[str, float]) -> dict[str, float]:
    """Divide each value by the median of the others; infinite if that is 0 and the value is not.

    Example:
        >>> ratios({"a": 1.0, "b": 2.0, "c": 30.0})
        {'a': 0.0625, 'b': 0.12903225806451613, 'c': 20.0}
    """
    found = {}
    for site, value in values.items():
        usual = median([other for name, other in values.items() if name != site])
        found[site] = value / usual if usual else (math.inf if value else 0.0)
    return found


def _delta(peers: Peers, site: str, name: str) -> Tensor:
    """Give how an entry moved at a site."""
    return peers.by_site[site][name].to("cpu", torch.float64) - peers.base[name].to("cpu", torch.float64)


def _total(peers: Peers, name: str) -> Tensor:
    """Sum an entry's deltas over the sites, in their order."""
    total = torch.zeros_like(peers.base[name], dtype=torch.float64, device="cpu")
    for site in peers.by_site:
        total += _delta(peers, site, name)
    return total


def _drifted(peers: Peers, site: str, name: str, total: Tensor) -> Tensor:
    """Add an entry's distance to the mean of the others to what a site's sum has."""
    delta = _delta(peers, site, name)
    away = delta - (total - delta) / (len(peers.by_site) - 1)
    return away + peers.sums[site][name].to(torch.float64) if site in peers.sums else away


def _norm(deltas: Iterable[Tensor]) -> float:
    """Give the Euclidean norm of all entries together."""
    return math.sqrt(math.fsum(itertools.chain.from_iterable(states.block_sums(delta) for delta in deltas)))


def _products(first: Tensor, second: Tensor) -> list[float]:
    """Sum the products of two entries block by block, so that the sum does not depend on threads."""
    product = (first * second).flatten()
    return [float(product[start : start + states.NORM_BLOCK].sum()) for start in range(0, product.numel(), states.NORM_BLOCK)]
