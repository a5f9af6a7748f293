"""A bill of materials of an environment: CycloneDX 1.6 in JSON, and a table of licences. Equal environments give equal bytes.

Written here and not by a tool: those add some twenty packages to the environment that they describe, name folders of the machine,
and find no licence where its name is no SPDX expression.
"""

import json
import urllib.parse
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from fedsilo.report.packages import UNKNOWN, Package

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def document(packages: Iterable[Package], *, root: str, properties: Mapping[str, str], epoch: int | None = None) -> str:
    """Write the bill of materials.

    Args:
        packages: Of the environment, with the project itself.
        root: Name of the project.
        properties: What else identifies the environment.
        epoch: Seconds since 1970 of the time to state; None states no time.
    """
    listed = sorted(packages, key=lambda package: package.name)
    (project,) = (package for package in listed if package.name == root)
    others = [package for package in listed if package.name != root]
    described: dict[str, object] = {
        "component": {**_component(project), "type": "application"},
        "properties": [{"name": name, "value": value} for name, value in sorted(properties.items())],
        "tools": {"components": [{"type": "application", "name": "flows.sbom", "version": project.version}]},
    }
    if epoch is not None:
        described["timestamp"] = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = {package.name: _reference(package) for package in listed}
    content = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": described,
        "components": [{**_component(package), "scope": "required" if package.is_runtime else "optional"} for package in others],
        "dependencies": [
            {"ref": _reference(package), "dependsOn": sorted(names[needed] for needed in package.needs if needed != package.name)}
            for package in listed
        ],
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def table(packages: Iterable[Package], *, root: str) -> str:
    """Write the licences as rows of Markdown, without versions: a row changes when a licence does."""
    rows = ["| package | licence | needed to | note |", "|---|---|---|---|"]
    for package in sorted(packages, key=lambda package: package.name):
        if package.name != root:
            use, note = "run" if package.is_runtime else "develop", package.exemption.reason if package.exemption else ""
            rows.append(f"| {package.name} | {package.licence} | {use} | {note} |".replace("  |", " |"))
    return "\n".join(rows) + "\n"


def _component(package: Package) -> dict[str, object]:
    """Describe a package."""
    reference = _reference(package)
    found: dict[str, object] = {"type": "library", "name": package.name, "version": package.version}
    return found | {"purl": reference, "bom-ref": reference, "licenses": _licences(package.licence)}


def _reference(package: Package) -> str:
    """Name a package as package URLs do."""
    return f"pkg:pypi/{package.name}@{urllib.parse.quote(package.version, safe='')}"


def _licences(licence: str) -> list[dict[str, object]]:
    """State a licence: by its SPDX id, by a name if it has none, or as an expression of several."""
    if licence == UNKNOWN:
        return []
    if " " in licence:
        return [{"expression": licence}]
    kind = "name" if licence.startswith("LicenseRef-") else "id"
    return [{"license": {kind: licence}}]
