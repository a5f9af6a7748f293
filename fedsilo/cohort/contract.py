"""The data contract: rules over the facts table as frozen data. Great Expectations evaluates them, in tasks/expectations.py."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedsilo.cohort.facts import Facts
from fedsilo.params import ContractParams

Action = Literal["stop", "warn"]
Condition = Literal["", "readable", "mm", "volume", "slice", "labelled", "labelled mm", "inside volume", "ct hu", "mr"]
"""Cases that a rule looks at. Unreadable ones have no facts and are left to F1."""


@dataclass(frozen=True)
class Rule:
    """One rule on one column.

    A case passes if the value is within ``low`` and ``high`` (either may be open), or, with ``unique``, stands once. A
    missing value passes too, which is why F2 counts the facts that a case lacks.

    Attributes:
        rule: Its name in docs and messages; several columns may share one.
        column: Of the facts table.
        action: ``stop`` stops the flow, ``warn`` is reported.
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
            return "no other case with the same voxels"
        if self.low == self.high:
            return "yes" if self.column in BOOLEANS else f"{self.low:g}"
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
    def message(self) -> str:
        """Say site, case, rule, found and expected on one line."""
        where = f"{self.site}/{self.case}" if self.case else self.site
        return f"[{self.rule} {self.action}] {where}: {self.meaning}; expected {self.expected}, got {self.got}. Fix: {self.fix}"


BOOLEANS = frozenset({"readable", "has_label", "label_shape_equal", "label_integral"})


def rules(bounds: ContractParams) -> tuple[Rule, ...]:
    """List the rules with their bounds."""
    low_mm, high_mm = bounds.spacing_mm
    spacing = tuple(
        Rule(
            "G1", f"spacing_{axis}", "stop", f"spacing along {axis} (mm)", "check the header's voxel size", "mm", low_mm, high_mm
        )
        for axis in "zyx"
    )
    edges = tuple(
        Rule("G1", f"shape_{axis}", "stop", f"edge along {axis}", "leave the case out", "volume", bounds.min_edge_3d)
        for axis in "zyx"
    )
    slice_edges = tuple(
        Rule("G1", f"shape_{axis}", "stop", f"edge along {axis}", "leave the case out", "slice", bounds.min_edge_2d)
        for axis in "yx"
    )
    return (
        Rule("F1", "readable", "stop", "a file cannot be read", "restore the file", "", 1, 1, shown="problem"),
        Rule("F1", "has_label", "stop", "label is missing", "add it to labelsTr or remove the image", "", 1, 1),
        Rule(
            "F2",
            "num_unmeasured",
            "stop",
            "facts that cannot be measured",
            "export the image and its label again",
            "readable",
            0,
            0,
        ),
        *spacing,
        *edges,
        *slice_edges,
        Rule(
            "G3",
            "label_shape_equal",
            "stop",
            "label has another shape than the image",
            "export the label again",
            "labelled",
            1,
            1,
        ),
        Rule(
            "G3",
            "label_affine_diff",
            "stop",
            "label affine differs from the image's (largest entry)",
            "export the label again",
            "labelled mm",
            0,
            bounds.max_affine_difference,
        ),
        Rule("G4", "oblique_deg", "warn", "axes are oblique (degrees)", "none needed", "mm", 0, 15),
        Rule("I1", "num_nonfinite", "stop", "image has NaN or infinite voxels", "export the image again", "", 0, 0),
        Rule(
            "I1",
            "num_unique",
            "stop",
            "image is empty (distinct intensities)",
            "leave the case out",
            "",
            bounds.min_distinct_values,
        ),
        Rule("I2", "p00_5", "warn", "CT is not in HU (0.5 % quantile)", "apply the rescale intercept", "ct hu", -3100, -50),
        Rule("I2", "p99_5", "warn", "CT is not in HU (99.5 % quantile)", "apply the rescale slope", "ct hu", 60, 3100),
        Rule("I4", "frac_at_min", "warn", "MR is nearly all background (share)", "check the export", "mr", 0, 0.95),
        Rule(
            "L1",
            "num_undeclared",
            "stop",
            "label has values that dataset.json does not declare (values after 'got')",
            "name them in dataset.json",
            "labelled",
            0,
            0,
            shown="undeclared_values",
        ),
        Rule(
            "L1", "label_integral", "stop", "label has values that are not whole numbers", "export as integers", "labelled", 1, 1
        ),
        Rule("L3", "voxels_annotated", "stop", "label of a volume is empty", "leave the case out", "inside volume", 1),
        Rule("D1", "content_hash", "stop", "image is a duplicate of another case", "remove one of them", "", unique=True),
        Rule("D2", "patient_num_splits", "stop", "patient is in two splits", "give all cases of a patient one split", "", 1, 1),
    )


def between_sites(facts: Sequence[Facts]) -> list[Finding]:
    """Find images that stand at two sites."""
    counts = Counter(row.content_hash for row in facts if row.content_hash)
    first: dict[str, Facts] = {}
    findings = []
    for row in sorted(facts, key=lambda row: (row.site, row.case)):
        if not row.content_hash or counts[row.content_hash] == 1:
            continue
        other = first.setdefault(row.content_hash, row)
        if other.site != row.site:
            findings.append(
                Finding(
                    rule="B5",
                    action="stop",
                    site=row.site,
                    case=row.case,
                    field="content_hash",
                    meaning="image stands at another site too",
                    expected="an image at one site only",
                    got=f"{other.site}/{other.case}",
                    fix="remove it from one of them",
                )
            )
    return findings


def enough_patients(facts: Sequence[Facts], *, site: str, role: str) -> list[Finding]:
    """Find a site without patients to train on (inside) or to test on."""
    wanted = {"train": "training", "test": "test"} if role == "inside" else {"test": "test"}
    return [
        Finding(
            rule="N1",
            action="stop",
            site=site,
            case="",
            field="split",
            meaning=f"no {name} case is left after the split by patient",
            expected=f"at least 1 {split} patient",
            got=f"0 of {len({row.patient for row in facts})} patients",
            fix="add patients, or lower val_share and test_share",
        )
        for split, name in wanted.items()
        if not any(row.split == split for row in facts)
    ]
