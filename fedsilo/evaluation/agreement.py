"""How far two models agree on a case that nobody has annotated: overlap with each other, and both volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import UInt8
from torch import Tensor

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Agreement:
    """Two models' masks of one organ.

    Attributes:
        organ: Its name.
        dice: ``2|A&B|/(|A|+|B|)`` of the two masks; None if both are empty.
        candidate: Volume of the candidate's mask.
        champion: Volume of the champion's mask.
        unit: ``ml``, or ``voxels`` in pixel geometry.
    """

    organ: str
    dice: float | None
    candidate: float
    champion: float
    unit: str


def compare(
    candidate: UInt8[Tensor, "i j k"],
    champion: UInt8[Tensor, "i j k"],
    *,
    organs: Mapping[int, str],
    spacing_mm: Sequence[float] | None,
) -> list[Agreement]:
    """Compare two models' organ values on one grid, organ by organ.

    Args:
        candidate: Of the model that may go into use.
        champion: Of the one that is.
        organs: Names by values, without background.
        spacing_mm: Voxel edges; None in pixel geometry.

    Example:
        >>> import torch
        >>> first, second = (torch.tensor([[values]], dtype=torch.uint8) for values in ([1, 1, 0, 2], [1, 0, 0, 0]))
        >>> [row.dice for row in compare(first, second, organs={1: "liver", 2: "spleen", 3: "kidneys"}, spacing_mm=None)]
        [0.6666666666666666, 0.0, None]
    """
    scale, unit = (1.0, "voxels") if spacing_mm is None else (float(numpy.prod(spacing_mm)) / MM3_PER_ML, "ml")
    found = []
    for value, organ in organs.items():
        first, second = candidate == value, champion == value
        sizes = int(first.sum()), int(second.sum())
        dice = 2 * int((first & second).sum()) / sum(sizes) if any(sizes) else None
        found.append(Agreement(organ, dice, sizes[0] * scale, sizes[1] * scale, unit))
    return found
