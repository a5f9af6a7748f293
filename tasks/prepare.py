"""Adapters of the preparation: measure a site, check the contract, prepare its cases."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from logging import ERROR, WARNING
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo.cohort.roster import Roster
from fedsilo.errors import ContractError
from fedsilo.params import Params
from tasks import contract_page, plans, workers
from tasks.paths import RunPaths

if TYPE_CHECKING:
    from fedsilo.cohort.contract import Finding
    from fedsilo.cohort.facts import Facts
    from fedsilo.cohort.layouts import LabelMap, SiteCases, SourceCase


CASES_A_JOB = 8
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


@task(name="measure site", task_run_name="{site}: measure cases", cache_policy=NO_CACHE, persist_result=False)
def measure(site: str, preparation: Preparation) -> Path:
    """Find a site's cases, measure them and split the patients."""
    found, label_map = workers.run(list_cases, site=site, preparation=preparation)
    parts = [found.cases[start : start + CASES_A_JOB] for start in range(0, len(found.cases), CASES_A_JOB)]
    # each thread waits for a child of the pool, so that a large site keeps all of them busy
    with ThreadPoolExecutor(preparation.params.runtime.parallel_sites) as waiting:
        jobs = [
            waiting.submit(workers.run, measure_cases, site=site, cases=part, label_map=label_map, preparation=preparation)
            for part in parts
        ]
        rows = [row for job in jobs for row in job.result()]
    workers.run(split_site, site=site, rows=rows, preparation=preparation)
    if not found.has_patients:
        get_run_logger().warning("%s has no patients.csv: every case counts as a patient of its own", site)
    return preparation.facts_path(site)


@task(
    name="check contract",
    task_run_name="check the contract of {preparation.roster.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def check(preparation: Preparation) -> None:
    """Check every site's facts and what sites say to each other, and write the verdicts.

    Raises:
        ContractError: The federation stops; one line with the findings that stop it or one of its sites.
    """
    from fedsilo import files

    logger = get_run_logger()
    verdicts, pages = judge(preparation)
    everywhere = verdicts.pop("", [])
    for site, found in verdicts.items():
        num_cases = len(read_facts(preparation.facts_path(site)))
        page = contract_page.headed(pages[site], site=site, num_cases=num_cases, outcome=_outcome(found), findings=found)
        files.write_text(preparation.paths.docs_dir / site / "index.html", page)
        files.write_json(preparation.paths.docs_dir / site / "contract.json", _verdict(preparation, site, found))
    for finding in [*everywhere, *(finding for found in verdicts.values() for finding in found)]:
        logger.log(WARNING if finding.action in {"warn", "quarantine"} else ERROR, finding.message)
    create_table_artifact(
        key=f"contract-{preparation.roster.name}".replace("_", "-"),
        table=[_line(site, found) for site, found in verdicts.items()],
        description=f"Data contract of {preparation.roster.name}; pages in `{preparation.paths.docs_dir}`",
    )
    files.write_json(preparation.plan_path, plans.made_from(_taking_part(preparation, verdicts)))
    if any(finding.action == "stop federation" for found in (everywhere, *verdicts.values()) for finding in found):
        stopping = [finding for found in (everywhere, *verdicts.values()) for finding in found if finding.stops]
        raise ContractError(" | ".join(finding.message for finding in stopping))
    for site, found in verdicts.items():
        logger.info("%s: %s", site, _outcome(found))


def judge(preparation: Preparation) -> tuple[dict[str, list[Finding]], dict[str, str]]:
    """Apply all rules: to cases, to sites, and between the sites that are left; findings by site, the federation's under "".

    A site that stops takes no part in the comparison of the others, which is repeated until no other site stops.
    """
    from fedsilo.cohort import contract, summaries
    from tasks import expectations

    organs, bounds = preparation.roster.organs[1:], preparation.params.prepare.contract
    rows = {site: read_facts(preparation.facts_path(site)) for site in preparation.sites}
    checked = expectations.check(rows, contract.rules(bounds, organs), organs)
    found: dict[str, list[Finding]] = {}
    for site, of_site in rows.items():
        of_cases = list(checked[site].findings)
        role = preparation.roster.site(site).role
        found[site] = of_cases + contract.of_site(of_site, contract.quarantined(of_cases), bounds, site=site, role=role)
    key = hashlib.sha256(f"{SIMULATED_KEY}{preparation.roster.name}".encode()).digest()
    while True:
        told = [
            summaries.summarise(of_site, found[site], roster=preparation.roster, site=site, key=key)
            for site, of_site in rows.items()
            if not _stopped(found[site])
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
    return found, {site: entry.page for site, entry in checked.items()}


def _taking_part(preparation: Preparation, verdicts: Mapping[str, Sequence[Finding]]) -> list[list[Facts]]:
    """Give the facts that the inside sites that take part train and test on."""
    from fedsilo.cohort import contract

    found = []
    for site, findings in verdicts.items():
        left_out = contract.quarantined(findings)
        if preparation.roster.site(site).role == "inside" and not _stopped(findings):
            found.append([row for row in read_facts(preparation.facts_path(site)) if row.case not in left_out])
    return found


def _stopped(findings: Sequence[Finding]) -> bool:
    """Say whether a site takes no part."""
    return any(finding.stops for finding in findings)


def _outcome(findings: Sequence[Finding]) -> str:
    """Say what became of a site."""
    left_out = len({finding.case for finding in findings if finding.action == "quarantine"})
    warnings = sum(finding.action == "warn" for finding in findings)
    verdict = "takes no part" if _stopped(findings) else "keeps the contract"
    return f"{verdict}; quarantined cases: {left_out}, warnings: {warnings}"


def _line(site: str, findings: Sequence[Finding]) -> dict[str, object]:
    """Give a site's line in Prefect's table."""
    return {
        "site": site,
        "takes part": "no" if _stopped(findings) else "yes",
        "quarantined": len({finding.case for finding in findings if finding.action == "quarantine"}),
        "warnings": sum(finding.action == "warn" for finding in findings),
    }


@task(name="prepare site", task_run_name="{site}: prepare cases", cache_policy=NO_CACHE, persist_result=False)
def prepare(site: str, preparation: Preparation) -> Path:
    """Bring a site's cases to the working grid; the old folder is replaced when the new one is whole."""
    num_made, num_kept = workers.run(prepare_site, site=site, preparation=preparation)
    folder = preparation.paths.prepared_site(site)
    get_run_logger().info("%s: %d cases prepared, %d unchanged, %s", site, num_made, num_kept, folder)
    return folder


def list_cases(
    *,
    site: str,
    preparation: Preparation,
    device: str,  # noqa: ARG001  # nothing is computed
) -> tuple[SiteCases, LabelMap]:
    """Find a site's cases and what its labels mean; runs in a worker process, as everything that reads a site's folder."""
    from fedsilo.cohort import layouts

    found = layouts.find_cases(preparation.data_root / preparation.roster.site(site).folder, site)
    return found, layouts.harmonise(found.labels, preparation.roster, site)


def measure_cases(
    *,
    site: str,
    cases: Sequence[SourceCase],
    label_map: LabelMap,
    preparation: Preparation,
    device: str,  # noqa: ARG001  # facts are numpy
) -> list[Facts]:
    """Measure some of a site's cases, one in memory at a time; runs in a worker process."""
    from fedsilo.cohort import measure as measures

    entry, fix = preparation.roster.site(site), preparation.params.prepare.fix
    return [measures.measure(case, label_map, roster=preparation.roster, site=entry, fix=fix) for case in cases]


def split_site(*, site: str, rows: list[Facts], preparation: Preparation, device: str) -> None:  # noqa: ARG001  # nothing is computed
    """Split a site's patients and keep its facts; runs in a worker process."""
    from fedsilo import files
    from fedsilo.cohort import facts, splits

    entry, params = preparation.roster.site(site), preparation.params
    bounds = params.prepare.contract
    split = splits.assign(
        {row.case: row.patient for row in rows},
        site=site,
        role=entry.role,
        seed=params.seed,
        val_share=params.prepare.val_share,
        test_share=params.prepare.test_share,
    )
    files.write_json(
        preparation.facts_path(site),
        {"rows": [facts.to_json(row) for row in facts.with_splits(rows, split, near_share=bounds.near_share)]},
    )


def prepare_site(
    *,
    site: str,
    preparation: Preparation,
    device: str,  # noqa: ARG001  # resampling stays on the CPU
) -> tuple[int, int]:
    """Prepare one site's cases, of a site that stops none; runs in a worker process.

    A case that was prepared before from the same files by the same code and params is taken over as it is.

    Returns:
        How many cases were made, and how many taken over.
    """
    from fedsilo import files
    from fedsilo.cohort import facts, layouts, manifest, preprocess, repairs

    entry = preparation.roster.site(site)
    found = layouts.find_cases(preparation.data_root / entry.folder, site)
    label_map = layouts.harmonise(found.labels, preparation.roster, site)
    measured = {row.case: row for row in read_facts(preparation.facts_path(site))}
    written = (preparation.paths.docs_dir / site / "contract.json").read_bytes()
    verdict = json.loads(written)
    left_out = set(verdict["quarantined"])
    params = plans.followed(preparation.params.prepare, preparation.plan_path)
    folder = preparation.paths.prepared_site(site)
    building = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    rows, num_kept = [], 0
    listed = folder / "manifest.csv"
    before = {row.case: row.sha256 for row in manifest.read(listed)} if listed.is_file() else {}
    for source in found.cases if verdict["success"] else ():
        if source.case in left_out:
            continue
        fact = measured[source.case]
        file = f"cases/{source.case}.safetensors"
        origin = preprocess.origin(source, label_map, unit=entry.intensity_unit, params=params)
        if preprocess.origin_of(folder / file) == origin and files.sha256_file(folder / file) == before.get(source.case):
            files.write_bytes(building / file, (folder / file).read_bytes())
            num_kept += 1
        else:
            image, label, _ = repairs.read(source, fix=params.fix)
            if label is None:
                raise ContractError(f"site {site}: case {source.case} has no label")
            values = label_map.apply(label.channels[0])
            case = preprocess.prepare(image, values, unit=entry.intensity_unit, params=params)
            preprocess.save(case, building / file, origin=origin)
        recipe = preprocess.recipe_of(building / file)
        rows.append(
            manifest.ManifestRow(
                case=source.case,
                patient=source.patient,
                split=fact.split,  # type: ignore[arg-type]  # written by splits.assign
                file=file,
                sha256=files.sha256_file(building / file),
                content_hash=str(fact.content_hash),
                label_hash=str(fact.label_hash),
                modality=entry.modality,
                geometry=recipe.geometry,
                annotated="|".join(str(value) for value in label_map.annotated),
                num_slices=recipe.target_shape[0],
                spacing_zyx=manifest.joined(recipe.source_spacing_zyx or ()),
            )
        )
    if verdict["success"]:
        manifest.write(rows, building / "manifest.csv")
    facts.write(list(measured.values()), preparation.roster.organs[1:], building / "facts.parquet")
    files.write_bytes(building / "contract.json", written)
    files.place_folder(building, folder)
    return len(rows) - num_kept, num_kept


def read_facts(path: Path) -> list[Facts]:
    """Read the facts that ``split_site`` wrote."""
    from fedsilo.cohort import facts

    return [facts.from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def _verdict(preparation: Preparation, site: str, findings: Sequence[Finding]) -> dict[str, object]:
    """Write a site's verdict: the same text for the same facts."""
    from fedsilo.cohort import contract, facts

    rows = read_facts(preparation.facts_path(site))
    rules = contract.rules(preparation.params.prepare.contract, preparation.roster.organs[1:])
    return {
        "site": site,
        "num_cases": len(rows),
        "success": not _stopped(findings),
        "quarantined": sorted(contract.quarantined(findings)),
        "repaired": {row.case: row.repairs.split(facts.SEPARATOR) for row in rows if row.repairs},
        "rules": [
            {"rule": rule.rule, "column": rule.column, "action": rule.action, "expected": rule.expected, "when": rule.when}
            for rule in rules
        ],
        "findings": [vars(finding) for finding in findings],
    }
