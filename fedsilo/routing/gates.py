"""Gates and routed layers: how much of each expert a layer uses, and the layer that uses it."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

GateMode = Literal["static", "case", "sample"]
"""``static``: one route; ``case``: it also depends on the layer's input, one for a whole batch; ``sample``: one an item."""


class Gate(nn.Module):
    """A layer's route over E experts: ``softmax(A g + c)``, ``A = 0`` and ``c = log prior`` before training.

    ``g`` (C_in,) is the mean of the layer's input over items and space, or over the space of each item. It carries little where
    the input was normalised just before: the image itself is z-scored, and InstanceNorm, or BatchNorm with batch statistics,
    removes means. There a ``case`` gate acts as a ``static`` one. With BatchNorm's stored statistics the means stay informative.

    An expert whose prior is 0 keeps the route 0. Gates that are tied share c; A is each layer's own, as its inputs are.

    Reference:
        Jiang et al., IOP-FL, IEEE TMI 2023, as released: two affine maps, a sigmoid an expert, not normalised. Deviation:
        one affine map and a softmax, so that step 0 is a soup of weights and routes sum to one.
    """

    def __init__(self, offset: nn.Parameter, *, mode: GateMode, num_inputs: int, channel_axis: int) -> None:
        """Start at ``offset``, the logarithm of the prior, (E,); it may be that of other gates, too."""
        super().__init__()
        self.offset = offset
        self.mode = mode
        self.slope = None if mode == "static" else nn.Parameter(offset.new_zeros(len(offset), num_inputs))
        self.channel_axis = channel_axis

    def forward(self, inputs: Float[Tensor, "*shape"]) -> Float[Tensor, "*items e"]:
        """Return the route for a batch of inputs: (E,), or (B, E) one an item."""
        if self.slope is None:
            return self.offset.softmax(dim=-1)
        channels_last = inputs.movedim(self.channel_axis, -1)
        if self.mode == "sample":
            means = channels_last.flatten(1, -2).mean(dim=1) if channels_last.ndim > 2 else channels_last  # noqa: PLR2004  # items and channels
        else:
            means = channels_last.flatten(0, -2).mean(dim=0)
        return (means @ self.slope.T + self.offset).softmax(dim=-1)


class RoutedLayer(nn.Module):
    """A convolution or linear layer whose weights are mixed from E experts: ``W = sum_e route_e W_e``, bias likewise.

    Weights are mixed, not results: one convolution a layer, whatever E is, and no loop over items; with a route an item it is
    one grouped convolution. The experts' tensors are buffers; nothing here writes to them, and copies of the network may share
    them.
    """

    weights: Tensor
    biases: Tensor | None

    def __init__(self, layer: nn.Module, weights: Tensor, biases: Tensor | None, gate: Gate) -> None:
        """Take over ``layer``, without its own weights; ``weights`` is (E, *shape)."""
        super().__init__()
        layer.register_parameter("weight", None)
        layer.register_parameter("bias", None)
        self.layer = layer
        self.gate = gate
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("biases", biases, persistent=False)

    @property
    def num_experts(self) -> int:
        """Experts that are mixed."""
        return len(self.weights)

    def mix(self, route: Float[Tensor, " e"]) -> dict[str, Tensor]:
        """Mix weight and bias, in the route's dtype; differentiable in the route."""
        mixed = {"weight": _mix(route, self.weights)}
        if self.biases is not None:
            mixed["bias"] = _mix(route, self.biases)
        return mixed

    def forward(self, inputs: Float[Tensor, "*shape"], *args: object) -> Float[Tensor, "*result"]:
        """Run the layer with the weights that the gate mixes for these inputs."""
        route = self.gate(inputs)
        if route.ndim == 1:
            result: Tensor = functional_call(self.layer, self.mix(route), (inputs, *args))
            return result

        def one(route: Tensor, item: Tensor) -> Tensor:
            made: Tensor = functional_call(self.layer, self.mix(route), (item.unsqueeze(0), *args))
            return made.squeeze(0)

        return torch.vmap(one)(route, inputs)


def _mix(route: Tensor, stack: Tensor) -> Tensor:
    return (route @ stack.flatten(1).to(route.dtype)).view(stack.shape[1:])
