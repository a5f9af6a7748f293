"""Import formats: find the cases of a site in the nnU-Net raw layout, and name its labels as the federation does."""

import csv
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsilo.cohort.roster import BACKGROUND, Roster
from fedsilo.errors import DataError

LAYOUT = "nnunet"
ENDINGS = (".nii.gz", ".nii", ".png")
SAFE_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
IGNORE = "ignore"
MAX_LABEL = 65535
NUM_NEAREST = 3


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        case: Name of the files without channel and ending.
        patient: Of patients.csv, or the case where there is none.
        image_paths: One file a channel, in order; shorter than the site's channels if files are missing.
        label_path: None if there is no such file.
    """

    case: str
    patient: str
    image_paths: tuple[Path, ...]
    label_path: Path | None


@dataclass(frozen=True)
class SiteCases:
    """What a site's folder holds.

    Attributes:
        site: The site's name.
        cases: Sorted by name.
        channel_names: One a channel.
        source_labels: Label value of each name, as the site has them.
        warnings: What is odd and no error.
    """

    site: str
    cases: tuple[CaseFiles, ...]
    channel_names: tuple[str, ...]
    source_labels: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class LabelMap:
    """From a site's label values to the federation's.

    Attributes:
        values: Organ value of each source value.
        annotated: Organ values that the site labels, sorted; without background.
    """

    values: Mapping[int, int]
    annotated: tuple[int, ...]


def find_cases(folder: Path, site: str) -> SiteCases:
    """List the cases of a folder in the nnU-Net raw v2 layout.

    ``dataset.json``, ``imagesTr/<case>_0000<ending>`` with a file a channel, ``labelsTr/<case><ending>`` and, ours,
    ``patients.csv`` with the columns case and patient. Hidden files are passed over; imagesTs and labelsTs are not used.
    A case that lacks its label or an image file is listed as it is, so that the contract can report it.

    Raises:
        DataError: The folder, dataset.json or images are missing, or something in them is not as the layout says.
    """
    if not folder.is_dir():
        raise DataError(f"site {site}: its folder {folder} is missing")
    ending, channel_names, source_labels = _read_dataset(folder / "dataset.json", site)
    images = _images(folder / "imagesTr", ending, site)
    labels = _labels(folder / "labelsTr", ending, site)
    if not images:
        raise DataError(f"site {site}: {folder / 'imagesTr'} has no image; expected <case>_0000{ending}")
    names = sorted(images.keys() | labels.keys())
    patients, warnings = _patients(folder / "patients.csv", names, site)
    for name in names:
        found = sorted(images.get(name, {}))
        if found and found[-1] >= len(channel_names):
            raise DataError(
                f"site {site}, case {name}: channel {found[-1]:04d} is not among the {len(channel_names)} of dataset.json"
            )
    cases = [
        CaseFiles(
            case=name,
            patient=patients[name],
            image_paths=tuple(path for _, path in sorted(images.get(name, {}).items())),
            label_path=labels.get(name),
        )
        for name in names
    ]
    return SiteCases(site, tuple(cases), channel_names, source_labels, tuple(warnings))


def harmonise(source_labels: Mapping[str, int], roster: Roster, site: str) -> LabelMap:
    """Map a site's label values to the federation's by name, never by value.

    A name is compared in lower case with ``_``, ``-`` and spaces alike; it must be an organ of the cohort, an alias of
    one, or dropped (which makes it background). Several names may mean one organ.

    Raises:
        DataError: A name is none of these (the nearest are shown), or the site labels none of the organs.
    """
    meaning = {_plain(organ): value for value, organ in enumerate(roster.organs)}
    meaning |= {_plain(alias): roster.organs.index(organ) for alias, organ in roster.aliases.items()}
    meaning = {_plain(name): 0 for name in roster.drop} | meaning
    unknown = [name for name in source_labels if _plain(name) not in meaning]
    if unknown:
        nearest = difflib.get_close_matches(_plain(unknown[0]), meaning, n=NUM_NEAREST, cutoff=0.0)
        raise DataError(
            f"site {site}: label {unknown[0]!r} of dataset.json is no organ, alias or dropped name of cohort {roster.name}; "
            f"nearest are {', '.join(nearest)}. Fix: name it in the cohort file"
        )
    values = {value: meaning[_plain(name)] for name, value in sorted(source_labels.items(), key=lambda item: item[1])}
    annotated = tuple(sorted(set(values.values()) - {0}))
    if not annotated:
        raise DataError(f"site {site}: dataset.json labels none of the organs of cohort {roster.name}")
    return LabelMap(values, annotated)


def _plain(name: str) -> str:
    """Write a label name in the one way that names are compared in."""
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))


def _read_dataset(path: Path, site: str) -> tuple[str, tuple[str, ...], dict[str, int]]:
    """Read file ending, channel names and labels."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"site {site}: {path} is missing") from error
    except (OSError, ValueError) as error:
        raise DataError(f"site {site}: cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"site {site}: cannot use {path}: expected a JSON object, got {type(content).__name__}")
    ending, channels, labels = (content.get(key) for key in ("file_ending", "channel_names", "labels"))
    if ending not in ENDINGS:
        raise DataError(f"site {site}: {path}: file_ending: expected one of {', '.join(ENDINGS)}, got {ending!r}")
    if not isinstance(channels, dict) or set(channels) != {str(index) for index in range(len(channels))} or not channels:
        raise DataError(f'site {site}: {path}: channel_names: expected {{"0": name, "1": ...}}, got {channels!r}')
    if not isinstance(labels, dict):
        raise DataError(f"site {site}: {path}: labels: expected names with their values, got {labels!r}")
    return str(ending), tuple(str(channels[str(index)]) for index in range(len(channels))), _check_labels(labels, path, site)


def _check_labels(labels: Mapping[str, object], path: Path, site: str) -> dict[str, int]:
    """Refuse labels that are not one distinct value a name."""
    checked: dict[str, int] = {}
    for name, value in labels.items():
        where = f"site {site}: {path}: label {name!r}"
        if isinstance(value, list):
            raise DataError(f"{where} is a region, {value}; expected one value a name")
        if isinstance(value, str) and name.isdecimal():
            raise DataError(f"{where}: expected names with their values, got a value with its name {value!r}")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LABEL:
            raise DataError(f"{where}: expected a value from 0 to {MAX_LABEL}, got {value!r}")
        if _plain(name) == IGNORE:
            raise DataError(f"{where}: unknown regions are not supported; expected labels without {IGNORE!r}")
        if value in checked.values():
            raise DataError(f"{where} has the value {value} of another label")
        checked[name] = value
    if checked.get(BACKGROUND) != 0:
        raise DataError(f"site {site}: {path}: labels: expected {BACKGROUND!r} with value 0")
    return checked


def _images(folder: Path, ending: str, site: str) -> dict[str, dict[int, Path]]:
    """Group image files by case and channel."""
    pattern = re.compile(rf"^(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}$")
    found: dict[str, dict[int, Path]] = {}
    for path in _visible(folder):
        match = pattern.match(path.name)
        if not match:
            raise DataError(f"site {site}: {path} is no image of this layout; expected <case>_0000{ending}")
        found.setdefault(_safe(match["case"], path, site), {})[int(match["channel"])] = path
    return found


def _labels(folder: Path, ending: str, site: str) -> dict[str, Path]:
    """List label files by case."""
    found: dict[str, Path] = {}
    for path in _visible(folder):
        if not path.name.endswith(ending):
            raise DataError(f"site {site}: {path} is no label of this layout; expected <case>{ending}")
        found[_safe(path.name.removesuffix(ending), path, site)] = path
    return found


def _visible(folder: Path) -> list[Path]:
    """List a folder's files without hidden ones; nothing if it does not exist."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _safe(name: str, path: Path, site: str) -> str:
    """Refuse names that could not be a file name or a CSV cell everywhere."""
    if not SAFE_ID.match(name):
        raise DataError(f"site {site}: {path}: {name!r} cannot be used as a name; expected {SAFE_ID.pattern}")
    return name


def _patients(path: Path, cases: list[str], site: str) -> tuple[dict[str, str], list[str]]:
    """Read the patient of every case."""
    if not path.exists():
        return {case: case for case in cases}, [f"{path} is missing: every case counts as a patient of its own"]
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            table = csv.DictReader(handle)
            if not {"case", "patient"} <= set(table.fieldnames or ()):
                raise DataError(f"site {site}: {path}: expected the columns case, patient, got {table.fieldnames}")
            for row in table:
                case, patient = (row["case"] or "").strip(), _safe((row["patient"] or "").strip(), path, site)
                if found.setdefault(case, patient) != patient:
                    raise DataError(f"site {site}: {path}: case {case} has two patients, {found[case]} and {patient}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"site {site}: cannot read {path}: {error}") from error
    missing = [case for case in cases if case not in found]
    if missing:
        raise DataError(f"site {site}: {path} does not name the patient of {len(missing)} cases, first {missing[0]}")
    extra = sorted(found.keys() - set(cases))
    warnings = [f"{path} names {len(extra)} cases without a file, first {extra[0]}"] if extra else []
    return {case: found[case] for case in cases}, warnings
