"""A model goes into use, or an earlier one comes back: in steps of which each looks whether it is done, under a journal.

The journal is written before the first step and goes after the last. It holds the document that the promoter signed, which the
trail takes once: so a command that was killed goes on when it is given again, and a model is never promoted twice.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedsilo import files
from fedsilo.audit import documents, releases, trail
from fedsilo.audit.documents import Release
from fedsilo.audit.keys import Signer
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.audit.register import SERVER
from fedsilo.audit.state import Candidate
from fedsilo.errors import AuditRefusedError, DataError, FedsiloError
from tasks import keyring, trails, versions
from tasks import releases as folders
from tasks.release_paths import ReleasePaths
from tasks.release_steps import PROMOTION, RETURN, Plan, Step, Work, draft, is_of
from tasks.trails import Scribe

PROMOTE, ROLLBACK = "promote", "rollback"


def promote(
    paths: ReleasePaths, run_name: str, version: str, verdict: Path, why: str, *, signer: Signer, tag_key: Path | None
) -> str:
    """Put a run's models into use as a version, or go on with what was begun so.

    Args:
        paths: Of the federation.
        run_name: Of the candidate.
        version: ``vX.Y.Z``.
        verdict: The gate's verdict on it, as it was written.
        why: The reason.
        signer: The promoter.
        tag_key: ssh-ed25519 key that signs the tags.

    Raises:
        AuditRefusedError: It has not the approvals, or not this promoter may promote it; nothing was done.
        DataError: The run, verdict, repository or version cannot be used.
        FedsiloError: git or dvc failed; the same command goes on.
        OutputError: A file cannot be written.
    """
    folder, run = paths.folder(version), paths.run(run_name)
    with _changing(paths) as (scribe, journal):
        # once there is a release, what was begun goes on without the run, which may have been trained anew
        is_whole = journal is not None and is_of(folder, journal)
        model = releases.read(folder).model if is_whole else trails.hashed(folders.models_of(run)[releases.GLOBAL])
        begun = _begun(paths, scribe, journal, (PROMOTE, version, model))
        if begun is None and folder.exists():
            return _released(paths, scribe, version, model)
        plan = begun or _drawn_up(paths, scribe, PROMOTE, version=version, model=model, why=why, signer=signer)
        work = Work(plan, paths, scribe, tag_key, run, verdict)
        if not work.is_told:
            _check_verdict(work, verdict)
        _carry_out(work, PROMOTION, new=begun is None)
    return f"{releases.name_of(paths.federation)} {version} is in use: {model}\n" + _warned(tag_key)


def rollback(paths: ReleasePaths, version: str, why: str, *, signer: Signer, tag_key: Path | None) -> str:
    """Bring an earlier version back into use, with the inside models that belong to it, or go on with what was begun so.

    Raises:
        AuditRefusedError: It was never in use, is in use, or this person may not bring it back; nothing was done.
        DataError: There is no such release, or its global model is not here.
        FedsiloError: git or dvc failed; the same command goes on.
        OutputError: A file cannot be written.
    """
    folder = paths.folder(version)
    with _changing(paths) as (scribe, journal):
        if not (folder / releases.MANIFEST).is_file():
            raise DataError(f"there is no release {folder}")
        model = releases.read(folder).model
        champion = scribe.opened.state.champions.get(releases.name_of(paths.federation))
        begun = _begun(paths, scribe, journal, (ROLLBACK, version, model))
        if begun is None and champion is not None and champion.current == model:
            return _released(paths, scribe, version, model)
        plan = begun or _drawn_up(paths, scribe, ROLLBACK, version=version, model=model, why=why, signer=signer)
        work = Work(plan, paths, scribe, tag_key)
        if releases.version_tag(paths.artifact, version) not in versions.tags(paths.workspace, paths.artifact):
            raise DataError(f"there is no tag {releases.version_tag(paths.artifact, version)} in {paths.workspace}")
        _carry_out(work, RETURN, new=begun is None)
        missing = releases.check(folder, scribe.register).missing
    at_sites = f"; at their sites only: {', '.join(missing)}" if missing else ""
    return f"{releases.name_of(paths.federation)} {version} is back in use: {model}{at_sites}\n" + _warned(tag_key)


@contextmanager
def _changing(paths: ReleasePaths) -> Iterator[tuple[Scribe, Plan | None]]:
    """Let nobody else change the model in use; give the open trail, and what was begun and not ended."""
    keyring.check_founded(paths.audit)
    versions.check_repository(paths.workspace)
    if not (paths.workspace / ".dvc").is_dir():
        raise DataError(f"{paths.workspace} is no DVC repository, so no model can be versioned in it")
    paths.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FedsiloError(f"another promotion or rollback holds {paths.lock}") from error
    try:
        with trails.held(paths.run(paths.federation), ()) as scribe:
            yield scribe, Plan(**files.read_json(paths.journal)) if paths.journal.is_file() else None  # type: ignore[arg-type]  # we wrote it
    finally:
        lock.release()


def _drawn_up(paths: ReleasePaths, scribe: Scribe, action: str, *, version: str, model: str, why: str, signer: Signer) -> Plan:
    """Sign for what is begun now."""
    name = releases.name_of(paths.federation)
    champion = scribe.opened.state.champions.get(name)
    created = trail.utc_now().strftime(TIME_FORMAT)
    document = documents.sign(Release(paths.federation, action, name, model, why, created), signer)
    number = releases.next_number(paths.artifact, versions.tags(paths.workspace, paths.artifact))
    return Plan(action, version, model, champion.current if champion else None, number, created, why, document)


def _begun(paths: ReleasePaths, scribe: Scribe, journal: Plan | None, asked: tuple[str, str, str]) -> Plan | None:
    """Give what was begun if it is what is asked for; something else must be ended if the trail has it, or is taken back."""
    if journal is None or (journal.action, journal.version, journal.model) == asked:
        return journal
    work = Work(journal, paths, scribe, None)
    if work.is_told:
        raise DataError(
            f"{journal.action} of {journal.version}, {journal.model}, has begun and not ended: give that command again first "
            f"({paths.journal})"
        )
    _take_back(work)
    return None


def _check_verdict(work: Work, verdict: Path) -> None:
    """Refuse a file that is not the verdict by which the model was approved, or does not compare it with the model in use."""
    known = work.scribe.opened.state.candidates.get(work.plan.model, Candidate()).metrics_ref
    found = trails.hashed(verdict) if verdict.is_file() else "missing"
    if found != known:
        raise DataError(f"{verdict} is {found}, the gate's last verdict on {work.plan.model} is {known or 'none'}")
    record = files.read_json(verdict)
    for name, expected in (("candidate", work.plan.model), ("champion", work.plan.before)):
        said = f"sha256:{record.get(name)}" if record.get(name) else None
        if said != expected:
            raise DataError(f"{verdict} is about the {name} {said or 'none'}, expected {expected or 'none'}")


def _released(paths: ReleasePaths, scribe: Scribe, version: str, model: str) -> str:
    """Say that a version is in use already, or that it cannot be used again."""
    champion = scribe.opened.state.champions.get(releases.name_of(paths.federation))
    if champion is not None and champion.current == model == releases.read(paths.folder(version)).model:
        return f"{releases.name_of(paths.federation)} {version} is in use already: {model}\n"
    raise DataError(f"{version} was released before; choose another version, or bring it back with `python -m flows.rollback`")


def _carry_out(work: Work, steps: tuple[Step, ...], *, new: bool) -> None:
    """Check that the trail would take it, note what begins, do every step that is not done, note that it ended."""
    if not work.is_told:
        try:
            work.scribe.opened.check(draft(work), keyring.signer(work.paths.audit, SERVER))
        except AuditRefusedError:
            _take_back(work)
            raise
    if new:
        files.write_json(work.paths.journal, dataclasses.asdict(work.plan))
    for step in steps:
        step(work)
    work.paths.journal.unlink()


def _take_back(work: Work) -> None:
    """Undo what was begun and may no longer be told of."""
    if work.plan.action == PROMOTE and is_of(work.folder, work.plan):
        shutil.rmtree(work.folder)
    work.paths.journal.unlink(missing_ok=True)


def _warned(tag_key: Path | None) -> str:
    return "" if tag_key else "warning: the tags are not signed; add --tag-key with an ssh-ed25519 key\n"
