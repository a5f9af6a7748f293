"""Tiny sites in the nnU-Net raw layout for the tests of the data side, and the cohort and params that go with them."""

import json
from pathlib import Path

import numpy
import PIL.Image

from fedsilo import params as params_module
from fedsilo.cohort import volumes
from fedsilo.cohort.roster import Roster
from fedsilo.cohort.volumes import Volume

REPOSITORY = Path(__file__).resolve().parents[2]
AFFINE = numpy.diag([2.0, 3.0, 5.0, 1.0])
SHAPE = (12, 10, 9)
LABELS = {"background": 0, "liver": 1, "kidneys": 2}


def roster(*roles, unit="au", modality="MR", organs=("background", "kidneys", "liver")):
    """A cohort with one site a role, named site-a, site-b, ..."""
    sites = [
        {
            "name": f"site-{chr(ord('a') + index)}",
            "folder": f"site-{chr(ord('a') + index)}",
            "role": role,
            "modality": modality,
            "intensity_unit": unit,
            "show_images": True,
        }
        for index, role in enumerate(roles or ("inside",))
    ]
    sections = ("phantoms", "prepare", "federate", "inside", "outside", "report")
    return Roster.model_validate(
        {
            "name": "tiny",
            "root": None,
            "organs": list(organs),
            "aliases": {"left kidney": "kidneys", "right_kidney": "kidneys"},
            "drop": ["Spleen"],
            "sites": sites,
            "overrides": {section: {} for section in sections},
        }
    )


def params(*assignments):
    """The project's params with bounds that tiny cases and cohorts keep."""
    bounds = (
        *("prepare.contract.min_edge_3d=4", "prepare.contract.min_sites=1", "prepare.contract.near_share=0.0"),
        *("prepare.contract.fov_z_mm=[1.0, 500.0]", "prepare.contract.fov_yx_mm=[1.0, 500.0]"),
        *("prepare.contract.max_pixel_ratio=2.0", "prepare.contract.organ_volume=[0.0001, 5.0]"),
    )
    return params_module.load(REPOSITORY / "params.yaml", {}, (*bounds, *assignments))


def voxels(seed, shape=SHAPE):
    """An image without structure, and a label with both organs, on stored axes."""
    generator = numpy.random.default_rng(seed)
    label = numpy.zeros(shape, numpy.uint8)
    label[2:5, 2:5, 2:5] = 1
    label[6:9, 2:5, 2:5] = 2
    return generator.integers(0, 500, shape).astype(numpy.int16), label


def write_case(folder, case, image, label, *, affine=AFFINE, label_affine=None):
    """Write one NIfTI case."""
    volumes.write_nifti(Volume(image, affine), folder / "imagesTr" / f"{case}_0000.nii.gz")
    if label is not None:
        volumes.write_nifti(
            Volume(label, affine if label_affine is None else label_affine), folder / "labelsTr" / f"{case}.nii.gz"
        )


def write_slice(folder, case, image, label):
    """Write one PNG case."""
    for name, array in ((f"imagesTr/{case}_0000.png", image), (f"labelsTr/{case}.png", label)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(array).save(path)


def describe(folder, *, labels=LABELS, ending=".nii.gz", channels=("MR",), patients=None):
    """Write dataset.json and patients.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {str(index): name for index, name in enumerate(channels)}
    content = {"channel_names": names, "labels": dict(labels), "numTraining": 0, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(content))
    if patients is not None:
        rows = "".join(f"{case},{patient}\n" for case, patient in patients.items())
        (folder / "patients.csv").write_text("case,patient\n" + rows)


def write_site(folder, num_cases=6, *, seed=0, **description):
    """Write a clean site: one case a patient."""
    cases = [f"case_{index}" for index in range(num_cases)]
    for index, case in enumerate(cases):
        write_case(folder, case, *voxels(1000 * seed + index))
    describe(folder, **{"patients": {case: f"patient_{case}" for case in cases}, **description})
    return folder


def write_pixel_site(folder, num_cases=6, *, seed=0, shape=(40, 48), **description):
    """Write a clean site of PNG slices: one case a patient."""
    generator = numpy.random.default_rng(seed)
    cases = [f"slice_{index}" for index in range(num_cases)]
    for case in cases:
        label = numpy.zeros(shape, numpy.uint8)
        label[5:15, 5:15] = 2
        write_slice(folder, case, generator.integers(0, 256, shape).astype(numpy.uint8), label)
    describe(folder, **{"patients": {case: f"patient_{case}" for case in cases}, "ending": ".png", **description})
    return folder
