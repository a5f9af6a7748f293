"""Reports of drift as files: all that a site tells, and nothing that JSON could hide."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from fedsilo import files
from fedsilo.errors import DataError
from fedsilo.evaluation.drift import DriftReport, FeatureDrift, Histogram, Verdict


def write(report: DriftReport, path: Path) -> Path:
    """Write a report as JSON; equal reports are equal files."""
    return files.write_json(path, asdict(report))


def read(path: Path) -> DriftReport:
    """Read what ``write`` wrote; a report comes from elsewhere, so unknown fields are refused.

    Raises:
        DataError: It is missing, damaged, or has other fields.
    """
    content: Mapping[str, Any] = files.read_json(path)
    _same(content, DriftReport, path)
    if content["verdict"] not in get_args(Verdict):
        raise DataError(f"cannot use {path}: expected a verdict of {', '.join(get_args(Verdict))}, got {content['verdict']!r:.40}")
    return DriftReport(**{**content, "features": tuple(_feature(entry, path) for entry in _listed(content["features"], path))})


def _feature(content: object, path: Path) -> FeatureDrift:
    entry = _same(content, FeatureDrift, path)
    return FeatureDrift(**{**entry, **{name: _histogram(entry[name], path) for name in ("reference", "window")}})


def _histogram(content: object, path: Path) -> Histogram:
    entry = _same(content, Histogram, path)
    return Histogram(tuple(_listed(entry["cuts"], path)), tuple(_listed(entry["counts"], path)))


def _same(content: object, kind: type, path: Path) -> dict[str, Any]:
    """Refuse an object with other fields than a dataclass has."""
    expected = {field.name for field in fields(kind)}
    if not isinstance(content, dict) or content.keys() != expected:
        raise DataError(f"cannot use {path}: expected the fields {', '.join(sorted(expected))}")
    return content


def _listed(content: object, path: Path) -> list[Any]:
    if not isinstance(content, list):
        raise DataError(f"cannot use {path}: expected a list")
    return content
