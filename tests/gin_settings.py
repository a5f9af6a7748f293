"""GIN as its authors released it, for tests to start from."""

from fedsilo.params import AppearanceParams, GinParams

RELEASED = {
    "networks": "per_sample", "padding": "zeros", "kernel_sizes": "per_batch", "initial_scale": "unit", "redraw_flat": False,
}  # fmt: skip


def gin_params(**changes):
    return GinParams(**{**RELEASED, **changes})


def appearance_params(method, probability=1.0, **changes):
    return AppearanceParams(method=method, probability=probability, consistency=10.0, gin=gin_params(**changes))
