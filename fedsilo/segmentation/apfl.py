"""APFL's local training: a global and a personal model side by side, used as one adaptive mixture of both."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsilo.segmentation import moments, training
from fedsilo.segmentation.training import Stretch
from fedsilo.tensors import StateDict

Triple = tuple[nn.Parameter, nn.Parameter, nn.Parameter]
"""A parameter of the local, the personal and the mixed model."""


@dataclass(frozen=True)
class Mixed:
    """What a stretch of APFL gives, beside the local model in ``network``.

    Attributes:
        mix: Share of the personal model after the last step.
        moments: AdamW's moments of the local model.
        personal_moments: The same of the personal model.
        mean_loss: Of the local model, over all steps.
        num_steps: Batches seen.
    """

    mix: float
    moments: StateDict
    personal_moments: StateDict
    mean_loss: float
    num_steps: int


def train(
    network: nn.Module,
    personal: nn.Module,
    mixed: nn.Module,
    stretch: Stretch,
    *,
    mix: float,
    mix_rate: float,
    initial_moments: StateDict | None = None,
    initial_personal_moments: StateDict | None = None,
) -> Mixed:
    """Train ``network`` as in FedAvg and ``personal`` by the loss of the mixture, on the same batches, both in place.

    With local parameters w, personal parameters v and mix a, each step takes, at the values before it::

        u = a v + (1 - a) w
        w <- w - step(grad f(w));  v <- v - step(a grad f(u));  a <- clip(a - mix_rate <v - w, grad f(u)>, 0, 1)

    Afterwards ``mixed`` holds u. Buffers of norm layers belong to passes, not to parameters: those of w are from its own passes,
    those of the mixture from the mixture's, kept in ``mixed``; ``personal`` makes none.

    Args:
        network: Holds the local model to start from: the received one.
        personal: Holds v.
        mixed: Holds the mixture's buffers; its parameters are overwritten.
        stretch: On what, how long, how.
        mix: a to start from, in [0, 1]: the share of the personal model.
        mix_rate: Step size of a; 0 keeps it.
        initial_moments: AdamW's moments of w to go on from; None starts at zero.
        initial_personal_moments: The same of v.

    Reference:
        Deng et al., Adaptive Personalized Federated Learning, 2020 (arXiv 2003.13461), algorithm 1. Deviation: AdamW instead
        of SGD; with it the factor a of v's gradient changes its direction's mixture with the weight decay, hardly its length.
    """
    optimizer, personal_optimizer = training.make_optimizer(network, stretch), training.make_optimizer(personal, stretch)
    if initial_moments is not None:
        moments.restore(optimizer, network, initial_moments)
    if initial_personal_moments is not None:
        moments.restore(personal_optimizer, personal, initial_personal_moments)
    lesson = training.Lesson(network, stretch)
    triples = list(zip(network.parameters(), personal.parameters(), mixed.parameters(), strict=True))
    share = torch.tensor(mix, dtype=torch.float64)
    network.train()
    mixed.train()
    losses_seen: list[Tensor] = []
    for batch in training.prepare(stretch, device=lesson.device):
        _mix(triples, float(share))
        optimizer.zero_grad(set_to_none=True)
        mixed.zero_grad(set_to_none=True)
        loss = lesson.loss(network, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates its arguments only
        lesson.loss(mixed, batch).backward()  # type: ignore[no-untyped-call]  # the same
        slope = _slope(triples)
        for _, own, mixture in triples:
            own.grad = None if mixture.grad is None else float(share) * mixture.grad
        optimizer.step()
        personal_optimizer.step()
        share = (share - mix_rate * slope).clamp(0, 1)
        losses_seen.append(loss.detach())
    _mix(triples, float(share))
    return Mixed(
        mix=float(share),
        moments=moments.snapshot(optimizer, network),
        personal_moments=moments.snapshot(personal_optimizer, personal),
        mean_loss=training.mean_of(losses_seen),
        num_steps=len(losses_seen),
    )


def _mix(triples: list[Triple], share: float) -> None:
    """Write ``share * v + (1 - share) * w`` into the mixture; exactly v at 1 and w at 0."""
    with torch.no_grad():
        for local, personal, mixture in triples:
            mixture.copy_(torch.lerp(local, personal, share))


def _slope(triples: list[Triple]) -> Tensor:
    """Return the derivative of the mixture's loss by the share: ``<v - w, grad f(u)>``, in float64 on the CPU."""
    products = [
        ((personal - local).double() * mixture.grad.double()).sum()
        for local, personal, mixture in triples
        if mixture.grad is not None
    ]
    return torch.stack(products).sum().detach().cpu()
