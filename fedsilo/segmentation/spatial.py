"""Random affine maps of image and label together; a draw and its application are two functions."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fedsilo.params import SpatialParams


@dataclass(frozen=True)
class SpatialDraw:
    """One affine map a sample, from output to input in normalised coordinates [-1, 1]; identity where nothing is drawn."""

    theta: Float[Tensor, "b d e"]


def sample_spatial(num_samples: int, *, space: tuple[int, ...], params: SpatialParams, generator: torch.Generator) -> SpatialDraw:
    """Draw in-plane rotation, zoom and shift for every sample.

    Rotation acts in the last two axes (the axial plane); the zoom is one number for all axes; the shift acts on every
    axis. Draw order, the same whatever the outcome: keep, angle, zoom, shift.

    Args:
        num_samples: B.
        space: Edges of the image, two or three; needed so that a rotation keeps angles in a plane that is not square.
        params: Ranges and the probability.
        generator: Source, on the CPU.
    """
    axes = len(space)
    keep = torch.rand(num_samples, generator=generator) < params.probability
    angle = math.radians(params.rotation_deg) * (2 * torch.rand(num_samples, generator=generator) - 1)
    zoom = 1 + params.scale * (2 * torch.rand(num_samples, generator=generator) - 1)
    shift = 2 * params.translation * (2 * torch.rand(num_samples, axes, generator=generator) - 1)
    height, width = space[-2:]
    theta = torch.zeros(num_samples, axes, axes + 1)
    for axis in range(axes):  # grid_sample's coordinates run x, y, z
        theta[:, axis, axis] = zoom
    theta[:, 0, 0] = torch.cos(angle) * zoom
    theta[:, 0, 1] = -torch.sin(angle) * zoom * height / width
    theta[:, 1, 0] = torch.sin(angle) * zoom * width / height
    theta[:, 1, 1] = torch.cos(angle) * zoom
    theta[:, :, axes] = shift
    identity = torch.eye(axes, axes + 1).expand(num_samples, -1, -1)
    return SpatialDraw(torch.where(keep[:, None, None], theta, identity))


def apply_spatial(
    images: Float[Tensor, "b c *space"], labels: Int[Tensor, "b *space"], draw: SpatialDraw
) -> tuple[Float[Tensor, "b c *space"], Int[Tensor, "b *space"]]:
    """Map images linearly and labels by nearest neighbour; the outside repeats the border for images and is 0 for labels."""
    theta = draw.theta.to(images.device, images.dtype)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    mapped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    nearest = functional.grid_sample(
        labels[:, None].to(images.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return mapped, nearest[:, 0].round().to(labels.dtype)
