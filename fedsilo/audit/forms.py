"""Records as frozen dataclasses whose fields carry their form: what may stand there in JSON is said once, beside its name.

A field with a default may be missing. ``null`` stands nowhere: a value that is not there is left out, so that a record has one
way to be written.
"""

import base64
import binascii
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from fedsilo.audit import canonical

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Form:
    """What a value must be, in words and as a test."""

    expected: str
    fits: Callable[[object], bool]


@dataclass(frozen=True)
class Place:
    """A field: its name in code and in JSON, and either a form or another record, one or many of them."""

    attribute: str
    name: str
    default: object
    form: Form | None
    part: type | None
    many: bool

    @property
    def required(self) -> bool:
        """Whether a record without it is refused."""
        return self.default is MISSING


def of(expected: str, fits: Callable[[object], bool]) -> dict[str, object]:
    """Give a field a form."""
    return {"form": Form(expected, fits)}


def matching(expected: str, pattern: str) -> dict[str, object]:
    """Give a field the form of text that a regular expression matches as a whole."""
    compiled = re.compile(pattern, re.ASCII)
    return of(expected, lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None)


def one_of(*words: str) -> dict[str, object]:
    """Give a field the form of a word from a closed list."""
    return of(f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words)


def part(kind: type) -> dict[str, object]:
    """Give a field the form of another record."""
    return {"part": kind}


def parts(kind: type) -> dict[str, object]:
    """Give a field the form of a list of other records that is not empty."""
    return {"part": kind, "many": True}


def named(name: str, metadata: Mapping[str, object]) -> dict[str, object]:
    """Give a field another name in JSON."""
    return {**metadata, "name": name}


def _text(limit: int) -> dict[str, object]:
    return of(f"text of 1 to {limit} characters", lambda value: isinstance(value, str) and 1 <= len(value) <= limit)


def _base64(num_bytes: int) -> dict[str, object]:
    return of(f"base64 of {num_bytes} bytes in its one canonical form", functools.partial(_is_base64, num_bytes))


def _is_base64(num_bytes: int, value: object) -> bool:
    """Say whether text is what base64 makes of so many bytes; other text can decode to the same."""
    try:
        decoded = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return False
    return len(decoded) == num_bytes and base64.b64encode(decoded).decode() == value


TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or not TIMESTAMP.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


IDENTIFIER_TEXT = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.ASCII)
IDENTIFIER = matching("a name: a-z first, then a-z, 0-9, _ and -, at most 40", IDENTIFIER_TEXT.pattern)
LOG = matching("federation/log", r"[a-z][a-z0-9_-]{0,39}/[a-z][a-z0-9_-]{0,39}")
HASH = matching("sha256: and 64 hexadecimal digits", r"sha256:[0-9a-f]{64}")
HEX_TEXT = re.compile(r"[0-9a-f]{64}", re.ASCII)
HEX = matching("64 hexadecimal digits", HEX_TEXT.pattern)
COMMIT = matching("40 or 64 hexadecimal digits", r"[0-9a-f]{40}|[0-9a-f]{64}")
KEY = matching("ed25519: and 32 hexadecimal digits", r"ed25519:[0-9a-f]{32}")
PUBLIC, SIGNATURE = _base64(32), _base64(64)
SHORT, TEXT = _text(200), _text(1000)
COUNT = of("a whole number of at least 0", lambda value: type(value) is int and value >= 0)
FLAG = of("true or false", lambda value: isinstance(value, bool))
YES = of("true, or not there", lambda value: value is True)
TIME = of("YYYY-MM-DDTHH:MM:SS.ffffffZ", _is_time)
OBJECT = of("an object", lambda value: isinstance(value, dict))


def places(kind: type) -> tuple[Place, ...]:
    """Read the fields of a record."""
    return _places(kind)


@functools.cache
def _places(kind: type) -> tuple[Place, ...]:
    return tuple(
        Place(
            attribute=field.name,
            name=field.metadata.get("name", field.name),
            default=field.default,
            form=field.metadata.get("form"),
            part=field.metadata.get("part"),
            many=field.metadata.get("many", False),
        )
        for field in fields(kind)
    )


def flaw(kind: type, value: object, path: str = "", *, closed: bool = True) -> str | None:
    """Say where a JSON value departs from a record's form; unless ``closed``, other fields may stand beside its own."""
    if not isinstance(value, dict):
        return f"{path or 'it'} is no object"
    prefix = f"{path}." if path else ""
    if closed and (unknown := sorted(value.keys() - {place.name for place in places(kind)})):
        return f"{prefix}{unknown[0]} is no field of the format"
    for place in places(kind):
        if place.name not in value:
            if place.required:
                return f"{prefix}{place.name} is missing"
            continue
        found = _flaw_at(place, value[place.name], f"{prefix}{place.name}")
        if found:
            return found
    return None


def _flaw_at(place: Place, value: object, path: str) -> str | None:
    if place.form is not None:
        return None if place.form.fits(value) else f"{path} is {canonical.brief(value)}, expected {place.form.expected}"
    if place.part is None:
        raise TypeError(f"{path} has no form")
    if not place.many:
        return f"{path} is empty, expected it to be left out" if value == {} else flaw(place.part, value, path)
    if not isinstance(value, list) or not value:
        return f"{path} is {canonical.brief(value)}, expected a list that is not empty"
    return next(filter(None, (flaw(place.part, entry, f"{path}[{index}]") for index, entry in enumerate(value))), None)


def build(kind: type[RecordT], value: Mapping[str, Any]) -> RecordT:
    """Make a record of a JSON object that has its form; fields that are not its own are passed over."""
    return kind(**{place.attribute: _built(place, value[place.name]) for place in places(kind) if place.name in value})


def _built(place: Place, value: Any) -> object:  # noqa: ANN401  # JSON
    if place.part is not None:
        return tuple(build(place.part, entry) for entry in value) if place.many else build(place.part, value)
    return tuple(value) if isinstance(value, list) else value


def plain(record: object) -> dict[str, object]:
    """Write a record as a JSON object, without what has its default."""
    found = {}
    for place in places(type(record)):
        value = getattr(record, place.attribute)
        if place.required or value != place.default:
            found[place.name] = _plain(place, value)
    return found


def _plain(place: Place, value: Any) -> object:  # noqa: ANN401  # JSON
    if place.part is not None:
        return [plain(entry) for entry in value] if place.many else plain(value)
    return list(value) if isinstance(value, tuple) else value
