"""Adapters of the preparation: measure a site, check the contract, prepare its cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from logging import ERROR, WARNING
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo.errors import ContractError, DataError
from fedsilo.types import Split
from tasks import contract_page, data_events, judging, plans, workers
from tasks.judging import Preparation

if TYPE_CHECKING:
    from fedsilo.cohort.facts import Facts
    from fedsilo.cohort.layouts import LabelMap, SiteCases, SourceCase


CASES_A_JOB = 8


@task(name="measure site", task_run_name="{site}: measure cases", cache_policy=NO_CACHE, persist_result=False)
def measure(site: str, preparation: Preparation) -> Path:
    """Find a site's cases, measure them and split the patients."""
    try:
        found, label_map = workers.run(list_cases, site=site, preparation=preparation)
    except DataError as error:  # rule F4: the other sites go on
        return judging.write_facts(preparation, site, [], problem=str(error))
    parts = [found.cases[start : start + CASES_A_JOB] for start in range(0, len(found.cases), CASES_A_JOB)]
    # each thread waits for a child of the pool, so that a large site keeps all of them busy
    with ThreadPoolExecutor(preparation.params.runtime.parallel_sites) as waiting:
        jobs = [
            waiting.submit(workers.run, measure_cases, site=site, cases=part, label_map=label_map, preparation=preparation)
            for part in parts
        ]
        rows = [row for job in jobs for row in job.result()]
    workers.run(split_site, site=site, rows=rows, found=found, preparation=preparation)
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
    verdicts, pages = judging.judge(preparation)
    everywhere = verdicts.pop("", [])
    for site, found in verdicts.items():
        num_cases = len(judging.read_facts(preparation.facts_path(site)))
        page = contract_page.headed(pages[site], site=site, num_cases=num_cases, outcome=judging.outcome(found), findings=found)
        files.write_text(preparation.paths.docs_dir / site / "index.html", page)
        files.write_json(preparation.paths.docs_dir / site / "contract.json", judging.verdict(preparation, site, found))
        data_events.validated(preparation, site, found)
    for finding in [*everywhere, *(finding for found in verdicts.values() for finding in found)]:
        logger.log(WARNING if finding.action in {"warn", "quarantine"} else ERROR, finding.message)
    create_table_artifact(
        key=f"contract-{preparation.roster.name}".replace("_", "-"),
        table=[judging.line(site, found) for site, found in verdicts.items()],
        description=f"Data contract of {preparation.roster.name}; pages in `{preparation.paths.docs_dir}`",
    )
    files.write_json(preparation.plan_path, plans.made_from(judging.taking_part(preparation, verdicts)))
    stopped = preparation.paths.contract_stop
    if any(finding.action == "stop federation" for found in (everywhere, *verdicts.values()) for finding in found):
        stopping = [finding.message for found in (*verdicts.values(), everywhere) for finding in found if finding.stops]
        files.write_json(stopped, {"findings": stopping})
        raise ContractError(" | ".join(stopping))
    if stopped.is_file():
        stopped.unlink()
    for site, found in verdicts.items():
        logger.info("%s: %s", site, judging.outcome(found))


@task(name="prepare site", task_run_name="{site}: prepare cases", cache_policy=NO_CACHE, persist_result=False)
def prepare(site: str, preparation: Preparation) -> Path:
    """Bring a site's cases to the working grid; the old folder is replaced when the new one is whole."""
    num_made, num_kept = workers.run(prepare_site, site=site, preparation=preparation)
    folder = preparation.paths.prepared_site(site)
    data_events.accepted(preparation, site)
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


def split_site(
    *,
    site: str,
    rows: list[Facts],
    found: SiteCases,
    preparation: Preparation,
    device: str,  # noqa: ARG001  # nothing is computed
) -> None:
    """Split a site's patients and keep its facts; runs in a worker process.

    Those in splits.csv have theirs; others keep the one they had in an earlier preparation with the same seed and shares.
    """
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
        previous={**_earlier_splits(rows, preparation, site), **found.splits},
    )
    judging.write_facts(
        preparation, site, facts.with_splits(rows, split, near_share=bounds.near_share), namespace=found.namespace
    )


def _earlier_splits(rows: Sequence[Facts], preparation: Preparation, site: str) -> dict[str, Split]:
    """Read the splits of an earlier preparation with the same seed and shares, by case."""
    from fedsilo import files

    path = preparation.paths.prepared_site(site) / "splits.json"
    earlier = files.read_json(path) if path.is_file() else {}
    if earlier.get("made_with") != _made_with(preparation):
        return {}
    by_patient = cast("dict[str, Split]", earlier["splits"])
    return {row.case: by_patient[row.patient] for row in rows if row.patient in by_patient}


def _made_with(preparation: Preparation) -> dict[str, float]:
    """Say what splits follow from, beside the patients."""
    params = preparation.params
    return {"seed": params.seed, "val_share": params.prepare.val_share, "test_share": params.prepare.test_share}


def prepare_site(
    *,
    site: str,
    preparation: Preparation,
    device: str,
) -> tuple[int, int]:
    """Prepare one site's cases, of a site that stops none; runs in a worker process.

    A case that was prepared before from the same files by the same code and params is taken over as it is.

    Returns:
        How many cases were made, and how many taken over.
    """
    from fedsilo import files
    from fedsilo.cohort import facts, layouts, manifest, preprocess, repairs

    entry = preparation.roster.site(site)
    measured = {row.case: row for row in judging.read_facts(preparation.facts_path(site))}
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
    cases: tuple[SourceCase, ...] = ()
    label_map = layouts.LabelMap({}, ())
    if verdict["success"]:
        site_cases, label_map = list_cases(site=site, preparation=preparation, device=device)
        cases = site_cases.cases
    for source in cases:
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
    splits = {row.patient: row.split for row in measured.values()}
    files.write_json(building / "splits.json", {"made_with": _made_with(preparation), "splits": splits})
    files.write_bytes(building / "contract.json", written)
    files.place_folder(building, folder)
    return len(rows) - num_kept, num_kept
