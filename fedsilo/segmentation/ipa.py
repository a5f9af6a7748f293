"""GIN-IPA (interventional pseudo-correlation augmentation): two versions of an image change places from region to region."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fedsilo.params import GinParams
from fedsilo.segmentation import gin
from fedsilo.segmentation.gin import GinDraw

NUM_VIEWS = 3
NUM_CELLS = 4
"""Cells of the blend's control lattice along every axis."""

SPLINE_DEGREE = 2


@dataclass(frozen=True, eq=False)
class IpaDraw:
    """All that is random in one call.

    Attributes:
        versions: Three draws of GIN.
        lattice: Control points of each sample's blend, standard normal.
    """

    versions: tuple[GinDraw, GinDraw, GinDraw]
    lattice: Float[Tensor, "b *nodes"]


def sample_ipa(images: Float[Tensor, "b c *space"], *, params: GinParams, probability: float, generator: Generator) -> IpaDraw:
    """Draw three versions of each sample and the field that blends the first two.

    Args:
        images: Those that the draw will be applied to; their values matter only to ``params.redraw_flat``.
        params: Of GIN.
        probability: Chance that GIN remaps a sample, drawn for each version.
        generator: On the CPU; advanced by the draw.

    Reference:
        Ouyang et al., IEEE TMI 2022 (IPA). Deviations: 4 cells along every axis whatever the image's size (the release has 4
        along 192 pixels), and the spline is evaluated at every voxel, in 2D and 3D, instead of at half the resolution in 2D.
    """
    first, second, third = (
        gin.sample_for(images, params=params, probability=probability, generator=generator) for _ in range(NUM_VIEWS)
    )
    nodes = [NUM_CELLS + SPLINE_DEGREE] * (images.ndim - 2)
    return IpaDraw((first, second, third), torch.randn(len(images), *nodes, generator=generator))


def apply_ipa(images: Float[Tensor, "b c *space"], draw: IpaDraw) -> Float[Tensor, "n c *space"]:
    """Make three views of each sample: ``b x1 + (1 - b) x2``, ``(1 - b) x1 + b x2`` and ``x3``.

    Args:
        images: Z-scored; not modified.
        draw: Of `sample_ipa`, for as many samples and axes.

    Returns:
        All first views, then all second, then all third: 3 B images.

    Raises:
        ValueError: The draw was made for another number of samples, channels or axes.
    """
    first, second, third = (gin.apply_gin(images, version) for version in draw.versions)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        share = blend(draw.lattice.to(images.device), tuple(images.shape[2:]))[:, None].to(images.dtype)
        return torch.cat([torch.lerp(second, first, share), torch.lerp(first, second, share), third])


def blend(lattice: Float[Tensor, "b *nodes"], space: tuple[int, ...]) -> Float[Tensor, "b *space"]:
    """Turn control points into a smooth field from 0 to 1: quadratic B-spline, exp, then stretched sample by sample.

    Control points are divided by the sample's largest magnitude and then by its norm, as in the release.
    """
    flat = lattice.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True)
    field = (flat / flat.norm(dim=1, keepdim=True)).view(lattice.shape)
    for axis, size in enumerate(space, start=1):
        weights = _spline_weights(size, like=field)
        field = torch.tensordot(field, weights, dims=([axis], [1])).movedim(-1, axis)
    values = field.exp().flatten(1)
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    stretched: Tensor = (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
    return stretched.view(field.shape)


def _spline_weights(size: int, *, like: Tensor) -> Float[Tensor, "size nodes"]:
    """Make the matrix of a uniform quadratic B-spline that takes control points to voxel centres along one axis."""
    places = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size * NUM_CELLS
    cell = places.floor().clamp(max=NUM_CELLS - 1)
    t = places - cell
    parts = torch.stack([(1 - t) ** 2 / 2, (1 + 2 * t - 2 * t**2) / 2, t**2 / 2], dim=1)
    nodes = cell.long()[:, None] + torch.arange(SPLINE_DEGREE + 1, device=like.device)
    return like.new_zeros(size, NUM_CELLS + SPLINE_DEGREE).scatter(1, nodes, parts)
