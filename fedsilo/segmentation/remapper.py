"""A site's learned remapping: flow and critic with their optimisers, trained beside the network, a few steps a round.

Nothing of it leaves the site: an update is made from the segmentation network's state alone.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.utils import clip_grad_norm_

from fedsilo.cohort import batches
from fedsilo.cohort.batches import Batch, SiteData
from fedsilo.params import LearnedParams
from fedsilo.segmentation import critic as critics
from fedsilo.segmentation import learned_gin, moments
from fedsilo.segmentation.critic import Critic
from fedsilo.segmentation.learned_gin import HistFlow, LearnedDraw, Look
from fedsilo.tensors import StateDict

FLOW_RATE, FLOW_BETAS = 3e-3, (0.5, 0.99)
CRITIC_RATE, CRITIC_BETAS = 2e-4, (0.0, 0.99)
MAX_NORM = 5.0
BATCH_SIZE = 8
NUM_VOXELS = 400
DEQUANTISATION = 0.015
"""Half width of the uniform noise on intensities: clipped CT has atoms, which a density must not chase."""

WARM_UP = 1 / 3
"""Share of all rounds in which the flow learns likelihood only."""

TARGET_SIGN = 0.6
SIGN_GAIN = 0.5
PRESSURE_BOUNDS = (0.1, 10.0)
FLOOR_LEVEL = 0.05


@dataclass(frozen=True)
class RemapperRecord:
    """What a round's steps gave; stays at the site.

    Attributes:
        likelihood_loss: Mean over the steps, in nats an intensity.
        critic_loss: Mean over the steps; None while the flow warms up.
        critic_sign: Mean sign of the critic's scores of real pairs; None while the flow warms up.
        pressure: Factor of the critic in the flow's loss after the round.
    """

    likelihood_loss: float | None
    critic_loss: float | None
    critic_sign: float | None
    pressure: float


class Remapper:
    """Flow, critic and their optimisers of one site.

    Args:
        spatial_dims: 2 or 3.
        num_classes: Organs and background.
        generator: Source of the initial weights.
        device: Where it trains.
    """

    def __init__(self, *, spatial_dims: int, num_classes: int, generator: Generator, device: torch.device) -> None:
        """Start with a flow that is the identity."""
        self.flow = HistFlow(generator=generator).to(device)
        self.critic = Critic(spatial_dims=spatial_dims, num_classes=num_classes, generator=generator).to(device)
        self._flow_adam = torch.optim.Adam(self.flow.parameters(), lr=FLOW_RATE, betas=FLOW_BETAS)
        self._critic_adam = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_RATE, betas=CRITIC_BETAS)
        self._pressure = 1.0
        self._floor = -math.inf
        self._device = device

    def state(self) -> dict[str, Tensor]:
        """Copy all that training goes on from, on the CPU."""
        parts: Mapping[str, StateDict] = {
            "flow": self.flow.state_dict(),
            "critic": self.critic.state_dict(),
            "flow_adam": moments.snapshot(self._flow_adam, self.flow),
            "critic_adam": moments.snapshot(self._critic_adam, self.critic),
            "critic_scale": {"pressure": _scalar(self._pressure), "floor": _scalar(self._floor)},
        }
        return {f"{part}/{name}": value.detach().cpu().clone() for part, state in parts.items() for name, value in state.items()}

    def restore(self, state: StateDict) -> None:
        """Go on from a state of `state`."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value
        self.flow.load_state_dict(parts["flow"])
        self.critic.load_state_dict(parts["critic"])
        moments.restore(self._flow_adam, self.flow, parts.get("flow_adam", {}))
        moments.restore(self._critic_adam, self.critic, parts.get("critic_adam", {}))
        self._pressure = float(parts["critic_scale"]["pressure"])
        self._floor = float(parts["critic_scale"]["floor"])

    def train(
        self,
        data: SiteData,
        *,
        params: LearnedParams,
        patch_zyx: tuple[int, int, int],
        progress: float,
        generator: Generator,
    ) -> RemapperRecord:
        """Take a round's steps.

        The flow minimises ``L_nll``; after a third of the rounds also ``- w D(phi(x~), y) + relu(.6 - mean |q1 - q2|)``, with
        the critic trained beside it. ``w`` follows the critic: it grows while the critic tells real pairs too surely.

        Args:
            data: The site's training samples.
            params: Steps and weight of the critic.
            patch_zyx: Training crop.
            progress: Share of the rounds that lie behind, in [0, 1).
            generator: On the CPU; decides batches, voxels and draws.
        """
        warm = progress >= WARM_UP
        likelihoods, critic_losses, signs, scores = [], [], [], []
        for batch in islice(_batches(data, patch_zyx, generator), params.steps):
            images, labels = batch.images.to(self._device), batch.labels.to(self._device)
            codes = learned_gin.image_codes(batch.modalities).to(self._device)
            loss = learned_gin.likelihood_loss(self.flow, *_sample_looks(batch, codes, generator))
            likelihoods.append(loss.detach())
            if warm:
                draws = [learned_gin.sample_learned(len(images), probability=1.0, generator=generator) for _ in range(2)]
                remapped, latent = learned_gin.remap(self.flow, images, draws[0], codes=codes)
                critic_losses.append(self._step_critic(images, remapped, labels))
                looks = [learned_gin.decoded_quantiles(self.flow, latent, draw) for draw in draws]
                judged = self.critic(critics.structure(remapped), labels).mean()
                loss = loss - params.critic_weight * self._pressure * judged + learned_gin.diversity_loss(*looks)
                scores.append(self._score(images, labels))
                signs.append(scores[-1].sign().mean())
            _step(self._flow_adam, self.flow.parameters(), loss)
        if warm:
            sign = float(torch.stack(signs).mean())
            low, high = PRESSURE_BOUNDS
            self._pressure = min(max(self._pressure * math.exp(SIGN_GAIN * (sign - TARGET_SIGN)), low), high)
            self._floor = float(torch.cat(scores).quantile(FLOOR_LEVEL))
        return RemapperRecord(_mean(likelihoods), _mean(critic_losses), _mean(signs), self._pressure)

    def remap(
        self,
        images: Float[Tensor, "b 1 *space"],
        draw: LearnedDraw,
        *,
        labels: Int[Tensor, "b *space"],
        modalities: Int[Tensor, " b"],
    ) -> Float[Tensor, "b 1 *space"]:
        """Give images another look; where the critic finds that the anatomy suffered, the latent is not moved.

        An image suffers if its score falls below the 5th percentile of the site's real pairs.

        Args:
            images: Z-scored, one channel; not modified.
            draw: Of `learned_gin.sample_learned`.
            labels: Of the images.
            modalities: Of the images, 0 CT or 1 MR.
        """
        codes = learned_gin.image_codes(modalities.to(images.device))
        remapped = learned_gin.apply_learned(images, self.flow, draw, codes=codes)
        rejected = (self._score(remapped, labels) < self._floor).cpu()
        if rejected.any():
            calmer = replace(draw, move=replace(draw.move, identity=draw.move.identity | rejected))
            remapped = learned_gin.apply_learned(images, self.flow, calmer, codes=codes)
        return remapped

    def _step_critic(
        self, images: Float[Tensor, "b 1 *space"], remapped: Float[Tensor, "b 1 *space"], labels: Int[Tensor, "b *space"]
    ) -> Tensor:
        loss = critics.critic_loss(self.critic, images, remapped, labels)
        _step(self._critic_adam, self.critic.parameters(), loss)
        return loss.detach()

    def _score(self, images: Float[Tensor, "b 1 *space"], labels: Int[Tensor, "b *space"]) -> Float[Tensor, " b"]:
        """Score pairs without a step of the critic's power iteration."""
        self.critic.eval()
        with torch.no_grad():
            scores: Tensor = self.critic(critics.structure(images), labels)
        self.critic.train()
        return scores


def _batches(data: SiteData, patch_zyx: tuple[int, int, int], generator: Generator) -> Iterator[Batch]:
    """Yield batches without end, epoch after epoch."""
    while True:
        yield from batches.epoch(data, batch_size=BATCH_SIZE, patch_zyx=patch_zyx, generator=generator)


def _sample_looks(batch: Batch, codes: Float[Tensor, "b c"], generator: Generator) -> tuple[Look, Float[Tensor, "m c"]]:
    """Pick foreground voxels of each image that has any, with noise, and a style; on the codes' device."""
    values = batch.images.flatten(1)
    shown = learned_gin.foreground(values)
    kept = shown.any(dim=1)
    if not kept.any():  # a batch of air: nothing is learnt from its background, and nothing breaks
        shown, kept = torch.ones_like(shown), torch.ones_like(kept)
    values, shown = values[kept], shown[kept]
    picked = values.gather(1, torch.multinomial(shown.float(), NUM_VOXELS, replacement=True, generator=generator))
    noise = DEQUANTISATION * (2 * torch.rand(picked.shape, generator=generator) - 1)
    style = torch.randn(len(values), learned_gin.NUM_STYLES, generator=generator)
    bounded = (picked + noise).clamp(-learned_gin.BOUND, learned_gin.BOUND)
    device = codes.device
    look = Look(bounded.to(device), style.to(device), learned_gin.quantiles(values, shown).to(device))
    return look, codes[kept.to(device)]


def _step(optimizer: torch.optim.Optimizer, parameters: Iterator[Tensor], loss: Tensor) -> None:
    """Take one clipped step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch annotates its arguments only
    clip_grad_norm_(parameters, MAX_NORM)
    optimizer.step()


def _mean(values: list[Tensor]) -> float | None:
    return float(torch.stack(values).double().mean()) if values else None


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
