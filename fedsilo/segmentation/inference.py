"""Prediction: from one case's image to class probabilities on the same grid."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from fedsilo.errors import ParamsError
from fedsilo.types import CLASS_DIM

WINDOW_OVERLAP = 0.5
"""Share of a window that its neighbour sees again; the published default of nnU-Net."""


def predict_probs(
    network: nn.Module,
    image: Float[Tensor, "c z y x"],
    *,
    spatial_dims: int,
    divisor: int,
    batch_size: int,
    device: torch.device | str,
    window: tuple[int, int, int] | None = None,
) -> Float[Tensor, "k z y x"]:
    """Predict the class probabilities of a case.

    A 2D network sees the slices (y, x) in batches; a 3D network sees the whole volume, or overlapping windows if a
    window is given and the volume is larger in any axis. Edges that are no multiples of ``divisor`` are filled up at
    their far end with the image's minimum, a channel each, and the result is cropped back. The network runs in eval mode, so
    that a slice's result does not depend on the slices it shares a batch with.

    Args:
        network: Gives logits (B, K, *space). It is moved to ``device``; the training flags of its modules come back as they were.
        image: Normalised intensities; not modified.
        spatial_dims: 2 or 3, axes of the network's convolutions.
        divisor: What the network's edges must be multiples of; in 2D y and x only.
        batch_size: Slices or windows at a time.
        device: Where the network runs.
        window: Edges (z, y, x) of the windows, multiples of ``divisor``; z is ignored in 2D. Probabilities of windows are
            blended with Gaussian weights.

    Returns:
        Softmax probabilities, float32, on the CPU.

    Raises:
        ParamsError: An edge of ``window`` is not a multiple of ``divisor``.

    Example:
        >>> halves = nn.Conv2d(1, 2, 1)
        >>> with torch.no_grad():
        ...     _ = halves.weight.zero_(), halves.bias.zero_()
        >>> predict_probs(halves, torch.ones(1, 2, 3, 3), spatial_dims=2, divisor=4, batch_size=8, device="cpu").unique()
        tensor([0.5000])
    """
    items = as_items(image, spatial_dims)
    edges = None if window is None else window[-spatial_dims:]
    if edges is not None and any(edge % divisor for edge in edges):
        raise ParamsError(f"cannot slide a window of {tuple(edges)}: expected multiples of {divisor}")
    size = tuple(items.shape[2:])
    slide = edges is not None and any(edge > limit for edge, limit in zip(size, edges, strict=True))
    padded = pad_to_divisor(items, divisor, at_least=edges if slide else None)
    batches: list[Tensor] = []
    with torch.no_grad(), _evaluating(network.to(device)):
        for start in range(0, len(padded), batch_size):
            moved = padded[start : start + batch_size].to(device)
            if slide:
                probs = sliding_window_inference(
                    moved, edges, batch_size, lambda piece: network(piece).softmax(CLASS_DIM), WINDOW_OVERLAP, "gaussian"
                )
            else:
                probs = network(moved).softmax(CLASS_DIM)
            batches.append(crop(probs, size).float().cpu())
    return from_items(torch.cat(batches), spatial_dims)


def as_items(image: Float[Tensor, "c z y x"], spatial_dims: int) -> Float[Tensor, "b c *space"]:
    """View a case as what a network takes: its slices (z, C, y, x) in 2D, itself (1, C, z, y, x) in 3D."""
    return image.movedim(1, 0) if spatial_dims == 2 else image.unsqueeze(0)  # noqa: PLR2004  # axes of a slice


def from_items(items: Float[Tensor, "b k *space"], spatial_dims: int) -> Float[Tensor, "k z y x"]:
    """Undo ``as_items`` on a network's result."""
    return items.movedim(0, 1).contiguous() if spatial_dims == 2 else items.squeeze(0)  # noqa: PLR2004  # axes of a slice


def pad_to_divisor(
    items: Float[Tensor, "b c *space"], divisor: int, *, at_least: Sequence[int] | None = None
) -> Float[Tensor, "b c *padded"]:
    """Fill every spatial axis up at its far end to a multiple of ``divisor``, and to ``at_least`` if given.

    The fill is the minimum of the channel over all items: air, or what the scanner writes outside the body.
    """
    size = items.shape[2:]
    target = [-(-edge // divisor) * divisor for edge in size]
    if at_least is not None:
        target = [max(edge, minimum) for edge, minimum in zip(target, at_least, strict=True)]
    if tuple(target) == tuple(size):
        return items
    ones = [1] * len(size)
    floor = items.transpose(0, 1).flatten(1).amin(dim=1).reshape(1, -1, *ones)
    padded = floor.expand(items.shape[0], -1, *target).clone()
    crop(padded, size).copy_(items)
    return padded


def crop(items: Float[Tensor, "b k *padded"], size: Sequence[int]) -> Float[Tensor, "b k *space"]:
    """View the near corner of ``size``: the inverse of ``pad_to_divisor``."""
    for axis, edge in enumerate(size, start=CLASS_DIM + 1):
        items = items.narrow(axis, 0, edge)
    return items


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
