"""Adapters of the bill of materials: what pyproject.toml asks for, what is installed, and the files that say so."""

import os
import platform
import tomllib
from pathlib import Path

from fedsilo import files
from fedsilo.errors import DataError, ParamsError
from fedsilo.report import packages, sbom

HEADING = """# Licences

Written by `make sbom`: every package of the environment, with the licence that its authors declare; versions stand in
constraints.txt and in `build/sbom.json`. A package that the project needs to run must have a licence of the list in
`fedsilo/report/packages.py` or stand there by name with a reason; GPL, AGPL and unknown licences are refused
(`tests/contract/test_sbom.py`). Wheels carry code of others: what their authors do not declare is not here.

"""


def write(workspace: Path, bill: Path, licences: Path) -> str:
    """Write the bill of materials and the table of licences; say how many packages there are.

    Raises:
        DataError: pyproject.toml or constraints.txt cannot be read, or a package that the project runs on has a licence that is
            not allowed; nothing is written.
        ParamsError: SOURCE_DATE_EPOCH is no whole number.
        OutputError: A file cannot be written.
    """
    root, found = listed(workspace)
    refused = [f"{package.name} ({package.licence})" for package in found if package.is_runtime and not package.is_allowed]
    if refused:
        raise DataError(f"licence not allowed: {', '.join(refused)}; expected one of fedsilo/report/packages.py")
    pins = workspace / "constraints.txt"
    if not pins.is_file():
        raise DataError(f"cannot read {pins}: there is no such file")
    properties = {"fedsilo:constraints_sha256": files.sha256_file(pins), "fedsilo:python": platform.python_version()}
    files.write_text(bill, sbom.document(found, root=root, properties=properties, epoch=_epoch()))
    files.write_text(licences, HEADING + sbom.table(found, root=root))
    num_runtime = sum(package.is_runtime for package in found)
    return f"{len(found)} packages, {num_runtime} of them to run: {bill}, {licences}\n"


def listed(workspace: Path) -> tuple[str, tuple[packages.Package, ...]]:
    """Name the project and list what is installed.

    Raises:
        DataError: pyproject.toml cannot be read.
    """
    path = workspace / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        name, requirements = str(project["name"]), [str(entry) for entry in project["dependencies"]]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"cannot use {path}: {type(error).__name__}") from error
    return name, packages.installed([name, *requirements])


def _epoch() -> int | None:
    """Read the time to state from the environment, as reproducible builds do."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is not None and not text.isdecimal():
        raise ParamsError(f"cannot use SOURCE_DATE_EPOCH={text!r}: expected whole seconds")
    return None if text is None else int(text)
