"""What a server makes of a round's direction: FedAvg as it is, FedAvgM, FedAdam or FedYogi.

The direction stands in for a negative gradient. All is float64, entry by entry; moments are what a journal has to keep.

Reference:
    Hsu et al., Measuring the effects of non-identical data distribution for federated visual classification, 2019 (FedAvgM);
    Reddi et al., Adaptive federated optimization, ICLR 2021 (FedAdam, FedYogi). Deviation: FedAdam corrects the bias of its
    moments, as Adam does and the paper does not; FedYogi starts from zero moments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsilo.aggregation_params import ServerOptimizerParams
from fedsilo.tensors import StateDict


@dataclass(frozen=True)
class Moments:
    """Of an optimiser after some steps.

    Attributes:
        num_steps: Taken so far.
        first: Running mean of directions by entry, float64.
        second: Running mean of their squares; empty of fedavgm.
    """

    num_steps: int
    first: StateDict
    second: StateDict


class ServerOptimizer:
    """One step of an optimiser, entry by entry."""

    def __init__(self, params: ServerOptimizerParams, before: Moments | None) -> None:
        """Go on from the moments of the step before; None at first."""
        self._params = params
        self._before = before or Moments(0, {}, {})
        self._first: dict[str, Tensor] = {}
        self._second: dict[str, Tensor] = {}

    @property
    def moments(self) -> Moments | None:
        """For the next step; None of an optimiser that keeps nothing."""
        return None if self._params.name == "none" else Moments(self._before.num_steps + 1, self._first, self._second)

    def step(self, name: str, direction: Tensor) -> Tensor:
        """Return what is added to an entry.

        Args:
            name: Of the entry.
            direction: Float64, of its shape.
        """
        params, count = self._params, self._before.num_steps + 1
        if params.name == "none":
            return direction
        zero = torch.zeros_like(direction)
        first = self._before.first.get(name, zero).to(direction.device)
        if params.name == "fedavgm":
            self._first[name] = params.beta1 * first + direction
            return params.learning_rate * self._first[name]
        second = self._before.second.get(name, zero).to(direction.device)
        square = direction.square()
        self._first[name] = first = params.beta1 * first + (1 - params.beta1) * direction
        if params.name == "fedyogi":
            self._second[name] = second = second - (1 - params.beta2) * square * (second - square).sign()
            return params.learning_rate * first / (second.sqrt() + params.tau)
        self._second[name] = second = params.beta2 * second + (1 - params.beta2) * square
        mean = first / (1 - params.beta1**count)
        spread = (second / (1 - params.beta2**count)).sqrt()
        return params.learning_rate * mean / (spread + params.tau)


def to_state(moments: Moments) -> dict[str, Tensor]:
    """Put moments in one state, to be stored; the number of steps is not in it."""
    return {f"first/{name}": value for name, value in moments.first.items()} | {
        f"second/{name}": value for name, value in moments.second.items()
    }


def from_state(state: StateDict, num_steps: int) -> Moments:
    """Take moments out of a stored state."""
    parts: dict[str, dict[str, Tensor]] = {"first": {}, "second": {}}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        parts[kind][name] = value
    return Moments(num_steps, parts["first"], parts["second"])
