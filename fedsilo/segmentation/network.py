"""The segmentation network: a MONAI U-Net with BatchNorm, initialised from a named generator."""

import math
from typing import cast

import torch
from monai.networks.nets import UNet
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from fedsilo.errors import ParamsError
from fedsilo.params import NetworkParams

NORM_TYPES = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Norm layers: what FedBN keeps at a site, and what an outside site trains beside its gates."""

PROBE_EDGE = 32
"""Edge of the image that a network is tried on: a multiple of what any of ours needs."""


def build(params: NetworkParams, *, num_classes: int, in_channels: int, generator: torch.Generator) -> nn.Module:
    """Build an untrained network; the same generator gives the same weights.

    The first level works at full resolution, each further one at half of the one above. Convolutions get He-uniform
    weights (PyTorch's default scale, a = sqrt 5) and biases uniform within
    1/sqrt(fan in); norm layers start as the identity. No layer draws by itself (dropout is off), and the global random
    state is left as it was.

    Args:
        params: Depth, width and number of spatial axes.
        num_classes: Organs and background; the network returns as many logits.
        in_channels: Channels of an image.
        generator: Source of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        network = UNet(
            spatial_dims=params.spatial_dims,
            in_channels=in_channels,
            out_channels=num_classes,
            channels=params.channels,
            strides=(1,) + (2,) * (len(params.channels) - 2),
            num_res_units=params.num_res_units,
            norm="BATCH",
            dropout=0.0,
        )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _ConvNd):
                _initialise(module, generator)
    # channels last: convolutions run a sixth faster on a CPU, more on CUDA; states are stored contiguous all the same
    layout = torch.channels_last if params.spatial_dims == 2 else torch.channels_last_3d  # noqa: PLR2004  # axes
    network.to(memory_format=layout)
    return cast("nn.Module", network)


def divisor(params: NetworkParams) -> int:
    """Return the number that every edge of an input must be a multiple of."""
    return int(2 ** (len(params.channels) - 2))


def calls(network: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """List the convolutions and linear layers that a network calls, in order, with the spatial size of what each gives.

    The network is tried on an image of zeros, in eval mode and without gradients; it is not changed.

    Raises:
        ParamsError: The network has no convolution.

    Example:
        >>> calls(nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1)))
        [('0', (16, 16)), ('2', (16, 16))]
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, (_ConvNd, nn.Linear))}
    first = next((module for module in layers.values() if isinstance(module, _ConvNd)), None)
    if first is None:
        raise ParamsError(f"{type(network).__name__} has no convolution, expected one that takes the image")
    called: list[tuple[str, tuple[int, ...]]] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, result, name=name: called.append((name, tuple(result.shape[2:]))))
        for name, module in layers.items()
    ]
    flags = {module: module.training for module in network.modules()}
    probe = torch.zeros(1, first.in_channels, *(PROBE_EDGE,) * len(first.kernel_size)).to(first.weight)
    try:
        with torch.no_grad():
            network.eval()(probe)
    finally:
        for module, training in flags.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return called


def output_layer(network: nn.Module) -> str:
    """Name the convolution or linear layer that is called last: the one that gives the logits.

    Raises:
        ParamsError: The network has no convolution.

    Example:
        >>> output_layer(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
        '2'
    """
    return calls(network)[-1][0]


def _initialise(layer: _ConvNd, generator: torch.Generator) -> None:
    """Draw a convolution's weight and bias."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
        bound = 1 / math.sqrt(fan_in)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
