"""Every name from outside that becomes a part of a path: one that leads elsewhere is refused in a line, and no file is made."""

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fedsilo import names, sections
from fedsilo.cohort import layouts, manifest
from fedsilo.cohort import roster as rosters
from fedsilo.errors import FedsiloError
from fedsilo.evaluation import overlays
from fedsilo.ingest import tree
from fedsilo.ingest.source import SourceError
from fedsilo.params import FederateParams
from flows import audit, ingest
from tasks import compare, repro
from tasks.paths import AuditPaths, RunPaths
from tests.unit import raw_site
from tests.unit.test_manifest import ROW

REPOSITORY = raw_site.REPOSITORY

HOSTILE = {
    "the folder above": "../x",
    "the folder above, further on": "x/../../y",
    "this folder": ".",
    "an absolute path": "/x",
    "a path of Windows": "C:\\x",
    "a backslash": "a\\b",
    "the folder above, with a backslash": "..\\x",
    "NUL": "a\0b",
    "a line feed": "a\nb",
    "a line feed at the end": "a\n",
    "a carriage return": "a\rb",
    "a tabulator": "a\tb",
    "a letter that looks alike": "\u0430b",
    "a full-width letter": "\uff41b",
    "a slash that looks alike": "a\u2215b",
    "text that turns round": "a\u202eb",
    "a lone surrogate": "a\udcffb",
    "nothing": "",
    "a blank": " ",
    "a blank at the end": "a ",
    "300 characters": "a" * 300,
    "a device": "nul",
    "a device with an ending": "con.x",
    "a device with a blank and an ending": "nul .x",
    "a numbered device": "com1",
    "a hidden file": ".a",
    "an option": "-rf",
    "the home folder": "~",
    "a variable": "$HOME",
}


def cohort_file(folder, **changes):
    content = yaml.safe_load((REPOSITORY / "cohorts" / "demo.yaml").read_text())
    for key, value in changes.items():
        if key.startswith("site_"):
            content["sites"][0][key.removeprefix("site_")] = value
        else:
            content[key] = value
    path = folder / "given" / "cohort.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def written(folder, text):
    path = folder / "given" / "file"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    return path


def run_paths(folder):
    return RunPaths(folder, "demo", "demo")


def federate(**changes):
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["federate"]
    return sections.validate(FederateParams, content | changes, source="params.yaml")


def outside(name):
    from fedsilo.outside_params import OutsideParams

    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["outside"]
    made = next(iter(content["adaptations"].values()))
    return sections.validate(OutsideParams, content | {"adaptations": {name: made}}, source="params.yaml")


def manifest_row(folder, **changes):
    row = replace(ROW, **changes)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([manifest.COLUMNS, [getattr(row, column) for column in manifest.COLUMNS]])
    return manifest.read(written(folder, text.getvalue()))


def picture(folder, name):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([overlays.COLUMNS, ["ct-a", "a", "a", "global", "best", "0.5", name]])
    return overlays.read_index(written(folder, text.getvalue()))


def imported(folder, site):
    """Import a site under a name; whatever the command says goes through its guard."""
    options = ingest.parser().parse_args(["source", "--site=" + site, "--cohort", str(cohort_file(folder)), "--no-dvc"])
    options.params, options.workspace, options.source = REPOSITORY / "params.yaml", folder, folder / "given"
    ingest.body(options)


def found_case(folder, name):
    """Find cases in a folder in which a hospital's file has a name; systems themselves refuse some names."""
    site = raw_site.write_site(folder / "given", 1)
    image = site / "imagesTr" / f"{name}_0000.nii.gz"
    try:
        if image.parent != (site / "imagesTr") or "\0" in name or len(name) > 200:
            raise OSError
        shutil.copy(next(iter((site / "imagesTr").iterdir())), image)
        shutil.copy(next(iter((site / "labelsTr").iterdir())), site / "labelsTr" / f"{name}.nii.gz")
    except OSError:
        pytest.skip("no file can have this name here")
    return layouts.find_cases(site, "ct-a")


def named_by_source(folder, name):
    (folder / "given").mkdir()
    (folder / "x").write_text("outside of the source")
    try:
        return tree.listing(folder / "given").find(name)
    except SourceError as error:
        raise FedsiloError(error.what) from None


ENTRIES = {
    "cohort, in its file": lambda folder, name: rosters.load(cohort_file(folder, name=name)),
    "cohort, in its file for ingest": lambda folder, name: rosters.load_vocabulary(cohort_file(folder, name=name)),
    "site, in the cohort file": lambda folder, name: rosters.load(cohort_file(folder, site_name=name)),
    "site's folder, in the cohort file": lambda folder, name: rosters.load(cohort_file(folder, site_folder=name)),
    "participant, in params.yaml": lambda _, name: federate(participants={name: {"ct-a": None}}),
    "site of a participant, in params.yaml": lambda _, name: federate(participants={"ct-a": {name: None}}),
    "fold, in params.yaml": lambda _, name: federate(
        folds={"inside": {"momentum": 0.9, "buffers": "fold"}, name: {"momentum": 0.9, "buffers": "fold"}}
    ),
    "adaptation, in params.yaml": lambda _, name: outside(name),
    "cohort, of a run's files": lambda folder, name: RunPaths(folder, name, "demo"),
    "run, as --run names it": lambda folder, name: RunPaths(folder, "demo", name),
    "run of a study": lambda folder, name: RunPaths(folder, "demo", f"study/{name}"),
    "runs to compare": lambda folder, name: compare.find_runs(folder, [name]),
    "site, of prepared cases": lambda folder, name: run_paths(folder).prepared_site(name),
    "site, of its sheet": lambda folder, name: run_paths(folder).sheet(name),
    "site, of its inside model": lambda folder, name: run_paths(folder).inside_state(name),
    "site, of its held model": lambda folder, name: run_paths(folder).held_state(name),
    "site, of its baselines": lambda folder, name: run_paths(folder).baseline_state(name, "local"),
    "method, of a baseline": lambda folder, name: run_paths(folder).baseline_state("ct-a", name),
    "fold, of its model": lambda folder, name: run_paths(folder).fold_state("ct-a", name),
    "federation": AuditPaths,
    "federation, as the command names it": lambda folder, name: audit.books(
        audit.parser().parse_args(["verify", f"--federation={name}", f"--workspace={folder}"])
    ),
    "log": lambda folder, name: AuditPaths(folder, "demo").log(name),
    "log, as the command names it": lambda folder, name: audit.books(
        audit.parser().parse_args(["verify", f"--log={name}", f"--workspace={folder}"])
    ),
    "checkpoints of a log": lambda folder, name: AuditPaths(folder, "demo").checkpoints_dir(name),
    "witness": lambda folder, name: AuditPaths(folder, "demo").witness(name),
    "actor, of a private key": lambda folder, name: AuditPaths(folder, "demo").private_key(name),
    "site, as flows.ingest names it": imported,
    "case, in a hospital's folder": found_case,
    "case, in a manifest": lambda folder, name: manifest_row(folder, case=name, file=f"cases/{name}.safetensors"),
    "file, in a manifest": lambda folder, name: manifest_row(folder, file=name),
    "folder of a file, in a manifest": lambda folder, name: manifest_row(folder, file=f"{name}/b.safetensors"),
    "picture, in the table of overlays": picture,
    "picture's name, in the table of overlays": lambda folder, name: picture(folder, f"overlays/{name}/a.png"),
    "file that a source's index names": named_by_source,
    "cohort, as flows.run names it": lambda folder, name: repro.target_of(REPOSITORY, name),
    "study, as flows.run names it": lambda folder, name: repro.study_target(REPOSITORY, name),
}
"""Where a name comes in."""

HIDDEN = ("a hidden file", "this folder", "the folder above, with a backslash")
IGNORED = {("case, in a hospital's folder", kind) for kind in HIDDEN}
"""What is no error: files of systems such as ._a are no data."""


def tree_of(folder):
    return {path for path in folder.rglob("*") if "given" not in path.relative_to(folder).parts}


@pytest.fixture
def workspace(tmp_path):
    """A folder deep enough that what climbs out of it is still seen."""
    made = tmp_path / "around" / "workspace"
    made.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("entry", "kind"), [(entry, kind) for entry in ENTRIES for kind in HOSTILE if (entry, kind) not in IGNORED]
)
def test_a_name_that_leads_elsewhere_is_refused(entry, kind, workspace, tmp_path):
    if entry == "file that a source's index names":
        (workspace / "x").write_text("outside of the source")
    before = tree_of(tmp_path)

    with pytest.raises(FedsiloError) as caught:
        ENTRIES[entry](workspace, HOSTILE[kind])

    message = str(caught.value)
    assert "\n" not in message
    assert "\r" not in message
    assert "\0" not in message
    assert tree_of(tmp_path) - before - {workspace / "x"} == set()


PLAIN = ("ct-a", "clinic_3", "a", "x" * 40, "console", "nullify", "com10")


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_is_taken(name, workspace):
    assert names.is_identifier(name)
    assert names.is_run(name)
    assert names.is_run(f"study/{name}")
    assert names.is_case(name)
    assert names.is_folder(name)
    assert rosters.load(cohort_file(workspace, name=name, site_folder=f"Clinic 3/{name}")).name == name
    assert run_paths(workspace).prepared_site(name) == workspace / "data" / "prepared" / "demo" / name
    assert federate(participants={name: {"ct-a": None}}).participants == {name: {"ct-a": None}}
    assert manifest_row(workspace, case=name, file=f"cases/{name}.safetensors")[0].case == name
    assert picture(workspace, f"overlays/ct-a_{name}_global.png")[0].file == f"overlays/ct-a_{name}_global.png"


def test_cases_of_hospitals_may_have_capitals_and_dots():
    assert names.is_case("MR.03-B")
    assert not names.is_identifier("MR.03-B")


def test_all_places_of_names_are_listed(repository):
    """A function that makes a path of a text has an entry above: this counts them, so that a new one is not forgotten."""
    import inspect

    made_of_text = {
        f"{kind.__name__}.{name}"
        for kind in (RunPaths, AuditPaths)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and inspect.signature(method).return_annotation in (Path, "Path")
    }

    assert made_of_text == {
        "RunPaths.prepared_site",
        "RunPaths.sheet",
        "RunPaths.inside_state",
        "RunPaths.fold_state",
        "RunPaths.held_state",
        "RunPaths.baseline_state",
        "RunPaths.phase_dir",  # of a phase, which is ours
        "RunPaths.cases_table",  # the same
        "AuditPaths.log",
        "AuditPaths.checkpoints_dir",
        "AuditPaths.witness",
        "AuditPaths.private_key",
    }
