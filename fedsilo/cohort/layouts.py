"""Find a site's cases in the nnU-Net raw layout, and give its labels the federation's values by their names."""

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy
from numpy.typing import NDArray

from fedsilo import files, names
from fedsilo.cohort import privacy
from fedsilo.cohort.roster import BACKGROUND, Vocabulary
from fedsilo.errors import DataError
from fedsilo.types import Split

ENDINGS = (".nii.gz", ".nii", ".png")
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL | re.ASCII)


@dataclass(frozen=True)
class SourceCase:
    """A case as a site stores it.

    Attributes:
        case: Unique within the site; a hash of a name that may be a person's.
        patient: From patients.csv; the case's own name without that file. Hidden in the same way.
        image_paths: One a channel, in order.
        label_path: None where the file is missing.
    """

    case: str
    patient: str
    image_paths: tuple[Path, ...]
    label_path: Path | None


@dataclass(frozen=True)
class SiteCases:
    """What a site's folder holds.

    Attributes:
        cases: Sorted by name.
        labels: Source name -> source value, as in dataset.json.
        has_patients: Whether patients.csv says who is who; without it each case counts as a patient.
        splits: Of cases whose patients splits.csv puts in one.
        namespace: Fingerprint of the key under which flows.ingest renamed patients; empty of a site that it did not import.
    """

    cases: tuple[SourceCase, ...]
    labels: Mapping[str, int]
    has_patients: bool
    splits: Mapping[str, Split]
    namespace: str


@dataclass(frozen=True)
class LabelMap:
    """Source values and what they are in the federation.

    Attributes:
        values: Source value -> organ value of the federation.
        annotated: Organ values that this site labels, sorted.
    """

    values: Mapping[int, int]
    annotated: tuple[int, ...]

    def apply(self, label: NDArray[numpy.generic]) -> NDArray[numpy.uint8]:
        """Map a label array; undeclared values must have been refused before."""
        mapped = numpy.zeros(label.shape, numpy.uint8)
        for source, value in self.values.items():
            mapped[label == source] = value
        return mapped


def find_cases(folder: Path, site: str) -> SiteCases:
    """List a site's cases.

    Raises:
        DataError: The folder, dataset.json or patients.csv is missing or unusable, a name is unsafe, a file has another ending,
            a label has no image, or there is no case.
    """
    if not folder.is_dir():
        raise DataError(f"site {site}: folder {folder} is missing")
    description = files.read_json(folder / "dataset.json")
    ending = description.get("file_ending")
    if ending not in ENDINGS:
        raise DataError(f"site {site}: file_ending in dataset.json: expected one of {', '.join(ENDINGS)}, got {ending!r}")
    channels = description.get("channel_names")
    num_channels = len(channels) if isinstance(channels, dict) else 0
    images = _images(folder / "imagesTr", str(ending), site)
    labels = {path.name.removesuffix(str(ending)): path for path in _files(folder / "labelsTr", str(ending), site)}
    if not images:
        raise DataError(f"site {site}: no image *_0000{ending} in {folder / 'imagesTr'}")
    orphans = sorted(labels.keys() - images.keys())
    if orphans:
        raise DataError(f"site {site}: label {privacy.shown(orphans[0])} in {folder / 'labelsTr'} has no image")
    for case, paths in images.items():
        if not names.is_case(case):
            raise DataError(f"site {site}: case name {privacy.shown(case)!r} is not allowed; use A-Z, a-z, 0-9, dot, _ and -")
        if len(paths) != num_channels or sorted(paths) != list(range(num_channels)):
            raise DataError(
                f"site {site}: case {privacy.shown(case)}: expected {num_channels} channels from 0000 on, got {sorted(paths)}"
            )
    patients = _patients(folder / "patients.csv", site)
    missing = sorted(images.keys() - patients.keys()) if patients is not None else []
    if missing:
        raise DataError(f"site {site}: patients.csv does not name case {privacy.shown(missing[0])}")
    cases = tuple(
        SourceCase(
            case=privacy.shown(case),
            patient=privacy.shown(case if patients is None else patients[case]),
            image_paths=tuple(paths[channel] for channel in sorted(paths)),
            label_path=labels.get(case),
        )
        for case, paths in sorted(images.items())
    )
    by_patient = _splits(folder / "splits.csv", site)
    splits = {case.case: by_patient[case.patient] for case in cases if case.patient in by_patient}
    imported = folder / "manifest.json"
    namespace = str(files.read_json(imported).get("key_fingerprint", "")) if imported.is_file() else ""
    return SiteCases(cases, _labels(description.get("labels"), site), patients is not None, splits, namespace)


def harmonise(labels: Mapping[str, int], roster: Vocabulary, site: str) -> LabelMap:
    """Map a site's label names to the federation's organs.

    A name, in lower case with one space for ``_`` and ``-``, must be an organ, an alias or dropped. Several may mean one.

    Raises:
        DataError: A name is none of these (the nearest are shown), or the site annotates no organ of the cohort.
    """
    organs = {plain(organ): value for value, organ in enumerate(roster.organs)}
    aliases = {plain(name): roster.organs.index(organ) for name, organ in roster.aliases.items()}
    dropped = {plain(name) for name in roster.drop}
    values: dict[int, int] = {}
    for name, source in labels.items():
        known = plain(name)
        if known in dropped:
            values[source] = 0
        elif known in organs or known in aliases:
            values[source] = organs.get(known, aliases.get(known, 0))
        else:
            near = difflib.get_close_matches(known, [*organs, *aliases, *dropped], n=3)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise DataError(
                f"site {site}: unknown organ {name!r} in dataset.json{hint}; add it to organs, aliases or drop of the cohort"
            )
    annotated = tuple(sorted({value for value in values.values() if value > 0}))
    if not annotated:
        raise DataError(f"site {site}: annotates no organ of the cohort ({', '.join(roster.organs[1:])})")
    return LabelMap(values, annotated)


def _images(folder: Path, ending: str, site: str) -> dict[str, dict[int, Path]]:
    """Group image files by case and channel."""
    cases: dict[str, dict[int, Path]] = {}
    for path in _files(folder, ending, site):
        match = CHANNEL.fullmatch(path.name.removesuffix(ending))
        if match is None:
            raise DataError(f"site {site}: image {privacy.shown(path.name)} has no channel number; expected <case>_0000{ending}")
        cases.setdefault(match["case"], {})[int(match["channel"])] = path
    return cases


def _files(folder: Path, ending: str, site: str) -> list[Path]:
    """List a folder's files; hidden ones are not data, and one with another ending would be lost without a word."""
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    foreign = [path for path in found if not path.name.endswith(ending)]
    if foreign:
        raise DataError(
            f"site {site}: {privacy.nameless(str(foreign[0]), foreign[:1])}: expected the file_ending of dataset.json, {ending}"
        )
    return found


def _patients(path: Path, site: str) -> dict[str, str] | None:
    """Read case -> patient; None without the file."""
    if not path.is_file():
        return None
    rows = _rows(path, site)
    if any(not row.get("case") or not row.get("patient") for row in rows):
        raise DataError(f"site {site}: {path} needs the columns case and patient, both filled in every row")
    patients: dict[str, str] = {}
    for row in rows:
        if patients.setdefault(row["case"], row["patient"]) != row["patient"]:
            raise DataError(f"site {site}: {path} gives case {privacy.shown(row['case'])} two patients")
    return patients


def _splits(path: Path, site: str) -> dict[str, Split]:
    """Read patient -> split; empty without the file. Patients who are not there are no error."""
    if not path.is_file():
        return {}
    splits: dict[str, Split] = {}
    for row in _rows(path, site):
        patient, split = row.get("patient", ""), row.get("split", "")
        if not patient or split not in get_args(Split):
            raise DataError(f"site {site}: {path} needs the columns patient and split, with one of {', '.join(get_args(Split))}")
        if splits.setdefault(privacy.shown(patient), split) != split:  # type: ignore[arg-type]  # one of the three
            raise DataError(f"site {site}: {path} gives patient {privacy.shown(patient)} two splits")
    return splits


def _rows(path: Path, site: str) -> list[dict[str, str]]:
    """Read a table, blanks around cells removed."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            return [{key: (value or "").strip() for key, value in row.items() if key} for row in csv.DictReader(handle)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"site {site}: cannot read {path}: {error}") from error


def _labels(content: object, site: str) -> dict[str, int]:
    """Read name -> value."""
    if not isinstance(content, dict) or not content:
        raise DataError(f"site {site}: dataset.json has no labels (name -> value)")
    for name, value in content.items():
        if isinstance(value, list):
            raise DataError(
                f"site {site}: label {name!r} is a region {value}; regions are not supported, give each organ a value"
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DataError(f"site {site}: label {name!r} in dataset.json: expected a value 0, 1, 2, ..., got {value!r}")
        if plain(str(name)) == "ignore":
            raise DataError(f"site {site}: an ignore label is not supported yet; remove its voxels or name an organ")
    if len(set(content.values())) < len(content):
        raise DataError(f"site {site}: two labels in dataset.json have one value: {content}")
    if content.get(BACKGROUND) != 0:
        raise DataError(f"site {site}: labels in dataset.json must have {BACKGROUND}: 0")
    return {str(name): int(value) for name, value in content.items()}


def plain(name: str) -> str:
    """Write a name without differences of case and separators: lower case, one space."""
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))
