"""GIN: remap a batch's intensities with small random networks, so that a model learns shapes and not a scanner's contrast."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional

from fedsilo.params import GinParams
from fedsilo.segmentation import samples

NUM_LAYERS = 4
HIDDEN_CHANNELS = 2
KERNEL_SIZES = (1, 3)
NEGATIVE_SLOPE = 0.01
FLAT = 0.05
"""An image whose standard deviation is a smaller share of its root mean square shows nothing."""

MAX_REDRAWS = 10


@dataclass(frozen=True, eq=False)
class GinLayer:
    """Random numbers of one layer of ``n`` networks.

    Attributes:
        weight: Kernels with an edge of 1 or 3, standard normal, without fan-in scaling.
        shift: Added after the convolution, standard normal.
    """

    weight: Float[Tensor, "n c_out c_in *kernel"]
    shift: Float[Tensor, "n c_out"]


@dataclass(frozen=True, eq=False)
class GinDraw:
    """All that is random in one call of GIN.

    Attributes:
        mix: Share of the remapped image in each sample, in [0, 1).
        layers: First to last; one network a sample, or one for the whole batch.
        remapped: Which samples are remapped at all; the others pass unchanged.
        padding: What a kernel sees beyond the border.
    """

    mix: Float[Tensor, " b"]
    layers: tuple[GinLayer, ...]
    remapped: Bool[Tensor, " b"]
    padding: Literal["replicate", "zeros"]


def sample_gin(
    num_samples: int, num_channels: int, *, spatial_dims: int, params: GinParams, probability: float, generator: Generator
) -> GinDraw:
    """Draw the random networks of one batch.

    The order of draws is a contract, so that a seed means the same numbers as in the authors' release: ``mix`` of all samples;
    for each layer its kernel size (one for the whole batch), its weights and its shifts; last the numbers that
    ``probability`` is compared with, which the release does not have.

    Args:
        num_samples: Images of the batch.
        num_channels: Channels of an image; its networks have widths ``num_channels, 2, 2, 2, num_channels``.
        spatial_dims: 2 or 3.
        params: Networks, padding, kernel sizes and scale. With kernel sizes ``per_sample`` each layer draws one size a network
            and kernels of edge 3, of which a network of size 1 keeps the centre.
        probability: Chance that a sample is remapped.
        generator: On the CPU; advanced by the draw.

    Returns:
        A draw on the CPU.

    Reference:
        Ouyang et al., Causality-inspired single-source domain generalization, IEEE TMI 2022. Networks ``"shared"`` are those
        of FedGIN (Nagaraju et al., 2025): one network a batch, ``mix`` still one a sample. Deviations: ``probability``,
        padding ``"replicate"``, kernel sizes ``"per_sample"``, scale ``"fan_in"``.
    """
    num_networks = 1 if params.networks == "shared" else num_samples
    widths = (num_channels, *[HIDDEN_CHANNELS] * (NUM_LAYERS - 1), num_channels)
    mix = torch.rand(num_samples, generator=generator)
    layers = []
    for num_in, num_out in pairwise(widths):
        num_sizes = num_networks if params.kernel_sizes == "per_sample" else 1
        edges = torch.tensor(KERNEL_SIZES)[torch.randint(len(KERNEL_SIZES), (num_sizes,), generator=generator)]
        edge = max(KERNEL_SIZES) if params.kernel_sizes == "per_sample" else int(edges)
        weight = torch.randn(num_networks, num_out, num_in, *[edge] * spatial_dims, generator=generator)
        shift = torch.randn(num_networks, num_out, generator=generator)
        one_a_network = edges.view(-1, *[1] * (weight.ndim - 1))
        if params.kernel_sizes == "per_sample":
            weight = torch.where((one_a_network == edge) | _is_center(edge, spatial_dims), weight, 0)
        if params.initial_scale == "fan_in":
            weight = weight / (num_in * one_a_network.float() ** spatial_dims).sqrt()
        layers.append(GinLayer(weight, shift))
    keep = torch.rand(num_samples, generator=generator)
    return GinDraw(mix, tuple(layers), keep < probability, params.padding)


def sample_for(images: Float[Tensor, "b c *space"], *, params: GinParams, probability: float, generator: Generator) -> GinDraw:
    """Draw the random networks for given images: `sample_gin`, and `redraw_flat` if ``params`` ask for it."""
    draw = sample_gin(
        images.shape[0],
        images.shape[1],
        spatial_dims=images.ndim - 2,
        params=params,
        probability=probability,
        generator=generator,
    )
    return redraw_flat(images, draw, params=params, generator=generator) if params.redraw_flat else draw


def apply_gin(images: Float[Tensor, "b c *space"], draw: GinDraw) -> Float[Tensor, "b c *space"]:
    """Remap intensities; geometry, and with it the labels, stays.

    ``g`` is the random network: four convolutions of stride 1 that keep the size, LeakyReLU 0.01 after the first three. With
    ``m = (1 - mix) x + mix g(x)`` the result is ``m ||x|| / (||m|| + 1e-5)``; norms run over channels and space of a sample.
    Computed outside autocast and without gradient in float32 (float64 for float64 images), because norms of volumes overflow
    half precision.

    Args:
        images: Z-scored per volume: the shifts are of order 1 and flatten images of another scale. Not modified.
        draw: Of `sample_gin`, for as many samples, channels and axes; moved to the images' device in one copy.

    Returns:
        Images of the same shape, dtype and device. Samples that the draw leaves alone are bit-identical; if it leaves all
        alone, the result is ``images`` itself.

    Raises:
        ValueError: The draw was made for another number of samples, channels or axes.

    Reference:
        As `sample_gin`; equal to the release for padding ``"zeros"`` and probability 1.

    Example:
        >>> params = GinParams(
        ...     networks="per_sample", padding="replicate", kernel_sizes="per_batch", initial_scale="unit", redraw_flat=False
        ... )
        >>> numbers = torch.Generator().manual_seed(0)
        >>> draw = sample_gin(2, 1, spatial_dims=2, params=params, probability=1.0, generator=numbers)
        >>> tuple(apply_gin(torch.ones(2, 1, 8, 8), draw).shape)
        (2, 1, 8, 8)
    """
    samples.check_kernels(images, draw.remapped, draw.layers[0].weight)
    if not bool(draw.remapped.any()):
        return images
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        original = images.to(torch.promote_types(images.dtype, torch.float32))
        draw = _move(draw, like=original)
        blended = samples.blend(original, _run_networks(original, draw), draw.mix)
        return samples.choose(draw.remapped, samples.keep_norm(blended, original), images)


def redraw_flat(images: Float[Tensor, "b c *space"], draw: GinDraw, *, params: GinParams, generator: Generator) -> GinDraw:
    """Draw again for samples that a draw would make nearly constant, and for all that share their network.

    About one draw in a hundred flattens a z-scored image: its network has become a constant. Images that are constant
    themselves are left out of this; a sample that is still flat after ten draws passes unchanged.

    Args:
        images: Those that the draw will be applied to.
        draw: Of `sample_gin`.
        params: That the draw was made with.
        generator: On the CPU; advanced only if there is something to draw.

    Returns:
        A draw under which no remapped sample has a standard deviation below 5 % of its root mean square.
    """
    varied = ~_is_flat(images)
    for _ in range(MAX_REDRAWS):
        flat = draw.remapped & varied & _is_flat(apply_gin(images, draw))
        if not bool(flat.any()):
            return draw
        fresh = sample_gin(
            len(images), images.shape[1], spatial_dims=images.ndim - 2, params=params, probability=1.0, generator=generator
        )
        draw = _replace(draw, fresh, where=flat)
    return replace(draw, remapped=draw.remapped & ~(varied & _is_flat(apply_gin(images, draw))))


def _is_flat(images: Float[Tensor, "b c *space"]) -> Bool[Tensor, " b"]:
    values = images.flatten(1).double()
    return (values.std(dim=1, correction=0) < FLAT * values.square().mean(dim=1).sqrt() + samples.NORM_EPS).cpu()


def _is_center(edge: int, spatial_dims: int) -> Bool[Tensor, "*kernel"]:
    """Mark a kernel's central entry."""
    center = torch.zeros([edge] * spatial_dims, dtype=torch.bool)
    center[(edge // 2,) * spatial_dims] = True
    return center


def _replace(draw: GinDraw, fresh: GinDraw, *, where: Bool[Tensor, " b"]) -> GinDraw:
    """Take another draw's numbers for some samples; for all of them if they share one network."""
    shared = len(draw.layers[0].weight) < len(draw.mix)
    chosen = torch.ones(1, dtype=torch.bool) if shared else where
    layers = []
    for old, new in zip(draw.layers, fresh.layers, strict=True):
        edge = max(old.weight.shape[-1], new.weight.shape[-1])
        one_a_network = chosen.view(-1, *[1] * (old.weight.ndim - 1))
        weight = torch.where(one_a_network, _widened(new.weight, edge), _widened(old.weight, edge))
        layers.append(GinLayer(weight, torch.where(chosen[:, None], new.shift, old.shift)))
    mix = torch.where(chosen if shared else where, fresh.mix, draw.mix)
    return GinDraw(mix, tuple(layers), draw.remapped, draw.padding)


def _widened(weight: Float[Tensor, "n c_out c_in *kernel"], edge: int) -> Float[Tensor, "n c_out c_in *wide"]:
    """Pad kernels to a larger edge with zeros: they do the same."""
    margin = (edge - weight.shape[-1]) // 2
    return functional.pad(weight, [margin] * 2 * (weight.ndim - 3)) if margin else weight


def _move(draw: GinDraw, *, like: Tensor) -> GinDraw:
    """Move a draw to the device and dtype of ``like`` in one copy of one buffer."""
    parts = [draw.mix, draw.remapped, *[part for layer in draw.layers for part in (layer.weight, layer.shift)]]
    buffer = torch.cat([part.flatten().to(like.dtype) for part in parts]).to(like.device)
    moved, start = [], 0
    for part in parts:
        moved.append(buffer[start : start + part.numel()].view(part.shape))
        start += part.numel()
    mix, remapped, *rest = moved
    layers = tuple(GinLayer(weight, shift) for weight, shift in zip(rest[::2], rest[1::2], strict=True))
    return GinDraw(mix, layers, remapped.bool(), draw.padding)


def _run_networks(images: Float[Tensor, "b c *space"], draw: GinDraw) -> Float[Tensor, "b c *space"]:
    """Run every sample through its network: as groups of one convolution, so samples never mix."""
    space = images.shape[2:]
    num_networks = len(draw.layers[0].weight)
    hidden = images.reshape(-1, num_networks * images.shape[1], *space)
    for index, layer in enumerate(draw.layers):
        hidden = samples.convolve(hidden, layer.weight, layer.shift, padding=draw.padding)
        if index < len(draw.layers) - 1:
            hidden = functional.leaky_relu(hidden, NEGATIVE_SLOPE)
    return hidden.reshape(images.shape)
