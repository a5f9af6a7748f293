"""The nnU-Net raw layout, version 2: dataset.json, imagesTr/<case>_0000<ending>, labelsTr/<case><ending>, patients.csv."""

import re
from collections.abc import Mapping

from fedsilo.ingest import labels as names
from fedsilo.ingest import pictures, pixels, tree
from fedsilo.ingest.source import Content, Finding, Options, SourceCase, SourceError, SourceSite
from fedsilo.ingest.tree import Tree

EVIDENCE = "dataset.json with channel_names or file_ending, and files in imagesTr/"
PATIENTS = "patients.csv"
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL | re.ASCII)
HELPERS = {".mhd": (".raw", ".zraw")}
"""Files beside those with the ending that belong to them."""


def matches(source: Tree) -> bool:
    """Say whether a source has this layout."""
    if not source.has("dataset.json") or not source.below("imagesTr"):
        return False
    content = tree.read_json(source.path("dataset.json"), "dataset.json")
    return "channel_names" in content or "file_ending" in content


def find(source: Tree, options: Options) -> SourceSite:  # noqa: ARG001  # the layout says all itself
    """List the cases.

    Raises:
        SourceError: dataset.json or patients.csv cannot be used, or the ending is of a format with loss or none of ours.
    """
    description = tree.read_json(source.path("dataset.json"), "dataset.json")
    if "dataset" in description:
        raise SourceError(
            "not imported", "dataset.json has a list `dataset` of files elsewhere; put them into imagesTr and labelsTr"
        )
    ending = str(description.get("file_ending", "")).lower()
    if ending in pixels.LOSSY:
        raise SourceError("voxel type", f"file_ending {ending} loses precision; export as .png")
    if ending not in (*pictures.VOLUMES, *pictures.SLICES):
        raise SourceError(
            "unreadable", f"file_ending in dataset.json: expected {', '.join((*pictures.VOLUMES, *pictures.SLICES))}"
        )
    content = description.get("labels")
    values = names.checked(content if isinstance(content, dict) else {})
    channels = names.channel_names(names.in_order(description.get("channel_names")))
    findings = list(_foreign(source, ending))
    images, odd = _images(source, ending)
    findings += odd
    patients = read_patients(source)
    if patients is None:
        findings.append(Finding("patient", f"there is no {PATIENTS}: every case counts as a patient of its own"))
    cases = []
    for case, files in sorted(images.items()):
        label = f"labelsTr/{case}{ending}"
        problem = _problem(files, len(channels), is_slice=ending in pictures.SLICES)
        if not problem and not source.has(label):
            problem = Finding("no label", "no file in labelsTr belongs to it", case, f"imagesTr/{case}", left_out=True)
        if not problem and patients is not None and case not in patients:
            problem = Finding("patient", f"{PATIENTS} does not name it", case, f"imagesTr/{case}", left_out=True)
        if problem:
            findings.append(Finding(problem.kind, problem.message, case, f"imagesTr/{case}", left_out=True))
            continue
        patient = case if patients is None else patients[case]
        paths = tuple(source.path(files[index]) for index in sorted(files))
        cases.append(SourceCase(case, patient, paths, (source.path(label),)))
    lonely = [name for name in source.below("labelsTr") if name.endswith(ending) and _case(name, ending) not in images]
    findings += [Finding("no label", "a label in labelsTr has no image", path=name) for name in lonely]
    geometry = "pixel" if ending in pictures.SLICES else "mm"
    return SourceSite(tuple(cases), values, channels, geometry, tuple(findings), modality=names.modality_of(channels))  # type: ignore[arg-type]  # one of two


def read(case: SourceCase, labels: Mapping[str, int]) -> Content:  # noqa: ARG001  # values are those of the source
    """Read a case."""
    return pictures.content(case.images, case.labels[0])


def read_patients(source: Tree) -> dict[str, str] | None:
    """Read case -> patient; None without the file.

    Raises:
        SourceError: The table cannot be used, or gives a case two patients.
    """
    if not source.has(PATIENTS):
        return None
    patients: dict[str, str] = {}
    for row in tree.read_table(source.path(PATIENTS), PATIENTS, ("case", "patient")):
        if patients.setdefault(row["case"], row["patient"]) != row["patient"]:
            raise SourceError("patient", f"{PATIENTS} gives a case two patients")
    return patients


def _case(name: str, ending: str) -> str:
    """Take folder and ending off."""
    return name.rpartition("/")[2].removesuffix(ending)


def _images(source: Tree, ending: str) -> tuple[dict[str, dict[int, str]], list[Finding]]:
    """Group image files by case and channel."""
    cases: dict[str, dict[int, str]] = {}
    odd = []
    for name in source.below("imagesTr"):
        if not name.endswith(ending):
            continue
        match = CHANNEL.fullmatch(_case(name, ending))
        if match is None:
            odd.append(Finding("channels", f"a file in imagesTr has no channel number; expected <case>_0000{ending}", path=name))
        else:
            cases.setdefault(match["case"], {})[int(match["channel"])] = name
    return cases, odd


def _problem(files: Mapping[int, str], num_channels: int, *, is_slice: bool) -> Finding | None:
    """Say if the channels are not those that dataset.json declares; a slice of three may be one RGB file."""
    rgb = is_slice and num_channels == names.PARTS and sorted(files) == [0]
    if sorted(files) == list(range(num_channels)) or rgb:
        return None
    return Finding("channels", f"expected {num_channels} channels from 0000 on, got {sorted(files)}")


def _foreign(source: Tree, ending: str) -> list[Finding]:
    """Say what is there and not imported."""
    findings = []
    for folder in ("imagesTr", "labelsTr"):
        allowed = (ending, *HELPERS.get(ending, ()))
        foreign = [name for name in source.below(folder) if not name.endswith(allowed)]
        findings += [
            Finding("not imported", f"a file in {folder} has another ending than {ending}", path=name) for name in foreign
        ]
    for folder in ("imagesTs", "labelsTs"):
        num_files = len(source.below(folder))
        if num_files:
            findings.append(Finding("not imported", f"{num_files} files in {folder}; splits are made by patient, from imagesTr"))
    return findings
