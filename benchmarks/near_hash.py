"""How well near hashes tell copies from other patients: the share of bits that differ, on the images of a cohort.

    python benchmarks/near_hash.py [--cohort FILE] [--every N]

Copies are made on a coarser and a finer grid, mirrored, with noise, with 8 bits. Distances between patients are between all
images of one kind (volume or slice); those of one patient are left out.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
from numpy.typing import NDArray
from scipy import ndimage

from fedsilo.cohort import hashes, layouts, volumes
from fedsilo.cohort import roster as rosters

Image = NDArray[numpy.float64]


def zoomed(image: Image, factor: float) -> Image:
    """Resample in the plane, linearly."""
    return numpy.asarray(ndimage.zoom(image, (1, 1, factor, factor), order=1, grid_mode=True, mode="nearest"), numpy.float64)


def eight_bits(image: Image) -> Image:
    """Store the range of the image in 256 steps."""
    return numpy.round(255 * (image - image.min()) / max(float(numpy.ptp(image)), 1e-9))


COPIES: dict[str, Callable[[Image], Image]] = {
    "mirrored": lambda image: image[..., ::-1],
    "coarser (0.7)": lambda image: zoomed(image, 0.7),
    "coarser (0.8), mirrored": lambda image: zoomed(image, 0.8)[..., ::-1],
    "finer (1.5)": lambda image: zoomed(image, 1.5),
    "eight bits": eight_bits,
    "noise (3 % of the deviation)": lambda image: image + numpy.random.default_rng(0).normal(0, 0.03 * image.std(), image.shape),
}


def main(argv: list[str] | None = None) -> int:
    """Print shares as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cohort", type=Path, default=Path("cohorts/demo.yaml"))
    parser.add_argument("--every", type=int, default=3, help="copies are made of every Nth image (default: %(default)s)")
    options = parser.parse_args(argv)
    roster, params = rosters.load_run(options.cohort, Path("params.yaml"))
    root = rosters.data_root(roster, params)
    images: dict[tuple[str, str], list[Image]] = {}
    for site in roster.sites:
        for case in layouts.find_cases(root / site.folder, site.name).cases:
            found = volumes.read_image(case.image_paths).zyx.astype(numpy.float64)
            images.setdefault((site.name, case.patient), []).append(found)
    near = {patient: [hashes.near_hash(image) for image in found] for patient, found in images.items()}
    chosen = list(itertools.chain.from_iterable(images.values()))[:: options.every]
    copies = {
        name: [hashes.differing_share(hashes.near_hash(image), hashes.near_hash(change(image))) for image in chosen]
        for name, change in COPIES.items()
    }
    others = [
        hashes.differing_share(one, other)
        for first, second in itertools.combinations(near, 2)
        for one, other in itertools.product(near[first], near[second])
        if len(one) == len(other)
    ]
    result = {
        "cohort": roster.name,
        "images": sum(map(len, images.values())),
        "copies": {name: {"largest": round(max(v), 3), "mean": round(sum(v) / len(v), 3)} for name, v in copies.items()},
        "other patients": {"smallest": round(min(others), 3), "pairs": len(others)},
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
