"""Which model is in use, since when, why and by whom, as a verified trail says; and whether the files are those it names."""

import json
from collections.abc import Mapping
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, releases, verifier
from fedsilo.audit.events import Event
from fedsilo.audit.register import Register
from fedsilo.errors import AuditRefusedError, DataError
from tasks import audit, versions
from tasks.audit import Books
from tasks.release_paths import ReleasePaths
from tasks.releases import APPROVALS

ARTIFACT = "artifact"


def show(paths: ReleasePaths, signers: Path | None, *, as_json: bool) -> str:
    """Verify the trail, find the model in use and check its release.

    Args:
        paths: Of the federation.
        signers: Who may sign tags, as `ssh-keygen` reads it; None: signatures of tags are not checked.
        as_json: Write JSON, not lines.

    Raises:
        AuditRefusedError: The log is refused, or a file or the target of a tag is not as it says (code ``artifact``).
        DataError: It could not be checked, no model is in use, or a tag is missing or not signed by one who may.
    """
    held, verdict = audit.verify(Books.of_federation(paths.audit))
    name = releases.name_of(paths.federation)
    champion = verdict.state.champions.get(name)
    if champion is None:
        raise DataError(f"no {name} was promoted")
    events = verifier.read_events(held.content)
    event = next(event for event in reversed(events) if event.kind in ("promote", "rollback") and _name(event) == name)
    folder = _folder(paths, event)
    checked = releases.check(folder, verdict.state.register)
    manifest, where = checked.manifest, verdict.log
    if manifest.model != champion.current:
        raise AuditRefusedError(ARTIFACT, where, event.seq + 1, f"{folder} is of {manifest.model}, in use is {champion.current}")
    pointer = files.read_json(paths.champion) if paths.champion.is_file() else {}
    inner = folder.relative_to(paths.workspace).as_posix()
    if (pointer.get("version"), pointer.get("model"), pointer.get("folder")) != (manifest.version, manifest.model, inner):
        if paths.journal.is_file():
            raise DataError(f"{manifest.version} is in use by the trail, but what began has not ended: give that command again")
        said = f"{paths.champion} speaks of {pointer.get('version')} in {pointer.get('folder')}"
        raise AuditRefusedError(ARTIFACT, where, event.seq + 1, said)
    if releases.GLOBAL in checked.missing:
        raise DataError(f"{folder / releases.GLOBAL} is not here: `dvc pull {folder / releases.GLOBAL}.dvc`")
    for tag in (releases.version_tag(paths.artifact, manifest.version), _stage_tag(paths, pointer)):
        if not _is_of_release(paths, tag, folder):
            raise AuditRefusedError(ARTIFACT, where, event.seq + 1, f"the tag {tag} is not at the commit that released {folder}")
        if signers is not None:
            versions.check_tag(paths.workspace, tag, signers)
    found = {
        "model": name,
        "version": manifest.version,
        "sha256": manifest.model,
        "run": manifest.run,
        "since": event.ts,
        "line": event.seq + 1,
        "event": event.kind,
        "why": event.why.text,
        "by": _person(verdict.state.register, event.attached or {"key": event.key}),
        "approved": _approved(folder, verdict.state.register),
        "models": {entry.name: entry.sha256 for entry in manifest.models},
        "missing": list(checked.missing),
        "tags": "at their commit and signed" if signers else "at their commit, signatures not checked",
    }
    return json.dumps(found, indent=2, sort_keys=True) + "\n" if as_json else _text(found)


def _folder(paths: ReleasePaths, event: Event) -> Path:
    """Find the release that an event names, by its manifest, which must be as it says."""
    named = [entry for entry in event.outputs if entry.name.endswith(f"/{releases.MANIFEST}")]
    inner = [entry for entry in named if Path(entry.name).parent.parent == Path("releases") / paths.federation]
    if not inner:
        raise DataError(f"line {event.seq + 1} of the log names no release of {paths.federation}")
    path = paths.folder(Path(inner[0].name).parent.name) / releases.MANIFEST
    if not path.is_file():
        raise DataError(f"there is no {path}, of line {event.seq + 1} of the log")
    if files.sha256_file(path) != inner[0].sha256:
        raise AuditRefusedError(ARTIFACT, event.log, event.seq + 1, f"{path} is not as the trail says")
    return path.parent


def _approved(folder: Path, register: Register) -> list[dict[str, object]]:
    """Say who approved a release, by the documents in it."""
    documents = canonical.read(folder / APPROVALS).get("approvals")
    listed = documents if isinstance(documents, list) else []
    return [
        {"by": _person(register, entry), **{name: entry[name] for name in ("reason", "created", "missing") if name in entry}}
        for entry in listed
    ]


def _is_of_release(paths: ReleasePaths, tag: str, folder: Path) -> bool:
    """Say whether a tag is at the commit that brought a release's manifest as it is here; later commits have it too.

    Raises:
        DataError: There is no such tag, or git failed.
    """
    ref, manifest = f"refs/tags/{tag}", folder / releases.MANIFEST
    target = versions.tags(paths.workspace, tag).get(tag)
    if target is None:
        raise DataError(f"there is no tag {tag} in {paths.workspace}: `git fetch --tags`, or give the command again that ends it")
    inside = versions.committed(paths.workspace, ref, folder.relative_to(paths.workspace).as_posix())
    if inside.get(releases.MANIFEST) != manifest.read_bytes():
        return False
    return versions.last_commit(paths.workspace, manifest, ref) == target


def _stage_tag(paths: ReleasePaths, pointer: Mapping[str, object]) -> str:
    return releases.stage_tag(paths.artifact, int(str(pointer.get("number"))))


def _person(register: Register, document: Mapping[str, object]) -> str:
    return register[str(document["key"])].entry.actor


def _name(event: Event) -> str:
    return event.subject.name if event.subject else ""


def _text(found: Mapping[str, object]) -> str:
    """Say it in lines."""
    lines = [
        f"{found['model']} {found['version']} {found['sha256']}",
        f"in use since {found['since']} by {found['event']}, line {found['line']}, of {found['by']}: {found['why']}",
    ]
    approved = found["approved"]
    for entry in approved if isinstance(approved, list) else []:
        without = f", without {entry['missing']}" if "missing" in entry else ""
        lines.append(f"approved by {entry['by']}, {entry['created']}: {entry['reason']}{without}")
    missing = found["missing"]
    at_sites = f"; not here: {', '.join(missing)}" if isinstance(missing, list) and missing else ""
    lines.append(f"files: as the trail says{at_sites}; tags: {found['tags']}")
    return "".join(f"{line}\n" for line in lines)
