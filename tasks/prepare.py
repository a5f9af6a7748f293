"""Adapters of the preparation: measure a site, check the contract, prepare its cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from logging import ERROR, WARNING
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo.cohort.roster import Roster
from fedsilo.errors import ContractError, OutputError
from fedsilo.params import Params
from tasks import workers
from tasks.paths import RunPaths

if TYPE_CHECKING:
    from fedsilo.cohort.contract import Finding, Rule
    from fedsilo.cohort.facts import Facts


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


@task(name="measure site", task_run_name="{site}: measure cases", cache_policy=NO_CACHE, persist_result=False)
def measure(site: str, preparation: Preparation) -> Path:
    """Find a site's cases, measure them and split the patients."""
    warning = workers.run(measure_site, site=site, preparation=preparation)
    if warning:
        get_run_logger().warning(warning)
    return preparation.facts_path(site)


@task(
    name="check contract",
    task_run_name="check the contract of {preparation.roster.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def check(preparation: Preparation) -> None:
    """Check every site's facts and those between sites, write the verdicts, and stop if a case breaks a rule.

    Raises:
        ContractError: At least one finding stops the flow; one line with all that do.
    """
    from fedsilo import files
    from fedsilo.cohort import contract
    from tasks import expectations

    logger = get_run_logger()
    rules = contract.rules(preparation.params.prepare.contract)
    rows = {site: read_facts(preparation.facts_path(site)) for site in preparation.sites}
    between = contract.between_sites([row for site_rows in rows.values() for row in site_rows])
    findings: dict[str, list[contract.Finding]] = {}
    checked = expectations.check(rows, rules)
    for site, site_rows in rows.items():
        role = preparation.roster.site(site).role
        findings[site] = [
            *checked[site].findings,
            *contract.enough_patients(site_rows, site=site, role=role),
            *(finding for finding in between if finding.site == site),
        ]
        files.write_text(preparation.paths.docs_dir / site / "index.html", checked[site].page)
        files.write_json(
            preparation.paths.docs_dir / site / "contract.json", _verdict(site, rules, findings[site], len(site_rows))
        )
        for finding in findings[site]:
            logger.log(WARNING if finding.action == "warn" else ERROR, finding.message)
    create_table_artifact(
        key=f"contract-{preparation.roster.name}".replace("_", "-"),
        table=[
            {"site": site, "cases": len(rows[site]), "findings": len(found), "stopping": sum(f.action == "stop" for f in found)}
            for site, found in findings.items()
        ],
        description=f"Data contract of {preparation.roster.name}; pages in `{preparation.paths.docs_dir}`",
    )
    stopping = [finding for found in findings.values() for finding in found if finding.action == "stop"]
    if stopping:
        raise ContractError(" | ".join(finding.message for finding in stopping))
    for site, found in findings.items():
        logger.info("%s: %d cases keep the contract, %d warnings", site, len(rows[site]), len(found))


@task(name="prepare site", task_run_name="{site}: prepare cases", cache_policy=NO_CACHE, persist_result=False)
def prepare(site: str, preparation: Preparation) -> Path:
    """Bring a site's cases to the working grid; the old folder is replaced when the new one is whole."""
    folder = workers.run(prepare_site, site=site, preparation=preparation)
    get_run_logger().info("%s: prepared, %s", site, folder)
    return folder


def measure_site(*, site: str, preparation: Preparation, device: str) -> str:  # noqa: ARG001  # facts are numpy
    """Measure one site; return a warning or nothing; runs in a worker process."""
    from fedsilo import files
    from fedsilo.cohort import facts, layouts, splits

    entry, params = preparation.roster.site(site), preparation.params
    found = layouts.find_cases(preparation.data_root / entry.folder, site)
    label_map = layouts.harmonise(found.labels, preparation.roster, site)
    rows = [facts.measure(case, label_map, roster=preparation.roster, site=entry) for case in found.cases]
    split = splits.assign(
        {case.case: case.patient for case in found.cases},
        site=site,
        role=entry.role,
        seed=params.seed,
        val_share=params.prepare.val_share,
        test_share=params.prepare.test_share,
    )
    files.write_json(preparation.facts_path(site), {"rows": [vars(row) for row in facts.with_splits(rows, split)]})
    return "" if found.has_patients else f"{site} has no patients.csv: every case counts as a patient of its own"


def prepare_site(*, site: str, preparation: Preparation, device: str) -> Path:  # noqa: ARG001  # resampling stays on the CPU
    """Prepare one site's cases; runs in a worker process."""
    from fedsilo import files
    from fedsilo.cohort import facts, layouts, manifest, preprocess, volumes

    entry = preparation.roster.site(site)
    found = layouts.find_cases(preparation.data_root / entry.folder, site)
    label_map = layouts.harmonise(found.labels, preparation.roster, site)
    measured = {row.case: row for row in read_facts(preparation.facts_path(site))}
    folder = preparation.paths.prepared_site(site)
    building = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    rows = []
    for source in found.cases:
        fact = measured[source.case]
        image = volumes.read_image(source.image_paths)
        label = volumes.read_image([source.label_path], is_label=True) if source.label_path else None
        if label is None:
            raise ContractError(f"site {site}: case {source.case} has no label")
        case = preprocess.prepare(
            image, label_map.apply(label.channels[0]), unit=entry.intensity_unit, params=preparation.params.prepare
        )
        file = f"cases/{source.case}.safetensors"
        rows.append(
            manifest.ManifestRow(
                case=source.case,
                patient=source.patient,
                split=fact.split,  # type: ignore[arg-type]  # written by splits.assign
                file=file,
                sha256=preprocess.save(case, building / file),
                content_hash=str(fact.content_hash),
                label_hash=str(fact.label_hash),
                modality=entry.modality,
                geometry=case.recipe.geometry,
                annotated="|".join(str(value) for value in label_map.annotated),
                num_slices=case.label.shape[0],
                spacing_zyx=manifest.joined(case.recipe.source_spacing_zyx or ()),
            )
        )
    manifest.write(rows, building / "manifest.csv")
    facts.write(list(measured.values()), building / "facts.parquet")
    verdict = (preparation.paths.docs_dir / site / "contract.json").read_bytes()
    files.write_bytes(building / "contract.json", verdict)
    replaced = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        if folder.exists():
            folder.rename(replaced)
        building.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def read_facts(path: Path) -> list[Facts]:
    """Read the facts that ``measure_site`` wrote."""
    from fedsilo.cohort.facts import Facts

    return [Facts(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def _verdict(site: str, rules: Sequence[Rule], findings: Sequence[Finding], num_cases: int) -> dict[str, object]:
    """Write a site's verdict: the same text for the same facts."""
    return {
        "site": site,
        "num_cases": num_cases,
        "success": not any(finding.action == "stop" for finding in findings),
        "rules": [
            {"rule": rule.rule, "column": rule.column, "action": rule.action, "expected": rule.expected, "when": rule.when}
            for rule in rules
        ],
        "findings": [vars(finding) for finding in findings],
    }
