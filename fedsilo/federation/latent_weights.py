"""Modality-adaptive aggregation: a site's weight follows the effective size of its data in latent space.

A size is what a site says of itself. It is smoothed over rounds, and no site may weigh more than four times or less than a
quarter of an equal share.
"""

from collections.abc import Mapping
from typing import Literal

LARGEST, SMALLEST = 4.0, 0.25
"""Bounds of a weight in equal shares, 1/K."""

TOLERANCE = 1e-12

ModalityRule = Literal["global", "balanced"]


def smooth(sizes: Mapping[str, float], previous: Mapping[str, float], *, history: float) -> dict[str, float]:
    """Average sizes over rounds: ``history * previous + (1 - history) * now``; a site without history starts at its size."""
    return {site: history * previous.get(site, size) + (1 - history) * size for site, size in sorted(sizes.items())}


def weights(sizes: Mapping[str, float], modalities: Mapping[str, tuple[str, ...]], *, rule: ModalityRule) -> dict[str, float]:
    """Turn sizes into weights that sum to 1 and lie within [1/(4K), 4/K].

    Args:
        sizes: Effective size of each site, above 0.
        modalities: Of each site's data, one or more.
        rule: ``global``: proportional to the size. ``balanced``: each of M modalities has 1/M, divided by size among the sites
            that have it; a site with several modalities counts with an equal part of its size in each.
    """
    sites = sorted(sizes)
    if rule == "balanced":
        found = sorted({modality for site in sites for modality in modalities[site]})
        parts = {
            modality: {site: sizes[site] / len(modalities[site]) for site in sites if modality in modalities[site]}
            for modality in found
        }
        shares = {
            site: sum(part[site] / sum(part.values()) for part in parts.values() if site in part) / len(found) for site in sites
        }
    else:
        total = sum(sizes[site] for site in sites)
        shares = {site: sizes[site] / total for site in sites}
    return _clip(shares)


def _clip(shares: Mapping[str, float]) -> dict[str, float]:
    """Clip and renormalise until every share lies within the bounds."""
    low, high = SMALLEST / len(shares), LARGEST / len(shares)
    clipped = dict(shares)
    while any(not low - TOLERANCE <= share <= high + TOLERANCE for share in clipped.values()):
        bounded = {site: min(max(share, low), high) for site, share in clipped.items()}
        total = sum(bounded.values())
        clipped = {site: share / total for site, share in bounded.items()}
    return clipped
