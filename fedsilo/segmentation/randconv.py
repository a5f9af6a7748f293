"""RandConv: blend an image with its answer to one random convolution; a comparator of GIN."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fedsilo.segmentation import samples

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
    samples.check_kernels(images, draw.remapped, draw.weight)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        original = images.to(torch.promote_types(images.dtype, torch.float32))
        grouped = original.reshape(1, -1, *images.shape[2:])
        convolved = samples.convolve(grouped, draw.weight.to(original), None, padding="replicate").reshape(images.shape)
        return samples.choose(draw.remapped, samples.blend(original, convolved, draw.mix.to(original)), images)
