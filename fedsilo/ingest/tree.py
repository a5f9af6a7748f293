"""The files of a source: listed once, never one outside of it, each read within a limit."""

import csv
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from fedsilo.errors import DataError
from fedsilo.ingest.source import Finding, SourceError

MAX_FILES = 2_000_000
MAX_DEPTH = 64
MAX_TEXT_BYTES = 16 << 20
"""Of a JSON, CSV or TSV file."""


@dataclass(frozen=True)
class Tree:
    """The regular files below a folder.

    Attributes:
        root: The folder, links resolved.
        names: Paths below it, with slashes, sorted; hidden ones (``._*`` of other systems) are not data.
        listed: The same as a set.
        findings: Links that lead out of the folder or in a circle; these are not followed.
    """

    root: Path
    names: tuple[str, ...]
    listed: frozenset[str]
    findings: tuple[Finding, ...]

    def path(self, name: str) -> Path:
        """Give the path of a listed file."""
        return self.root / name

    def has(self, name: str) -> bool:
        """Say whether a file is listed."""
        return name in self.listed

    def below(self, folder: str) -> tuple[str, ...]:
        """List files directly in a folder."""
        prefix = f"{folder}/" if folder else ""
        return tuple(name for name in self.names if name.startswith(prefix) and "/" not in name[len(prefix) :])

    def find(self, name: str) -> str:
        """Check a path that a file of the source names, such as ``./imagesTr/x.nii.gz``.

        Raises:
            SourceError: It leads out of the source, or there is no such file.
        """
        plain = os.path.normpath(name.replace("\\", "/"))
        if Path(plain).is_absolute() or plain == ".." or plain.startswith("../"):
            raise SourceError("unsafe path", "a path in dataset.json leads out of the source; expected one below it")
        if not self.has(plain):
            raise SourceError("unreadable", "a file that dataset.json names is missing, hidden or a link out of the source")
        return plain


def listing(folder: Path) -> Tree:
    """List a source.

    Links to files and folders inside the source are followed, each folder once.

    Raises:
        DataError: The folder is missing or unreadable, or has more files or levels than any site.
    """
    try:
        root = folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"the source cannot be read: {type(error).__name__}; expected a folder") from None
    if not root.is_dir():
        raise DataError("the source is no folder; expected the folder of one hospital's export")
    names: list[str] = []
    findings: list[Finding] = []
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        real = os.path.realpath(root / prefix)
        if real in seen:
            findings.append(Finding("unsafe path", "a link leads back to a folder of the source; followed once", path=prefix))
            continue
        seen.add(real)
        if prefix.count("/") > MAX_DEPTH or len(names) > MAX_FILES:
            raise DataError(f"the source has more than {MAX_DEPTH} levels or {MAX_FILES} files; expected one hospital's export")
        files, folders, found = _listed(root, prefix)
        names += files
        waiting += reversed(folders)
        findings += found
    return Tree(root, tuple(sorted(names)), frozenset(names), tuple(findings))


def _listed(root: Path, prefix: str) -> tuple[list[str], list[str], list[Finding]]:
    """List one folder: files, folders with a slash, and what is neither."""
    files, folders, findings = list[str](), list[str](), list[Finding]()
    try:
        entries = sorted(entry.name for entry in os.scandir(root / prefix))
    except OSError as error:
        return [], [], [Finding("unreadable", f"a folder cannot be listed: {type(error).__name__}", path=prefix)]
    for entry in entries:
        name = f"{prefix}{entry}"
        if entry.startswith("."):
            continue
        problem, mode = _status(root / name, root)
        if problem:
            findings.append(Finding("unsafe path", problem, path=name))
        elif stat.S_ISDIR(mode):
            folders.append(f"{name}/")
        elif stat.S_ISREG(mode):
            files.append(name)
        else:
            findings.append(Finding("unsafe path", "a device, pipe or socket is no file of an export", path=name))
    return files, folders, findings


def _status(path: Path, root: Path) -> tuple[str, int]:
    """Say what is wrong with an entry, if anything, and what it is."""
    try:
        if path.is_symlink() and not Path(os.path.realpath(path, strict=True)).is_relative_to(root):
            return "a link leads out of the source; not followed", 0
        return "", path.stat().st_mode
    except OSError:
        return "a link leads nowhere or in a circle; not followed", 0


def read_text(path: Path, what: str) -> str:
    """Read a small UTF-8 text.

    Args:
        path: The file.
        what: How messages call it.

    Raises:
        SourceError: It is missing, not UTF-8, or larger than such a file ever is.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise SourceError("too large", f"{what} is larger than {MAX_TEXT_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError("unreadable", f"{what} cannot be read: {type(error).__name__}") from None


def read_json(path: Path, what: str) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        SourceError: The file cannot be read or holds something else.
    """
    try:
        content = json.loads(read_text(path, what))
    except (ValueError, RecursionError) as error:
        raise SourceError("unreadable", f"{what} is not JSON: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise SourceError("unreadable", f"{what}: expected a JSON object, got {type(content).__name__}")
    return content


def read_table(path: Path, what: str, columns: tuple[str, ...], *, delimiter: str = ",") -> list[dict[str, str]]:
    """Read rows of a table that has at least these columns, filled in every row.

    Raises:
        SourceError: The file cannot be read, or a column or cell is missing.
    """
    try:
        rows = list(csv.DictReader(read_text(path, what).splitlines(), delimiter=delimiter))
    except csv.Error:
        raise SourceError("unreadable", f"{what} is no table") from None
    if any(not (row.get(column) or "").strip() for row in rows for column in columns):
        raise SourceError("unreadable", f"{what} needs the columns {' and '.join(columns)}, both filled in every row")
    return [{column: row[column].strip() for column in columns} for row in rows]
