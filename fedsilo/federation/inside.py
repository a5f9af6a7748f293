"""A site's inside model: a running average over the site's own rounds, which never leaves it."""

from collections.abc import Mapping

from torch import Tensor

from fedsilo.federation import states
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

STATISTICS: tuple[EntryRole, ...] = ("norm_mean", "norm_variance", "counter")
"""Roles of what a norm layer measures; its scale and shift are parameters."""


def statistics_entries(roles: Mapping[str, EntryRole]) -> frozenset[str]:
    """Name the entries that norm layers measure.

    Example:
        >>> sorted(statistics_entries({"weight": "parameter", "running_mean": "norm_mean"}))
        ['running_mean']
    """
    return frozenset(name for name, role in roles.items() if role in STATISTICS)


def fold(
    personal: StateDict | None, local: StateDict, *, momentum: float, latest: frozenset[str] = frozenset()
) -> dict[str, Tensor]:
    """Fold one round's local state into a site's inside state.

    ``momentum * personal + (1 - momentum) * local`` in float64 for floating tensors, running statistics included; integer
    buffers and the entries in ``latest`` are taken from ``local``. ``momentum`` weighs the *history*: 0 keeps only the last
    round, 1 never learns. Folding after local training and before aggregation is the caller's order; a site that misses a
    round keeps its inside state.

    Args:
        personal: State after the site's previous round, or None at its first: the result is then a copy of ``local``.
            Not modified.
        local: State just trained at the same site; not modified.
        momentum: Weight of the history, in [0, 1].
        latest: Entries that are not averaged: `statistics_entries`, if the last round's statistics count or they are measured
            anew afterwards.

    Returns:
        A new state with the names, shapes, dtypes and devices of ``local``; shares memory with neither.

    Raises:
        StateMismatchError: The two states differ in names, shapes or dtypes; names the first three.
        ValueError: ``momentum`` is outside [0, 1].

    Reference:
        Jiang et al., IOP-FL, IEEE TMI 2023. Deviation: integer buffers are copied, not averaged (ADR 0004).

    Example:
        >>> import torch
        >>> float(fold({"w": torch.tensor(0.0)}, {"w": torch.tensor(1.0)}, momentum=0.9)["w"])
        0.1...
    """
    if personal is None:
        return states.copy(local)
    return states.lerp({**personal, **{name: local[name] for name in latest}}, local, momentum)
