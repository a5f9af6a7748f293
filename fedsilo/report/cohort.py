"""The cohort table: what each site brings, as its manifest and its contract say."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsilo.cohort.manifest import SEPARATOR, ManifestRow
from fedsilo.errors import DataError
from fedsilo.report.inputs import Site
from fedsilo.types import SiteRole, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
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
    stops: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``failed`` if a finding forbids to use the data, else ``warned`` if there are warnings, else ``passed``."""
        return "failed" if self.stops else "warned" if self.warnings else "passed"


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
        warnings=tuple(_message(site, finding) for finding in findings if finding.get("action") == "warn"),
        stops=tuple(_message(site, finding) for finding in findings if finding.get("action") != "warn"),
    )


def _median_spacing(rows: Sequence[ManifestRow]) -> tuple[float, float, float] | None:
    edges = [[float(edge) for edge in row.spacing_zyx.split(SEPARATOR)] for row in rows if row.spacing_zyx]
    if not edges:
        return None
    z, y, x = (statistics.median(axis) for axis in zip(*edges, strict=True))
    return z, y, x


def _list(site: Site, key: str) -> list[Mapping[str, object]]:
    entries = site.contract.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise DataError(f"cannot use the contract of {site.entry.name}: expected {key} as a list, got {entries!r}")
    return entries


def _message(site: Site, finding: Mapping[str, object]) -> str:
    missing = [key for key in FINDING_KEYS if key not in finding]
    if missing:
        raise DataError(f"cannot use the contract of {site.entry.name}: a finding lacks {missing[0]}")
    where = f"{finding['case']}: " if finding["case"] else ""
    return f"[{finding['rule']}] {where}{finding['meaning']}; expected {finding['expected']}, got {finding['got']}"
