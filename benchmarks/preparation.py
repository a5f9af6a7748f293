"""What facts and preparation of a site cost: seconds a case, and preparation against MONAI's transforms run bare.

    python benchmarks/preparation.py [--cases N] [--repeats N]

Cases are volumes of 256 x 256 x 40 voxels with two organs, compressed NIfTI. Both preparations read image and label, reorient,
clip, normalise, resample to 2.5 mm in the plane and write; ours also keeps the label as stored and the way back. They take
turns in one process with one thread; a number is the median over the repeats of the mean over the cases.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from gin import medians
from monai.transforms import ClipIntensityPercentilesd, Compose, LoadImaged, NormalizeIntensityd, Orientationd, Spacingd
from scipy import ndimage

from fedsilo import params as params_module
from fedsilo.cohort import layouts, measure, preprocess, repairs, volumes
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.layouts import SourceCase
from fedsilo.cohort.volumes import Volume

ROOT = Path(__file__).resolve().parents[1]
SHAPE, AFFINE = (256, 256, 40), numpy.diag([-1.5, -1.5, 5.0, 1.0])
TARGET_MM = 2.5
SITE_CASES = 200


def write_site(folder: Path, num_cases: int) -> None:
    """Write smooth images with two organs."""
    label = numpy.zeros(SHAPE, numpy.uint8)
    label[60:150, 70:180, 8:30] = 1
    label[170:200, 100:130, 10:25] = 2
    for index in range(num_cases):
        noise = numpy.random.default_rng(index).normal(size=SHAPE)
        image = 300 + 4000 * ndimage.gaussian_filter(noise, 3) + 10 * noise
        volumes.write_nifti(Volume(image.clip(0).astype(numpy.int16), AFFINE), folder / f"imagesTr/case-{index}_0000.nii.gz")
        volumes.write_nifti(Volume(label, AFFINE), folder / f"labelsTr/case-{index}.nii.gz")
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "liver": 1, "kidneys": 2}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


def main(argv: list[str] | None = None) -> int:
    """Print seconds a case and the ratio as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    roster = rosters.load(ROOT / "cohorts/demo.yaml")
    site = next(site for site in roster.sites if site.modality == "MR")
    params = params_module.load(ROOT / "params.yaml", {}, [f"prepare.spacing_zyx_mm=[null, {TARGET_MM}, {TARGET_MM}]"]).prepare
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_site(folder, options.cases)
        found = layouts.find_cases(folder, site.name)
        label_map = layouts.harmonise(found.labels, roster, site.name)
        low, high = params.mr_clip_percentiles
        bare = Compose(
            [
                LoadImaged(["image", "label"], ensure_channel_first=True),
                Orientationd(["image", "label"], axcodes="RAS", labels=None),
                ClipIntensityPercentilesd("image", low, high),
                NormalizeIntensityd("image"),
                Spacingd(["image", "label"], (TARGET_MM, TARGET_MM, AFFINE[2, 2]), mode=("bilinear", "nearest")),
            ]
        )

        def facts(case: SourceCase) -> object:
            return measure.measure(case, label_map, roster=roster, site=site)

        def ours(case: SourceCase) -> object:
            image, label, _ = repairs.read(case, fix=False)
            if label is None:
                raise AssertionError("every case has a label")
            values = label_map.apply(label.channels[0])
            made = preprocess.prepare(image, values, unit=site.intensity_unit, params=params)
            return preprocess.save(made, folder / "ours.safetensors")

        def monai(case: SourceCase) -> object:
            made = bare({"image": case.image_paths[0], "label": case.label_path})
            numpy.savez(folder / "monai.npz", image=made["image"].numpy().astype(numpy.float16), label=made["label"].numpy())
            return made

        def over(function: Callable[[SourceCase], object]) -> Callable[[], object]:
            return lambda: [function(case) for case in found.cases]

        seconds = medians({"facts": over(facts), "ours": over(ours), "monai": over(monai)}, options.repeats)
    each = {name: value / options.cases for name, value in seconds.items()}
    result = {
        "machine": platform.processor() or platform.machine(),
        "voxels": SHAPE,
        "seconds a case": {name: round(value, 3) for name, value in each.items()},
        "preparation / MONAI": round(each["ours"] / each["monai"], 2),
        f"facts of {SITE_CASES} cases on 2 cores, s": round(SITE_CASES * each["facts"] / 2, 1),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
