"""A plan: what will be imported under which names. It names people and files, so it lies in a folder only its owner may read.

``site.json`` holds what all cases share, ``<new name>.json`` one case: a worker reads what it needs and no more.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from fedsilo import files
from fedsilo.cohort.roster import Vocabulary
from fedsilo.ingest import identities, organs, recognise, silence, tree
from fedsilo.ingest.source import Finding, Options, SourceCase

SITE = "site.json"


@dataclass(frozen=True)
class Plan:
    """What all cases of an import share.

    Attributes:
        layout: Name of the source's layout.
        labels: Name -> value.
        channels: Names of channels.
        geometry: ``mm`` or ``pixel``.
        modality: CT, MR, or empty if the source does not say.
        intensity_unit: hu, au, or empty.
        key_fingerprint: Of the site's key.
        patients: New name of a case -> new name of its patient.
        findings: Of the search.
    """

    layout: str
    labels: Mapping[str, int]
    channels: tuple[str, ...]
    geometry: str
    modality: str
    intensity_unit: str
    key_fingerprint: str
    patients: Mapping[str, str]
    findings: tuple[Finding, ...]


def survey(
    source: Path, *, layout: str, options: Options, vocabulary: Vocabulary, site: str, key: bytes, folder: Path
) -> tuple[Plan, dict[str, str], dict[str, str]]:
    """Find a source's cases, check its organs against the cohort, rename everything and write the plan.

    Args:
        source: Folder of the export.
        layout: Name of a layout, or ``auto``.
        options: What the source does not say.
        vocabulary: Organs of the cohort.
        site: Name of the site.
        key: Of the site.
        folder: Of the plan.

    Returns:
        The plan, and the new names of cases and of patients.

    Raises:
        DataError: The source cannot be used as a whole, or an organ is unknown.
        ParamsError: There is no such layout.
        OutputError: The plan cannot be written.
    """
    listed = tree.listing(source)
    chosen = recognise.recognise(listed) if layout == recognise.AUTO else recognise.named(layout)
    with silence.kept():
        found = chosen.find(listed, options)
    known = organs.known(found.labels, vocabulary, site)
    kept, incomplete = organs.complete(found.cases, found.labels, known, vocabulary)
    findings = (*listed.findings, *found.findings, *incomplete)
    left_out = {finding.case for finding in findings if finding.left_out}
    cases = identities.rename("case", {case.case for case in kept} | left_out, key)
    patients = identities.rename("patient", {case.patient for case in kept}, key)
    plan = Plan(
        layout=chosen.name,
        labels=dict(found.labels),
        channels=found.channels,
        geometry=found.geometry,
        modality=found.modality,
        intensity_unit=found.intensity_unit,
        key_fingerprint=identities.fingerprint(key),
        patients={cases[case.case]: patients[case.patient] for case in kept},
        findings=findings,
    )
    identities.write_private(folder / SITE, json.dumps(asdict(plan)))
    for case in kept:
        identities.write_private(folder / f"{cases[case.case]}.json", json.dumps(_case_to_json(case)))
    return plan, cases, patients


def load(folder: Path) -> Plan:
    """Read what all cases share.

    Raises:
        DataError: There is no plan.
    """
    content = files.read_json(folder / SITE)
    findings = cast("list[dict[str, object]]", content.pop("findings"))
    channels = cast("list[str]", content.pop("channels"))
    given = cast("dict[str, Any]", content)
    return Plan(**given, channels=tuple(channels), findings=tuple(Finding(**cast("dict[str, Any]", one)) for one in findings))


def load_case(folder: Path, name: str) -> SourceCase:
    """Read one case by its new name.

    Raises:
        DataError: The plan does not have it.
    """
    content = json.loads((folder / f"{name}.json").read_text(encoding="ascii"))
    return SourceCase(
        content["case"], content["patient"], tuple(map(Path, content["images"])), tuple(map(Path, content["labels"]))
    )


def _case_to_json(case: SourceCase) -> dict[str, object]:
    return {
        "case": case.case,
        "patient": case.patient,
        "images": [str(path) for path in case.images],
        "labels": [str(path) for path in case.labels],
    }
