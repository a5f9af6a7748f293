"""Test-time routing of one case: a few gradient steps on gates and norm layers, from its image alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsilo.errors import RoutingError
from fedsilo.params import ObjectiveParams, OutsideParams
from fedsilo.routing import experts, objectives
from fedsilo.segmentation import inference
from fedsilo.tensors import StateDict


@dataclass(frozen=True)
class Step:
    """The losses after a number of gradient steps."""

    consistency: float
    shape: float
    entropy: float
    total: float


@dataclass(frozen=True)
class Adapted:
    """What adaptation to a case made.

    Attributes:
        state: An ordinary state of the template; predict with it in eval mode.
        routes_before: Route of every layer before the first step, (E,), on the CPU.
        routes_after: The same after the last step: those that ``state`` was merged with.
        objective: Losses after 0, 1, ... steps, ``params.steps + 1`` entries; each has a view of its own.
        trained: Which of ``gates`` and ``norms`` had parameters to train.
    """

    state: StateDict
    routes_before: Mapping[str, Float[Tensor, " e"]]
    routes_after: Mapping[str, Float[Tensor, " e"]]
    objective: tuple[Step, ...]
    trained: tuple[str, ...]


def adapt(
    routed: nn.Module,
    image: Float[Tensor, "c z y x"],
    *,
    params: OutsideParams,
    preset: ObjectiveParams,
    spatial_dims: int,
    divisor: int,
    generator: torch.Generator,
    device: torch.device | str,
    patch_zyx: tuple[int, int, int] | None = None,
    spacing_zyx_mm: tuple[float, float, float] | None = None,
) -> Adapted:
    """Adapt a routed network to one case and merge it into an ordinary state.

    Episodic: everything starts afresh, nothing is carried from case to case. The case's pieces are drawn once: in 2D
    ``params.batch_size`` of its slices, or all if there are no more; in 3D the volume, or as many patches if it is larger
    than ``patch_zyx``. Every step sees all pieces and a second view of them that is drawn anew, and makes one Adam step on
    ``preset``'s weighted losses. Steps are fixed in advance. Then the routes are measured on the pieces and the weights merged.

    Trained are the gates of all layers and scale and shift of norm layers; if there are none of the latter (MONAI's
    ``norm="INSTANCE"``), the gates alone, and ``trained`` says so. With ``norm_statistics="batch"`` BatchNorm uses the statistics
    of the pieces while adapting, and those measured last are stored in ``state``: later predictions in eval mode use them,
    and so do not depend on batch mates. With ``"mixture"`` it uses the prior's mixture of the experts' statistics throughout.

    Args:
        routed: From ``experts.build``; not modified.
        image: Normalised intensities; not modified.
        params: Steps, learning rate, noise, window, batch size and norm statistics.
        preset: Weights of the three losses.
        spatial_dims: 2 or 3, axes of the network's convolutions.
        divisor: What the network's edges must be multiples of.
        generator: Draws the pieces, then the views; on the CPU.
        device: Where to compute.
        patch_zyx: Edges of 3D patches, multiples of ``divisor``; None adapts to the whole volume. Ignored in 2D.
        spacing_zyx_mm: Voxel edges of ``image``. In 3D the contour window, ``shape_radius_px`` in x, spans the same
            millimetres along all axes; None takes cubes.

    Raises:
        RoutingError: Nothing can be trained, a loss is not finite, or batch statistics are asked of a single value.

    Reference:
        Jiang et al., IOP-FL, IEEE TMI 2023 (outside part). Deviations: softmax gates in every layer, the experts' norm
        statistics, a new view every step, a case instead of a site, prediction with one merged model.
    """
    network = experts.fresh(routed).to(device)
    groups = {"gates": experts.gate_parameters(network), "norms": experts.norm_parameters(network)}
    trained = tuple(name for name, parameters in groups.items() if parameters)
    if not trained:
        raise RoutingError(
            "cannot adapt: the network has a single expert and no norm layer with scale and shift, nothing to train"
        )
    _use_statistics(network, batch=params.norm_statistics == "batch")
    pieces, size = draw_pieces(
        image, num_pieces=params.batch_size, spatial_dims=spatial_dims, divisor=divisor, patch_zyx=patch_zyx, generator=generator
    )
    pieces = pieces.to(device)
    radius = window_radius(params.shape_radius_px, spatial_dims=spatial_dims, spacing_zyx_mm=spacing_zyx_mm)
    optimizer = torch.optim.Adam(
        [parameter for parameters in groups.values() for parameter in parameters], lr=params.learning_rate
    )
    try:
        routes_before = experts.routes(network, pieces)
    except ValueError as error:
        # torch's BatchNorm with batch statistics: one piece whose deepest level is a single voxel
        raise RoutingError(f"cannot adapt to {len(pieces)} piece of size {size} with batch statistics: {error}") from error
    losses: list[Tensor] = []
    for step in range(params.steps + 1):
        last = step == params.steps  # measured only
        with torch.set_grad_enabled(not last):
            view = objectives.sample_view(pieces.shape, noise_sd=params.noise_sd, generator=generator)
            logits = inference.crop(network(pieces), size)
            view_logits = objectives.invert_view(network(objectives.apply_view(pieces, view)), view)
            terms = objectives.combine(logits, inference.crop(view_logits, size), weights=preset, radius=radius)
        losses.append(torch.stack([terms.consistency, terms.shape, terms.entropy, terms.total]).detach())
        if not last:
            optimizer.zero_grad()
            torch.autograd.backward([terms.total])
            optimizer.step()
    routes_after = experts.routes(network, pieces)
    return Adapted(
        state=experts.merge(network, routes_after),
        routes_before={name: route.cpu() for name, route in routes_before.items()},
        routes_after={name: route.cpu() for name, route in routes_after.items()},
        objective=_steps(losses),
        trained=trained,
    )


def window_radius(radius_px: int, *, spatial_dims: int, spacing_zyx_mm: tuple[float, float, float] | None) -> tuple[int, ...]:
    """Give the contour window's radius along each axis: in 2D the same pixels, in 3D the same millimetres, at least one voxel.

    Example:
        >>> window_radius(10, spatial_dims=3, spacing_zyx_mm=(5.0, 1.5, 1.5))
        (3, 10, 10)
        >>> window_radius(10, spatial_dims=2, spacing_zyx_mm=(5.0, 1.5, 1.5))
        (10, 10)
    """
    if spatial_dims == 2 or spacing_zyx_mm is None:  # noqa: PLR2004  # axes of a slice
        return (radius_px,) * spatial_dims
    return tuple(max(1, round(radius_px * spacing_zyx_mm[-1] / edge)) for edge in spacing_zyx_mm)


def _use_statistics(network: nn.Module, *, batch: bool) -> None:
    """Let BatchNorm normalise by the batch, or by what is stored; every other module stays in eval mode."""
    network.eval()
    for module in network.modules():
        if batch and isinstance(module, _BatchNorm):
            module.train()
            module.momentum = 1.0  # what is stored are the statistics of the last pass


def draw_pieces(
    image: Float[Tensor, "c z y x"],
    *,
    num_pieces: int,
    spatial_dims: int,
    divisor: int,
    patch_zyx: tuple[int, int, int] | None,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b c *padded"], tuple[int, ...]]:
    """Draw slices or patches, padded to the divisor; and their size without the padding."""
    items = inference.as_items(image, spatial_dims)
    size = tuple(items.shape[2:])
    padded = inference.pad_to_divisor(items, divisor)
    if spatial_dims == 2:  # noqa: PLR2004  # axes of a slice
        chosen = torch.randperm(len(padded), generator=generator)[:num_pieces].sort().values
        return padded[chosen], size
    edges = [min(edge, limit) for edge, limit in zip(padded.shape[2:], patch_zyx or padded.shape[2:], strict=True)]
    inner = tuple(min(edge, limit) for edge, limit in zip(edges, size, strict=True))
    if tuple(edges) == tuple(padded.shape[2:]):
        return padded, size
    patches: list[Tensor] = []
    for _ in range(num_pieces):
        corner = [
            int(torch.randint(max(limit - edge, 0) + 1, (), generator=generator)) for limit, edge in zip(size, edges, strict=True)
        ]
        patch = padded
        for axis, (start, edge) in enumerate(zip(corner, edges, strict=True), start=2):
            patch = patch.narrow(axis, start, edge)
        patches.append(patch)
    return torch.cat(patches), inner


def _steps(losses: list[Tensor]) -> tuple[Step, ...]:
    table = torch.stack(losses).cpu()
    for index, row in enumerate(table):
        if not row.isfinite().all():
            raise RoutingError(f"cannot adapt: the losses of step {index} are not finite: {row.tolist()}")
    return tuple(Step(*row) for row in table.tolist())
