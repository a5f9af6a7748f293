"""The sites' veto: a global state that scores worse at a site than the best so far, and whose update is behind it.

Each site scores a candidate on its own validation cases. If it lost more than a margin anywhere, the server makes the state
again without each update in turn, and the sites score these: the suspect is the site without whose update the *others* fare
best, by the lower median of what they say. A site's word on the state that lacks its own update does not count. So among three
sites or more one that lies about its scores accuses nobody; of two, each can accuse the other.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

Scores = Mapping[str, float | None]
"""Mean validation Dice by site; None where a site has nothing to score."""


@dataclass(frozen=True)
class Verdict:
    """What the sites' scores say of a candidate.

    Attributes:
        losses: By site that lost more than the margin, how much.
        recoveries: By site left out, the lower median of the other sites' gains; empty if nobody lost.
        suspect: Whose update to leave out; None if nobody lost, or no update explains it.
    """

    losses: Mapping[str, float]
    recoveries: Mapping[str, float]
    suspect: str | None


def losses(before: Scores, candidate: Scores, *, margin: float) -> dict[str, float]:
    """List the sites that lost more than a margin, by name.

    Example:
        >>> losses({"a": 0.8, "b": 0.7}, {"a": 0.5, "b": 0.69}, margin=0.1)
        {'a': 0.3}
    """
    found = {}
    for site in sorted(before):
        old, new = before[site], candidate.get(site)
        if old is not None and new is not None and old - new > margin:
            found[site] = round(old - new, 6)
    return found


def judge(before: Scores, candidate: Scores, without: Mapping[str, Scores], *, margin: float) -> Verdict:
    """Say whether sites veto a candidate, and whose update is behind the loss.

    Args:
        before: The best score of each site among the states up to the one that opened the round.
        candidate: Scores of the state that all admitted updates make.
        without: By site left out, the scores of the state without its update; empty if nobody lost.
        margin: Loss of mean Dice from which on a site vetoes.

    Returns:
        The verdict. There is a suspect if without its update the others gain more than half of the margin by their lower
        median; of equals the first by name.
    """
    lost = losses(before, candidate, margin=margin)
    if not lost:
        return Verdict({}, {}, None)
    recoveries = {site: _gain(candidate, scores, left_out=site) for site, scores in sorted(without.items())}
    known = {site: gain for site, gain in recoveries.items() if gain is not None}
    suspect = max(sorted(known), key=lambda site: known[site], default=None)  # the first of equals
    if suspect is not None and known[suspect] <= margin / 2:
        suspect = None
    return Verdict(lost, known, suspect)


def _gain(candidate: Scores, scores: Scores, *, left_out: str) -> float | None:
    """Lower median of the gains of the sites other than the one left out; None if none of them has a score."""
    gains = []
    for site, old in sorted(candidate.items()):
        new = scores.get(site)
        if site != left_out and old is not None and new is not None:
            gains.append(new - old)
    return statistics.median_low(gains) if gains else None
