"""Curves given at knots: how a remapping of intensities is stored and read."""

import torch
from jaxtyping import Float
from torch import Tensor


def interpolate(places: Float[Tensor, "b n"], xs: Float[Tensor, "b t"], ys: Float[Tensor, "b t"]) -> Float[Tensor, "b n"]:
    """Read one curve a row between its knots; places beyond the outer knots get the outer values.

    Args:
        places: Where to read.
        xs: Knots, rising along a row; two equal ones are a jump.
        ys: Values at the knots.

    Example:
        >>> interpolate(torch.tensor([[0.5, 9.0]]), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 10.0, 0.0]]))
        tensor([[5., 0.]])
    """
    right = torch.searchsorted(xs, places).clamp(1, xs.shape[1] - 1)
    x0, x1, y0, y1 = xs.gather(1, right - 1), xs.gather(1, right), ys.gather(1, right - 1), ys.gather(1, right)
    share = ((places - x0) / (x1 - x0).clamp(min=torch.finfo(xs.dtype).tiny)).clamp(0, 1)
    return torch.lerp(y0, y1, share)
