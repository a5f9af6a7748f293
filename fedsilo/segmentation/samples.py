"""What every change of appearance does sample by sample: fit, convolve, blend, keep the norm, leave the others alone."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

NORM_EPS = 1e-5
"""Added to the norm that is divided by: an image of zeros stays one."""

CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {2: functional.conv2d, 3: functional.conv3d}
PADDING_MODES = {"replicate": "replicate", "zeros": "constant"}


def check_count(images: Float[Tensor, "b *rest"], remapped: Bool[Tensor, " n"]) -> None:
    """Refuse a draw that was made for another number of samples.

    Raises:
        ValueError: ``n`` is not ``b``.
    """
    if len(remapped) != len(images):
        raise ValueError(f"a draw for {len(remapped)} samples cannot be applied to {len(images)}")


def check_kernels(
    images: Float[Tensor, "b c *space"], remapped: Bool[Tensor, " n"], weight: Float[Tensor, "k c_out c_in *kernel"]
) -> None:
    """Refuse a draw of kernels that was made for other images.

    Raises:
        ValueError: The numbers of samples, channels or axes differ.
    """
    expected = (len(remapped), weight.shape[2], weight.ndim - 3)
    found = (images.shape[0], images.shape[1], images.ndim - 2)
    if found != expected:
        raise ValueError(f"a draw for (samples, channels, axes) {expected} cannot be applied to {found}")


def convolve(
    images: Float[Tensor, "n gc *space"],
    weight: Float[Tensor, "g c_out c_in *kernel"],
    shift: Float[Tensor, "g c_out"] | None,
    *,
    padding: Literal["replicate", "zeros"],
) -> Float[Tensor, "n gd *space"]:
    """Convolve each group of channels with kernels of its own, keeping the size; groups never mix."""
    axes = images.ndim - 2
    margin = weight.shape[-1] // 2
    if margin:
        images = functional.pad(images, [margin] * 2 * axes, mode=PADDING_MODES[padding])
    flat_shift = None if shift is None else shift.flatten()
    return CONVOLUTIONS[axes](images, weight.flatten(0, 1), flat_shift, groups=len(weight))


def blend(
    original: Float[Tensor, "b *rest"], remapped: Float[Tensor, "b *rest"], mix: Float[Tensor, " b"]
) -> Float[Tensor, "b *rest"]:
    """Compute ``(1 - mix) x + mix g(x)`` sample by sample."""
    share = _a_sample(mix, original)
    return (1 - share) * original + share * remapped


def keep_norm(blended: Float[Tensor, "b *rest"], original: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
    """Compute ``m ||x|| / (||m|| + 1e-5)``; norms run over all of a sample."""
    scale = _norms(original) / (_norms(blended) + NORM_EPS)
    return blended * _a_sample(scale, blended)


def choose(
    remapped: Bool[Tensor, " b"], changed: Float[Tensor, "b *rest"], images: Float[Tensor, "b *rest"]
) -> Float[Tensor, "b *rest"]:
    """Take the changed samples that a draw names, in the images' dtype, and all others bit-identical."""
    return torch.where(_a_sample(remapped.to(images.device), images), changed.to(images.dtype), images)


def _a_sample(values: Tensor, like: Tensor) -> Tensor:
    """Shape one value a sample so that it meets a whole sample."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _norms(images: Float[Tensor, "b *rest"]) -> Float[Tensor, " b"]:
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return norms
