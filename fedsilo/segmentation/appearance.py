"""How intensities of a training batch are changed: one interface over GIN and the augmentations that it is compared with."""

from jaxtyping import Float
from torch import Generator, Tensor

from fedsilo.params import AppearanceParams
from fedsilo.segmentation import bezier, gin, ipa, photometric, randconv
from fedsilo.segmentation.bezier import BezierDraw
from fedsilo.segmentation.gin import GinDraw
from fedsilo.segmentation.ipa import IpaDraw
from fedsilo.segmentation.photometric import PhotometricDraw
from fedsilo.segmentation.randconv import RandConvDraw

AppearanceDraw = GinDraw | IpaDraw | PhotometricDraw | BezierDraw | RandConvDraw | None
"""All that is random in one change of a batch; None changes nothing."""


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
    match params.method:
        case "gin":
            return gin.sample_for(images, params=params.gin, probability=probability, generator=generator)
        case "gin_ipa":
            return ipa.sample_ipa(images, params=params.gin, probability=probability, generator=generator)
        case "photometric":
            return photometric.sample_photometric(num_samples, probability=probability, generator=generator)
        case "bezier":
            return bezier.sample_bezier(num_samples, probability=probability, generator=generator)
        case "randconv":
            return randconv.sample_randconv(
                num_samples, num_channels, spatial_dims=spatial_dims, probability=probability, generator=generator
            )
        case "none":
            return None


def apply(images: Float[Tensor, "b c *space"], draw: AppearanceDraw) -> Float[Tensor, "n c *space"]:
    """Change intensities as drawn; geometry, and with it the labels, stays.

    Returns:
        B images, or with an `IpaDraw` 3 B: all first views, then all second, then all third.
    """
    match draw:
        case GinDraw():
            return gin.apply_gin(images, draw)
        case IpaDraw():
            return ipa.apply_ipa(images, draw)
        case PhotometricDraw():
            return photometric.apply_photometric(images, draw)
        case BezierDraw():
            return bezier.apply_bezier(images, draw)
        case RandConvDraw():
            return randconv.apply_randconv(images, draw)
        case None:
            return images
