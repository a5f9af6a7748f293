"""Params of adaptation that tests share, and one case through it."""

from pathlib import Path

from fedsilo import params as params_module
from fedsilo import seeds
from fedsilo.outside_params import AdaptationParams, ObjectiveParams
from fedsilo.routing import adaptation
from fedsilo.routing.pieces import Geometry

OUTSIDE = params_module.load(Path(__file__).parents[1] / "params.yaml").outside.model_copy(
    update={"shape_radius_px": 2, "batch_size": 4}
)
PRESET = ObjectiveParams(consistency=1.0, shape=0.01, entropy=0.01)


def adaptation_params(**changes):
    base = AdaptationParams(
        experts="all", train=("gates", "norms"), gate="case", tie="layer", start="prior", source_share=1.0,
        protocol="episodic", steps=2, learning_rate=0.05, objective=PRESET,
    )  # fmt: skip
    return AdaptationParams(**{**dict(base), **changes})


def outside(**changes):
    return OUTSIDE.model_copy(update=changes)


def adapt_all(routed, images, spatial_dims, *, seed=0, divisor=4, params=OUTSIDE, patch_zyx=None, start=None, **changes):
    """Adapt to a site's cases, by name; keyword arguments change the method."""
    method = adaptation.Method(params, adaptation_params(**changes), Geometry(spatial_dims, divisor, patch_zyx), "cpu")
    return list(
        adaptation.adapt(
            [adaptation.Image(name, voxels) for name, voxels in images.items()],
            method,
            start=start or (lambda _image: routed),
            draws=lambda name, index: seeds.generator(seed, "adapt", name, index),
        )
    )


def adapt(routed, voxels, spatial_dims, **options):
    """Adapt to one case."""
    return adapt_all(routed, {"case": voxels}, spatial_dims, **options)[0]
