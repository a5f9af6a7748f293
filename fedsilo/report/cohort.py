"""The cohort table: what each site brings, as its manifest and its contract say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas

from fedsilo.errors import DataError
from fedsilo.report.inputs import Site
from fedsilo.types import SiteRole

Verdict = Literal["passed", "warned", "reduced"]

SPLITS = ("train", "val", "test")
SEPARATOR = "|"


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
        num_quarantined: Cases the contract left out.
        warnings: What the contract warns of.
    """

    site: str
    role: SiteRole
    modality: str
    patients: tuple[int, int, int]
    num_cases: int
    spacing_mm: tuple[float, float, float] | None
    organs: tuple[str, ...]
    num_quarantined: int
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """``reduced`` if cases were left out, else ``warned`` if there are warnings, else ``passed``."""
        return "reduced" if self.num_quarantined else "warned" if self.warnings else "passed"


def site_rows(sites: Sequence[Site], organs: Sequence[str]) -> tuple[SiteRow, ...]:
    """Describe the sites, inside before outside.

    Args:
        sites: Sites with manifest and contract.
        organs: The federation's organs; position is the label value.
    """
    return tuple(_site_row(site, organs) for site in sites)


def _site_row(site: Site, organs: Sequence[str]) -> SiteRow:
    manifest = site.manifest
    patients = [manifest.loc[manifest["split"] == split, "patient"].nunique() for split in SPLITS]
    findings = _findings(site)
    return SiteRow(
        site=site.entry.name,
        role=site.entry.role,
        modality=site.entry.modality,
        patients=(patients[0], patients[1], patients[2]),
        num_cases=len(manifest),
        spacing_mm=_median_spacing(manifest),
        organs=tuple(organs[value] for value in sorted({int(value) for text in manifest["annotated"] for value in _split(text)})),
        num_quarantined=len({finding["case"] for finding in findings if finding["action"] == "quarantine"}),
        warnings=tuple(_message(finding) for finding in findings if finding["action"] == "warn"),
    )


def _median_spacing(manifest: pandas.DataFrame) -> tuple[float, float, float] | None:
    edges = pandas.DataFrame([[float(edge) for edge in _split(text)] for text in manifest["spacing_zyx"] if text])
    if edges.empty:
        return None
    z, y, x = edges.median().tolist()
    return z, y, x


def _split(text: str) -> list[str]:
    return [part for part in str(text).split(SEPARATOR) if part]


def _findings(site: Site) -> list[Mapping[str, str]]:
    findings = site.contract.get("findings")
    if not isinstance(findings, list):
        raise DataError(f"cannot use the contract of {site.entry.name}: expected a list of findings, got {findings!r}")
    return findings


def _message(finding: Mapping[str, str]) -> str:
    where = f"{finding['case']}: " if finding["case"] else ""
    return f"[{finding['rule']}] {where}{finding['field']}, expected {finding['expected']}, got {finding['got']}"
