"""Settings as frozen sections: read from YAML, changed leaf by leaf, and refused by name where a key or value is wrong."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedsilo import names
from fedsilo.errors import ParamsError


def _identifier(value: str) -> str:
    if not names.is_identifier(value):
        raise ValueError(f"expected {names.RULE}")
    return value


def _folder(value: str) -> str:
    if not names.is_folder(value):
        raise ValueError("expected a folder below the root: letters, digits, dot, _, - and blanks, parts with / between")
    return value


Identifier = Annotated[str, AfterValidator(_identifier)]
FolderName = Annotated[str, AfterValidator(_folder)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

REPLACED_WHOLE = ("outside.adaptations", "federate.participants", "federate.folds")
"""Mappings whose keys are free: a change replaces them, it does not add to them."""


class Section(BaseModel):
    """A frozen group of params; unknown keys are errors and no field has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SectionT = TypeVar("SectionT", bound=Section)


def read_yaml(path: Path) -> dict[str, object]:
    """Read a YAML mapping.

    Raises:
        ParamsError: The file is missing, not YAML, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ParamsError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ParamsError(f"cannot use {path}: expected a mapping of sections, got {type(tree).__name__}")
    return tree


def merge(tree: Mapping[str, object], changes: Mapping[str, object], *, path: Path, prefix: str = "") -> dict[str, object]:
    """Replace leaves of ``tree`` by those of ``changes``; a key that ``tree`` does not have is an error.

    Raises:
        ParamsError: ``changes`` names a key that does not exist, or puts a value where a section stands.
    """
    merged = dict(tree)
    for key, change in changes.items():
        name = f"{prefix}{_shown(key)}"
        if key not in merged:
            raise ParamsError(f"{path}: unknown key {name}{_nearest(key, merged)}")
        present = merged[key]
        if isinstance(present, Mapping) and name not in REPLACED_WHOLE:
            if not isinstance(change, Mapping):
                raise ParamsError(f"{path}: {name} is a section, got the value {change!r}")
            merged[key] = merge(present, change, path=path, prefix=f"{name}.")
        else:
            merged[key] = change
    return merged


def validate(kind: type[SectionT], tree: Mapping[str, object], *, source: str) -> SectionT:
    """Build a frozen value from a tree.

    Raises:
        ParamsError: One line that names each wrong key, what it got and what was expected.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = ".".join(_shown(part) for part in item["loc"]) or "file"
            if item["type"] == "extra_forbidden":
                problems.append(f"unknown key {name}{_nearest(str(item['loc'][-1]), _siblings(kind, item['loc'][:-1]))}")
            elif item["type"] == "missing":
                problems.append(f"missing key {name}")
            else:
                problems.append(f"{name}: {item['msg'][:1].lower()}{item['msg'][1:]}, got {item['input']!r}"[:300])
        raise ParamsError(f"{source}: " + "; ".join(problems)) from error


def _shown(key: object) -> str:
    """Write a key so that a message stays a line."""
    text = str(key)
    return text if text.isprintable() else repr(text)


def _siblings(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """List the keys that exist where an unknown one was found."""
    for part in location:
        field = kind.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        kind = field.annotation
    return list(kind.model_fields)


def _nearest(key: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """Suggest the known key nearest to a misspelt one."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
