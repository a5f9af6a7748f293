"""The embedded cohort: eight scanners, each with subjects of its own, written in the nnU-Net raw layout.

Case i of a site is the same subject whatever the site's role, the number of cases or of processes: its anatomy and its
image come from generators named after site and subject.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy

from fedsilo import files, seeds
from fedsilo.cohort import volumes
from fedsilo.cohort.phantoms import anatomy, contrast, painting
from fedsilo.cohort.phantoms.contrast import BalancedEcho, CtScanner, MrScanner, Scanner, SpoiledEcho, TurboEcho
from fedsilo.cohort.phantoms.space import Grid
from fedsilo.cohort.roster import SiteEntry
from fedsilo.cohort.volumes import Volume
from fedsilo.errors import DataError, OutputError, ParamsError
from fedsilo.params import PhantomsParams
from fedsilo.types import SiteRole

SUPERSAMPLING_ZYX = (1, 2, 2)
FILE_ENDING = ".nii.gz"
DATASET_PREFIX = "phantoms of "

SCANNERS: dict[str, Scanner] = {
    "ct-a": CtScanner("portal", noise_hu=11, kernel=0.55, axcodes="LPS"),
    "ct-b": CtScanner("non_contrast", noise_hu=24, kernel=0.9, axcodes="LAS"),
    "ct-c": CtScanner("arterial", noise_hu=16, kernel=0.35, axcodes="RAS"),
    "mr-a": MrScanner(TurboEcho(1800, 75), "1.5T", "saturated", snr=28, bias=0.22, axcodes="RAS"),
    "mr-b": MrScanner(SpoiledEcho(110, 4.6, 80), "1.5T", "in_phase", snr=32, bias=0.18, axcodes="LPS", tilt_deg=4),
    "mr-c": MrScanner(SpoiledEcho(4.2, 1.2, 12), "3T", "opposed", snr=24, bias=0.38, axcodes="LAS"),
    "mr-d": MrScanner(BalancedEcho(3.6, 1.8, 55), "1.5T", "in_phase", snr=30, bias=0.25, axcodes="RSA"),
    "mr-e": MrScanner(SpoiledEcho(180, 2.3, 70), "3T", "saturated", snr=26, bias=0.3, axcodes="LAS"),
}
"""Scanner of each site, by the site's name in the cohort file."""


def scanner_of(site: SiteEntry) -> Scanner:
    """Find a site's scanner by the site's name.

    Raises:
        ParamsError: There is no such scanner, or it is of another modality than the cohort file says.
    """
    if site.name not in SCANNERS:
        raise ParamsError(f"site {site.name} has no phantom scanner; sites with one are {', '.join(SCANNERS)}")
    scanner = SCANNERS[site.name]
    if modality(scanner) != site.modality:
        raise ParamsError(f"site {site.name} has modality {site.modality} in the cohort file, its scanner is {modality(scanner)}")
    return scanner


def modality(scanner: Scanner) -> str:
    """Name the modality of a scanner, CT or MR."""
    return "CT" if isinstance(scanner, CtScanner) else "MR"


def num_cases(role: SiteRole, phantoms: PhantomsParams) -> int:
    """Say how many subjects a site has."""
    return phantoms.inside_cases if role == "inside" else phantoms.outside_cases


def make_case(site: str, subject: int, scanner: Scanner, phantoms: PhantomsParams, *, seed: int) -> tuple[Volume, Volume]:
    """Make one subject's image and labels as a site stores them.

    Args:
        site: Names the generators.
        subject: From 1.
        scanner: Usually the site's; another one shows the same anatomy in another contrast.
        phantoms: Grid and spacing.
        seed: Of the run.

    Returns:
        Image (int16; HU, or arbitrary units of MR) and labels (uint8, values of ``anatomy.ORGANS``).
    """
    grid = Grid(phantoms.grid_zyx, phantoms.spacing_zyx_mm, scanner.tilt_deg)
    drawn = anatomy.sample_subject(generator=seeds.numpy_generator(seed, "phantom", site, subject))
    phantom = painting.paint(drawn, grid.finer(SUPERSAMPLING_ZYX))
    labels = painting.majority_labels(phantom.tissue, SUPERSAMPLING_ZYX)
    generator = seeds.numpy_generator(seed, "contrast", site, subject)
    if isinstance(scanner, CtScanner):
        offset_hu = seeds.numpy_generator(seed, "scanner", site).normal(0, contrast.CT_OFFSET_HU)
        image = contrast.scan_ct(phantom, scanner, SUPERSAMPLING_ZYX, offset_hu=offset_hu, generator=generator)
    else:
        image = contrast.scan_mr(phantom, scanner, SUPERSAMPLING_ZYX, generator=generator)
    limits = numpy.iinfo(numpy.int16)
    stored = numpy.clip(numpy.rint(image), limits.min, limits.max).astype(numpy.int16)
    return (
        volumes.from_zyx(stored, grid.affine, scanner.axcodes),
        volumes.from_zyx(labels, grid.affine, scanner.axcodes),
    )


def write_site(site: SiteEntry, phantoms: PhantomsParams, root: Path, *, seed: int) -> Path:
    """Write all cases of a site below ``root`` and return the site's folder.

    Raises:
        ParamsError: The site has no scanner.
        OutputError: The folder cannot be written, or the one that stands there was not made by this function.
    """
    scanners = [scanner_of(site)] * num_cases(site.role, phantoms)
    return write_subjects(root / site.folder, site.name, scanners, phantoms, seed=seed)


def write_subjects(folder: Path, site: str, scanners: Sequence[Scanner], phantoms: PhantomsParams, *, seed: int) -> Path:
    """Write a site's first subjects, each as its scanner shows it, and return the folder.

    The folder is built under a temporary name and then replaces what an earlier run left, so it is whole or absent.

    Args:
        folder: Of the site.
        site: Names subjects, cases and generators.
        scanners: One a subject, all of one modality.
        phantoms: Grid and spacing.
        seed: Of the run.

    Raises:
        OutputError: The folder cannot be written, or the one that stands there was not made by this function.
    """
    _check_replaceable(folder)
    building = folder.with_name(f".{folder.name}.part")
    _remove(building)
    rows = ["case,patient"]
    for subject, scanner in enumerate(scanners, start=1):
        case = f"{site}_{subject:03d}"
        image, labels = make_case(site, subject, scanner, phantoms, seed=seed)
        volumes.write_nifti(image, building / "imagesTr" / f"{case}_0000{FILE_ENDING}")
        volumes.write_nifti(labels, building / "labelsTr" / f"{case}{FILE_ENDING}")
        rows.append(f"{case},{site}-p{subject:03d}")
    files.write_text(building / "patients.csv", "\n".join(rows) + "\n")
    files.write_json(
        building / "dataset.json",
        {
            "name": f"{DATASET_PREFIX}{site}",
            "channel_names": {"0": modality(scanners[0])},
            "labels": {organ: value for value, organ in enumerate(anatomy.ORGANS)},
            "numTraining": len(scanners),
            "file_ending": FILE_ENDING,
        },
    )
    _remove(folder)
    try:
        building.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace data that an earlier run did not make."""
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        name = files.read_json(folder / "dataset.json").get("name")
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    except DataError:
        name = None
    if not str(name).startswith(DATASET_PREFIX):
        raise OutputError(f"cannot write {folder}: it holds data that are not phantoms; move it away or choose another root")


def _remove(folder: Path) -> None:
    """Remove a folder if it is there."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
