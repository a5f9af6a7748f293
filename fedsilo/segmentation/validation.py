"""The number that chooses a round: mean Dice of a site's validation cases on the working grid."""

from collections.abc import Sequence

import torch
from torch import nn

from fedsilo.cohort.batches import LabelledCase
from fedsilo.segmentation import inference


def mean_dice(
    network: nn.Module,
    cases: Sequence[LabelledCase],
    *,
    annotated: tuple[int, ...],
    spatial_dims: int,
    divisor: int,
    batch_size: int,
    device: str,
    window: tuple[int, int, int] | None = None,
) -> float | None:
    """Average Dice over cases and the annotated organs that a case shows; None if there is nothing to score.

    On the working grid and per case in 3-D (all slices stacked). It chooses rounds; it is never reported as a result.

    Args:
        network: Scored in eval mode.
        cases: Image and label of each validation case.
        annotated: Values of the organs the site annotates.
        spatial_dims: 2 for a network of slices, 3 for one of volumes.
        divisor: What the network's input edges must be multiples of.
        batch_size: Slices or windows in one forward pass.
        device: Where to compute.
        window: Edges (z, y, x) of the windows that larger volumes are predicted in; see `inference.predict_probs`.
    """
    scores: list[float] = []
    for case in cases:
        label = case.label
        probs = inference.predict_probs(
            network,
            case.image,
            spatial_dims=spatial_dims,
            divisor=divisor,
            batch_size=batch_size,
            device=device,
            window=window,
        )
        predicted = probs.argmax(dim=0)
        for organ in annotated:
            reference = label == organ
            size_reference = int(reference.sum())
            if size_reference:
                found = predicted == organ
                scores.append(2 * int((found & reference).sum()) / (int(found.sum()) + size_reference))
    return float(torch.tensor(scores, dtype=torch.float64).mean()) if scores else None
