"""What the trail says of a site's data: checked, some cases left out, accepted. No case is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsilo.audit.events import Decision, Subject
from tasks import judging, trails
from tasks.judging import Preparation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsilo.cohort.contract import Finding

GATE = "contract"


def validated(preparation: Preparation, site: str, findings: Sequence[Finding]) -> None:
    """Say what the contract said of a site's cases."""
    from fedsilo.cohort import contract

    scribe = trails.scribe(preparation.paths.audit)
    page = preparation.paths.docs_dir / site / "contract.json"
    stopped = judging.stopped(findings)
    scribe.append(
        "data.validate",
        judging.outcome(findings),
        actor=site,
        site=site,
        inputs=[trails.artifact(preparation.facts_path(site), f"{_dataset(preparation, site)}/facts")],
        outputs=[trails.artifact(page, f"{_dataset(preparation, site)}/contract.json")],
        decision=Decision(GATE, "stop" if stopped else "pass", trails.hashed(page)),
    )
    left_out = contract.quarantined(findings)
    if left_out:
        rules = sorted({finding.rule for finding in findings if finding.action == "quarantine"})
        scribe.append(
            "data.quarantine",
            f"{len(left_out)} cases left out by {', '.join(rules)}",
            actor=site,
            site=site,
            decision=Decision(GATE, f"{len(left_out)} cases", trails.hashed(page)),
        )


def accepted(preparation: Preparation, site: str) -> None:
    """Say with which data a site takes part, if it does."""
    folder = preparation.paths.prepared_site(site)
    listed = folder / "manifest.csv"
    if not listed.is_file():
        return
    scribe, name = trails.scribe(preparation.paths.audit), _dataset(preparation, site)
    subject = Subject("dataset", name, before=scribe.accepted(name), after=trails.hashed(listed))
    outputs = [trails.artifact(folder / file, f"{name}/{file}") for file in ("facts.parquet", "contract.json")]
    scribe.append(
        "data.accept",
        "prepared cases that keep the contract",
        actor=site,
        site=site,
        subject=subject,
        inputs=trails.params_section(preparation.params, "prepare"),
        outputs=outputs,
    )


def _dataset(preparation: Preparation, site: str) -> str:
    """Name a site's data."""
    return f"{preparation.roster.name}/{site}"
