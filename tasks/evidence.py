"""What an inspector asks of a log: does it hold with what others kept, where does a model come from, are the files as it says."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.audit import ancestry, ancestry_text, checkpoints, forms, verifier
from fedsilo.audit import founding as foundings
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.verifier import Verdict
from fedsilo.errors import AuditRefusedError, DataError
from tasks import anchors, artifacts, audit
from tasks.artifacts import Comparison
from tasks.audit import Books, Held

ARTIFACT = "artifact"
"""Code for a file that is not as the trail says; it refuses no line of the log."""
NAMED = 20
"""Files that a message names."""


@dataclass(frozen=True)
class Evidence:
    """What a log is held against beside its own checkpoints.

    Attributes:
        workspace: Folder with the files, and of the repository that commits are read from.
        against: Files, folders and commits with checkpoints (:func:`tasks.anchors.find`).
        since: A checkpoint whose lines are taken on trust.
        own: Whether its own checkpoints must hold, too; not those of a workspace that has nothing to do with the log.
    """

    workspace: Path
    against: Sequence[str] = ()
    since: Path | None = None
    own: bool = True


def verify(books: Books, evidence: Evidence, *, compare: bool, as_json: bool) -> str:
    """Verify a log, and with ``compare`` the workspace's files by it; say so as a line or as JSON.

    Raises:
        AuditRefusedError: The log is refused, or a file is not as it says (code ``artifact``).
        DataError: It could not be checked.
    """
    held, verdict = _verified(books, evidence)
    found = _compare(held, evidence.workspace) if compare else None
    trusted = held.setting.trusted_size
    if as_json:
        told = {name: getattr(verdict, name) for name in ("log", "founding", "size", "root", "anchored")}
        more = {} if found is None else {"files": dataclasses.asdict(found)}
        return json.dumps({"verdict": "verified", **told, "trusted": trusted, **more}, sort_keys=True) + "\n"
    under = f"{verdict.anchored} under a checkpoint"
    taken = f", signatures of the first {trusted} taken on trust" if trusted else ""
    said = f"verified {verdict.log}: {verdict.size} lines, root {verdict.root}, {under}{taken}; founding {verdict.founding}\n"
    return said if found is None else said + _told(found)


def show(books: Books, evidence: Evidence, model: str, *, as_json: bool) -> str | None:
    """Write the ancestry of a model, which is a file or its SHA-256, by a log that was verified; None if it is not in it.

    Raises:
        AuditRefusedError: The log is refused.
        DataError: It could not be checked, or there is no such file.
    """
    sha256 = hash_of(model)
    held, verdict = _verified(books, evidence)
    found = ancestry.trace(sha256, verifier.read_events(held.content), verdict.state.register)
    if found is None:
        return None
    if not as_json:
        return ancestry_text.text(found)
    told = {"log": verdict.log, "size": verdict.size, "root": verdict.root, "founding": verdict.founding}
    return json.dumps({**dataclasses.asdict(found), "verified": told}, indent=2, sort_keys=True) + "\n"


def hash_of(model: str) -> str:
    """Give the hash by which a log names a model.

    Raises:
        DataError: It is neither a hash nor a file that can be read.
    """
    sha256 = model.removeprefix("sha256:")
    if forms.HEX_TEXT.fullmatch(sha256):
        return f"sha256:{sha256}"
    try:
        return f"sha256:{files.sha256_file(Path(model))}"
    except OSError as error:
        raise DataError(f"cannot read {model}: {error.strerror or error}; expected a file or its SHA-256") from None


def _verified(books: Books, evidence: Evidence) -> tuple[Held, Verdict]:
    """Verify a log with all that it is held against."""
    log = f"{foundings.read(books.founding).federation}/{books.log.stem}"
    more = [entry for spec in evidence.against for entry in anchors.find(spec, evidence.workspace, log)]
    return audit.verify(books, more, since=_since(evidence.since), own=evidence.own)


def _since(path: Path | None) -> Checkpoint | None:
    """Read the checkpoint up to which a log is taken on trust; of a folder the newest."""
    if path is None:
        return None
    newest = checkpoints.newest(checkpoints.find(path))
    if newest is None:
        raise DataError(f"there is no checkpoint in {path}")
    return newest


def _compare(held: Held, workspace: Path) -> Comparison:
    """Compare files with what the log says, which must be the same of all that are there."""
    found = artifacts.compare(verifier.read_events(held.content), workspace, held.setting.founding.federation)
    if found.differing:
        named = ", ".join(said.path for said in found.differing[:NAMED])
        rest = len(found.differing) - NAMED
        reason = f"not as the trail says: {named}{f' and {rest} more' if rest > 0 else ''}"
        raise AuditRefusedError(ARTIFACT, held.setting.log, found.differing[0].line, reason)
    return found


def _told(found: Comparison) -> str:
    """Say in lines what became of the files."""
    lines = [f"files: {len(found.same)} as the trail says; dvc.lock: {found.lock}"]
    lines += [f"missing: {said.path}, of line {said.line}" for said in found.missing]
    lines += [f"in dvc.lock and in no event: {name}" for name in found.unnamed]
    return "".join(f"{line}\n" for line in lines)
