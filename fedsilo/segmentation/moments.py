"""An optimiser's moments as a state: named like the parameters they belong to, on the CPU, restorable bit for bit."""

import torch
from torch import Tensor, nn

from fedsilo.tensors import StateDict

MOMENT_NAMES = ("step", "exp_avg", "exp_avg_sq")


def snapshot(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Copy Adam's moments of a network's parameters, by ``<parameter>.<moment>``; parameters without a step have none."""
    moments: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            moments[f"{name}.{moment}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return moments


def restore(optimizer: torch.optim.Optimizer, network: nn.Module, moments: StateDict) -> None:
    """Put moments back under their parameters, on the parameters' devices."""
    for name, parameter in network.named_parameters():
        found = {moment: moments[f"{name}.{moment}"] for moment in MOMENT_NAMES if f"{name}.{moment}" in moments}
        if found:
            optimizer.state[parameter] = {
                moment: value.clone() if moment == "step" else torch.empty_like(parameter).copy_(value)
                for moment, value in found.items()
            }
