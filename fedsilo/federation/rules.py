"""Rules that weigh a round's updates against each other, so that a few hostile or broken sites cannot bend the average.

A rule of this module says which share of the next state comes from each site; what is missing to one stays with the server's
own state. All that it looks at are distances between updates, the server's state among them as the point where nothing moved.
The two rules that look at each coordinate alone, median and trimmed mean, are in ``aggregation``.

Reference:
    Blanchard et al., Machine learning with adversaries: Byzantine tolerant gradient descent, NeurIPS 2017 (Krum); Pillutla et
    al., Robust aggregation for federated learning, IEEE TSP 2022 (geometric median); Karimireddy et al., Learning from history
    for Byzantine robust optimization, ICML 2021 (centred clipping); Allouah et al., Fixing by mixing, AISTATS 2023 (nearest
    mixing); Yin et al., Byzantine-robust distributed learning, ICML 2018 (median, trimmed mean).
"""

from dataclasses import dataclass

import numpy
from jaxtyping import Float
from numpy.typing import NDArray

from fedsilo.aggregation_params import AggregationParams, Rule
from fedsilo.errors import ParamsError

MEDIAN_FLOOR = 1e-6
MEDIAN_STEPS = 100
MEDIAN_CHANGE = 1e-10
POOLING: frozenset[Rule] = frozenset({"average", "krum", "multi_krum"})
"""Rules that choose sites, whose running statistics are then pooled; others take the median of each statistic."""

BY_COORDINATE: frozenset[Rule] = frozenset({"median", "trimmed_mean"})


@dataclass(frozen=True)
class Distances:
    """Squared Euclidean distances between updates.

    Attributes:
        sites: Sorted.
        squared: (K + 1, K + 1) of K sites and, last, the server's own state.
    """

    sites: tuple[str, ...]
    squared: Float[NDArray[numpy.float64], "points points"]

    @property
    def norms(self) -> Float[NDArray[numpy.float64], " sites"]:
        """How far each site moved."""
        return numpy.sqrt(self.squared[-1, :-1])

    def from_mixture(self, shares: Float[NDArray[numpy.float64], " points"]) -> Float[NDArray[numpy.float64], " sites"]:
        """Measure how far each update is from a mixture of all points, whose shares sum to one."""
        squared = self.squared @ shares - 0.5 * shares @ self.squared @ shares
        return numpy.sqrt(numpy.maximum(squared[:-1], 0.0))


def refuse_impossible(params: AggregationParams, num_sites: int) -> None:
    """Refuse a rule that cannot do what it is for with so few sites.

    Raises:
        ParamsError: Says how many sites the rule needs, and why.
    """
    hostile, rule = params.num_hostile, params.rule
    needed, reason = 1, ""
    if rule in ("krum", "multi_krum"):
        needed, reason = 2 * hostile + 3, f"2f + 3 with f = num_hostile = {hostile}, or the hostile sites choose"
    elif rule == "trimmed_mean":
        needed, reason = max(3, 2 * hostile + 1), f"2f + 1 with f = num_hostile = {hostile}, and of two it is the mean"
    elif rule in ("median", "geometric_median"):
        needed, reason = 3, "of two it is the mean"
    elif rule in ("norm_clipping", "centred_clipping") and params.clip_norm is None:
        needed, reason = 3, "the median norm of two sites is their mean, which one of them sets; or set clip_norm"
    if params.nearest_mixing:
        needed, reason = max(needed, 2 * hostile + 1), reason or f"2f + 1 for nearest_mixing with f = num_hostile = {hostile}"
    if num_sites < needed:
        raise ParamsError(f"federate.aggregation.rule {rule} needs at least {needed} sites ({reason}); got {num_sites}")
    if rule == "multi_krum" and params.keep is not None and params.keep > num_sites - hostile:
        raise ParamsError(
            f"federate.aggregation.keep is {params.keep}, expected at most {num_sites - hostile}: all but num_hostile"
        )


def shares(
    distances: Distances, weights: Float[NDArray[numpy.float64], " sites"], params: AggregationParams
) -> Float[NDArray[numpy.float64], " sites"]:
    """Return the share of each site in the next state; they sum to at most one.

    Args:
        distances: Between the updates' parameters.
        weights: By size, summing to one; of ``average`` and ``norm_clipping``.
        params: The rule; one that looks at coordinates is none of this module's.

    Raises:
        ParamsError: There are too few sites for the rule.
    """
    num_sites = len(distances.sites)
    refuse_impossible(params, num_sites)
    mixing = nearest_mixing(distances, params.num_hostile) if params.nearest_mixing else numpy.eye(num_sites)
    mixed = _mixed(distances, mixing)
    chosen = _shares(mixed, weights, params)
    found: NDArray[numpy.float64] = chosen @ mixing
    return found


def nearest_mixing(distances: Distances, num_hostile: int) -> Float[NDArray[numpy.float64], "sites sites"]:
    """Return the matrix that replaces each update by the mean of its K - f nearest, itself among them; ties by name."""
    num_sites = len(distances.sites)
    kept = num_sites - num_hostile
    mixing = numpy.zeros((num_sites, num_sites))
    for site in range(num_sites):
        mixing[site, numpy.argsort(distances.squared[site, :-1], kind="stable")[:kept]] = 1 / kept
    return mixing


def krum_scores(distances: Distances, num_hostile: int) -> Float[NDArray[numpy.float64], " sites"]:
    """Sum each update's squared distances to the K - f - 2 others nearest to it."""
    num_sites = len(distances.sites)
    between = distances.squared[:-1, :-1].copy()
    numpy.fill_diagonal(between, numpy.inf)
    nearest: NDArray[numpy.float64] = numpy.sort(between, axis=1)[:, : num_sites - num_hostile - 2].sum(axis=1)
    return nearest


def clip_norm(distances: Distances, params: AggregationParams) -> float:
    """Return the norm to which updates are cut: as set, or the median of the round."""
    return float(numpy.median(distances.norms)) if params.clip_norm is None else params.clip_norm


def _shares(
    distances: Distances, weights: NDArray[numpy.float64], params: AggregationParams
) -> Float[NDArray[numpy.float64], " sites"]:
    """Apply a rule to updates that may be mixed already."""
    num_sites = len(distances.sites)
    if params.rule == "average":
        return weights
    if params.rule == "norm_clipping":
        return weights * _cut(distances.norms, clip_norm(distances, params))
    if params.rule == "geometric_median":
        return _geometric_median(distances)
    if params.rule == "centred_clipping":
        return _centred_clipping(distances, clip_norm(distances, params), params.centring_steps)
    if params.rule not in ("krum", "multi_krum"):
        raise ValueError(f"rule {params.rule} looks at coordinates and gives no shares")
    kept = 1 if params.rule == "krum" else params.keep or num_sites - params.num_hostile
    best = numpy.argsort(krum_scores(distances, params.num_hostile), kind="stable")[:kept]
    found = numpy.zeros(num_sites)
    found[best] = 1 / kept
    return found


def _geometric_median(distances: Distances) -> Float[NDArray[numpy.float64], " sites"]:
    """Find the mixture with the least sum of distances, by Weiszfeld's steps with a floor, from the mean on."""
    num_sites = len(distances.sites)
    mixture = numpy.append(numpy.full(num_sites, 1 / num_sites), 0.0)
    previous = numpy.inf
    for _ in range(MEDIAN_STEPS):
        away = distances.from_mixture(mixture)
        total = float(away.sum())
        if abs(previous - total) <= MEDIAN_CHANGE * total:
            break
        previous = total
        pull = 1 / numpy.maximum(away, MEDIAN_FLOOR)
        mixture = numpy.append(pull / pull.sum(), 0.0)
    return mixture[:-1]


def _centred_clipping(distances: Distances, radius: float, num_steps: int) -> Float[NDArray[numpy.float64], " sites"]:
    """Move from the server's state by the mean of the cut differences, some times over."""
    num_sites = len(distances.sites)
    mixture = numpy.append(numpy.zeros(num_sites), 1.0)
    for _ in range(num_steps):
        pull = _cut(distances.from_mixture(mixture), radius) / num_sites
        mixture = mixture * (1 - pull.sum()) + numpy.append(pull, 0.0)
    return mixture[:-1]


def _cut(lengths: NDArray[numpy.float64], longest: float) -> NDArray[numpy.float64]:
    """Return the factors that bring lengths to at most the longest one allowed."""
    return numpy.where(lengths > longest, longest / numpy.maximum(lengths, longest or 1.0), 1.0)


def _mixed(distances: Distances, mixing: NDArray[numpy.float64]) -> Distances:
    """Measure the distances between mixtures of updates, and the server's state."""
    full = numpy.eye(len(distances.sites) + 1)
    full[:-1, :-1] = mixing
    within = -0.5 * numpy.einsum("ij,jk,ik->i", full, distances.squared, full)
    across = full @ distances.squared @ full.T
    return Distances(distances.sites, numpy.maximum(across + within[:, None] + within[None, :], 0.0))
