"""Local training: epochs of one site from a given state to a new one."""

import contextlib
import copy
import functools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
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
class Stretch:
    """A stretch of local training: on what, how long, how.

    Attributes:
        data: The site's training samples.
        epochs: Passes over the samples.
        rate: AdamW's learning rate.
        annotated: Values of the organs this site annotates.
        params: Batch size, patch, augmentation and weight decay.
        stream: Names of the random numbers.
        remapper: The site's; needed by ``appearance.method`` learned and both, else None. Training a network does not change it.
        amp: bfloat16 autocast for network and loss, on CUDA only.
    """

    data: SiteData
    epochs: int
    rate: float
    annotated: tuple[int, ...]
    params: FederateParams
    stream: Stream
    remapper: Remapper | None = None
    amp: bool = False


@dataclass(frozen=True)
class Pull:
    """A quadratic pull of all trained parameters u to a fixed state w: ``weight/2 ||u - w||^2`` is added to the loss."""

    anchor: StateDict
    weight: float


@dataclass(frozen=True)
class Trained:
    """What a stretch of local training gives.

    Attributes:
        moments: AdamW's moments by ``<parameter>.<moment>``; private to the site.
        mean_loss: Over all steps, without a pull.
        num_steps: Batches seen.
    """

    moments: StateDict
    mean_loss: float
    num_steps: int


@dataclass(frozen=True)
class TrainingBatch:
    """A batch as a network meets it.

    Attributes:
        images: After the affine map, on the device.
        labels: The same.
        seen: The images with another appearance: what the network is given; with GIN-IPA three views, one after the other.
    """

    images: Float[Tensor, "b c *space"]
    labels: Int[Tensor, "b *space"]
    seen: Float[Tensor, "v c *space"]


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
    stretch: Stretch,
    *,
    initial_moments: StateDict | None = None,
    pull: Pull | None = None,
    trainable: Collection[str] | None = None,
) -> Trained:
    """Train ``network`` in place on one site's samples, on the device it is on.

    Each batch: affine map of image and label, then the change of appearance (GIN) on the image alone, then network, marginal
    Dice + CE, with GIN-IPA the disagreement of its views, where organs are not annotated what the starting state knows of them
    (from the image before GIN), AdamW.

    Args:
        network: Holds the state to start from; its parameters and buffers are changed.
        stretch: On what, how long, how.
        initial_moments: AdamW's moments to go on from; None starts at zero.
        pull: To which state the parameters are pulled; its gradient ``weight (u - w)`` is added to the loss's.
        trainable: Names of the parameters to train; None: all. The others and the running statistics of norm layers without
            any of them stay as they are, bit for bit.

    Returns:
        Moments, mean loss and number of steps.
    """
    optimizer = make_optimizer(network, stretch)
    if initial_moments is not None:
        moments.restore(optimizer, network, initial_moments)
    lesson = Lesson(network, stretch)
    anchors = _anchors(network, pull)
    losses_seen: list[Tensor] = []
    with _training_only(network, trainable):
        for batch in prepare(stretch, device=lesson.device):
            optimizer.zero_grad(set_to_none=True)
            loss = lesson.loss(network, batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch annotates its arguments only
            if pull is not None:
                _add_pull(anchors, pull.weight)
            optimizer.step()
            losses_seen.append(loss.detach())
    return Trained(moments.snapshot(optimizer, network), mean_of(losses_seen), len(losses_seen))


def make_optimizer(network: nn.Module, stretch: Stretch) -> torch.optim.AdamW:
    """Make the optimiser of a stretch, over all parameters; those without a gradient it leaves alone."""
    fused = next(network.parameters()).device.type == "cpu"
    return torch.optim.AdamW(
        network.parameters(), lr=stretch.rate, weight_decay=stretch.params.optimizer.weight_decay, fused=fused
    )


class Lesson:
    """The loss of a stretch; the state that ``network`` has now is the teacher of organs that are not annotated."""

    def __init__(self, network: nn.Module, stretch: Stretch) -> None:
        """Copy the teacher, if there is one."""
        self.stretch = stretch
        self.device = next(network.parameters()).device
        self.teaching = distillation_weight(stretch.params, round_index=stretch.stream.round_index)
        self.teacher = copy.deepcopy(network).eval() if self.teaching > 0 else None

    def loss(self, network: nn.Module, batch: TrainingBatch) -> Float[Tensor, ""]:
        """Compute a network's loss on a batch, without a pull."""
        params, annotated = self.stretch.params, self.stretch.annotated
        num_views = appearance.num_views(params.appearance)
        with torch.autocast("cuda", torch.bfloat16) if self._autocast else contextlib.nullcontext():
            logits = network(batch.seen).float()
            supervised = logits[: len(batch.labels)]
            loss = losses.marginal_dice_ce(supervised, batch.labels, annotated=annotated)
            if num_views > 1:
                views = logits.unflatten(0, (num_views, len(batch.labels)))
                loss = loss + params.appearance.consistency * losses.disagreement(views)
            if self.teacher is not None and len(annotated) < logits.shape[CLASS_DIM] - 1:
                with torch.no_grad():
                    taught = self.teacher(batch.images).float()
                loss = loss + self.teaching * losses.conditional_distillation(
                    supervised, taught, batch.labels, annotated=annotated, temperature=params.distillation.temperature
                )
        return loss

    @property
    def _autocast(self) -> bool:
        return self.stretch.amp and self.device.type == "cuda"


def prepare(stretch: Stretch, *, device: torch.device) -> Iterator[TrainingBatch]:
    """Give the batches of a stretch, one after the other: drawn, moved to ``device``, mapped and with another appearance."""
    params, remapper = stretch.params, stretch.remapper
    order, warp, looks = (stretch.stream.generator(name) for name in ("batches", "spatial", "gin"))
    for _ in range(stretch.epochs):
        for batch in batches.epoch(stretch.data, batch_size=params.batch_size, patch_zyx=params.patch_zyx, generator=order):
            images, labels = batch.images.to(device), batch.labels.to(device)
            draw = spatial.sample_spatial(len(images), space=tuple(images.shape[2:]), params=params.spatial, generator=warp)
            images, labels = spatial.apply_spatial(images, labels, draw)
            look = appearance.sample(images, params=params.appearance, generator=looks)
            remap = None
            if remapper is not None:
                remap = functools.partial(remapper.remap, labels=labels, modalities=batch.modalities)
            yield TrainingBatch(images, labels, appearance.apply(images, look, remap=remap))


def train_remapper(remapper: Remapper, data: SiteData, *, params: FederateParams, stream: Stream) -> RemapperRecord:
    """Take a round's steps of a learned remapping, in place; the network has no part in them."""
    return remapper.train(
        data,
        params=params.appearance.learned,
        patch_zyx=params.patch_zyx,
        progress=min(stream.round_index / params.rounds, 1.0),
        generator=stream.generator("remapper"),
    )


def mean_of(losses_seen: list[Tensor]) -> float:
    """Average losses in float64; NaN if there is none."""
    return float(torch.stack(losses_seen).double().mean()) if losses_seen else math.nan


def _anchors(network: nn.Module, pull: Pull | None) -> list[tuple[nn.Parameter, Tensor]]:
    """Pair parameters with what they are pulled to, on their device."""
    if pull is None:
        return []
    return [(parameter, pull.anchor[name].to(parameter.device)) for name, parameter in network.named_parameters()]


def _add_pull(anchors: list[tuple[nn.Parameter, Tensor]], weight: float) -> None:
    """Add the gradient of the pull to that of the loss."""
    for parameter, anchor in anchors:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=weight)


@contextlib.contextmanager
def _training_only(network: nn.Module, trainable: Collection[str] | None) -> Iterator[None]:
    """Put a network into training mode, but for what is not trained; afterwards all parameters can be trained again."""
    network.train()
    if trainable is None:
        yield
        return
    try:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trainable)
        for module in network.modules():
            own = list(module.parameters(recurse=False))
            if not any(parameter.requires_grad for parameter in own):
                module.training = False
        yield
    finally:
        network.requires_grad_(requires_grad=True)
        network.train()
