"""The bill of materials names what is installed, twice alike; and nothing is run whose licence forbids it or is unknown."""

import json
import re
import sys
import tempfile
from pathlib import Path

import pytest

from fedsilo import files
from fedsilo.report import packages
from flows import sbom as command
from tasks import sbom

EPOCH = "SOURCE_DATE_EPOCH"


@pytest.fixture(scope="module")
def installed(repository):
    root, found = sbom.listed(repository)
    assert root == "fedsilo"
    return found


@pytest.fixture
def workspace(repository, tmp_path, monkeypatch):
    """The files that the command reads, in a folder of its own."""
    monkeypatch.delenv(EPOCH, raising=False)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((repository / name).read_bytes())
    return tmp_path


def run(workspace):
    code = command.main(["--workspace", str(workspace)])
    return code, workspace / "build" / "sbom.json", workspace / "docs" / "licences.md"


def pretend(folder, monkeypatch, name, *fields):
    """Make a package that looks installed, and the project need it."""
    info = folder / "site" / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *fields, "", ""]))
    monkeypatch.syspath_prepend(str(folder / "site"))
    project = folder / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = [", f'dependencies = ["{name}",', 1))


def test_every_package_that_is_needed_to_run_has_a_licence_that_allows_it(installed):
    runtime = [package for package in installed if package.is_runtime]

    assert {package.name: package.licence for package in runtime if not package.is_allowed} == {}
    assert {"torch", "prefect", "dvc", "cryptography", "pygit2"} <= {package.name for package in runtime}
    assert len(runtime) > 100


def test_packages_to_develop_with_are_known_too(installed):
    assert [package.name for package in installed if package.licence == packages.UNKNOWN] == []
    assert not {"pytest", "ruff", "mypy"} & {package.name for package in installed if package.is_runtime}


def test_every_exemption_is_of_an_installed_package_with_the_licence_that_was_read(installed):
    licences = {package.name: package.licence for package in installed}

    assert {name: licences.get(name) for name in packages.EXEMPTED} == {
        name: exemption.licence for name, exemption in packages.EXEMPTED.items()
    }
    assert not any(packages.is_allowed(exemption.licence) for exemption in packages.EXEMPTED.values())


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("GPL-2.0-only", False),
        ("GPL-3.0-or-later", False),
        ("AGPL-3.0-only", False),
        ("LGPL-3.0-only", False),
        ("SSPL-1.0", False),
        ("LicenseRef-Proprietary", False),
        ("unknown", False),
        ("", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND (GPL-3.0-only OR ISC)", True),
        ("MIT AND GPL-3.0-only OR ISC", True),
        ("MIT OR GPL-3.0-only AND ISC", True),
        ("GPL-3.0-only OR MIT AND AGPL-3.0-only", False),
        ("(MIT", False),
        ("MIT)", False),
        ("MIT GPL-3.0-only", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("mit", False),
    ],
)
def test_an_expression_is_judged_by_its_parts(licence, allowed):
    assert packages.is_allowed(licence) is allowed


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (["License-Expression: GPL-3.0-only"], "GPL-3.0-only"),
        (["License: AGPL-3.0-or-later"], "AGPL-3.0-or-later"),
        (["Classifier: License :: OSI Approved :: GNU General Public License v2 (GPLv2)"], "GPL-2.0-only"),
        (["License: MIT License", "Classifier: Topic :: Software Development"], None),
        (["License: Ask us first"], "unknown"),
        (["Classifier: License :: Other/Proprietary License"], "unknown"),
        ([], "unknown"),
        (["Classifier: License :: OSI Approved :: MIT License"], None),
    ],
)
def test_a_new_package_is_refused_unless_its_licence_is_known_and_allowed(workspace, monkeypatch, capsys, fields, named):
    pretend(workspace, monkeypatch, "newcomer", *fields)

    code, bill, licences = run(workspace)

    if named is None:
        assert code == 0
        assert "newcomer" in bill.read_text()
    else:
        assert code == 1
        assert f"licence not allowed: newcomer ({named})" in capsys.readouterr().err
        assert not bill.exists()
        assert not licences.exists()


def test_an_exemption_ends_when_the_licence_is_another():
    assert packages.Package("pygit2", "1", packages.EXEMPTED["pygit2"].licence, (), is_runtime=True).is_allowed
    assert not packages.Package("pygit2", "1", "GPL-2.0-only", (), is_runtime=True).is_allowed


def test_the_same_environment_gives_the_same_bytes_and_no_time(workspace, monkeypatch):
    _, bill, licences = run(workspace)
    first = bill.read_bytes(), licences.read_bytes()

    assert run(workspace)[0] == 0
    assert (bill.read_bytes(), licences.read_bytes()) == first
    assert "timestamp" not in json.loads(first[0])["metadata"]
    monkeypatch.setenv(EPOCH, "1700000000")
    run(workspace)
    assert json.loads(bill.read_text())["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    monkeypatch.setenv(EPOCH, "yesterday")
    assert run(workspace)[0] == 1


def test_the_bill_is_whole(workspace, installed):
    bill = json.loads(run(workspace)[1].read_text())
    references = [bill["metadata"]["component"]["bom-ref"], *(part["bom-ref"] for part in bill["components"])]
    properties = {entry["name"]: entry["value"] for entry in bill["metadata"]["properties"]}

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert len(references) == len(set(references)) == len(installed)
    assert [part["ref"] for part in bill["dependencies"]] == sorted(references, key=lambda text: text.partition("@")[0])
    assert {needed for part in bill["dependencies"] for needed in part["dependsOn"]} <= set(references)
    assert all(re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[A-Za-z0-9.%-]+", reference) for reference in references)
    assert all(part["licenses"] for part in bill["components"])
    assert properties["fedsilo:constraints_sha256"] == files.sha256_file(workspace / "constraints.txt")
    text = run(workspace)[1].read_text()
    assert [
        place for place in ("file:", str(workspace), str(Path.home()), sys.prefix, tempfile.gettempdir()) if place in text
    ] == []


def test_the_table_in_docs_is_of_this_environment(repository, installed):
    """Systems differ in a few packages, so rows of the table may be more, but those of what is installed are there."""
    written = (repository / "docs" / "licences.md").read_text()
    rows = set(written.splitlines())
    mine = [line for line in packages_table(installed) if "| run |" in line]

    assert written.startswith(sbom.HEADING)
    assert [line for line in mine if line not in rows] == [], "run `make sbom`"


def packages_table(installed):
    from fedsilo.report import sbom as document

    return document.table(installed, root="fedsilo").splitlines()


@pytest.mark.parametrize("damage", ["pyproject.toml", "constraints.txt"])
def test_what_is_missing_is_named(workspace, capsys, damage):
    (workspace / damage).unlink()

    assert run(workspace)[0] == 1
    assert damage in capsys.readouterr().err


def test_the_makefile_writes_both(repository):
    assert "-m flows.sbom" in (repository / "Makefile").read_text()
