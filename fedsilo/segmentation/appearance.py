"""How intensities of a training batch are changed: one interface over GIN and the augmentations that it is compared with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fedsilo.params import AppearanceParams
from fedsilo.segmentation import bezier, gin, ipa, learned_gin, photometric, randconv, samples
from fedsilo.segmentation.bezier import BezierDraw
from fedsilo.segmentation.gin import GinDraw
from fedsilo.segmentation.ipa import IpaDraw
from fedsilo.segmentation.learned_gin import LearnedDraw
from fedsilo.segmentation.photometric import PhotometricDraw
from fedsilo.segmentation.randconv import RandConvDraw


@dataclass(frozen=True, eq=False)
class BothDraw:
    """A coin a sample: GIN or learned GIN.

    Attributes:
        gin: For all samples.
        learned: For all samples.
        tossed: Samples that take learned GIN.
    """

    gin: GinDraw
    learned: LearnedDraw
    tossed: Bool[Tensor, " b"]


AppearanceDraw = GinDraw | IpaDraw | PhotometricDraw | BezierDraw | RandConvDraw | LearnedDraw | BothDraw | None
"""All that is random in one change of a batch; None changes nothing."""

Remap = Callable[[Tensor, LearnedDraw], Tensor]
"""A site's learned remapping of images, as a draw has it."""

LEARNED = ("learned", "both")
"""Methods that need a site's learned remapping."""


def num_views(params: AppearanceParams) -> int:
    """Return how many views of each sample `apply` makes: three with ``gin_ipa``, else one.

    Only the first is supervised.
    """
    return ipa.NUM_VIEWS if params.method == "gin_ipa" else 1


def sample(images: Float[Tensor, "b c *space"], *, params: AppearanceParams, generator: Generator) -> AppearanceDraw:
    """Draw what ``params.method`` needs for one batch.

    Args:
        images: Those that the draw will be applied to; values matter only to GIN's ``redraw_flat``.
        params: Method, probability and the settings of GIN.
        generator: On the CPU; advanced by the draw, by ``none`` not.
    """
    num_samples, num_channels, spatial_dims = images.shape[0], images.shape[1], images.ndim - 2
    probability = params.probability
    draw: AppearanceDraw
    match params.method:
        case "gin":
            draw = gin.sample_for(images, params=params.gin, probability=probability, generator=generator)
        case "gin_ipa":
            draw = ipa.sample_ipa(images, params=params.gin, probability=probability, generator=generator)
        case "photometric":
            draw = photometric.sample_photometric(num_samples, probability=probability, generator=generator)
        case "bezier":
            draw = bezier.sample_bezier(num_samples, probability=probability, generator=generator)
        case "randconv":
            draw = randconv.sample_randconv(
                num_samples, num_channels, spatial_dims=spatial_dims, probability=probability, generator=generator
            )
        case "learned":
            draw = learned_gin.sample_learned(num_samples, probability=probability, generator=generator)
        case "both":
            draw = BothDraw(
                gin=gin.sample_for(images, params=params.gin, probability=probability, generator=generator),
                learned=learned_gin.sample_learned(num_samples, probability=probability, generator=generator),
                tossed=torch.rand(num_samples, generator=generator) < 1 / 2,
            )
        case "none":
            draw = None
    return draw


def apply(
    images: Float[Tensor, "b c *space"], draw: AppearanceDraw, *, remap: Remap | None = None
) -> Float[Tensor, "n c *space"]:
    """Change intensities as drawn; geometry, and with it the labels, stays.

    Args:
        images: Z-scored; not modified.
        draw: Of `sample`.
        remap: The site's learned remapping, which a `LearnedDraw` or `BothDraw` needs.

    Raises:
        ValueError: The draw needs a remapping and there is none.

    Returns:
        B images, or with an `IpaDraw` 3 B: all first views, then all second, then all third.
    """
    match draw:
        case GinDraw():
            changed = gin.apply_gin(images, draw)
        case IpaDraw():
            changed = ipa.apply_ipa(images, draw)
        case PhotometricDraw():
            changed = photometric.apply_photometric(images, draw)
        case BezierDraw():
            changed = bezier.apply_bezier(images, draw)
        case RandConvDraw():
            changed = randconv.apply_randconv(images, draw)
        case LearnedDraw():
            changed = _needed(remap)(images, draw)
        case BothDraw():
            changed = samples.choose(draw.tossed, _needed(remap)(images, draw.learned), gin.apply_gin(images, draw.gin))
        case None:
            changed = images
    return changed


def _needed(remap: Remap | None) -> Remap:
    if remap is None:
        raise ValueError("a draw of learned GIN needs the site's remapping")
    return remap
