"""RandConv: blend an image with its answer to one random convolution; a comparator of GIN."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional

KERNEL_SIZES = (1, 3, 5, 7)


@dataclass(frozen=True, eq=False)
class RandConvDraw:
    """All that is random in one call.

    Attributes:
        weight: One kernel a sample, of an edge that the batch shares.
        mix: Share of the convolved image in each sample, in [0, 1).
        remapped: Which samples are remapped at all; the others pass unchanged.
    """

    weight: Float[Tensor, "b c_out c_in *kernel"]
    mix: Float[Tensor, " b"]
    remapped: Bool[Tensor, " b"]


def sample_randconv(
    num_samples: int, num_channels: int, *, spatial_dims: int, probability: float, generator: Generator
) -> RandConvDraw:
    """Draw the convolutions of one batch: an edge of 1, 3, 5 or 7, weights N(0, 1 / fan-in), a share of the blend.

    Args:
        num_samples: Images of the batch.
        num_channels: Channels of an image, and of what becomes of it.
        spatial_dims: 2 or 3.
        probability: Chance that a sample is remapped.
        generator: On the CPU; advanced by the draw.

    Reference:
        Xu et al., Robust and generalizable visual representation learning via random convolutions, ICLR 2021 (the mixing
        variant). Deviations: one convolution a sample instead of one a batch, and the border is replicated.
    """
    edge = KERNEL_SIZES[int(torch.randint(len(KERNEL_SIZES), (1,), generator=generator))]
    weight = torch.randn(num_samples, num_channels, num_channels, *[edge] * spatial_dims, generator=generator)
    weight = weight / (num_channels * edge**spatial_dims) ** 0.5
    mix = torch.rand(num_samples, generator=generator)
    return RandConvDraw(weight, mix, torch.rand(num_samples, generator=generator) < probability)


def apply_randconv(images: Float[Tensor, "b c *space"], draw: RandConvDraw) -> Float[Tensor, "b c *space"]:
    """Blend each sample with its convolution: ``(1 - mix) x + mix (w * x)``, without shift and without renormalisation.

    Args:
        images: Z-scored; not modified.
        draw: Of `sample_randconv`, for as many samples, channels and axes.

    Returns:
        Images of the same shape, dtype and device; samples that the draw leaves alone are bit-identical.

    Raises:
        ValueError: The draw was made for another number of samples, channels or axes.
    """
    expected = (len(draw.mix), draw.weight.shape[2], draw.weight.ndim - 3)
    found = (images.shape[0], images.shape[1], images.ndim - 2)
    if found != expected:
        raise ValueError(f"a draw for (samples, channels, axes) {expected} cannot be applied to {found}")
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        original = images.to(torch.promote_types(images.dtype, torch.float32))
        space = images.shape[2:]
        margin = draw.weight.shape[-1] // 2
        grouped = functional.pad(original.reshape(1, -1, *space), [margin] * 2 * len(space), mode="replicate")
        convolve = functional.conv2d if len(space) == 2 else functional.conv3d  # noqa: PLR2004  # axes
        convolved = convolve(grouped, draw.weight.to(original).flatten(0, 1), groups=len(images)).reshape(images.shape)
        one_a_sample = (-1, *[1] * (images.ndim - 1))
        mix = draw.mix.to(original).view(one_a_sample)
        blended = ((1 - mix) * original + mix * convolved).to(images.dtype)
        return torch.where(draw.remapped.to(images.device).view(one_a_sample), blended, images)
