"""Photometric augmentation as MONAI offers it: scale, shift, gamma, noise, blur; a comparator of GIN."""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandShiftIntensity,
)
from torch import Generator, Tensor

from fedsilo.segmentation import samples

MAX_SEED = 2**31


@dataclass(frozen=True, eq=False)
class PhotometricDraw:
    """All that is random in one call.

    Attributes:
        seeds: Of MONAI's transforms, one a sample.
        remapped: Which samples are changed at all; the others pass unchanged.
    """

    seeds: Int[Tensor, " b"]
    remapped: Bool[Tensor, " b"]


def sample_photometric(num_samples: int, *, probability: float, generator: Generator) -> PhotometricDraw:
    """Draw a seed for each sample's transforms.

    Args:
        num_samples: Images of the batch.
        probability: Chance that a sample is changed.
        generator: On the CPU; advanced by the draw.
    """
    numbers = torch.randint(MAX_SEED, (num_samples,), generator=generator)
    return PhotometricDraw(numbers, torch.rand(num_samples, generator=generator) < probability)


def apply_photometric(images: Float[Tensor, "b c *space"], draw: PhotometricDraw) -> Float[Tensor, "b c *space"]:
    """Change brightness, contrast, gamma, noise and sharpness of the samples that the draw names.

    Strengths follow nnU-Net's: scale 0.75 to 1.25, shift up to 0.1, and each at its own chance gamma 0.7 to 1.5, noise of
    SD up to 0.1, blur of 0.5 to 1 voxels.

    Args:
        images: Z-scored; not modified.
        draw: Of `sample_photometric`, for as many samples.

    Returns:
        Images of the same shape, dtype and device; samples that the draw leaves alone are bit-identical.

    Raises:
        ValueError: The draw was made for another number of samples.
    """
    samples.check_count(images, draw.remapped)
    transforms = _transforms()
    changed = images.detach().clone()
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for index in torch.nonzero(draw.remapped).flatten().tolist():
            transforms.set_random_state(seed=int(draw.seeds[index]))
            changed[index] = torch.as_tensor(transforms(images[index].to(torch.float32))).to(images.dtype)
    return changed


@cache
def _transforms() -> Compose:
    """Make MONAI's transforms once; their random state is set before each use."""
    return Compose(
        [
            RandScaleIntensity(factors=0.25, prob=1.0),
            RandShiftIntensity(offsets=0.1, prob=1.0),
            RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5)),
            RandGaussianNoise(prob=0.15, std=0.1),
            RandGaussianSmooth(sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0), prob=0.2),
        ]
    )
