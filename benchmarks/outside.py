"""What the methods at an outside site cost: time a case against the global model's prediction, models held, peak memory.

    python benchmarks/outside.py [--repeats N] [--experts N] [--slices N]

All methods see one case with the network of params.yaml, in turns in one process with one thread; each number is the median
of the repeats. Weights are random: time does not depend on them. An adaptation's time is that of learning, merging and
predicting. Memory is the peak of a process of its own for each method, above that of the process that only loads the models;
read from /proc, so on Linux.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from gin import medians

from fedsilo import params as params_module
from fedsilo import seeds
from fedsilo.federation import states
from fedsilo.outside_params import AdaptationParams
from fedsilo.routing import adaptation, baselines, dg_tta, experts, router
from fedsilo.routing.pieces import Geometry
from fedsilo.segmentation import inference, network

ROOT = Path(__file__).resolve().parents[1]
EDGE = 128
CLASSES = 6
BATCH = 32


def methods(num_experts: int, num_slices: int) -> tuple[dict[str, Callable[[], object]], int]:
    """Make a function a method that predicts the case; also count the bytes of one model."""
    params = params_module.load(ROOT / "params.yaml")
    settings = params.federate.network
    model, *others = (
        network.build(settings, num_classes=CLASSES, in_channels=1, generator=seeds.generator(0, "expert", index))
        for index in range(num_experts + 1)
    )
    found = [states.snapshot(other) for other in others]
    image = torch.randn((1, num_slices, EDGE, EDGE), generator=seeds.generator(0, "image"))
    geometry = Geometry(params.federate.network.spatial_dims, network.divisor(params.federate.network), params.federate.patch_zyx)

    def predict(state: dict[str, torch.Tensor]) -> torch.Tensor:
        states.restore(model, state)
        return inference.predict_probs(
            model, image, spatial_dims=geometry.spatial_dims, divisor=geometry.divisor, batch_size=BATCH, device="cpu"
        )

    def adapted(settings: AdaptationParams) -> torch.Tensor:
        held = found if settings.experts == "all" else found[:1]
        prior = experts.global_prior(len(held), params.outside.prior_global)
        routed = experts.build(model, held, prior=prior, gate=settings.gate, tie=settings.tie)
        method = adaptation.Method(params.outside, settings, geometry, "cpu")
        made = next(
            adaptation.adapt(
                [adaptation.Image("case", image)],
                method,
                start=lambda _image: routed,
                draws=lambda name, index: seeds.generator(0, name, index),
            )
        )
        return predict(dict(made.state))

    def by_router() -> torch.Tensor:
        made = router.route(model, found, image, params=params.outside.router, geometry=geometry, device="cpu")
        return predict(dict(made.state if made.kept else found[0]))

    def by_dg_tta() -> torch.Tensor:
        state = dg_tta.adapt(
            model,
            found[0],
            image,
            params=params.outside.dg_tta,
            batch_size=params.outside.batch_size,
            geometry=geometry,
            generator=seeds.generator(0, "dg_tta"),
            device="cpu",
        )
        return predict(state)

    paper = params.outside.adaptations["routing-paper"]
    tent = AdaptationParams(
        **{**dict(paper), "experts": "global", "train": ("norms",), "gate": "static", "source_share": 0.0, "protocol": "online"}
        | {"steps": 1}
    )
    made: dict[str, Callable[[], object]] = {
        "global": lambda: predict(found[0]),
        "soup": lambda: predict(baselines.uniform_soup(found)),
        "ensemble": lambda: baselines.ensemble_probs(predict(state) for state in found),
        "router": by_router,
        "routing-paper": lambda: adapted(paper),
        "tent": lambda: adapted(tent),
        "dg_tta": by_dg_tta,
    }
    return made, sum(value.numel() * value.element_size() for value in found[0].values())


def peak_mib(name: str | None, num_experts: int, num_slices: int) -> float:
    """Measure the peak memory of this process after one case by a method; without a name, after loading the models."""
    torch.set_num_threads(1)
    functions, _ = methods(num_experts, num_slices)
    if name is not None:
        functions[name]()
    # not ru_maxrss, which a process inherits from the one that started it
    line = next(line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def extra_mib(names: list[str], num_experts: int, num_slices: int) -> dict[str, float]:
    """Measure what each method needs beyond the models, in a fresh process each."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        loaded, *peaks = pool.map(peak_mib, [None, *names], [num_experts] * (len(names) + 1), [num_slices] * (len(names) + 1))
    return {name: round(peak - loaded, 1) for name, peak in zip(names, peaks, strict=True)}


def main(argv: list[str] | None = None) -> int:
    """Print seconds, ratios, models and memory as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--experts", type=int, default=7)
    parser.add_argument("--slices", type=int, default=32)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    functions, model_bytes = methods(options.experts, options.slices)
    seconds = medians(functions, options.repeats)
    held = {"global": 1, "soup": options.experts, "tent": 1, "dg_tta": 1}
    result = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "experts": options.experts,
        "slices": options.slices,
        "model_mib": round(model_bytes / 2**20, 2),
        "seconds_global": round(seconds["global"], 4),
        "times_global": {name: round(value / seconds["global"], 2) for name, value in seconds.items()},
        "extra_mib": extra_mib(list(functions), options.experts, options.slices),
        "models_held": {name: held.get(name, options.experts) for name in functions},
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
