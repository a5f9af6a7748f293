"""The workspace's files beside what the trail says of them: of every file that is known by its path, what was said last."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedsilo import files, names
from fedsilo.audit.events import Event
from fedsilo.audit.state import run_of
from fedsilo.errors import DataError, ParamsError
from tasks.paths import RunPaths

IN_PLACE = frozenset({"evaluate", "promote", "rollback"})
"""Kinds that speak of a model which then lies in its place."""
BEFORE_LOCK = frozenset(
    {
        *("log.open", "key.add", "data.validate", "data.accept", "data.quarantine", "round.open", "order.accept", "order.refuse"),
        *("update.submit", "update.reject", "update.missing", "aggregate", "evaluate", "incident"),
    }
)
"""Kinds that a stage of the graph writes: dvc.lock changes when the stage is done."""


@dataclass(frozen=True)
class Said:
    """What the trail says of a file, at a line from 1."""

    path: str
    sha256: str
    line: int


@dataclass(frozen=True)
class Comparison:
    """Files that are as the trail says; that differ; that are not there; outputs in dvc.lock of which it says nothing.

    ``lock`` is ``same``, ``differs``, or why the lock file was not compared.
    """

    same: tuple[Said, ...]
    differing: tuple[Said, ...]
    missing: tuple[Said, ...]
    unnamed: tuple[str, ...]
    lock: str


def compare(events: Sequence[Event], workspace: Path, federation: str) -> Comparison:
    """Compare the workspace's files with what was said last of each.

    Args:
        events: Of a verified log.
        workspace: Folder with runs/, data/ and reports/.
        federation: Name of the federation, which is that of its cohort.

    Raises:
        DataError: A file cannot be read.
    """
    newest: dict[str, Said] = {}
    for event in events:
        for path, sha256 in _named(event):
            newest[path] = Said(path, sha256, event.seq + 1)
    found: dict[str, list[Said]] = {"same": [], "differing": [], "missing": []}
    for said in sorted(newest.values(), key=lambda said: said.path):
        found[_state(workspace / said.path, said.sha256)].append(said)
    lock_path = RunPaths(workspace, federation, federation).lock_file
    lock, recorded = _lock(events, lock_path)
    if recorded is not None and lock == "differs":
        found["differing"].append(recorded)
    return Comparison(
        same=tuple(found["same"]),
        differing=tuple(found["differing"]),
        missing=tuple(found["missing"]),
        unnamed=tuple(_unnamed(lock_path, federation, newest)),
        lock=lock,
    )


def _state(path: Path, sha256: str) -> str:
    try:
        if not path.is_file():
            return "missing"
        return "same" if files.sha256_file(path) == sha256 else "differing"
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _named(event: Event) -> Iterator[tuple[str, str]]:
    """Give the files that an event speaks of and where they lie, relative to the workspace, with their SHA-256."""
    subject = event.subject
    if subject is not None and subject.after is not None and (path := _subject_path(event.kind, subject.name)):
        yield path, subject.after.removeprefix("sha256:")
    for output in event.outputs:
        if path := _output_path(event.kind, output.name):
            yield path, output.sha256
    decision = event.decision
    if event.kind == "evaluate" and decision is not None and decision.gate == "selection" and decision.metrics_ref and subject:
        run = _run_of_model(subject.name)
        if run is not None:
            yield _relative(run.rounds_table), decision.metrics_ref.removeprefix("sha256:")


def _subject_path(kind: str, name: str) -> str | None:
    """Say where the subject of an event lies, if that is known by its name."""
    if kind == "data.accept" and (site := _site(name)):
        return _relative(site / "manifest.csv")
    if kind not in IN_PLACE:
        return None
    _, inside, site_name = name.rpartition("/inside/")
    run = _run_of_model(name)
    if run is None or (inside and not names.is_identifier(site_name)):
        return None
    if inside:
        return _relative(run.inside_state(site_name))
    return _relative(run.global_state) if name.endswith("/global") else None


def _run_of_model(name: str) -> RunPaths | None:
    """Say of which run a model is: `<run>/global`, or `<run>/inside/<site>`."""
    before, inside, _ = name.rpartition("/inside/")
    return _run(before if inside else run_of(name))


def _output_path(kind: str, name: str) -> str | None:
    """Say where an output lies: data by its site, others by a path in the workspace."""
    parts = PurePosixPath(name).parts
    if "/" not in name or parts[0] == "/" or ".." in parts or "\\" in name or str(PurePosixPath(name)) != name:
        return None
    if kind not in ("data.validate", "data.accept"):
        return name
    site = _site(run_of(name))
    if site is None:
        return None
    if kind == "data.accept":
        return _relative(site / parts[-1])
    return _relative(RunPaths(Path(), parts[0], parts[0]).docs_dir / site.name / parts[-1])


def _site(name: str) -> Path | None:
    """Give the folder of a site's prepared data by the name of its data set."""
    cohort, _, site = name.partition("/")
    known = names.is_identifier(cohort) and names.is_identifier(site)
    return RunPaths(Path(), cohort, cohort).prepared_site(site) if known else None


def _run(run: str) -> RunPaths | None:
    """Name the files of a run, unless its name is none."""
    try:
        return RunPaths(Path(), run.partition("/")[0], run)
    except ParamsError:
        return None


def _relative(path: Path) -> str:
    return path.as_posix()


def _lock(events: Sequence[Event], path: Path) -> tuple[str, Said | None]:
    """Say whether the lock file is the one that the newest event of the federation's own graph names."""
    named = [event for event in events if event.env and event.env.dvc_lock_sha256 and not _of_study(event)]
    if not named:
        return "no event names it", None
    newest = named[-1]
    recorded = newest.env.dvc_lock_sha256 if newest.env else None
    state = _state(path, recorded or "")
    if state != "differing":
        return state, None
    if newest.kind in BEFORE_LOCK:
        return f"line {newest.seq + 1} names it as it was before that stage was done", None
    return "differs", Said(path.name, recorded or "", newest.seq + 1)


def _of_study(event: Event) -> bool:
    """Say whether an event is of a run in a study's folder, whose graph has a lock file of its own."""
    name = event.subject.name if event.subject and event.subject.kind == "model" else ""
    before, inside, _ = name.partition("/inside/")
    return "/" in (before if inside else run_of(name))


def _unnamed(path: Path, federation: str, named: Mapping[str, Said]) -> Iterator[str]:
    """Give a federation's outputs in a lock file of which no event speaks, neither of them nor of a file in them."""
    from fedsilo import sections  # reads YAML

    if not path.is_file():
        return
    stages = sections.read_yaml(path).get("stages")
    for entry in stages.values() if isinstance(stages, dict) else ():
        for out in entry.get("outs", []) if isinstance(entry, dict) else ():
            name = out["path"]
            told = name in named or any(other.startswith(f"{name}/") for other in named)
            if federation in PurePosixPath(name).parts and not told:
                yield name
