"""The cohort table: what each site brings, as its manifest and its contract say."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsilo.cohort.manifest import SEPARATOR, ManifestRow
from fedsilo.errors import DataError
from fedsilo.report.inputs import Site
from fedsilo.types import SiteRole, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
MILD = frozenset({"warn", "quarantine"})
FINDING_KEYS = ("rule", "action", "case", "meaning", "expected", "got")


@dataclass(frozen=True)
class SiteRow:
    """One site of the cohort table.

    Attributes:
        site: The site.
        role: Whether it trained.
        modality: CT or MR.
        patients: Patients in each of train, val and test.
        num_cases: Prepared cases.
        spacing_mm: Median native voxel edge along z, y, x; None where all cases are in pixels.
        organs: Organs annotated at the site.
        num_rules: Rules of the contract that its cases were checked against.
        warnings: What the contract warns of.
        quarantined: Why cases were left out, a message a finding.
        stops: Findings that forbid to use the data; none in a site that was prepared.
    """

    site: str
    role: SiteRole
    modality: str
    patients: tuple[int, int, int]
    num_cases: int
    spacing_mm: tuple[float, float, float] | None
    organs: tuple[str, ...]
    num_rules: int
    warnings: tuple[str, ...]
    quarantined: tuple[str, ...]
    stops: tuple[str, ...]

    @property
    def messages(self) -> tuple[str, ...]:
        """All findings, the gravest first."""
        return self.stops + self.quarantined + self.warnings

    @property
    def verdict(self) -> str:
        """``failed`` if a finding forbids to use the data, ``warned`` if there are other findings, else ``passed``."""
        return "failed" if self.stops else "warned" if self.messages else "passed"


@dataclass(frozen=True)
class LeftOut:
    """A site that the contract stopped: nothing of it is in the report but why."""

    site: str
    messages: tuple[str, ...]


def site_rows(sites: Sequence[Site], organs: Sequence[str]) -> tuple[SiteRow, ...]:
    """Describe the sites, inside before outside.

    Args:
        sites: Sites with manifest and contract.
        organs: The federation's organs; position is the label value.

    Raises:
        DataError: A contract is not what the prepare phase writes.
    """
    return tuple(_site_row(site, organs) for site in sites)


def _site_row(site: Site, organs: Sequence[str]) -> SiteRow:
    train, val, test = (len({row.patient for row in site.rows if row.split == split}) for split in SPLITS)
    findings = _list(site, "findings")
    values = {int(value) for row in site.rows for value in row.annotated.split(SEPARATOR) if value}
    return SiteRow(
        site=site.entry.name,
        role=site.entry.role,
        modality=site.entry.modality,
        patients=(train, val, test),
        num_cases=len(site.rows),
        spacing_mm=_median_spacing(site.rows),
        organs=tuple(organs[value] for value in sorted(values)),
        num_rules=len(_list(site, "rules")),
        warnings=tuple(_message(site.entry.name, finding) for finding in findings if finding.get("action") == "warn"),
        quarantined=tuple(_message(site.entry.name, finding) for finding in findings if finding.get("action") == "quarantine"),
        stops=tuple(_message(site.entry.name, finding) for finding in findings if finding.get("action") not in MILD),
    )


def left_out(contracts: Mapping[str, Mapping[str, object]]) -> tuple[LeftOut, ...]:
    """Say why the sites that the contract stopped take no part.

    Args:
        contracts: What the prepare phase wrote about each of them.

    Raises:
        DataError: A contract is not what the prepare phase writes.
    """
    return tuple(
        LeftOut(
            site,
            tuple(
                _message(site, finding) for finding in _entries(site, contract, "findings") if finding.get("action") not in MILD
            ),
        )
        for site, contract in sorted(contracts.items())
    )


def _median_spacing(rows: Sequence[ManifestRow]) -> tuple[float, float, float] | None:
    edges = [[float(edge) for edge in row.spacing_zyx.split(SEPARATOR)] for row in rows if row.spacing_zyx]
    if not edges:
        return None
    z, y, x = (statistics.median(axis) for axis in zip(*edges, strict=True))
    return z, y, x


def _list(site: Site, key: str) -> list[Mapping[str, object]]:
    return _entries(site.entry.name, site.contract, key)


def _entries(site: str, contract: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    entries = contract.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise DataError(f"cannot use the contract of {site}: expected {key} as a list, got {entries!r}")
    return entries


def _message(site: str, finding: Mapping[str, object]) -> str:
    missing = [key for key in FINDING_KEYS if key not in finding]
    if missing:
        raise DataError(f"cannot use the contract of {site}: a finding lacks {missing[0]}")
    where = f"{finding['case']}: " if finding["case"] else ""
    return f"[{finding['rule']}] {where}{finding['meaning']}; expected {finding['expected']}, got {finding['got']}"
