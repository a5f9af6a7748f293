"""A site's memory of the cases that drift was looked for in: features by content hash, each in one window. It stays at the site.

Window 0 is the reference, the cases that the champion knew; windows from 1 on hold those that came later, no case twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from fedsilo import files
from fedsilo.errors import DataError

REFERENCE = 0
COLUMNS = ("content_hash", "patient", "window", "origin")


@dataclass(frozen=True)
class Memory:
    """What a site remembers.

    Attributes:
        origin: Hash of how features are made (``features.origin``).
        windows: Window of each case, by its content hash.
        patients: Patient of each case, by the same.
        features: Features of each case, by the same.
    """

    origin: str
    windows: Mapping[str, int]
    patients: Mapping[str, str]
    features: Mapping[str, Mapping[str, float]]

    @property
    def newest(self) -> int:
        """Number of the last window."""
        return max(self.windows.values())

    def cases(self, window: int) -> list[str]:
        """Name a window's cases, in order."""
        return sorted(content for content, number in self.windows.items() if number == window)

    def of_window(self, window: int) -> list[Mapping[str, float]]:
        """Give the features of a window's cases, in the order of their hashes."""
        return [self.features[content] for content in self.cases(window)]

    def new(self, contents: Sequence[str]) -> list[str]:
        """Name those that are in no window, in order."""
        return sorted(set(contents) - self.windows.keys())

    def strangers(self, patients: Mapping[str, str]) -> list[str]:
        """Name those of some cases, given with their patients, whose patients have no case in the reference; in order."""
        known = {self.patients[content] for content in self.cases(REFERENCE)}
        return sorted(content for content, patient in patients.items() if patient not in known)

    def grown(self, window: int, features: Mapping[str, Mapping[str, float]], patients: Mapping[str, str]) -> "Memory":
        """Add a window."""
        windows = {**self.windows, **dict.fromkeys(features, window)}
        return Memory(self.origin, windows, {**self.patients, **patients}, {**self.features, **features})


def reference(features: Mapping[str, Mapping[str, float]], patients: Mapping[str, str], *, origin: str) -> Memory:
    """Begin a memory with the cases that a champion knew."""
    return Memory(origin, dict.fromkeys(features, REFERENCE), dict(patients), dict(features))


def write(memory: Memory, path: Path) -> Path:
    """Write it as parquet, a row a case."""
    rows = [
        {
            "content_hash": content,
            "patient": memory.patients[content],
            "window": window,
            "origin": memory.origin,
            **memory.features[content],
        }
        for content, window in sorted(memory.windows.items())
    ]
    return files.write_bytes(path, pandas.DataFrame(rows).to_parquet(index=False))


def read(path: Path) -> Memory:
    """Read what ``write`` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        table = pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    origins = set(table["origin"]) if set(COLUMNS) <= set(table.columns) else set()
    if len(origins) != 1 or table["content_hash"].duplicated().any():
        raise DataError(f"cannot use {path}: expected {', '.join(COLUMNS)} and features, a row a case of one origin")
    names = [str(name) for name in table.columns if name not in COLUMNS]
    records = {str(row["content_hash"]): row for row in table.to_dict("records")}
    return Memory(
        str(origins.pop()),
        {content: int(row["window"]) for content, row in records.items()},
        {content: str(row["patient"]) for content, row in records.items()},
        {content: {name: float(row[name]) for name in names} for content, row in records.items()},
    )
