"""GIN as its authors released it, for tests to start from."""

import torch

from fedsilo.params import AppearanceParams, GinParams, LearnedParams
from fedsilo.segmentation.gin import sample_gin

RELEASED = {
    "networks": "per_sample", "padding": "zeros", "kernel_sizes": "per_batch", "initial_scale": "unit", "redraw_flat": False,
}  # fmt: skip

LEARNED = LearnedParams(steps=4, critic_weight=0.05)


def gin_params(**changes):
    return GinParams(**{**RELEASED, **changes})


def gin_draw(shape, seed=0, *, probability=1.0, **changes):
    return sample_gin(
        shape[0],
        shape[1],
        spatial_dims=len(shape) - 2,
        params=gin_params(**changes),
        probability=probability,
        generator=torch.Generator().manual_seed(seed),
    )


def appearance_params(method, probability=1.0, **changes):
    return AppearanceParams(method=method, probability=probability, consistency=10.0, gin=gin_params(**changes), learned=LEARNED)
