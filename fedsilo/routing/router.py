"""The forward-only router: experts weighed by a few slices of a case, one averaged model, and a gate that does no harm."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedsilo.errors import RoutingError
from fedsilo.federation import states as states_module
from fedsilo.outside_params import RouterParams
from fedsilo.routing import experts, norms, pieces
from fedsilo.routing.pieces import Geometry
from fedsilo.segmentation import inference
from fedsilo.tensors import StateDict
from fedsilo.types import CLASS_DIM

VARIANCE_FLOOR = 1e-3
SMALLEST_TEMPERATURE = 1e-6
CERTAIN_REST = 0.95
"""Voxels whose background is more probable say nothing about the organs."""

MIRRORED = -1
"""Axis of the mirrored view: x."""


@dataclass(frozen=True)
class Evidence:
    """What a few slices say about one expert.

    Attributes:
        distance: Mean squared distance of BatchNorm inputs from the expert's own statistics, in units of its variance; 0 without
            BatchNorm.
        entropy: Mean entropy over voxels that may be an organ, as a share of the largest possible; 1 if there are none.
    """

    distance: float
    entropy: float


@dataclass(frozen=True)
class Routed:
    """What the router made of a case.

    Attributes:
        state: An ordinary state, to predict the case with in eval mode if ``kept``.
        weights: Share of each expert in it.
        evidence: What each expert's weight is made from.
        quality: Of the averaged model on the pieces; None without a gate.
        fallback_quality: Of the fallback, on the same.
        kept: Whether ``state`` is used; else the fallback is.
        passes: Forward passes of one model over the case that all of it costs, the prediction included: one pass with ``state``
            or with the global model, one an expert if the ensemble predicts.
    """

    state: StateDict
    weights: tuple[float, ...]
    evidence: tuple[Evidence, ...]
    quality: float | None
    fallback_quality: float | None
    kept: bool
    passes: float


def route(
    template: nn.Module,
    states: Sequence[StateDict],
    image: Float[Tensor, "c z y x"],
    *,
    params: RouterParams,
    geometry: Geometry,
    device: torch.device | str,
) -> Routed:
    """Weigh experts for a case, average them, and decide whether to use the result.

    Each expert sees a few slices, spread evenly: ``params.slices``, or as many as the budget allows; of a volume a block of that
    share. One slice, or one block of the divisor's edge, is looked at whatever the budget. With D an expert's BatchNorm
    distance, H its entropy and pi its prior, ``w ~ pi exp(-D / T_D - H / T_H)``, ``T_D`` a share of the median distance; of the
    priors ``params.prior_global`` is the global model's, the others share the rest. The states are
    averaged with these weights; the BatchNorm statistics are then mixed with those of the slices, layer by layer, ``rho = n / (n
    + slices)`` of the average's. The quality of a model is the overlap of its organs with those that it sees in the mirrored
    image, times their mean probability: the averaged model is used only if its quality exceeds that of the fallback by
    ``params.gain``.

    Args:
        template: Gives the architecture; not modified.
        states: The experts, the global model first; not modified.
        image: Normalised intensities; not modified.
        params: Budget, temperatures and the gate.
        geometry: What the network takes.
        device: Where to compute.

    Raises:
        RoutingError: There is no expert, or a piece is a single value at the deepest level.

    Reference:
        Ours. Weights by BatchNorm statistics after Li et al., Revisiting batch normalization, 2016; averages of weights
        after Wortsman et al., Model soups, ICML 2022; mixed statistics after Schneider et al., NeurIPS 2020.
    """
    if not states:
        raise RoutingError("cannot route: got no expert, expected at least one")
    network = copy.deepcopy(template).to(device).eval().requires_grad_(requires_grad=False)
    judged = {"none": 0, "global": 1, "ensemble": len(states)}[params.fallback]  # models of the fallback
    # over the pieces: each expert, the averaged model, and with a gate the mirrored views of it and of the fallback
    num_passes = len(states) + 1 + (1 + judged if judged else 0)
    share = min((params.budget - 1) / num_passes, params.slices / image.shape[1])
    seen = pieces.spread(image, share=share, geometry=geometry).to(device)
    logits, mirrored, evidence = [], [], []
    for index, state in enumerate(states):
        states_module.restore(network, state)
        measured, found = norms.input_moments(network, seen.items)
        logits.append(inference.crop(found, seen.size))
        evidence.append(Evidence(_distance(network, measured), _entropy(logits[-1])))
        if index < judged:
            mirrored.append(_mirrored(network, seen))
    weights = weigh(evidence, params)
    states_module.restore(network, experts.mixture(states, weights))
    rho = params.source_slices / (params.source_slices + _num_slices(seen))
    averaged = norms.blend(network, rho)
    with torch.no_grad():
        adapted = inference.crop(averaged(seen.items), seen.size)
    norms.settle(averaged)
    state = states_module.snapshot(averaged)
    cost = pieces.share_of(seen, image, geometry=geometry)
    quality, fallback_quality = None, None
    if judged:
        quality = _quality(adapted, _mirrored(averaged, seen))
        fallback_quality = _quality(_average(logits[:judged]), _average(mirrored))
    kept = quality is None or fallback_quality is None or quality >= fallback_quality + params.gain
    predicting = 1 if kept else judged
    return Routed(state, weights, tuple(evidence), quality, fallback_quality, kept, predicting + cost * num_passes)


def weigh(evidence: Sequence[Evidence], params: RouterParams) -> tuple[float, ...]:
    """Turn evidence into weights that sum to one, the global model first; equal evidence gives the prior.

    Example:
        >>> params = RouterParams(
        ...     budget=3,
        ...     slices=4,
        ...     prior_global=0.5,
        ...     distance_temperature=1,
        ...     entropy_temperature=1,
        ...     source_slices=0,
        ...     gain=0,
        ...     fallback="none",
        ... )
        >>> [round(weight, 3) for weight in weigh([Evidence(1.0, 0.5), Evidence(1.0, 0.5), Evidence(3.0, 0.5)], params)]
        [0.638, 0.319, 0.043]
    """
    distances = torch.tensor([entry.distance for entry in evidence], dtype=torch.float64)
    entropies = torch.tensor([entry.entropy for entry in evidence], dtype=torch.float64)
    temperature = max(params.distance_temperature * float(distances.quantile(0.5)), SMALLEST_TEMPERATURE)
    others = len(evidence) - 1
    priors = [params.prior_global, *[(1 - params.prior_global) / others] * others] if others else [1.0]
    evidenced = torch.tensor(priors, dtype=torch.float64).log() - distances / temperature - entropies / params.entropy_temperature
    return tuple(evidenced.softmax(dim=0).tolist())


def _distance(network: nn.Module, measured: Mapping[str, norms.Moments]) -> float:
    """Average ``((mu_t - mu)^2 + (sd_t - sd)^2) / (sd^2 + floor)`` over layers and channels; 0 without BatchNorm."""
    stored, per_layer = norms.stored_moments(network), []
    for name, found in measured.items():
        mean, variance = stored[name].mean.double(), stored[name].variance.double()
        apart = (found.mean.double() - mean).square() + (found.variance.double().sqrt() - variance.sqrt()).square()
        per_layer.append((apart / (variance + VARIANCE_FLOOR)).mean())
    return float(torch.stack(per_layer).mean()) if per_layer else 0.0


def _entropy(logits: Float[Tensor, "b k *space"]) -> float:
    """Average entropy over voxels that may be an organ, between 0 and 1; 1 if there are none: an expert that sees nothing."""
    log_probs = logits.log_softmax(CLASS_DIM)
    probs = log_probs.exp()
    open_voxels = probs.select(CLASS_DIM, 0) < CERTAIN_REST
    if not bool(open_voxels.any()):
        return 1.0
    per_voxel = -(probs * log_probs).sum(CLASS_DIM)[open_voxels]
    return float(per_voxel.double().mean()) / math.log(logits.shape[CLASS_DIM])


def _quality(logits: Float[Tensor, "b k *space"], mirrored: Float[Tensor, "b k *space"]) -> float:
    """Multiply the agreement of a prediction with that of the mirrored image by the mean probability of its organs.

    Agreement is ``2|A & B| / (|A| + |B|)``, averaged over organs that either sees; 0 if neither sees any.
    """
    certainty, here = logits.softmax(CLASS_DIM).max(CLASS_DIM)
    there = mirrored.argmax(CLASS_DIM)
    overlaps = []
    for organ in range(1, logits.shape[CLASS_DIM]):
        one, other = here == organ, there == organ
        size = int(one.sum()) + int(other.sum())
        if size:
            overlaps.append(2 * int((one & other).sum()) / size)
    organs = here > 0
    if not overlaps or not bool(organs.any()):
        return 0.0
    return sum(overlaps) / len(overlaps) * float(certainty[organs].double().mean())


def _average(logits: Sequence[Tensor]) -> Tensor:
    """Average probabilities; given as logits: their logarithms, or what a single model gave."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([found.log_softmax(CLASS_DIM) for found in logits]).logsumexp(dim=0) - math.log(len(logits))


def _mirrored(network: nn.Module, seen: pieces.Pieces) -> Tensor:
    """Predict the mirrored pieces and bring the result back."""
    with torch.no_grad():
        return inference.crop(network(seen.items.flip(MIRRORED)).flip(MIRRORED), seen.size)


def _num_slices(seen: pieces.Pieces) -> int:
    """Count the slices of pieces: their number in 2D, their extent along z in 3D."""
    return len(seen.items) if len(seen.size) == pieces.SLICE_DIMS else len(seen.items) * seen.size[0]
