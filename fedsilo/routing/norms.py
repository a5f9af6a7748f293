"""Norm layers at a new site: BatchNorm between the statistics of the experts and those of the case."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fedsilo.errors import RoutingError
from fedsilo.types import CLASS_DIM


class BlendedNorm(_BatchNorm):
    """BatchNorm that normalises by ``share * stored + (1 - share) * the batch's`` means and variances.

    A share of 1 is BatchNorm in eval mode, 0 is BatchNorm on batch statistics. What it used last can be stored (`settle`), so
    that later predictions do not depend on their batch. Each layer is measured on inputs that the layers below have normalised
    the same way.

    Reference:
        Schneider et al., Improving robustness against common corruptions by covariate shift adaptation, NeurIPS 2020.
        Deviation: variances are mixed as they are, biased, as torch normalises batches.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: _BatchNorm, share: float) -> None:
        """Take over the parameters and buffers of ``norm``, which must have running statistics."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.share = share
        self.used: tuple[Tensor, Tensor] | None = None
        self.train(norm.training)

    def forward(self, input: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:  # noqa: A002  # torch's own name
        """Normalise a batch; remember by what."""
        mean, variance = self.running_mean, self.running_var
        if self.share == 1:
            self.used = mean, variance
            return functional.batch_norm(input, mean, variance, self.weight, self.bias, training=False, eps=self.eps)
        measured = moments(input)
        mean = torch.lerp(measured.mean, mean, self.share)
        variance = torch.lerp(measured.variance, variance, self.share)
        self.used = mean.detach(), variance.detach()
        # written out: torch's own lets no gradient through statistics that it did not measure itself
        shape = (1, -1, *[1] * (input.ndim - 2))
        normalised = (input - mean.view(shape)) * (variance.view(shape) + self.eps).rsqrt()
        return normalised if self.weight is None else normalised * self.weight.view(shape) + self.bias.view(shape)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # torch's own name
        """Take any number of axes."""


@dataclass(frozen=True)
class Moments:
    """Mean and biased variance of each channel over items and space."""

    mean: Float[Tensor, " c"]
    variance: Float[Tensor, " c"]


def moments(values: Float[Tensor, "b c *space"]) -> Moments:
    """Measure the channels of a batch.

    Raises:
        RoutingError: There is a single value a channel, which has no variance.
    """
    if values.numel() == values.shape[CLASS_DIM]:
        raise RoutingError("cannot measure statistics of a single value a channel: one piece whose deepest level is one voxel")
    # two passes over rows of channels, which lie so in memory: ten times as fast as torch.var_mean
    rows = values.movedim(CLASS_DIM, -1).reshape(-1, values.shape[CLASS_DIM])
    mean = rows.mean(dim=0)
    return Moments(mean, (rows - mean).square().mean(dim=0))


def blend(network: nn.Module, share: float) -> nn.Module:
    """Make every BatchNorm with running statistics a `BlendedNorm`, in place; names in the state stay as they were.

    Returns:
        The network, or what stands for it if it is a BatchNorm itself.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and child.running_mean is not None:
                parent.register_module(name, BlendedNorm(child, share))
    if isinstance(network, _BatchNorm) and network.running_mean is not None:
        return BlendedNorm(network, share)
    return network


def settle(network: nn.Module) -> None:
    """Store the statistics that each `BlendedNorm` used last, in place; from then on it uses these."""
    for module in network.modules():
        if isinstance(module, BlendedNorm) and module.used is not None:
            module.running_mean.copy_(module.used[0])
            module.running_var.copy_(module.used[1])
            module.share = 1.0


def settled(network: nn.Module) -> dict[str, Tensor]:
    """Give the entries of the state that `settle` would write, by name; the network is left as it is."""
    return {
        f"{name}.{entry}" if name else entry: value.detach().cpu().clone()
        for name, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, BlendedNorm) and module.used is not None
        for entry, value in zip(("running_mean", "running_var"), module.used, strict=True)
    }


def stored_moments(network: nn.Module) -> dict[str, Moments]:
    """Read the running statistics of each BatchNorm that has any, by its name."""
    return {
        name: Moments(module.running_mean, module.running_var)
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }


def input_moments(network: nn.Module, images: Float[Tensor, "b c *space"]) -> tuple[dict[str, Moments], Tensor]:
    """Run a network in eval mode and measure the input of each BatchNorm, by its name; also return what the network gave.

    A layer that is called several times is measured the last time. Layers without running statistics are left out.
    """
    seen: dict[str, Moments] = {}
    handles = [
        module.register_forward_pre_hook(lambda _module, inputs, name=name: seen.update({name: moments(inputs[0].detach())}))
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    try:
        with torch.no_grad():
            return seen, cast("Tensor", network.eval()(images))
    finally:
        for handle in handles:
            handle.remove()
