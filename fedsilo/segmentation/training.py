"""Local training: epochs of one site from a given state to a new one."""

import contextlib
import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsilo import seeds
from fedsilo.cohort import batches
from fedsilo.cohort.batches import SiteData
from fedsilo.params import FederateParams, OptimizerParams
from fedsilo.segmentation import appearance, losses, spatial
from fedsilo.tensors import StateDict
from fedsilo.types import CLASS_DIM

MOMENT_NAMES = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Stream:
    """Names of the random numbers of one stretch of training: purpose, site and round decide them, nothing else."""

    seed: int
    purpose: str
    site: str
    round_index: int

    def generator(self, name: str) -> torch.Generator:
        """Make the generator of one use, e.g. ``gin``."""
        return seeds.generator(self.seed, name, self.purpose, self.site, self.round_index)


@dataclass(frozen=True)
class Trained:
    """What a stretch of local training gives.

    Attributes:
        moments: AdamW's moments by ``<parameter>.<moment>``; private to the site.
        mean_loss: Over all steps.
        num_steps: Batches seen.
    """

    moments: StateDict
    mean_loss: float
    num_steps: int


def learning_rate(params: OptimizerParams, *, round_index: int, rounds: int) -> float:
    """Return a round's learning rate: cosine from the first round's to ``final_rate`` times it in the last round.

    Example:
        >>> rates = OptimizerParams(learning_rate=1.0, weight_decay=0, final_rate=0.5, moments="reset")
        >>> [learning_rate(rates, round_index=r, rounds=3) for r in range(3)]
        [1.0, 0.75, 0.5]
    """
    progress = round_index / max(rounds - 1, 1)
    share = params.final_rate + (1 - params.final_rate) * (1 + math.cos(math.pi * progress)) / 2
    return params.learning_rate * share


def distillation_weight(params: FederateParams, *, round_index: int) -> float:
    """Return the weight of the conditional distillation in a round: linear from the first round's to the last's."""
    progress = min(round_index / max(params.rounds - 1, 1), 1.0)
    return params.distillation.first_weight + (params.distillation.last_weight - params.distillation.first_weight) * progress


def train(
    network: nn.Module,
    data: SiteData,
    *,
    epochs: int,
    rate: float,
    annotated: tuple[int, ...],
    params: FederateParams,
    stream: Stream,
    moments: StateDict | None = None,
    amp: bool = False,
) -> Trained:
    """Train ``network`` in place on one site's samples, on the device it is on.

    Each batch: affine map of image and label, then the change of appearance (GIN) on the image alone, then network, marginal
    Dice + CE, with GIN-IPA the disagreement of its views, where organs are not annotated what the starting state knows of them
    (from the image before GIN), AdamW.

    Args:
        network: Holds the state to start from; its parameters and buffers are changed.
        data: The site's training samples.
        epochs: Passes over the samples.
        rate: AdamW's learning rate.
        annotated: Values of the organs this site annotates.
        params: Batch size, patch, augmentation and weight decay.
        stream: Names of the random numbers.
        moments: AdamW's moments to go on from; None starts at zero.
        amp: bfloat16 autocast for network and loss, on CUDA only.

    Returns:
        Moments, mean loss and number of steps.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=rate, weight_decay=params.optimizer.weight_decay, fused=device.type == "cpu"
    )
    if moments is not None:
        _restore_moments(optimizer, network, moments)
    order, warp, remap = (stream.generator(name) for name in ("batches", "spatial", "gin"))
    autocast = torch.autocast("cuda", torch.bfloat16) if amp and device.type == "cuda" else contextlib.nullcontext()
    num_views = appearance.num_views(params.appearance)
    teaching = distillation_weight(params, round_index=stream.round_index)
    teacher = copy.deepcopy(network).eval() if teaching > 0 else None
    network.train()
    losses_seen: list[Tensor] = []
    for _ in range(epochs):
        for images_cpu, labels_cpu in batches.epoch(
            data, batch_size=params.batch_size, patch_zyx=params.patch_zyx, generator=order
        ):
            images, labels = images_cpu.to(device), labels_cpu.to(device)
            draw = spatial.sample_spatial(len(images), space=tuple(images.shape[2:]), params=params.spatial, generator=warp)
            images, labels = spatial.apply_spatial(images, labels, draw)
            seen = appearance.apply(images, appearance.sample(images, params=params.appearance, generator=remap))
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                logits = network(seen).float()
                supervised = logits[: len(labels)]
                loss = losses.marginal_dice_ce(supervised, labels, annotated=annotated)
                if num_views > 1:
                    views = logits.unflatten(0, (num_views, len(labels)))
                    loss = loss + params.appearance.consistency * losses.disagreement(views)
                if teacher is not None and len(annotated) < logits.shape[CLASS_DIM] - 1:
                    with torch.no_grad():
                        taught = teacher(images).float()
                    loss = loss + teaching * losses.conditional_distillation(
                        supervised, taught, labels, annotated=annotated, temperature=params.distillation.temperature
                    )
            loss.backward()  # type: ignore[no-untyped-call]  # torch annotates its arguments only
            optimizer.step()
            losses_seen.append(loss.detach())
    mean_loss = float(torch.stack(losses_seen).double().mean()) if losses_seen else math.nan
    return Trained(_snapshot_moments(optimizer, network), mean_loss, len(losses_seen))


def _snapshot_moments(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Copy the moments to the CPU under their parameters' names."""
    moments: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            moments[f"{name}.{moment}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return moments


def _restore_moments(optimizer: torch.optim.Optimizer, network: nn.Module, moments: StateDict) -> None:
    """Put moments back under their parameters."""
    for name, parameter in network.named_parameters():
        found = {moment: moments[f"{name}.{moment}"] for moment in MOMENT_NAMES if f"{name}.{moment}" in moments}
        if found:
            optimizer.state[parameter] = {
                moment: value.clone() if moment == "step" else torch.empty_like(parameter).copy_(value)
                for moment, value in found.items()
            }
