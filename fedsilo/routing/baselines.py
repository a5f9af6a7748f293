"""What routing must beat without a gradient step: one averaged model, and averaged predictions."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fedsilo.errors import RoutingError
from fedsilo.routing import experts
from fedsilo.tensors import StateDict


def uniform_soup(states: Sequence[StateDict]) -> dict[str, Tensor]:
    """Average the experts' states entry by entry, all alike: one model.

    Raises:
        StateMismatchError: There is no state, or the states differ.

    Reference:
        Wortsman et al., Model soups, ICML 2022.

    Example:
        >>> float(uniform_soup([{"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}])["w"])
        1.5
    """
    return experts.mixture(states, [1.0] * len(states))


def ensemble_probs(probs: Iterable[Float[Tensor, "k *space"]]) -> Float[Tensor, "k *space"]:
    """Average the experts' probabilities, all alike, in float64; one pass over ``probs``, which may be made on the way.

    Returns:
        Probabilities in the dtype of the first.

    Raises:
        RoutingError: There is none to average.

    Example:
        >>> ensemble_probs([torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])])
        tensor([0.2500, 0.7500])
    """
    total, count, dtype = torch.zeros(()), 0, torch.float64
    for expert_probs in probs:
        dtype = expert_probs.dtype if count == 0 else dtype
        total = total + expert_probs.double()
        count += 1
    if count == 0:
        raise RoutingError("cannot average predictions: got none, expected at least one")
    return (total / count).to(dtype)
