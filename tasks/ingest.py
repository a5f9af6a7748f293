"""Adapters of the ingest: survey a source, convert its cases one by one, put the site in its place.

What the source says of people stays in the plan's folder and in files beside the key. Arguments, results, logs, errors and
Prefect's records hold new names only, so the path of the source is written into the plan before a flow runs.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from logging import INFO, WARNING
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo.cohort.roster import Vocabulary
from fedsilo.errors import DataError, FedsiloError, OutputError
from tasks import workers

if TYPE_CHECKING:
    from fedsilo.ingest.source import Finding

PRELOAD = (*workers.ARRAYS, "nibabel", "PIL.Image", "pydicom")
REQUEST = "request.json"
FINDING_COLUMNS = ("kind", "message", "left_out", "case", "source", "path")


@dataclass(frozen=True)
class Ingestion:
    """What every task of an ingest needs.

    Attributes:
        site: Its name.
        vocabulary: Organs of the cohort.
        folder: Where the site will lie.
        key_path: Of the site's key; lists that name people lie beside it.
        records_dir: Where workers say what they did.
        update: Whether a site that is there is replaced.
        strict: Whether a single case that is left out stops the import.
    """

    site: str
    vocabulary: Vocabulary
    folder: Path
    key_path: Path
    records_dir: Path
    update: bool
    strict: bool

    @property
    def building(self) -> Path:
        """The site's folder until it is whole."""
        return self.folder.with_name(f".{self.folder.name}.part")

    @property
    def plan_dir(self) -> Path:
        """Folder of the plan; private."""
        return self.key_path.with_name(f"{self.site}.plan")

    @property
    def identities_path(self) -> Path:
        """Which new name is whose; private."""
        return self.key_path.with_name(f"{self.site}.identities.csv")

    @property
    def findings_path(self) -> Path:
        """All findings with the source's own names; private."""
        return self.key_path.with_name(f"{self.site}.findings.csv")


@dataclass(frozen=True)
class Request:
    """What is imported and how; it names the source, so it lies in the plan's folder.

    Attributes:
        source: Folder of the export.
        layout: Name of a layout, or ``auto``.
        labels: Name -> value, for a layout without names.
        modality: CT or MR, or empty.
        sequence: A suffix of BIDS, or empty.
    """

    source: Path
    layout: str
    labels: tuple[tuple[str, int], ...]
    modality: str
    sequence: str


def ask(request: Request, ingestion: Ingestion) -> None:
    """Check where the site goes and write the request, before anything is read.

    Raises:
        DataError: The key cannot be used, or is not the one under which the site that is there was imported.
        OutputError: The site is there already, or key and site lie in one folder.
    """
    import json

    from fedsilo import files
    from fedsilo.ingest import identities

    if ingestion.folder.exists() and not ingestion.update:
        raise OutputError(f"site {ingestion.site}: {ingestion.folder} is there already; --update imports it again")
    if ingestion.key_path.resolve().is_relative_to(ingestion.folder.resolve()):
        raise OutputError(f"the key {ingestion.key_path} must not lie in the site's folder, which is shared")
    fingerprint = identities.fingerprint(identities.load_key(ingestion.key_path))
    described = ingestion.folder / "manifest.json"
    if described.is_file() and files.read_json(described).get("key_fingerprint") != fingerprint:
        raise DataError(
            f"site {ingestion.site}: {ingestion.folder} was imported under another key than {ingestion.key_path}; "
            "its patients would get other names: bring the old key back, or remove the folder"
        )
    shutil.rmtree(ingestion.plan_dir, ignore_errors=True)
    content = {**vars(request), "source": str(request.source.absolute()), "labels": [list(pair) for pair in request.labels]}
    identities.write_private(ingestion.plan_dir / REQUEST, json.dumps(content))


@task(name="survey source", task_run_name="{ingestion.site}: survey the source", cache_policy=NO_CACHE, persist_result=False)
def survey(ingestion: Ingestion) -> Path:
    """Recognise the layout, find the cases, check the organs and rename everything."""
    layout = workers.run(survey_source, ingestion=ingestion)
    get_run_logger().info("%s: layout %s, %s cases", ingestion.site, layout, len(names(ingestion)))
    return ingestion.plan_dir


@task(name="ingest case", task_run_name="{ingestion.site}: ingest {case}", cache_policy=NO_CACHE, persist_result=False)
def convert(case: str, ingestion: Ingestion) -> Path:
    """Read one case, take its identity away and write it under its new name."""
    reason = workers.run(convert_case, case=case, ingestion=ingestion)
    if reason:
        get_run_logger().warning("%s/%s left out: %s", ingestion.site, case, reason)
    return record_path(case, ingestion)


@task(
    name="finish site", task_run_name="{ingestion.site}: put the site in its place", cache_policy=NO_CACHE, persist_result=False
)
def finish(ingestion: Ingestion) -> Path:
    """Describe the site, write its manifest and put it in its place.

    Raises:
        DataError: No case is left, or one is left out and the import is strict.
    """
    counts = workers.run(finish_site, ingestion=ingestion)
    for message, number in counts:
        get_run_logger().log(WARNING if "left out" in message else INFO, "%s: %s x %s", ingestion.site, number, message)
    create_table_artifact(
        key=f"ingest-{ingestion.site}".replace("_", "-"),
        table=[{"finding": message, "times": number} for message, number in counts] or [{"finding": "none", "times": 0}],
        description=f"Import of {ingestion.site}; sources stand in a file beside the site's key",
    )
    get_run_logger().info("%s: %s", ingestion.site, ingestion.folder)
    return ingestion.folder


def names(ingestion: Ingestion) -> list[str]:
    """New names of the cases of a plan."""
    from fedsilo.ingest import plan

    return sorted(plan.load(ingestion.plan_dir).patients)


def record_path(case: str, ingestion: Ingestion) -> Path:
    """Where a worker says what became of a case; it says nothing of the source."""
    return ingestion.records_dir / f"{case}.json"


def line(ingestion: Ingestion, root: Path) -> str:
    """Write what the cohort file needs to know of an imported site.

    Args:
        ingestion: Of the site.
        root: Where the cohort's sites lie.
    """
    from fedsilo import files

    description = files.read_json(ingestion.folder / "manifest.json")
    folder, base = ingestion.folder.resolve(), root.resolve()
    is_below = folder.is_relative_to(base)
    entry = {
        "name": ingestion.site,
        "folder": folder.relative_to(base).as_posix() if is_below else folder.name,
        "role": "inside|outside",
        "modality": description["modality"] or "CT|MR",
        "intensity_unit": description["intensity_unit"] or "hu|au|windowed_8bit",
        "show_images": "false",
    }
    hint = (
        "" if is_below else f"\nthe cohort's root is not above the site: set `root: {ingestion.folder.parent}` in the cohort file"
    )
    return (
        f"{description['num_cases']} cases, layout {description['layout']}; for `sites:` of the cohort, chosen where | stands:\n"
        f"  - {{{', '.join(f'{name}: {value}' for name, value in entry.items())}}}{hint}\n"
    )


def survey_source(*, ingestion: Ingestion, device: str) -> str:  # noqa: ARG001  # a job has a device
    """Find the cases and write the plan; return the layout; runs in a worker process."""
    from fedsilo import files
    from fedsilo.ingest import convert as conversion
    from fedsilo.ingest import identities, plan
    from fedsilo.ingest.source import Options, SourceError

    request = files.read_json(ingestion.plan_dir / REQUEST)
    options = Options(
        labels=dict(request["labels"]),  # type: ignore[call-overload]  # written by ask
        modality=str(request["modality"]),
        sequence=str(request["sequence"]),
        drop=ingestion.vocabulary.drop,
    )
    key = identities.load_key(ingestion.key_path)
    try:
        made, cases, patients = plan.survey(
            Path(str(request["source"])),
            layout=str(request["layout"]),
            options=options,
            vocabulary=ingestion.vocabulary,
            site=ingestion.site,
            key=key,
            folder=ingestion.plan_dir,
        )
    except SourceError as error:
        where = ""
        if error.private:
            row = (error.kind, error.what, "no", "", error.private, "")
            where = f"; what it is about stands in {identities.write_table(ingestion.findings_path, FINDING_COLUMNS, [row])}"
        raise DataError(f"site {ingestion.site}: {error.what}{where}") from None
    except FedsiloError as error:
        what = str(error).removeprefix(f"site {ingestion.site}: ")
        raise DataError(f"site {ingestion.site}: {what}") from None
    except Exception as error:  # a traceback's text may quote the source, which names people
        raise DataError(f"site {ingestion.site}: {conversion.fault(error)}") from None
    identities.remember(ingestion.identities_path, cases, patients)
    for folder in (ingestion.building, ingestion.records_dir):
        shutil.rmtree(folder, ignore_errors=True)
    return made.layout


def convert_case(*, case: str, ingestion: Ingestion, device: str) -> str:  # noqa: ARG001  # a job has a device
    """Convert one case; return why it is left out, if it is; runs in a worker process."""
    from dataclasses import asdict

    from fedsilo import files
    from fedsilo.ingest import convert as conversion
    from fedsilo.ingest import plan, recognise

    shared = plan.load(ingestion.plan_dir)
    findings = conversion.convert(
        plan.load_case(ingestion.plan_dir, case),
        case,
        layout=recognise.named(shared.layout),
        labels=shared.labels,
        num_channels=len(shared.channels),
        folder=ingestion.building,
    )
    safe = [
        {name: value for name, value in asdict(finding).items() if name in ("kind", "message", "left_out")}
        for finding in findings
    ]
    files.write_json(record_path(case, ingestion), {"findings": safe})
    return "; ".join(f"[{finding.kind}] {finding.message}" for finding in findings if finding.left_out)


def finish_site(*, ingestion: Ingestion, device: str) -> list[tuple[str, int]]:  # noqa: ARG001  # a job has a device
    """Put a site together; return its findings and how often each; runs in a worker process."""
    from fedsilo import files
    from fedsilo.ingest import identities, plan, writer
    from fedsilo.ingest.source import Finding, counted, reasons

    shared = plan.load(ingestion.plan_dir)
    key = identities.load_key(ingestion.key_path)
    rows = [_row(finding, identities.new_id("case", finding.case, key) if finding.case else "") for finding in shared.findings]
    findings = list(shared.findings)
    patients = dict(shared.patients)
    for case in sorted(shared.patients):
        source = plan.load_case(ingestion.plan_dir, case)
        told = files.read_json(record_path(case, ingestion))["findings"]
        of_case = [Finding(**entry, case=source.case) for entry in told]  # type: ignore[attr-defined]  # written by convert_case
        if any(finding.left_out for finding in of_case):
            del patients[case]
        findings += of_case
        rows += [_row(finding, case, str(source.images[0])) for finding in of_case]
    identities.write_table(ingestion.findings_path, FINDING_COLUMNS, rows)
    left_out = len({finding.case for finding in findings if finding.left_out})
    where = f"reasons stand in {ingestion.findings_path}"
    if not patients:
        raise DataError(f"site {ingestion.site}: no case can be imported, {left_out} are left out: {reasons(findings)}; {where}")
    if left_out and ingestion.strict:
        raise DataError(
            f"site {ingestion.site}: {left_out} cases are left out and --strict allows none: {reasons(findings)}; {where}"
        )
    building = ingestion.building
    writer.describe(
        building, site=ingestion.site, labels=shared.labels, channels=shared.channels, geometry=shared.geometry, patients=patients
    )
    writer.write_manifest(building, site=ingestion.site, shared=shared, patients=patients, findings=findings)
    chosen = ingestion.folder / "splits.csv"  # the site's own; an update does not take it away
    if chosen.is_file():
        files.write_bytes(building / chosen.name, chosen.read_bytes())
    files.place_folder(building, ingestion.folder)
    shutil.rmtree(ingestion.plan_dir, ignore_errors=True)
    shutil.rmtree(ingestion.records_dir, ignore_errors=True)
    return counted(findings)


def _row(finding: Finding, case: str, path: str = "") -> tuple[str, ...]:
    """Write a finding as cells."""
    return (finding.kind, finding.message, "yes" if finding.left_out else "no", case, finding.case, finding.path or path)
