"""Both dvc.yaml files describe the pipeline that the code is."""

import ast
import re

import pytest
import yaml

EMBEDDED = "demo"
PHASES = ("phantoms", "prepare", "federate", "inside", "outside", "report")


def paths(entries):
    """Paths of a list of deps or outs, whose entries may carry options."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outputs(stage):
    return [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind, []))]


UNTRACKED = re.compile(r"(fedsilo/audit/|tasks/(data_events|keyring|model_events|trails|versions)\.py)")
"""What the trail is written with: it makes no output, so a change there retrains no model."""


def is_code(path):
    return path.startswith(("fedsilo/", "tasks/", "flows/"))


def test_a_stage_a_phase_in_order(stages):
    assert tuple(stages[EMBEDDED]) == PHASES
    assert all(tuple(stages[cohort]) == PHASES[1:] for cohort in stages if cohort != EMBEDDED)


def test_real_cohorts_have_the_same_stages_as_the_embedded_one(repository):
    top = yaml.safe_load((repository / "dvc.yaml").read_text())
    real = (repository / "cohorts" / "dvc.yaml").read_text()
    as_embedded = yaml.safe_load(real.replace("${item.cohort}", "${cohort}").replace("${data.root}", "${raw}"))["stages"]

    for name, stage in as_embedded.items():
        assert stage.pop("wdir") == ".."
        assert stage.pop("matrix") == {"cohort": "${cohorts}"}
        assert stage == top["stages"][name], name


def test_the_embedded_cohort_is_made_where_it_is_read_and_real_ones_share_one_data_root(repository, stages):
    roots = {cohort: yaml.safe_load((repository / "cohorts" / f"{cohort}.yaml").read_text())["root"] for cohort in stages}

    assert paths(stages[EMBEDDED]["phantoms"]["outs"]) == [roots.pop(EMBEDDED)]
    assert roots.keys() >= {"kidneys", "liver"}
    assert set(roots.values()) == {None}  # the stages depend on data.root


@pytest.mark.parametrize("phase", PHASES)
def test_a_command_is_the_phase_with_its_cohort(stages, phase):
    for cohort, its in stages.items():
        if phase in its:
            assert its[phase]["cmd"] == f"python -m flows.{phase} --cohort cohorts/{cohort}.yaml"


@pytest.mark.parametrize("phase", PHASES)
def test_code_deps_are_the_import_closure(code, stages, phase):
    listed = set(filter(is_code, paths(stages[EMBEDDED][phase]["deps"])))
    modules = code.closure(f"flows.{phase}")
    imported = {path for path in {code.path(module) for module in modules} | code.assets(modules) if not UNTRACKED.match(path)}

    assert sorted(imported - listed) == [], "imported, but not in deps: a change would go unnoticed"
    assert sorted(listed - imported) == [], "in deps, but not imported: it would re-run for nothing"


def test_data_deps_are_outputs_of_earlier_stages(stages):
    for its in stages.values():
        made = {"DATA"}
        for name, stage in its.items():
            wanted = {path for path in paths(stage["deps"]) if not is_code(path)}
            assert wanted <= made, name
            made |= set(outputs(stage))


def test_no_two_stages_write_the_same(stages):
    written = [path for its in stages.values() for stage in its.values() for path in outputs(stage)]

    assert len(set(written)) == len(written)
    assert not [(one, other) for one in written for other in written if other.startswith(f"{one}/")]


SHARED = re.compile(
    r"runs/[^/]+/(global\.safetensors|rounds\.csv|federation\.json)|reports/[^/]+/report/(metrics\.json|plots/\w+\.csv)"
)
"""What is of the whole federation: models of one site, pictures and scores of patients and pages that show them are not."""


def pushed(stage):
    """Paths of outputs that `dvc push` may send to the default remote, or git holds."""
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, []):
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            if options.get("push", True):
                yield path


def test_what_is_of_patients_or_of_one_site_is_never_pushed(stages):
    found = [path for its in stages.values() for stage in its.values() for path in pushed(stage)]

    assert [path for path in found if not SHARED.fullmatch(path)] == []
    assert len(found) == 7 * len(stages), "three of a run, four of its report"


@pytest.mark.parametrize("study", ["fedgin-real", "iopfl-real"])
def test_studies_on_real_patients_push_nothing_but_their_results(repository, study):
    found = [path for name, _, stage in study_stages(repository) if name == study for path in pushed(stage)]

    assert found == [f"studies/{study}/results"]


def test_nothing_is_kept_between_runs_behind_the_back_of_dvc(stages):
    """Outputs that persist, or stages that always run, would hide what a result was made from.

    Prepared cases may stay: each says what it was made from, and is taken over only if that is what it would be made from now.
    """
    for its in stages.values():
        for stage in its.values():
            assert not {"always_changed", "frozen"} & stage.keys()
            kept = [next(iter(entry)) for entry in stage.get("outs", []) if isinstance(entry, dict) and "persist" in str(entry)]
            assert all(path.startswith("data/prepared/") for path in kept)


def study_stages(repository):
    """Every stage of every study, by study and name."""
    for path in sorted((repository / "studies").glob("*/dvc.yaml")):
        for name, stage in yaml.safe_load(path.read_text())["stages"].items():
            yield path.parent.name, name, stage


def imported_by(repository, code, command):
    """Files of ours that a command runs: a flow's import closure, or that of a study's script and the scripts beside it."""
    flow = re.match(r"python -m (flows\.\w+)", command)
    if flow:
        return {code.path(module) for module in code.closure(flow[1])}
    script = repository / re.match(r"python (\S+\.py)", command)[1]
    found, waiting = set(), [script]
    while waiting:
        current = waiting.pop()
        found.add(current.relative_to(repository).as_posix())
        for module in imports_of(current):
            beside = script.parent / f"{module}.py"
            if beside.is_file() and beside.relative_to(repository).as_posix() not in found:
                waiting.append(beside)
            elif module.startswith(("fedsilo", "tasks", "flows")):
                found |= {code.path(name) for name in code.closure(module) if code.does_something(name)}
    return found


def imports_of(path):
    """Modules that a file imports, as dotted names; of `from package import module` the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parents[2].joinpath(*node.module.split("."))
            yield from (f"{node.module}.{alias.name}" if package.is_dir() else node.module for alias in node.names)


def test_code_deps_of_studies_cover_the_import_closure(repository, code):
    """Whole folders may stand for their files: a study may run again for nothing, but never miss a change."""
    seen = 0
    for study, name, stage in study_stages(repository):
        deps = [path.rstrip("/") for path in paths(stage["deps"])]
        commands = stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]
        imported = set.union(*(imported_by(repository, code, command) for command in commands))
        folders = tuple(f"{dep}/" for dep in deps)
        missed = {path for path in imported if path not in deps and not path.startswith(folders) and not UNTRACKED.match(path)}
        assert sorted(missed) == [], f"{study}:{name}"
        seen += 1
    assert seen > 15


def test_studies_push_no_patient_data(repository):
    for study, name, stage in study_stages(repository):
        for entry in stage.get("outs", []):
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            assert not path.startswith("data/") or options == {"push": False}, f"{study}:{name}"
