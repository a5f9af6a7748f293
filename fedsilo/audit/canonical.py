"""One way to write a record as bytes: JSON with sorted keys, without spaces, in ASCII, with whole numbers only.

Two programs that agree on a record agree on its bytes, so a hash or a signature over them means one thing. Numbers that are
not whole are written as decimal strings.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from fedsilo.errors import DataError

MAX_INT = 2**53
"""Whole numbers of at least this size are not the same in every language that reads JSON."""
MAX_DEPTH = 8
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
"""Characters that break a line, hide or turn text. A list, since what Python calls printable changes with its Unicode tables."""


def dumps(record: Mapping[str, object]) -> bytes:
    r"""Write a record that :func:`flaw` finds nothing wrong with.

    Example:
        >>> dumps({"b": [1, True, None], "a": "café"})
        b'{"a":"caf\\u00e9","b":[1,true,null]}'
    """
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def loads(content: bytes) -> dict[str, object]:
    """Read a JSON object in ASCII; spaces may stand anywhere, a key only once.

    Raises:
        DataError: It is no such object.
    """
    try:
        record = json.loads(content.decode("ascii"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"no JSON in ASCII: {type(error).__name__}: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"expected a JSON object, got {type(record).__name__}")
    return record


def read(path: Path) -> dict[str, object]:
    """Read a file with a JSON object that may be laid out for people.

    Raises:
        DataError: It is missing or no such object.
    """
    try:
        return loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except DataError as error:
        raise DataError(f"cannot use {path}: {error}") from None


def flaw(value: object, depth: int = MAX_DEPTH) -> str | None:
    """Say what of a value has no canonical form: a fraction, a number too large, a character that does not print.

    Example:
        >>> flaw({"share": 0.5})
        '0.5 is a float, expected text, a whole number, true, false, null, a list or an object'
        >>> flaw({"share": "0.5"}) is None
        True
    """
    if isinstance(value, str):
        return f"{brief(value)} has a character that does not print" if UNPRINTABLE.search(value) else None
    if value is None:
        return None
    if isinstance(value, int):
        return None if abs(value) < MAX_INT else f"a number of {value.bit_length()} bits, expected less than 2^53"
    if isinstance(value, list | dict):
        return _inner_flaw(value, depth) if depth else f"nested more than {MAX_DEPTH} deep"
    kind = type(value).__name__
    return f"{brief(value)} is a {kind}, expected text, a whole number, true, false, null, a list or an object"


def _inner_flaw(value: list[object] | dict[object, object], depth: int) -> str | None:
    """Say what is wrong with the keys or values inside a list or object."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or not key.isprintable() or not key.isascii():
                return f"the key {brief(key)} is not of printable ASCII"
        value = list(value.values())
    for part in value:
        found = flaw(part, depth - 1)
        if found:
            return found
    return None


def brief(value: object) -> str:
    """Show a value in a short line."""
    limit = 60
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def digest(content: bytes) -> str:
    """Hash bytes as the trail names hashes: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of pairs whose keys differ."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return record
