"""What is known of a cohort before its cases are prepared: facts, and the verdict of the data contract on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedsilo.cohort.roster import Roster
from fedsilo.params import Params
from tasks import contract_page
from tasks.paths import RunPaths

if TYPE_CHECKING:
    from fedsilo.cohort.contract import Finding
    from fedsilo.cohort.facts import Facts


SIMULATED_KEY = "fedsilo: sites of "
"""Prefix of the key under which the sites of a cohort on one machine compare images; no secret, as who has it has the images."""


@dataclass(frozen=True)
class Preparation:
    """What every task of a preparation needs."""

    roster: Roster
    params: Params
    paths: RunPaths
    data_root: Path

    @property
    def sites(self) -> list[str]:
        """All sites by name."""
        return sorted(site.name for site in self.roster.sites)

    def facts_path(self, site: str) -> Path:
        """Facts of a site until its cases are prepared."""
        return self.paths.checkpoints_dir / "prepare" / site / "facts.json"

    @property
    def plan_path(self) -> Path:
        """What follows from the histograms of all sites."""
        return self.paths.docs_dir / "plan.json"


def write_facts(preparation: Preparation, site: str, rows: Sequence[Facts], *, namespace: str = "", problem: str = "") -> Path:
    """Keep a site's facts until its cases are prepared, and the namespace of its patients; or what is wrong with its folder."""
    from fedsilo import files
    from fedsilo.cohort import facts

    content = {"rows": [facts.to_json(row) for row in rows], "namespace": namespace, "problem": problem}
    return files.write_json(preparation.facts_path(site), content)


def told_of(path: Path, key: Literal["namespace", "problem"]) -> str:
    """Read what ``write_facts`` kept beside the rows; empty if there is nothing."""
    return str(json.loads(path.read_text(encoding="utf-8"))[key])


def read_facts(path: Path) -> list[Facts]:
    """Read a site's facts."""
    from fedsilo.cohort import facts

    return [facts.from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def judge(preparation: Preparation) -> tuple[dict[str, list[Finding]], dict[str, str]]:
    """Apply all rules: to cases, to sites, and between the sites that are left; findings by site, the federation's under "".

    A site that stops takes no part in the comparison of the others, which is repeated until no other site stops.
    """
    from fedsilo.cohort import contract, summaries
    from tasks import expectations

    organs, bounds = preparation.roster.organs[1:], preparation.params.prepare.contract
    problems = {site: told_of(preparation.facts_path(site), "problem") for site in preparation.sites}
    rows = {site: read_facts(preparation.facts_path(site)) for site in preparation.sites if not problems[site]}
    checked = expectations.check(rows, contract.rules(bounds, organs), organs)
    found = {site: [contract.of_folder(site, problem)] for site, problem in problems.items() if problem}
    for site, of_site in rows.items():
        of_cases = list(checked[site].findings)
        role = preparation.roster.site(site).role
        found[site] = of_cases + contract.of_site(of_site, contract.quarantined(of_cases), bounds, site=site, role=role)
    key = hashlib.sha256(f"{SIMULATED_KEY}{preparation.roster.name}".encode()).digest()
    while True:
        told = [
            summaries.summarise(
                of_site,
                found[site],
                roster=preparation.roster,
                site=site,
                key=key,
                namespace=told_of(preparation.facts_path(site), "namespace"),
            )
            for site, of_site in rows.items()
            if not stopped(found[site])
        ]
        between = summaries.between_sites(
            told, organs=organs, resampled_z=preparation.params.prepare.spacing_zyx_mm[0] is not None, bounds=bounds
        )
        stopping = [finding for finding in between if finding.action == "stop site"]
        if not stopping:
            break
        for finding in stopping:
            found[finding.site].append(finding)
    found[""] = [finding for finding in between if not finding.site]
    for finding in between:
        if finding.site:
            found[finding.site].append(finding)
    found = {site: found[site] for site in ("", *preparation.sites)}
    return found, {site: checked[site].page if site in checked else contract_page.EMPTY for site in preparation.sites}


def taking_part(preparation: Preparation, verdicts: Mapping[str, Sequence[Finding]]) -> list[list[Facts]]:
    """Give the facts that the inside sites that take part train on."""
    from fedsilo.cohort import contract

    found = []
    for site, findings in verdicts.items():
        left_out = contract.quarantined(findings)
        if preparation.roster.site(site).role == "inside" and not stopped(findings):
            rows = read_facts(preparation.facts_path(site))
            found.append([row for row in rows if row.case not in left_out and row.split == "train"])
    return found


def stopped(findings: Sequence[Finding]) -> bool:
    """Say whether a site takes no part."""
    return any(finding.stops for finding in findings)


def outcome(findings: Sequence[Finding]) -> str:
    """Say what became of a site."""
    left_out = len({finding.case for finding in findings if finding.action == "quarantine"})
    warnings = sum(finding.action == "warn" for finding in findings)
    verdict = "takes no part" if stopped(findings) else "keeps the contract"
    return f"{verdict}; quarantined cases: {left_out}, warnings: {warnings}"


def line(site: str, findings: Sequence[Finding]) -> dict[str, object]:
    """Give a site's line in Prefect's table."""
    return {
        "site": site,
        "takes part": "no" if stopped(findings) else "yes",
        "quarantined": len({finding.case for finding in findings if finding.action == "quarantine"}),
        "warnings": sum(finding.action == "warn" for finding in findings),
    }


def verdict(preparation: Preparation, site: str, findings: Sequence[Finding]) -> dict[str, object]:
    """Write a site's verdict: the same text for the same facts."""
    from fedsilo.cohort import contract, facts

    rows = read_facts(preparation.facts_path(site))
    rules = contract.rules(preparation.params.prepare.contract, preparation.roster.organs[1:])
    return {
        "site": site,
        "num_cases": len(rows),
        "success": not stopped(findings),
        "quarantined": sorted(contract.quarantined(findings)),
        "repaired": {row.case: row.repairs.split(facts.SEPARATOR) for row in rows if row.repairs},
        "rules": [
            {"rule": rule.rule, "column": rule.column, "action": rule.action, "expected": rule.expected, "when": rule.when}
            for rule in rules
        ],
        "findings": [vars(finding) for finding in findings],
    }
