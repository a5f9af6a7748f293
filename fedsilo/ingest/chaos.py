"""The CHAOS challenge: CT/<n>/DICOM_anon and Ground; MR/<n>/T2SPIR/... and MR/<n>/T1DUAL/....

CT and MR are of one hospital and different patients; a site has one modality, so each is a layout of its own, and so are both
sequences of MR. Masks are PNG files in ``Ground``, as many as slices; both are put in order by the numbers in their names, padded
or not. Where masks have not the names of their slices, slices' numbers have to follow their places, and masks' have no gap.
The folders and this order follow descriptions of the challenge and were **not verified** against the original archive.

Values of MR masks are bands: liver (55, 70], right kidney (110, 135], left kidney (175, 200], spleen (240, 255].

Reference:
    Kavur et al., CHAOS challenge, Medical Image Analysis 2021.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedsilo.ingest import dicom_files, dicom_series, pictures, pixels
from fedsilo.ingest.source import Content, Finding, Options, SourceCase, SourceError, SourceSite
from fedsilo.ingest.tree import Tree

CT_EVIDENCE = "[CT/]<n>/DICOM_anon/*.dcm and Ground/*.png"
T2_EVIDENCE = "[MR/]<n>/T2SPIR/DICOM_anon/*.dcm and Ground/*.png"
T1_EVIDENCE = "[MR/]<n>/T1DUAL/DICOM_anon/InPhase and OutPhase, and Ground/*.png"
CT_FOLDER = re.compile(r"^(?P<case>(?:.*/)?(?P<patient>[^/]+))/DICOM_anon/[^/]+$")
T2_FOLDER = re.compile(r"^(?P<case>(?:.*/)?(?P<patient>[^/]+)/T2SPIR)/DICOM_anon/[^/]+$")
T1_FOLDER = re.compile(r"^(?P<case>(?:.*/)?(?P<patient>[^/]+)/T1DUAL)/DICOM_anon/(?P<phase>InPhase|OutPhase)/[^/]+$")
PHASES = ("InPhase", "OutPhase")
CT_LABELS = {"background": 0, "liver": 1}
MR_LABELS = {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}
BANDS = {1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)}
"""Value -> lower bound, which is outside, and upper bound, which is inside."""
FULL = 255
NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def matches_ct(source: Tree) -> bool:
    """Say whether a source has CHAOS's CT."""
    return bool(_cases(source, CT_FOLDER, is_ct=True))


def matches_t2(source: Tree) -> bool:
    """Say whether a source has CHAOS's T2-SPIR."""
    return bool(_cases(source, T2_FOLDER))


def matches_t1(source: Tree) -> bool:
    """Say whether a source has CHAOS's T1-DUAL."""
    return bool(_cases(source, T1_FOLDER))


def find_ct(source: Tree, options: Options) -> SourceSite:  # noqa: ARG001  # the layout says all itself
    """List the cases of CT."""
    cases, findings = _listed(source, _cases(source, CT_FOLDER, is_ct=True))
    return SourceSite(cases, CT_LABELS, ("CT",), "mm", findings, "CT", "hu")


def find_t2(source: Tree, options: Options) -> SourceSite:  # noqa: ARG001  # the layout says all itself
    """List the cases of T2-SPIR."""
    cases, findings = _listed(source, _cases(source, T2_FOLDER))
    return SourceSite(cases, MR_LABELS, ("T2-SPIR",), "mm", findings, "MR", "au")


def find_t1(source: Tree, options: Options) -> SourceSite:  # noqa: ARG001  # the layout says all itself
    """List the cases of T1-DUAL: two channels."""
    cases, findings = _listed(source, _cases(source, T1_FOLDER))
    return SourceSite(cases, MR_LABELS, ("T1-IN", "T1-OUT"), "mm", findings, "MR", "au")


def read_ct(case: SourceCase, labels: Mapping[str, int]) -> Content:  # noqa: ARG001  # values are those of the challenge
    """Read a case of CT; masks hold 0 and 255."""
    return _content(case, [case.images], {1: (FULL - 1, FULL)})


def read_t2(case: SourceCase, labels: Mapping[str, int]) -> Content:  # noqa: ARG001  # values are those of the challenge
    """Read a case of T2-SPIR."""
    return _content(case, [case.images], BANDS)


def read_t1(case: SourceCase, labels: Mapping[str, int]) -> Content:  # noqa: ARG001  # values are those of the challenge
    """Read a case of T1-DUAL, in phase first."""
    return _content(case, [tuple(path for path in case.images if path.parent.name == phase) for phase in PHASES], BANDS)


def _cases(source: Tree, folder: re.Pattern[str], *, is_ct: bool = False) -> dict[str, tuple[str, list[str]]]:
    """Group image files: folder of a case -> patient and files, sorted by name."""
    cases: dict[str, tuple[str, list[str]]] = {}
    for name in source.names:
        match = folder.match(name)
        if match is None or (is_ct and match["patient"] in ("T2SPIR", "T1DUAL")):
            continue
        if dicom_files.is_dicom(source.path(name)):
            cases.setdefault(match["case"], (match["patient"], []))[1].append(name)
    return cases


def _listed(source: Tree, cases: Mapping[str, tuple[str, list[str]]]) -> tuple[tuple[SourceCase, ...], tuple[Finding, ...]]:
    """Give each case its masks."""
    findings, listed = list[Finding](), []
    for case, (patient, files) in sorted(cases.items()):
        masks = [name for name in source.below(f"{case}/Ground") if name.endswith(".png")]
        if not masks:
            findings.append(Finding("no label", "there is no Ground/*.png", case, case, left_out=True))
            continue
        paths = tuple(source.path(name) for name in files)
        listed.append(SourceCase(case, patient, paths, tuple(source.path(name) for name in masks)))
    return tuple(listed), tuple(findings)


def _content(case: SourceCase, channels: list[tuple[Path, ...]], bands: Mapping[int, tuple[int, int]]) -> Content:
    """Read one volume a channel, and the masks by their order."""
    if any(not paths for paths in channels):
        raise SourceError("channels", f"expected {len(channels)} phases, got {sum(bool(paths) for paths in channels)}")
    for path in {path for paths in channels for path in paths}:
        if dicom_files.header(path).is_burned_in:
            raise SourceError("burned in", "BurnedInAnnotation is YES: its pixels may show a name")
    volumes = [dicom_series.read(paths) for paths in channels]
    first = volumes[0]
    if any(numpy.abs(volume.affine - first.affine).max() > pictures.MAX_DIFFERENCE for volume in volumes):
        raise SourceError("geometry", "the phases lie on different grids")
    if len(case.labels) != len(channels[0]):
        raise SourceError("label", f"expected one mask a slice, {len(channels[0])}, got {len(case.labels)}")
    label = numpy.zeros(first.array.shape, numpy.uint8)
    for path, mask_path in _pairs(channels[0], case.labels, first.place_of_file):
        (mask,) = pixels.read(mask_path, is_label=True)
        if mask.T.shape != label.shape[:2]:
            raise SourceError("geometry", f"a mask has {mask.shape[0]} rows and {mask.shape[1]} columns, unlike its slice")
        label[:, :, first.place_of_file[path]] = _by_bands(mask.T, bands)
    findings = tuple(finding for volume in volumes for finding in volume.findings)
    return Content(pictures.same_grid([volume.array for volume in volumes]), label, first.affine, first.affine, findings)


def _pairs(slices: Sequence[Path], masks: Sequence[Path], place_of_file: Mapping[Path, int]) -> list[tuple[Path, Path]]:
    """Give each slice its mask: by name, or by their numbers if these say the same as the slices' places.

    Raises:
        SourceError: Names have no numbers that put them in order, or it is not sure which mask is whose.
    """
    slice_of, mask_of = _by_numbers(slices), _by_numbers(masks)
    pairs = [(slice_of[number], mask_of[mask]) for number, mask in zip(sorted(slice_of), sorted(mask_of), strict=True)]
    if all(one.stem == mask.stem for one, mask in pairs):
        return pairs
    places = numpy.diff([place_of_file[one] for one, _ in pairs])
    if not ((places == 1).all() or (places == -1).all()):
        raise SourceError("label", "the numbers of the slices' files do not follow their places: which mask is whose is not sure")
    if len({tuple(step) for step in numpy.diff(sorted(mask_of), axis=0).tolist()}) > 1:
        raise SourceError("label", "the masks are numbered with a gap: which mask is whose is not sure")
    return pairs


def _by_numbers(paths: Sequence[Path]) -> dict[tuple[int, ...], Path]:
    """Give files by the numbers in their names."""
    found = {tuple(int(part) for part in NUMBER.findall(path.stem)): path for path in paths}
    if len(found) < len(paths) or len({len(numbers) for numbers in found}) > 1:
        raise SourceError("label", "names of slices or masks have no numbers that put them in order")
    return found


def _by_bands(mask: NDArray[numpy.generic], bands: Mapping[int, tuple[int, int]]) -> NDArray[numpy.uint8]:
    """Turn grey values into organ values."""
    label = numpy.zeros(mask.shape, numpy.uint8)
    grey = mask.astype(numpy.int32)
    for value, (low, high) in bands.items():
        label[(grey > low) & (grey <= high)] = value
    unknown = numpy.unique(grey[(label == 0) & (grey != 0)])
    if unknown.size:
        raise SourceError("label", f"a mask has the grey value {int(unknown[0])}, which belongs to no organ")
    return label
