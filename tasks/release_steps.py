"""What a promotion or a rollback does, step by step; each step looks whether it is done, so that all can be done again."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.audit import approvals, canonical, releases, trail, verifier
from fedsilo.audit.events import Artifact, Draft, Subject, Why
from fedsilo.audit.register import FEDERATION_LOG, SERVER
from fedsilo.audit.releases import Manifest
from fedsilo.audit.state import Candidate
from fedsilo.errors import DataError
from tasks import keyring, model_files, versions
from tasks import releases as folders
from tasks.paths import RunPaths
from tasks.release_paths import ReleasePaths
from tasks.releases import Contents
from tasks.trails import Scribe


@dataclass(frozen=True)
class Plan:
    """What the journal holds: what was begun, and the document that the promoter signed for it."""

    action: str
    version: str
    model: str
    before: str | None
    number: int
    created: str
    why: str
    document: Mapping[str, object]


@dataclass(frozen=True)
class Work:
    """A plan with all that its steps need; ``tag_key`` signs tags, ``run`` and ``verdict`` are of a promotion."""

    plan: Plan
    paths: ReleasePaths
    scribe: Scribe
    tag_key: Path | None
    run: RunPaths | None = None
    verdict: Path | None = None

    @property
    def folder(self) -> Path:
        """The release."""
        return self.paths.folder(self.plan.version)

    @property
    def is_told(self) -> bool:
        """Whether the trail has it."""
        return canonical.digest(canonical.dumps(self.plan.document)) in self.scribe.opened.state.carried


Step = Callable[[Work], None]


def is_of(folder: Path, plan: Plan) -> bool:
    """Say whether a release is there and of this promotion."""
    return (folder / releases.MANIFEST).is_file() and releases.read(folder).created == plan.created


def assemble(work: Work) -> None:
    """Make the release's folder."""
    if work.run is None or work.verdict is None:
        raise DataError("a promotion needs a run and a verdict")
    if work.is_told:
        return
    scribe, plan = work.scribe, work.plan
    events = verifier.read_events(trail.read(scribe.opened.path))
    approvers = scribe.opened.state.candidates.get(plan.model, Candidate()).approvers
    keys = [key for key, record in scribe.register.items() if record.entry.actor in approvers]
    contents = Contents(
        run=work.run,
        federation=work.paths.federation,
        version=plan.version,
        replaces=plan.before,
        verdict=work.verdict,
        approvals=approvals.given(events, plan.model, keys),
        checkpoint=scribe.checkpoint(),
        environment=scribe.made_with,
        why=plan.why,
        created=plan.created,
    )
    folders.assemble(contents, work.folder, keyring.signer(work.paths.audit, SERVER))
    found = releases.read(work.folder).model
    if found != plan.model:  # the run was trained anew after it was looked at
        shutil.rmtree(work.folder)
        raise DataError(f"{work.run.run} has another model now, {found}; approved is {plan.model}")


def track(work: Work) -> None:
    """Put its models under DVC: inside models for the remote of their site's data, or for none."""
    shared, private = _models(work)
    model_files.track_models(work.paths.workspace, shared, private)


def restore(work: Work) -> None:
    """Bring its models back from DVC's cache; the global one must be there as it was signed."""
    shared, private = _models(work)
    model_files.check_out(work.paths.workspace, [*shared, *private])
    checked = releases.check(work.folder, work.scribe.register)
    if releases.GLOBAL in checked.missing:
        raise DataError(f"{shared[0]} is not in DVC's cache here: `dvc pull {model_files.tracked_by(shared[0])}`")


def tell(work: Work) -> None:
    """Say so in the trail, once, and state the log's size and root."""
    if not work.is_told:
        server = keyring.signer(work.paths.audit, SERVER)
        manifest = releases.check(work.folder, work.scribe.register).manifest
        work.scribe.opened.append(draft(work, manifest), server)
    work.scribe.checkpoint()


def point(work: Work) -> None:
    """Say which release is in use to whoever serves it."""
    plan = work.plan
    said = {"version": plan.version, "model": plan.model, "number": plan.number, "since": plan.created}
    files.write_json(work.paths.champion, {**said, "folder": work.folder.relative_to(work.paths.workspace).as_posix()})


def push(work: Work) -> None:
    """Push the models to the remotes that they have."""
    shared, private = _models(work)
    model_files.push_models(work.paths.workspace, [*shared, *private])


def commit(work: Work) -> None:
    """Commit the release and the checkpoints, which git then keeps for the log; of a promotion the run's lock and metrics too."""
    paths, plan = work.paths, work.plan
    if versions.is_committed(paths.workspace, paths.champion):
        return
    kept = [work.folder, paths.champion, paths.audit.founding, paths.audit.checkpoints_dir(FEDERATION_LOG)]
    made = [] if work.run is None else [work.run.lock_file, work.run.report_dir / "metrics.json"]
    message = f"{releases.name_of(paths.federation)} {plan.version} is in use: {plan.action} {plan.number}"
    versions.commit_paths(paths.workspace, [*kept, *(path for path in made if path.is_file())], message)


def register(work: Work) -> None:
    """Tag the commit of a promotion with its version."""
    name = releases.version_tag(work.paths.artifact, work.plan.version)
    target = versions.last_commit(work.paths.workspace, work.paths.champion)
    versions.tag(work.paths.workspace, name, target, f"{work.plan.model} {work.plan.why}", key=work.tag_key)


def assign(work: Work) -> None:
    """Tag the version's commit as the one in use."""
    paths, plan = work.paths, work.plan
    target = versions.tags(paths.workspace, paths.artifact)[releases.version_tag(paths.artifact, plan.version)]
    name = releases.stage_tag(paths.artifact, plan.number)
    versions.tag(paths.workspace, name, target, f"{plan.action} {plan.version} {plan.why}", key=work.tag_key)


PROMOTION: tuple[Step, ...] = (assemble, track, tell, point, push, commit, register, assign)
RETURN: tuple[Step, ...] = (restore, tell, point, commit, assign)


def _models(work: Work) -> tuple[list[Path], dict[Path, str | None]]:
    """Give a release's global model, and its inside models with the remotes of their sites' data."""
    manifest = releases.read(work.folder)
    inside = [entry.name for entry in manifest.models if entry.name != releases.GLOBAL]
    data = work.paths.workspace / "data" / "raw" / work.paths.federation
    private = {work.folder / name: model_files.remote_of(data / f"{Path(name).stem}.dvc") for name in inside}
    return [work.folder / releases.GLOBAL], private


def draft(work: Work, manifest: Manifest | None = None) -> Draft:
    """Write the event; before there is a release it names no files."""
    plan, folder = work.plan, work.folder.relative_to(work.paths.workspace).as_posix()
    listed = (
        ()
        if manifest is None
        else (Artifact(releases.MANIFEST, files.sha256_file(work.folder / releases.MANIFEST)), *manifest.models)
    )
    return Draft(
        plan.action,
        Why(plan.version, plan.why),
        subject=Subject("model", releases.name_of(work.paths.federation), plan.before, plan.model),
        outputs=tuple(Artifact(f"{folder}/{entry.name}", entry.sha256) for entry in listed),
        env=work.scribe.made_with,
        attached=plan.document,
    )
