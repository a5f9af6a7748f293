"""The data contract: rules over the facts table as frozen data. Great Expectations evaluates them, in tasks/expectations.py."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedsilo.cohort import volumes
from fedsilo.cohort.facts import Facts
from fedsilo.params import ContractParams

Action = Literal["quarantine", "stop site", "stop federation", "warn"]
"""What a broken rule does: leave the case out, leave the site out, let nobody train, or be reported."""

Condition = Literal["", "readable", "mm", "volume", "slice", "labelled", "labelled mm", "inside volume", "ct hu", "mr"]
"""Cases that a rule looks at. Unreadable ones have no facts and are left to F1."""

ORGAN_VOLUMES_ML: Mapping[str, float] = {"liver": 1500, "kidneys": 300, "spleen": 180, "pancreas": 80, "gallbladder": 25}
"""Usual volumes of adults, both kidneys together; a bound far from them is a wrong unit or a wrong label, not a sick organ."""


@dataclass(frozen=True)
class Rule:
    """One rule on one column.

    A case passes if the value is within ``low`` and ``high`` (either may be open), or, with ``unique``, stands once. A
    missing value passes too, which is why F2 counts the facts that a case lacks.

    Attributes:
        rule: Its name in docs and messages; several columns may share one.
        column: Of the facts table.
        action: What it does if a case fails.
        meaning: What is wrong if a case fails, as a sentence without subject.
        fix: What a data manager can do.
        when: Cases that it looks at.
        low: Smallest value that passes.
        high: Largest value that passes.
        unique: Whether values must differ.
        shown: Column that a message shows as found; empty: the rule's own.
    """

    rule: str
    column: str
    action: Action
    meaning: str
    fix: str
    when: Condition = ""
    low: float | None = None
    high: float | None = None
    unique: bool = False
    shown: str = ""

    @property
    def expected(self) -> str:
        """Say what passes."""
        if self.unique:
            return "other voxels than any case before it"
        if self.low == self.high:
            return "yes" if self.column in BOOLEANS else "no" if self.column in FLAGS else f"{self.low:g}"
        if self.low is None:
            return f"<= {self.high:g}"
        return f">= {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Finding:
    """One broken rule: a row of contract.json and a line of the log."""

    rule: str
    action: Action
    site: str
    case: str
    field: str
    meaning: str
    expected: str
    got: str
    fix: str

    @property
    def stops(self) -> bool:
        """Whether a site or all of them stop."""
        return self.action in {"stop site", "stop federation"}

    @property
    def message(self) -> str:
        """Say site, case, rule, found and expected on one line."""
        where = f"{self.site}/{self.case}" if self.case else self.site or "federation"
        return f"[{self.rule} {self.action}] {where}: {self.meaning}; expected {self.expected}, got {self.got}. Fix: {self.fix}"


BOOLEANS = frozenset({"readable", "has_label", "label_shape_equal", "label_integral"})
FLAGS = frozenset({"is_8bit"})


def rules(bounds: ContractParams, organs: Sequence[str]) -> tuple[Rule, ...]:
    """List the rules on cases with their bounds; the organs of the cohort without background."""
    return (*_of_files(), *_of_geometry(bounds), *_of_intensities(bounds), *_of_labels(bounds, organs), *_of_copies())


def _of_files() -> tuple[Rule, ...]:
    """Say what every case must have."""
    return (
        Rule("F1", "readable", "quarantine", "a file cannot be read", "restore the file", "", 1, 1, shown="problem"),
        Rule("F1", "has_label", "quarantine", "label is missing", "add it to labelsTr or remove the image", "", 1, 1),
        Rule("F2", "num_unmeasured", "quarantine", "facts that cannot be measured", "export the case again", "readable", 0, 0),
        Rule(
            "F3",
            "extra_channels",
            "quarantine",
            "image has more channels than files, such as colours",
            "store each channel as a file of its own",
            "readable",
            0,
            0,
        ),
        Rule(
            "P1",
            "num_traces",
            "quarantine",
            "names, headers or texts may name a person (field after 'got')",
            "import the site with flows.ingest, which blanks them",
            "",
            0,
            0,
            shown="phi_fields",
        ),
    )


def _of_geometry(bounds: ContractParams) -> Iterator[Rule]:
    """Bound grids, and the label's against the image's."""
    low_mm, high_mm = bounds.spacing_mm
    for axis in "zyx":
        fix = "check the header's voxel size"
        yield Rule("G1", f"spacing_{axis}", "quarantine", f"spacing along {axis} (mm)", fix, "mm", low_mm, high_mm)
    for axis in "zyx":
        yield Rule("G1", f"shape_{axis}", "quarantine", f"edge along {axis}", "leave the case out", "volume", bounds.min_edge_3d)
    for axis in "yx":
        yield Rule("G1", f"shape_{axis}", "quarantine", f"edge along {axis}", "leave the case out", "slice", bounds.min_edge_2d)
    for axis, (low, high) in zip("zyx", (bounds.fov_z_mm, bounds.fov_yx_mm, bounds.fov_yx_mm), strict=True):
        fix = "check the header's voxel size"
        yield Rule("G2", f"fov_{axis}", "warn", f"field of view along {axis} (mm)", fix, "mm", low, high)
    yield Rule(
        "G2",
        "spacing_ratio",
        "warn",
        "pixels are not square (larger edge over smaller)",
        "check the header's voxel size",
        "mm",
        1,
        bounds.max_pixel_ratio,
    )
    yield Rule(
        "G3", "label_shape_equal", "quarantine", "label has another shape than the image", "export it again", "labelled", 1, 1
    )
    yield Rule(
        "G3",
        "label_affine_diff",
        "quarantine",
        "label affine differs from the image's (largest entry)",
        "export the label again",
        "labelled mm",
        0,
        bounds.max_affine_difference,
    )
    warn, refuse = bounds.oblique_deg
    yield Rule("G4", "oblique_deg", "warn", "axes are oblique (degrees)", "none needed, it is resampled", "mm", 0, warn)
    yield Rule("G4", "oblique_deg", "quarantine", "axes are oblique (degrees)", "check the header", "mm", 0, refuse)
    meaning, fix = "axes are not at right angles (cosine)", "export the image again"
    yield Rule("G5", "shear", "warn", meaning, f"run with --fix, or {fix}", "mm", 0, volumes.SQUARE)
    yield Rule("G5", "shear", "quarantine", meaning, fix, "mm", 0, bounds.max_affine_difference)
    yield Rule(
        "G4",
        "affine_conflict",
        "warn",
        "the header's two affines differ (largest entry); the sform is used",
        "check which is right",
        "mm",
        0,
        bounds.max_affine_difference,
    )


def _of_intensities(bounds: ContractParams) -> Iterator[Rule]:
    """Bound intensities by modality and unit."""
    yield Rule("I1", "num_nonfinite", "quarantine", "image has NaN or infinite voxels", "export the image again", "", 0, 0)
    yield Rule(
        "I1",
        "num_unique",
        "quarantine",
        "image is empty (distinct intensities)",
        "leave the case out",
        "",
        bounds.min_distinct_values,
    )
    for column, quantile, (low, high), fix in (
        ("p00_5", "0.5 %", (-3100, -50), "apply the rescale intercept"),
        ("p50", "50 %", (-1050, 300), "apply the rescale intercept"),
        ("p99_5", "99.5 %", (60, 3100), "apply the rescale slope"),
    ):
        yield Rule("I2", column, "quarantine", f"CT is not in HU ({quantile} quantile)", fix, "ct hu", low, high)
    yield Rule(
        "I3",
        "is_8bit",
        "stop site",
        "CT declared as HU holds whole numbers from 0 to 255 only",
        "declare intensity_unit: windowed_8bit in the cohort file",
        "ct hu",
        0,
        0,
    )
    yield Rule("I4", "frac_at_min", "quarantine", "MR is nearly all background (share)", "check the export", "mr", 0, 0.95)
    yield Rule("I4", "low_ratio", "quarantine", "MR is negative (0.5 % quantile over 99.5 %)", "check the export", "mr", -0.02)


def _of_labels(bounds: ContractParams, organs: Sequence[str]) -> Iterator[Rule]:
    """Bound labels, and the volumes of organs that are whole."""
    yield Rule(
        "L1",
        "num_undeclared",
        "quarantine",
        "label has values that dataset.json does not declare (values after 'got')",
        "name them in dataset.json",
        "labelled",
        0,
        0,
        shown="undeclared_values",
    )
    yield Rule(
        "L1",
        "label_integral",
        "quarantine",
        "label has values that are not whole numbers",
        "export it again; rounding errors up to 0.001 go away with --fix",
        "labelled",
        1,
        1,
    )
    yield Rule("L3", "voxels_annotated", "quarantine", "label of a volume is empty", "leave the case out", "inside volume", 1)
    low, high = bounds.organ_volume
    for organ in organs:
        if organ in ORGAN_VOLUMES_ML:
            usual = ORGAN_VOLUMES_ML[organ]
            meaning = f"volume of the whole {organ} (ml)"
            yield Rule("L4", f"whole_ml_{organ}", "warn", meaning, "look at the case", "labelled mm", low * usual, high * usual)


def _of_copies() -> Iterator[Rule]:
    """Refuse a case that stands twice, and a patient on both sides of a split."""
    fix = "give all cases of a patient one patient in patients.csv"
    yield Rule("D1", "content_hash", "quarantine", "image is a copy of another case", "remove one of them", "", unique=True)
    yield Rule("D2", "patient_num_splits", "stop site", "patient is in two splits", fix, "", 1, 1)
    yield Rule("D2", "near_num_splits", "warn", "images that look alike are in two splits", fix, "", 1, 1)


def quarantined(findings: Sequence[Finding]) -> frozenset[str]:
    """Name the cases of one site that are left out."""
    return frozenset(finding.case for finding in findings if finding.action == "quarantine")


def of_folder(site: str, problem: str) -> Finding:
    """Say that a site's folder cannot be used: rule F4.

    Args:
        site: Its name.
        problem: What is wrong with it.
    """
    return Finding(
        rule="F4",
        action="stop site",
        site=site,
        case="",
        field="folder",
        meaning="the folder cannot be used",
        expected="images, labels and dataset.json in the nnU-Net raw layout",
        got=problem,
        fix="mend what 'got' names",
    )


def of_site(facts: Sequence[Facts], left_out: frozenset[str], bounds: ContractParams, *, site: str, role: str) -> list[Finding]:
    """Find what is wrong with a site as a whole, once single cases are left out: rules L2 and N1.

    Args:
        facts: Of all its cases.
        left_out: Its quarantined cases.
        bounds: How many patients and cases it must keep.
        site: The site's name.
        role: Its role.
    """
    kept = [row for row in facts if row.case not in left_out]
    return [*_patients(facts, kept, bounds, site=site, role=role), *_organs(kept, site=site, role=role)]


def _patients(
    facts: Sequence[Facts], kept: Sequence[Facts], bounds: ContractParams, *, site: str, role: str
) -> Iterator[Finding]:
    """N1: enough patients are left to train and to test on, and not too many cases are left out."""
    wanted = {"train": bounds.min_train_patients, "val": 1, "test": 1} if role == "inside" else {"test": 1}
    for split, least in wanted.items():
        patients = {row.patient for row in kept if row.split == split}
        if len(patients) < least:
            yield Finding(
                rule="N1",
                action="stop site",
                site=site,
                case="",
                field="split",
                meaning=f"too few {split} patients",
                expected=f"at least {least}",
                got=f"{len(patients)} of {len({row.patient for row in facts})} patients",
                fix="add patients, repair quarantined cases, or lower val_share and test_share",
            )
    num_left_out = len(facts) - len(kept)
    if num_left_out > bounds.max_quarantined_share * len(facts):
        yield Finding(
            rule="N1",
            action="stop site",
            site=site,
            case="",
            field="case",
            meaning="too many cases are quarantined",
            expected=f"<= {100 * bounds.max_quarantined_share:.0f} %",
            got=f"{num_left_out} of {len(facts)} ({100 * num_left_out / len(facts):.0f} %)",
            fix="repair them; their findings say how",
        )


def _organs(kept: Sequence[Facts], *, site: str, role: str) -> Iterator[Finding]:
    """L2: each organ that an inside site declares is in one of its training cases."""
    trained = [row for row in kept if row.split == "train"] if role == "inside" else []
    for organ in sorted({organ for row in trained for organ in row.organs}):
        if not any(row.organs[organ].voxels for row in trained if organ in row.organs):
            yield Finding(
                rule="L2",
                action="stop site",
                site=site,
                case="",
                field=f"voxels_{organ}",
                meaning=f"{organ} is declared and in no training case",
                expected="at least one case with it",
                got="none",
                fix="take it out of labels in dataset.json, or check the labels",
            )
