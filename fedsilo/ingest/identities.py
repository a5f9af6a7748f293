"""New names for cases and patients: a hash under a key that stays at the site, and the list that leads back, which stays with it.

Hash digits are written as the letters a to p: the data contract takes six decimal digits in a row for a number of a person (P1).
"""

import csv
import hashlib
import hmac
import io
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedsilo.cohort.privacy import LETTERS
from fedsilo.errors import DataError, OutputError

KEY_BYTES = 32
KEY_TEXT = re.compile(r"^[0-9a-f]{64,}$")
ID_LETTERS = 12
"""48 bits: two of a million names collide once in 560 sites, and then the site is refused."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
COLUMNS = ("kind", "source", "id")


def load_key(path: Path) -> bytes:
    """Read a site's key, or make one where there is none; only its owner may read it.

    Raises:
        DataError: Others may read the file, or it is no key.
        OutputError: It cannot be made.
    """
    if not os.path.lexists(path):
        write_private(path, secrets.token_hex(KEY_BYTES) + "\n")
    try:
        status = path.lstat()
        content = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the key {path}: {type(error).__name__}") from None
    if not stat.S_ISREG(status.st_mode) or status.st_mode & OTHERS:
        raise DataError(f"the key {path} must be a file that only its owner may read; expected mode 0600 (chmod 600)")
    if not KEY_TEXT.match(content):
        raise DataError(f"{path} is no key: expected at least 64 hexadecimal digits, as fedsilo writes them")
    return bytes.fromhex(content)


def fingerprint(key: bytes) -> str:
    """Tell keys apart without telling them: hash of a key; hex."""
    return hashlib.sha256(b"fedsilo key" + key).hexdigest()[:16]


def new_id(kind: str, name: str, key: bytes) -> str:
    """Rename a ``case`` or ``patient``: the kind's first letter, then 12 letters of HMAC-SHA256 (RFC 2104).

    Example:
        >>> new_id("case", "meyer_1961", b"0" * 32)
        'cjjdodedldegm'
    """
    digest = hmac.new(key, f"{kind}/{name}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
    return kind[0] + digest[:ID_LETTERS].translate(LETTERS)


def rename(kind: str, names: Iterable[str], key: bytes) -> dict[str, str]:
    """Rename many.

    Raises:
        DataError: Two names have one hash.
    """
    ids = {name: new_id(kind, name, key) for name in names}
    if len(set(ids.values())) < len(ids):
        raise DataError(f"two names of a {kind} have one hash under this key; use another key for the site")
    return ids


def remember(path: Path, cases: Mapping[str, str], patients: Mapping[str, str]) -> Path:
    """Write which new name is whose; those of earlier imports stay in the list.

    Raises:
        DataError: The list that is there cannot be read.
        OutputError: It cannot be written.
    """
    rows = {("case", name): new for name, new in cases.items()} | {("patient", name): new for name, new in patients.items()}
    if path.is_file():
        try:
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as handle:
                rows = {(row["kind"], row["source"]): row["id"] for row in csv.DictReader(handle)} | rows
        except (OSError, KeyError, csv.Error) as error:
            raise DataError(f"cannot read {path}: {type(error).__name__}") from None
    return write_table(path, COLUMNS, [(*place, new) for place, new in sorted(rows.items())])


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Path:
    """Write a CSV file that only its owner may read."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return write_private(path, text.getvalue())


def write_private(path: Path, content: str) -> Path:
    """Write a file that nobody but its owner could read at any time.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(content.encode("utf-8", "surrogateescape"))
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    return path
