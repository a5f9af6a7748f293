"""Admission: an update takes part in a round, or is refused by the name of the first check that it fails.

Checks stand in an ordered list, cheap before dear: first each update by itself, then those that are left beside each other.
Values are never repaired: an update counts as it is or not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedsilo.admission_params import AdmissionParams
from fedsilo.errors import UpdateRefusedError
from fedsilo.federation import comparisons
from fedsilo.federation import update_checks as by_itself
from fedsilo.federation.comparisons import Peers
from fedsilo.federation.update_checks import Claim, Offer, Round
from fedsilo.federation.updates import SiteUpdate
from fedsilo.tensors import StateDict


@dataclass(frozen=True)
class History:
    """What earlier rounds left of the sites that counted: their sums (`comparisons.drift_sum`), and over how many rounds."""

    sums: Mapping[str, StateDict] = field(default_factory=dict)
    num_rounds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """The check that an update failed, and why."""

    check: str
    reason: str


MAX_REASON = 500
"""Letters of a reason: it may quote what a site sent."""

Worst = tuple[float, str, str]
"""How bad, whose, and why."""


@dataclass(frozen=True)
class Gathering:
    """The updates that passed all checks of their own, side by side."""

    peers: Peers
    limits: AdmissionParams
    num_rounds: Mapping[str, int]


def norm(gathering: Gathering) -> Worst | None:
    """No update moved very much further than the others, neither in parameters nor in running statistics."""
    limits = gathering.limits
    found = []
    for group, ratios in comparisons.norm_ratios(gathering.peers).items():
        most = limits.max_norm_ratio if group == comparisons.PARAMETERS else limits.max_statistics_ratio
        for site, ratio in ratios.items():
            if most is not None and ratio > most:
                reason = f"its {group} moved {ratio:.1f} times as far as the others', expected at most {most:g}"
                found.append((ratio / most, site, reason))
    return max(found, default=None)


def cosine(gathering: Gathering) -> Worst | None:
    """No update points away from the mean of the others."""
    least = gathering.limits.min_cosine
    if least is None:
        return None
    found = [
        (-value, site, f"its cosine with the mean of the others is {value:.3f}, expected at least {least:g}")
        for site, value in comparisons.cosines(gathering.peers).items()
        if value < least
    ]
    return max(found, default=None)


def drip(gathering: Gathering) -> Worst | None:
    """No site's rounds add up to very much more distance from the others than theirs do."""
    most, least_rounds = gathering.limits.max_drift_ratio, gathering.limits.drift_rounds
    if most is None:
        return None
    found = [
        (ratio, site, f"its rounds add up to {ratio:.1f} times the distance of the others, expected at most {most:g}")
        for site, ratio in comparisons.drift_ratios(gathering.peers).items()
        if ratio > most and gathering.num_rounds.get(site, 0) + 1 >= least_rounds
    ]
    return max(found, default=None)


@dataclass(frozen=True)
class Checks:
    """What updates are put through, in this order: each by itself, then those that are left beside each other."""

    alone: tuple[tuple[str, Callable[[Claim], str | None]], ...]
    together: tuple[tuple[str, Callable[[Gathering], Worst | None]], ...]

    def without(self, *names: str) -> "Checks":
        """Leave checks out."""
        return replace(
            self,
            alone=tuple(entry for entry in self.alone if entry[0] not in names),
            together=tuple(entry for entry in self.together if entry[0] not in names),
        )


CHECKS = Checks(
    alone=(
        ("size", by_itself.size),
        ("manifest", by_itself.manifest),
        ("signature", by_itself.signature),
        ("membership", by_itself.membership),
        ("key-validity", by_itself.key_validity),
        ("federation", by_itself.federation),
        ("round", by_itself.round_),
        ("nonce", by_itself.nonce),
        ("expiry", by_itself.expiry),
        ("cases", by_itself.cases),
        ("base", by_itself.base),
        ("duplicate", by_itself.duplicate),
        ("file-hash", by_itself.file_hash),
        ("header", by_itself.header),
        ("schema", by_itself.schema),
        ("finite", by_itself.finite),
        ("buffers", by_itself.buffers),
    ),
    together=(("norm", norm), ("cosine", cosine), ("drip", drip)),
)
NAMES = tuple(name for name, _ in (*CHECKS.alone, *CHECKS.together))


@dataclass(frozen=True)
class Verdict:
    """What became of a round's updates.

    Attributes:
        admitted: Updates that count, by site, sorted; their states stay in their files.
        refused: The rest.
        compared: Whether there were enough to compare them with each other.
    """

    admitted: Mapping[str, SiteUpdate]
    refused: Mapping[str, Refusal]
    compared: bool


def admit(
    offers: Sequence[Offer], known: Round, limits: AdmissionParams, history: History | None = None, *, checks: Checks = CHECKS
) -> Verdict:
    """Put the updates of a round through all checks.

    Checks of updates beside each other leave one out at a time, the worst first, and compare those that are left anew: what a
    hostile site did to the others' mean is not held against them. They are not made with fewer than three updates.

    Args:
        offers: At most one a site.
        known: What the server knows of the round.
        limits: Of the comparisons.
        history: What earlier rounds left; None at first.
        checks: To put them through.
    """
    claims: dict[str, Claim] = {}
    refused: dict[str, Refusal] = {}
    for offer in sorted(offers, key=lambda offer: offer.site):
        claim = Claim(offer, known)
        refusal = _examine(claim, checks)
        if refusal is None:
            claims[offer.site] = claim
        else:
            refused[offer.site] = refusal
    past = history or History()
    peers = Peers(known.base, {site: claim.state for site, claim in claims.items()}, known.roles, past.sums)
    compared = len(claims) >= comparisons.MIN_SITES
    for name, check in checks.together:
        while len(peers.by_site) >= comparisons.MIN_SITES:
            worst = check(Gathering(peers, limits, past.num_rounds))
            if worst is None:
                break
            _, site, reason = worst
            refused[site] = _refusal(name, site, reason)
            peers = peers.without(site)
    return Verdict({site: claims[site].update for site in peers.by_site}, refused, compared)


def _examine(claim: Claim, checks: Checks) -> Refusal | None:
    """Put one update through the checks of its own."""
    for name, check in checks.alone:
        try:
            reason = check(claim)
        except UpdateRefusedError as error:
            return _refusal(error.check, claim.offer.site, str(error).removeprefix(f"[{error.check}] "))
        if reason is not None:
            return _refusal(name, claim.offer.site, reason)
    return None


def _refusal(check: str, site: str, reason: str) -> Refusal:
    """Say in one line why an update is refused; what it quotes of the update cannot forge a line, nor be long."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in reason)
    return Refusal(check, f"update of {site!r} is refused by {check}: {printable[:MAX_REASON]}")
