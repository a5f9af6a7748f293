"""What test-time routing minimises: three losses of unlabelled images, and the second view they need.

All losses take logits (B, C, *space) with channel 0 the background, are means over items and voxels, and so do not change
when a batch is repeated. In the formulas ``p = softmax(logits)`` and C is the number of classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedsilo.errors import RoutingError
from fedsilo.outside_params import ObjectiveParams
from fedsilo.types import CLASS_DIM

PLANE = (-2, -1)
"""Axes y and x: the plane in which a view is turned, isotropic in prepared cases."""


@dataclass(frozen=True)
class View:
    """One draw of a second view ``u = A(x + n)``.

    Attributes:
        flip_y: Whether A mirrors y.
        flip_x: Whether A mirrors x.
        quarter_turns: Turns of 90 degrees in the plane, after the mirrors.
        noise: n, in z-score units, of the shape of the images, on the CPU.
    """

    flip_y: bool
    flip_x: bool
    quarter_turns: int
    noise: Float[Tensor, "b c *space"]

    @property
    def flipped(self) -> list[int]:
        """Axes that A mirrors."""
        return [axis for axis, flip in zip(PLANE, (self.flip_y, self.flip_x), strict=True) if flip]


@dataclass(frozen=True)
class Terms:
    """The three losses and their weighted sum, scalars."""

    consistency: Float[Tensor, ""]
    shape: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    total: Float[Tensor, ""]


def sample_view(size: Sequence[int], *, noise_sd: float, generator: torch.Generator) -> View:
    """Draw a view for images of shape ``size`` (B, C, *space): one mirroring and turn a batch, noise for every voxel.

    Mirrors and turns reach all eight symmetries of a square, evenly. Where the plane is no square, only turns by 180
    degrees are drawn.
    """
    flip_y, flip_x = torch.randint(2, (2,), generator=generator).tolist()
    turns = int(torch.randint(4, (), generator=generator))
    square = size[PLANE[0]] == size[PLANE[1]]
    noise = noise_sd * torch.randn(tuple(size), generator=generator)
    return View(bool(flip_y), bool(flip_x), turns if square else turns // 2 * 2, noise)


def apply_view(images: Float[Tensor, "b c *space"], view: View) -> Float[Tensor, "b c *turned"]:
    """Make the second view ``A(images + noise)``."""
    noisy = images + view.noise.to(images.device, images.dtype)
    return torch.rot90(noisy.flip(view.flipped), view.quarter_turns, PLANE)


def invert_view(values: Float[Tensor, "b k *turned"], view: View) -> Float[Tensor, "b k *space"]:
    """Bring a network's result for the view back onto the images' grid: ``A^-1``, exactly."""
    return torch.rot90(values, -view.quarter_turns, PLANE).flip(view.flipped)


def consistency(logits: Float[Tensor, "b k *space"], view_logits: Float[Tensor, "b k *space"]) -> Float[Tensor, ""]:
    """Compare two predictions: ``mean_{n,c,voxel} (q - p)^2``, q of the view brought back; gradient through both.

    Reference:
        Jiang et al., IOP-FL, IEEE TMI 2023, as released; its docstring says that the gradient stops at p, its code lets it pass.
    """
    return (view_logits.softmax(CLASS_DIM) - logits.softmax(CLASS_DIM)).square().mean()


def entropy(logits: Float[Tensor, "b k *space"]) -> Float[Tensor, ""]:
    """Measure indecision: ``mean_{n,voxel} -sum_c p_c log p_c / log C``, 0 if certain, 1 if uniform.

    Raises:
        RoutingError: There are fewer than two classes, for which entropy is always 0.

    Reference:
        IOP-FL as released. Deviation: a mean over items, where the release sums them (B/C times ours).

    Example:
        >>> float(entropy(torch.zeros(1, 4, 2, 2)))
        1.0
    """
    num_classes = logits.shape[CLASS_DIM]
    if num_classes < 2:  # noqa: PLR2004  # background and an organ
        raise RoutingError(f"cannot use entropy: expected logits of at least two classes, got {num_classes}")
    log_probs = logits.log_softmax(CLASS_DIM)
    return -(log_probs.exp() * log_probs).sum(CLASS_DIM).mean() / math.log(num_classes)


def shape(logits: Float[Tensor, "b k *space"], *, radius: Sequence[int]) -> Float[Tensor, ""]:
    """Measure the soft length of contours: ``mean_{n,c>=1,voxel} (max - min)`` of p_c in a window around each voxel.

    Windows are cut off at the image's edge. Maximum and minimum are taken one axis after the other, which equals the full
    window and costs the sum of its edges rather than their product.

    Args:
        logits: Any number of classes; the background does not count.
        radius: Of the window, in voxels, one a spatial axis; it spans ``2 radius + 1``.

    Reference:
        IOP-FL as released, radius 10. Deviation: a mean, where the release takes the L2 norm over the batch's tensor.
    """
    organs = logits.softmax(CLASS_DIM)[:, 1:]
    return (_window_maximum(organs, radius) + _window_maximum(-organs, radius)).mean()


def combine(
    logits: Float[Tensor, "b k *space"],
    view_logits: Float[Tensor, "b k *space"],
    *,
    weights: ObjectiveParams,
    radius: Sequence[int],
) -> Terms:
    """Compute all three losses and ``weights.consistency * L_con + weights.shape * L_shape + weights.entropy * L_ent``.

    Entropy and shape are of the images themselves, not of the view: two passes a step, where the release makes three.
    """
    parts = consistency(logits, view_logits), shape(logits, radius=radius), entropy(logits)
    total = weights.consistency * parts[0] + weights.shape * parts[1] + weights.entropy * parts[2]
    return Terms(*parts, total)


def _window_maximum(values: Tensor, radius: Sequence[int]) -> Tensor:
    for axis, reach in enumerate(radius, start=CLASS_DIM + 1):
        lines = values.movedim(axis, -1)
        # another axis as channels, which lie last in memory: torch then pools whole rows at once, four times faster on the CPU
        planes = lines.reshape(-1, *lines.shape[-2:], 1).contiguous(memory_format=torch.channels_last)
        pooled = functional.max_pool2d(planes, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
        values = pooled.reshape(lines.shape).movedim(-1, axis)
    return values
