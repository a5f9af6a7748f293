"""DG-TTA: adapt the global model to a case until two warped views of it are segmented alike."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedsilo.errors import RoutingError
from fedsilo.federation import states
from fedsilo.outside_params import DgTtaParams
from fedsilo.routing import experts, pieces
from fedsilo.routing.pieces import Geometry
from fedsilo.segmentation import inference
from fedsilo.tensors import StateDict
from fedsilo.types import CLASS_DIM

SMALL = 1e-8


@dataclass(frozen=True)
class Warp:
    """An affine map of normalised coordinates for each item, and its inverse, (B, D, D+1)."""

    forward: Float[Tensor, "b d e"]
    inverse: Float[Tensor, "b d e"]


def adapt(
    template: nn.Module,
    state: StateDict,
    image: Float[Tensor, "c z y x"],
    *,
    params: DgTtaParams,
    batch_size: int,
    geometry: Geometry,
    generator: torch.Generator,
    device: torch.device | str,
) -> dict[str, Tensor]:
    """Adapt a model to a case, in eval mode and from its image alone; every case starts afresh.

    Each step warps the case's drawn pieces twice, at random, segments both, brings the results back and lowers
    ``1 - mean_c 4 sum(a b) / sum((a + b)^2)`` over organs c and the voxels that both views show; the gradient goes through one of
    the two.

    Args:
        template: Gives the architecture; not modified.
        state: The model to start from; not modified.
        image: Normalised intensities; not modified.
        params: Steps, learning rate, size of the warps and what is trained.
        batch_size: Slices or patches.
        geometry: What the network takes.
        generator: Draws pieces and warps; on the CPU.
        device: Where to compute.

    Returns:
        An ordinary state of the template.

    Raises:
        RoutingError: There is nothing to train, or the loss is not finite.

    Reference:
        Weihsbach et al., DG-TTA (arXiv 2312.06275), as released: AdamW, 12 epochs of 16 patches, mean of three runs. Deviations:
        a step is one batch of pieces, one run, and norm layers alone can be trained.
    """
    network = copy.deepcopy(template).to(device).eval().requires_grad_(requires_grad=False)
    states.restore(network, state)
    parameters = list(network.parameters()) if params.train == "all" else experts.norm_parameters(network)
    if not parameters:
        raise RoutingError(f"cannot adapt: the network has no parameters of {params.train} to train")
    for parameter in parameters:
        parameter.requires_grad = True
    drawn = pieces.draw(image, num_pieces=batch_size, geometry=geometry, generator=generator).to(device)
    optimizer = torch.optim.AdamW(parameters, lr=params.learning_rate)
    for step in range(params.steps):
        first, second = (sample_warp(drawn.items, sd=params.warp_sd, generator=generator) for _ in range(2))
        with torch.no_grad():
            fixed, shown = view(network, drawn.items, second)
        moving, also_shown = view(network, drawn.items, first)
        loss = disagreement(
            inference.crop(moving, drawn.size), inference.crop(fixed, drawn.size), inference.crop(shown * also_shown, drawn.size)
        )
        if not bool(loss.isfinite()):
            raise RoutingError(f"cannot adapt: the loss of step {step} is {float(loss.detach())}")
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        optimizer.step()
    return states.snapshot(network)


def sample_warp(items: Float[Tensor, "b c *space"], *, sd: float, generator: torch.Generator) -> Warp:
    """Draw an affine map for each item: the identity plus ``N(0, sd^2)`` on every entry, in float64, on the CPU."""
    dims = items.ndim - 2
    identity = torch.eye(dims, dims + 1, dtype=torch.float64)
    drawn = identity + sd * torch.randn(len(items), dims, dims + 1, generator=generator, dtype=torch.float64)
    linear, shift = drawn[..., :dims], drawn[..., dims:]
    back = torch.linalg.inv(linear)
    return Warp(drawn, torch.cat([back, -back @ shift], dim=-1))


def apply_warp(values: Float[Tensor, "b c *space"], matrix: Float[Tensor, "b d e"]) -> Float[Tensor, "b c *space"]:
    """Resample values linearly; what comes from outside is 0."""
    grid = functional.affine_grid(matrix.to(values), list(values.shape), align_corners=False)
    return functional.grid_sample(values, grid, align_corners=False)


def view(network: nn.Module, items: Tensor, warp: Warp) -> tuple[Tensor, Tensor]:
    """Segment a warped view and bring the probabilities back; also say which voxels it shows, between 0 and 1."""
    there = functional.grid_sample(
        items,
        functional.affine_grid(warp.forward.to(items), list(items.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    probs = network(there).softmax(CLASS_DIM)
    return apply_warp(probs, warp.inverse), apply_warp(torch.ones_like(items[:, :1]), warp.inverse)


def disagreement(
    one: Float[Tensor, "b k *space"], other: Float[Tensor, "b k *space"], shown: Float[Tensor, "b 1 *space"]
) -> Float[Tensor, ""]:
    """Compare two predictions: ``1 - mean_c 4 sum(a b) / sum((a + b)^2)`` over organs, weighed by what is shown; 0 if equal.

    Example:
        >>> probs = torch.tensor([[[0.2, 0.9], [0.8, 0.1]]])
        >>> round(float(disagreement(probs, probs, torch.ones(1, 1, 2))), 5)
        0.0
    """
    axes = [0, *range(2, one.ndim)]
    a, b = one[:, 1:], other[:, 1:]
    product = (4 * shown * a * b).sum(dim=axes)
    return 1 - ((product + SMALL) / ((shown * (a + b).square()).sum(dim=axes) + SMALL)).mean()
