"""The model in use as a run of its own, so that it can be scored anew beside its candidate: from its release, by its params."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.audit import releases
from fedsilo.audit.register import Register
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.roster import Roster
from fedsilo.errors import AuditRefusedError, DataError
from fedsilo.evaluation.pccp import Plan
from fedsilo.params import Params
from tasks import model_events, model_files, versioned
from tasks.contenders import PHASES
from tasks.paths import RunPaths
from tasks.release_paths import ReleasePaths
from tasks.releases import RECORD

FOLDER = "champion"


@dataclass(frozen=True)
class Champion:
    """A release that is in use, as a run: its files and the params that it was trained with, which its tag's commit has."""

    version: str
    paths: RunPaths
    params: Params
    release: Path


def restored(paths: ReleasePaths, register: Register, model: str, cohort_file: Path, params_file: Path) -> Champion:
    """Put the models of the release in use where a run's lie, with its record; models come from DVC's cache if need be.

    Args:
        paths: Of the federation's releases.
        register: Keys of the federation.
        model: Hash of the model in use.
        cohort_file: In the workspace; read as it was at the release.
        params_file: The same.

    Raises:
        AuditRefusedError: The release is not as it was signed, or of another model.
        DataError: There is no release or pointer, or its models, params or cohort file are lost.
    """
    pointer = files.read_json(paths.champion)
    version = str(pointer.get("version"))
    folder = paths.folder(version)
    checked = releases.check(folder, register)
    if checked.manifest.model != model:
        raise AuditRefusedError("artifact", paths.federation, 0, f"{folder} is of {checked.manifest.model}, in use is {model}")
    if checked.missing:
        listed = [folder / name for name in checked.missing if model_files.tracked_by(folder / name).is_file()]
        model_files.check_out(paths.workspace, listed)
        checked = releases.check(folder, register)
    if releases.GLOBAL in checked.missing:
        raise DataError(f"{folder / releases.GLOBAL} is not here: `dvc pull {model_files.tracked_by(folder / releases.GLOBAL)}`")
    run = RunPaths(paths.workspace, paths.federation, f"{FOLDER}/{paths.federation}")
    _place(folder, [entry.name for entry in checked.manifest.models if entry.name not in checked.missing], run)
    tag = releases.version_tag(paths.artifact, version)
    then = {
        path: _as_it_was(paths.workspace, path, tag, run.checkpoints_dir / "made_with") for path in (cohort_file, params_file)
    }
    return Champion(version, run, rosters.load_run(then[cohort_file], then[params_file])[1], folder)


def _place(folder: Path, models: Sequence[str], run: RunPaths) -> None:
    """Copy models and record of a release to a run's folder, if they are not there already; scores of others go."""
    names = {**{name: name for name in models}, RECORD: run.federation_record.name}
    there = {path.relative_to(run.run_dir).as_posix() for path in run.run_dir.rglob("*.safetensors")}
    same = there == set(models) and all(
        (run.run_dir / name).is_file() and files.sha256_file(run.run_dir / name) == files.sha256_file(folder / source)
        for source, name in names.items()
    )
    if same:
        return
    shutil.rmtree(run.run_dir, ignore_errors=True)
    for source, name in names.items():
        files.write_bytes(run.run_dir / name, (folder / source).read_bytes())


def _as_it_was(workspace: Path, path: Path, tag: str, folder: Path) -> Path:
    """Write a file of the workspace as it was at a tag to a folder."""
    inner = path.resolve().relative_to(workspace.resolve()).as_posix()
    content = versioned.read_at(workspace, inner, tag)
    if content is None:
        raise DataError(f"{tag} has no {inner}, with which the model in use was trained")
    return files.write_bytes(folder / path.name, content)


def scoring_params(params: Params, plan: Plan) -> Params:
    """Give the params with which a champion is scored: its own, and of the methods those that the plan compares by."""
    inside, outside = (plan.gate.methods.of(role) for role in ("inside", "outside"))
    learned = {name: value for name, value in params.outside.adaptations.items() if name == outside}
    methods = tuple(dict.fromkeys(("global", *(() if learned else (outside,)))))
    changes = {
        "inside": params.inside.model_copy(update={"methods": (inside,)}),
        "outside": params.outside.model_copy(update={"methods": methods, "adaptations": learned}),
    }
    return params.model_copy(update=changes)


def is_scored(champion: Champion, roster: Roster, plan: Plan) -> bool:
    """Say whether its scores are there: of the test cases that sites have now, by what the plan compares."""
    note = _note(champion)
    if not note.is_file() or not all(champion.paths.cases_table(phase).is_file() for phase in PHASES):
        return False
    return files.read_json(note) == _scored_on(champion, roster, plan)


def note_scored(champion: Champion, roster: Roster, plan: Plan) -> None:
    """Note on which test cases the scores are, by which methods and metrics, and in which tables."""
    files.write_json(_note(champion), _scored_on(champion, roster, plan))


def _note(champion: Champion) -> Path:
    return champion.paths.checkpoints_dir / "scored.json"


def _scored_on(champion: Champion, roster: Roster, plan: Plan) -> dict[str, object]:
    """Name the model, every site's test cases and the tables by their hashes, and what the plan compares."""
    sites = {site.name: model_events.holdout_sha256(champion.paths.prepared_site(site.name)) for site in roster.sites}
    tables = {phase: files.sha256_file(champion.paths.cases_table(phase)) for phase in PHASES}
    compared = {"methods": plan.gate.methods.model_dump(mode="json"), "metrics": sorted(plan.gate.metrics)}
    return {"model": files.sha256_file(champion.paths.global_state), "holdout": sites, "tables": tables, "compared": compared}


def knows_what_is_there(paths: ReleasePaths, version: str) -> bool:
    """Say whether a release was trained on the cases that its inside sites have prepared now.

    Raises:
        DataError: Its record is missing or damaged.
    """
    path, run = paths.folder(version) / RECORD, paths.run(paths.federation)
    identity = files.read_json(path).get("identity")
    trained = identity.get("manifest_sha256") if isinstance(identity, dict) else None
    if not isinstance(trained, dict):
        raise DataError(f"cannot use {path}: it lacks manifest_sha256")
    listed = {site: run.prepared_site(site) / "manifest.csv" for site in trained}
    return all(file.is_file() and files.sha256_file(file) == trained[site] for site, file in listed.items())
