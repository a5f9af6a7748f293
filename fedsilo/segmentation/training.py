"""Local training: epochs of one site from a given state to a new one."""

import contextlib
import copy
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsilo import seeds
from fedsilo.cohort import batches
from fedsilo.cohort.batches import SiteData
from fedsilo.params import FederateParams, OptimizerParams
from fedsilo.segmentation import appearance, losses, moments, spatial
from fedsilo.segmentation.remapper import Remapper, RemapperRecord
from fedsilo.tensors import StateDict
from fedsilo.types import CLASS_DIM


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
        remapper: What the steps of the learned remapping gave; None without one.
    """

    moments: StateDict
    mean_loss: float
    num_steps: int
    remapper: RemapperRecord | None


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
    initial_moments: StateDict | None = None,
    remapper: Remapper | None = None,
    amp: bool = False,
) -> Trained:
    """Train ``network`` in place on one site's samples, on the device it is on.

    Each batch: affine map of image and label, then the change of appearance (GIN) on the image alone, then network, marginal
    Dice + CE, with GIN-IPA the disagreement of its views, where organs are not annotated what the starting state knows of them
    (from the image before GIN), AdamW. A learned remapping takes its own few steps first.

    Args:
        network: Holds the state to start from; its parameters and buffers are changed.
        data: The site's training samples.
        epochs: Passes over the samples.
        rate: AdamW's learning rate.
        annotated: Values of the organs this site annotates.
        params: Batch size, patch, augmentation and weight decay.
        stream: Names of the random numbers.
        initial_moments: AdamW's moments to go on from; None starts at zero.
        remapper: The site's, changed in place; needed by ``appearance.method`` learned and both, else None.
        amp: bfloat16 autocast for network and loss, on CUDA only.

    Returns:
        Moments, mean loss, number of steps, and what the remapping's steps gave.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=rate, weight_decay=params.optimizer.weight_decay, fused=device.type == "cpu"
    )
    if initial_moments is not None:
        moments.restore(optimizer, network, initial_moments)
    order, warp, looks = (stream.generator(name) for name in ("batches", "spatial", "gin"))
    autocast = torch.autocast("cuda", torch.bfloat16) if amp and device.type == "cuda" else contextlib.nullcontext()
    num_views = appearance.num_views(params.appearance)
    teaching = distillation_weight(params, round_index=stream.round_index)
    teacher = copy.deepcopy(network).eval() if teaching > 0 else None
    remapped = None if remapper is None else train_remapper(remapper, data, params=params, stream=stream)
    network.train()
    losses_seen: list[Tensor] = []
    for _ in range(epochs):
        for batch in batches.epoch(data, batch_size=params.batch_size, patch_zyx=params.patch_zyx, generator=order):
            images, labels = batch.images.to(device), batch.labels.to(device)
            draw = spatial.sample_spatial(len(images), space=tuple(images.shape[2:]), params=params.spatial, generator=warp)
            images, labels = spatial.apply_spatial(images, labels, draw)
            look = appearance.sample(images, params=params.appearance, generator=looks)
            remap = None
            if remapper is not None:
                remap = functools.partial(remapper.remap, labels=labels, modalities=batch.modalities)
            seen = appearance.apply(images, look, remap=remap)
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
    return Trained(moments.snapshot(optimizer, network), mean_loss, len(losses_seen), remapped)


def train_remapper(remapper: Remapper, data: SiteData, *, params: FederateParams, stream: Stream) -> RemapperRecord:
    """Take a round's steps of a learned remapping; the network has no part in them."""
    return remapper.train(
        data,
        params=params.appearance.learned,
        patch_zyx=params.patch_zyx,
        progress=min(stream.round_index / params.rounds, 1.0),
        generator=stream.generator("remapper"),
    )
