"""BatchNorm's running statistics, measured anew on images as they are: training sees changed ones."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from fedsilo.cohort.batches import LabelledCase
from fedsilo.segmentation import inference


def recompute(
    network: nn.Module,
    cases: Sequence[LabelledCase],
    *,
    spatial_dims: int,
    divisor: int,
    batch_size: int,
    device: torch.device | str,
) -> None:
    """Replace a network's running means and variances, in place, by averages over the batches of some cases.

    Every slice (2D) or whole volume (3D) is seen once, without augmentation, in the cases' order. Each layer is measured while
    the layers below it normalise by the batch, as in training. A network without BatchNorm is left as it is.

    Args:
        network: Moved to ``device``; parameters are not changed, the training flag comes back as it was.
        cases: A site's training cases.
        spatial_dims: 2 for a network of slices, 3 for one of volumes.
        divisor: What the network's input edges must be multiples of.
        batch_size: Slices in one forward pass.
        device: Where to compute.

    Reference:
        Izmailov et al., UAI 2018 (``torch.optim.swa_utils.update_bn``).
    """
    padded = (inference.pad_to_divisor(inference.as_items(case.image, spatial_dims), divisor) for case in cases)
    update_bn(
        (piece for items in padded for piece in torch.split(items, batch_size)), network.to(device), device=torch.device(device)
    )
