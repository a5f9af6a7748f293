"""Bezier curves: remap intensities with a random smooth curve, rising or falling; a comparator of GIN."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fedsilo.segmentation import curves, samples

NUM_KNOTS = 256
FALLING = 0.5
"""Chance that a curve falls: bright becomes dark."""


@dataclass(frozen=True, eq=False)
class BezierDraw:
    """All that is random in one call.

    Attributes:
        points: The two inner control points (x, y) of each sample's cubic curve, in [0, 1]; the outer are (0, 0) and (1, 1).
        falling: Whose curve is turned upside down.
        remapped: Which samples are remapped at all; the others pass unchanged.
    """

    points: Float[Tensor, "b 2 2"]
    falling: Bool[Tensor, " b"]
    remapped: Bool[Tensor, " b"]


def sample_bezier(num_samples: int, *, probability: float, generator: Generator) -> BezierDraw:
    """Draw the curves of one batch: inner control points uniform in the unit square, half of the curves falling.

    Args:
        num_samples: Images of the batch.
        probability: Chance that a sample is remapped.
        generator: On the CPU; advanced by the draw.

    Reference:
        Zhou et al., Models Genesis, Medical Image Analysis 2021 (non-linear transformation); as augmentation for CT and MR in
        Su et al., SLAug, AAAI 2023.
    """
    points = torch.rand(num_samples, 2, 2, generator=generator)
    falling = torch.rand(num_samples, generator=generator) < FALLING
    return BezierDraw(points, falling, torch.rand(num_samples, generator=generator) < probability)


def apply_bezier(images: Float[Tensor, "b c *space"], draw: BezierDraw) -> Float[Tensor, "b c *space"]:
    """Remap intensities between a sample's smallest and largest value; both stay what they are, or change places.

    ``B(t) = 3 (1-t)^2 t p_1 + 3 (1-t) t^2 p_2 + t^3``. Its x rises with t, so y is a function of x; it is tabulated at 256
    values of t and interpolated. y may rise and fall.

    Args:
        images: Any scale; not modified.
        draw: Of `sample_bezier`, for as many samples.

    Returns:
        Images of the same shape, dtype and device; samples that the draw leaves alone are bit-identical.

    Raises:
        ValueError: The draw was made for another number of samples.
    """
    samples.check_count(images, draw.remapped)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        values = images.to(torch.promote_types(images.dtype, torch.float32)).flatten(1)
        low = values.amin(dim=1, keepdim=True)
        span = values.amax(dim=1, keepdim=True) - low
        xs, ys = _curves(draw, like=values)
        places = (values - low) / torch.where(span > 0, span, 1)
        remapped = (low + span * curves.interpolate(places, xs, ys)).view(images.shape)
        return samples.choose(draw.remapped, remapped, images)


def _curves(draw: BezierDraw, *, like: Tensor) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Tabulate x and y of each curve."""
    t = torch.linspace(0, 1, NUM_KNOTS, dtype=like.dtype, device=like.device)
    points = draw.points.to(like)
    first, second = points[:, 0, :, None], points[:, 1, :, None]
    xs, ys = (3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3).unbind(1)
    return xs.contiguous(), torch.where(draw.falling.to(like.device)[:, None], 1 - ys, ys)
