"""What GIN costs: its time a batch against a training step, and one network a sample against one a batch, in 2D and 3D.

    python benchmarks/gin.py [--repeats N]

Both sides of a ratio are timed in turns in one process, one thread, the network of params.yaml; each number is the median of
the repeats.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from fedsilo import params as params_module
from fedsilo import seeds
from fedsilo.params import GinParams, Params
from fedsilo.segmentation import gin, losses, network

ROOT = Path(__file__).resolve().parents[1]
SPACES = {2: (256, 256), 3: (32, 64, 64)}
BATCHES = {2: 8, 3: 2}
ORGANS = 5


def training_step(params: Params, spatial_dims: int, images: torch.Tensor) -> Callable[[], None]:
    """Make a function that does one step without augmentation."""
    settings = params.federate.network.model_copy(update={"spatial_dims": spatial_dims})
    model = network.build(settings, num_classes=ORGANS + 1, in_channels=1, generator=seeds.generator(params.seed, "init"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    labels = torch.randint(0, ORGANS + 1, images[:, 0].shape, generator=seeds.generator(params.seed, "labels"))
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses.marginal_dice_ce(model(images), labels, annotated=tuple(range(1, ORGANS + 1))).backward()
        optimizer.step()

    return step


def remapping(params: GinParams, images: torch.Tensor, generator: torch.Generator) -> Callable[[], None]:
    """Make a function that draws GIN's networks for one batch and applies them to every sample."""

    def remap() -> None:
        gin.apply_gin(images, gin.sample_for(images, params=params, probability=1.0, generator=generator))

    return remap


def medians(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time functions in turns; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> int:
    """Time both dimensions and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    params = params_module.load(ROOT / "params.yaml")
    result: dict[str, object] = {"machine": f"{platform.machine()}, torch {torch.__version__}", "repeats": options.repeats}
    for spatial_dims, space in SPACES.items():
        images = torch.randn(BATCHES[spatial_dims], 1, *space, generator=seeds.generator(params.seed, "images"))
        numbers = seeds.generator(params.seed, "gin")
        settings = params.federate.appearance.gin
        found = medians(
            {
                "step": training_step(params, spatial_dims, images),
                "per_sample": remapping(settings.model_copy(update={"networks": "per_sample"}), images, numbers),
                "shared": remapping(settings.model_copy(update={"networks": "shared"}), images, numbers),
            },
            options.repeats,
        )
        result[f"{spatial_dims}D"] = {
            "batch": list(images.shape),
            "gin_share_of_step": round(found["per_sample"] / found["step"], 4),
            "shared_over_per_sample": round(found["shared"] / found["per_sample"], 2),
        }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
