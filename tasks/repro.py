"""Reproduce the graph of data and models; the only module that runs dvc.

DVC writes one workspace at a time, and a killed ``dvc`` leaves its stage running: so the whole of a reproduction holds
``.fedsilo.lock``, and dvc runs on a leash: it and its stages end when we do.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from filelock import FileLock, Timeout
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedsilo import files, sections
from fedsilo.audit.events import Artifact
from fedsilo.errors import DataError, FedsiloError, OutputError, ParamsError
from tasks import leash, trails, versions
from tasks.paths import EMBEDDED, RunPaths

Outcome = Literal["executed", "restored", "skipped"]

LOCK_NAME = ".fedsilo.lock"
PATIENCE = "FEDSILO_PATIENCE_SECONDS"
"""Variable with how long a run waits for another that holds the workspace."""
OUTCOMES: Mapping[Outcome, re.Pattern[str]] = {
    "executed": re.compile(r"^Running (?:callback )?stage '(?P<stage>[^']+)':$"),
    "restored": re.compile(r"^Stage '(?P<stage>[^']+)' is cached - skipping run, checking out outputs$"),
    "skipped": re.compile(r"^Stage '(?P<stage>[^']+)' didn't change, skipping$"),
}


@dataclass(frozen=True)
class StageRecord:
    """What a reproduction did with one stage: ran it, took its outputs from the cache, or left it alone."""

    stage: str
    outcome: Outcome


@dataclass(frozen=True)
class Reproduction:
    """What a reproduction did, and with which code; ``commit`` is None outside of a git repository."""

    target: str
    stages: tuple[StageRecord, ...]
    commit: str | None
    dirty: bool

    def with_outcome(self, outcome: Outcome) -> tuple[str, ...]:
        """List the stages with an outcome, in the order they came."""
        return tuple(record.stage for record in self.stages if record.outcome == outcome)


@task(name="dvc repro", task_run_name="dvc repro {target}", cache_policy=NO_CACHE, persist_result=False)
def reproduce_graph(workspace: Path, target: str, variables: Mapping[str, str]) -> Reproduction:
    """Run ``dvc repro`` on a target and report what became of each stage, in the log and as a table in Prefect's UI."""
    record = reproduce(workspace, target, variables=variables)
    for outcome in OUTCOMES:
        get_run_logger().info("%s: %s", outcome, ", ".join(record.with_outcome(outcome)) or "none")
    create_table_artifact(
        key="repro-report",
        table=[{"stage": stage.stage, "outcome": stage.outcome} for stage in record.stages],
        description=f"`dvc repro {target}` at commit {record.commit or '-'}{' with local changes' if record.dirty else ''}",
    )
    return record


def reproduce(
    workspace: Path,
    target: str,
    *,
    variables: Mapping[str, str],
    echo: Callable[[str], object] | None = None,
) -> Reproduction:
    """Run ``dvc repro`` under the workspace's lock.

    Lines are handed to ``echo`` as they come; standard error goes straight to ours, so that progress bars reach a terminal.

    Args:
        workspace: Folder with the dvc.yaml that names in ``target`` refer to.
        target: A dvc.yaml file or a stage in one.
        variables: Added to the environment of all stages.
        echo: Takes a line of standard output with its end; default: ours.

    Raises:
        FedsiloError: Another reproduction holds the lock, or dvc failed; names the stage it stopped at.
        OutputError: The workspace cannot be written.
    """
    environment = {**os.environ, **variables}
    # stages say `python`: it must be the one that runs us, activated or not
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    records: dict[str, StageRecord] = {}
    last = ""
    with held_lock(workspace):
        commit, dirty = versions.commit(workspace)
        command = [sys.executable, "-m", "dvc", "repro", target]
        with leash.hold(command, folder=workspace, environment=environment, output=subprocess.PIPE) as process:
            for written in process.stdout or ():
                line = written.decode(errors="replace")
                (echo or _write)(line)
                record = parse(line)
                if record:
                    records[record.stage] = record
                    last = record.stage
            code = process.wait()
    if code:
        where = f" at stage {last}" if last else ""
        raise FedsiloError(f"dvc repro {target} stopped{where} with exit code {code}; the reason stands above")
    return Reproduction(target=target, stages=tuple(records.values()), commit=commit, dirty=dirty)


@task(name="tell of restored", task_run_name="tell what was restored", cache_policy=NO_CACHE, persist_result=False)
def tell_restored(workspace: Path, cohort: str, record: Reproduction) -> None:
    """Say in the trail what DVC took from its cache instead of making it, if anything."""
    stages = record.with_outcome("restored")
    if not stages:
        return
    paths = RunPaths(workspace, cohort, cohort)
    outputs = restored_outputs(workspace, paths.lock_file, stages)
    with trails.held(paths, ()) as scribe:
        scribe.append("run.restored", f"from DVC's cache: {', '.join(stages)}", outputs=outputs)


def restored_outputs(workspace: Path, lock_file: Path, stages: Sequence[str]) -> list[Artifact]:
    """List what the lock file names as outputs of some stages: files, and folders as a whole, as cases are not to be named.

    Raises:
        DataError: The lock file lacks a stage.
    """
    locked = sections.read_yaml(lock_file).get("stages")
    found: list[Artifact] = []
    for stage in stages:
        entry = locked.get(stage.rpartition(":")[2]) if isinstance(locked, dict) else None
        if not isinstance(entry, dict):
            raise DataError(f"cannot use {lock_file}: it lacks stage {stage}")
        for out in entry.get("outs", []):
            name, path = out["path"], workspace / out["path"]
            found.append(trails.folder(path, f"{name}/") if path.is_dir() else trails.artifact(path, name))
    return sorted(found, key=lambda artifact: artifact.name)


def target_of(workspace: Path, cohort: str) -> str:
    """Name what ``dvc repro`` has to reproduce for a cohort: the embedded one has the top dvc.yaml, the others cohorts/dvc.yaml.

    Raises:
        ParamsError: ``cohorts/dvc.yaml`` does not list the cohort.
    """
    if cohort == EMBEDDED:
        return "dvc.yaml"
    listing = workspace / "cohorts" / "dvc.yaml"
    entries = sections.read_yaml(listing).get("vars")
    listed = (
        [name for entry in entries if isinstance(entry, dict) for name in entry.get("cohorts", [])]
        if isinstance(entries, list)
        else []
    )
    if cohort not in listed:
        raise ParamsError(f"no cohort {cohort!r} in {listing}; there are {', '.join([EMBEDDED, *listed])}")
    return f"{listing.relative_to(workspace)}:report@{cohort}"


def stage_target(workspace: Path, cohort: str, stage: str) -> str:
    """Name one stage of a cohort; dvc refuses one that is not there.

    Raises:
        ParamsError: ``cohorts/dvc.yaml`` does not list the cohort.
    """
    target = target_of(workspace, cohort)
    return f"{target}:{stage}" if cohort == EMBEDDED else f"{target.partition(':')[0]}:{stage}@{cohort}"


def study_target(workspace: Path, study: str) -> str:
    """Name what ``dvc repro`` has to reproduce for a study: the whole of its dvc.yaml.

    Raises:
        ParamsError: ``studies/`` has no such folder.
    """
    there = sorted(path.parent.name for path in (workspace / "studies").glob("*/dvc.yaml"))
    if study not in there:
        raise ParamsError(f"no study {study!r} in {workspace / 'studies'}; there are {', '.join(there) or 'none'}")
    return f"studies/{study}/dvc.yaml"


def outlook(workspace: Path, target: str) -> list[str]:
    """Say which stages a reproduction would run; nothing is run or written.

    Raises:
        FedsiloError: dvc failed.
    """
    told = run_dvc(workspace, "repro", "--dry", target)
    found = [record.stage for record in map(parse, told.splitlines()) if record and record.outcome == "executed"]
    return [f"dvc repro {target} would run {', '.join(found) or 'nothing'}"]


def check_versioning(workspace: Path, folder: Path, remote: str | None) -> None:
    """Refuse early what ``version_folder`` could not do.

    Raises:
        ParamsError: The folder is outside of the workspace, that is no DVC repository, or has no remote of this name.
    """
    if not folder.resolve().is_relative_to(workspace.resolve()):
        raise ParamsError(f"{folder} is outside of the workspace {workspace} and cannot be versioned there; add --no-dvc")
    if not (workspace / ".dvc").is_dir():
        raise ParamsError(f"{workspace} is no DVC repository, so nothing can be versioned; make one or add --no-dvc")
    if remote:
        there = [line.split()[0] for line in run_dvc(workspace, "remote", "list").splitlines() if line.strip()]
        if remote not in there:
            raise ParamsError(f"no DVC remote {remote!r} in {workspace}; there are {', '.join(there) or 'none'}")


def version_folder(workspace: Path, folder: Path, *, remote: str | None) -> Path:
    """Put a folder of patient data under DVC: its content in the cache, ``<folder>.dvc`` beside it, to be committed.

    Args:
        workspace: Root of the DVC repository.
        folder: In it.
        remote: The one remote that the folder may be pushed to; None keeps the one it had. Without any it is never pushed.

    Returns:
        The ``.dvc`` file, relative to the workspace.

    Raises:
        FedsiloError: Another run holds the workspace, or dvc failed.
        OutputError: The workspace cannot be written.
    """
    tracked = folder.resolve().with_name(f"{folder.name}.dvc")
    before = output_of(tracked).get("remote") if tracked.is_file() else None
    with held_lock(workspace):
        run_dvc(workspace, "add", str(folder.resolve().relative_to(workspace.resolve())))
        confine(tracked, str(remote or before or ""))
    return tracked.relative_to(workspace.resolve())


def confine(tracked: Path, remote: str) -> None:
    """Let the output of a ``.dvc`` file be pushed to one remote only; to none at all if that is empty.

    Raises:
        DataError: It has another number of outputs.
        OutputError: It cannot be written.
    """
    tree = sections.read_yaml(tracked)
    out = {name: value for name, value in output_of(tracked).items() if name not in ("remote", "push")}
    tree["outs"] = [out | ({"remote": remote} if remote else {"push": False})]
    files.write_text(tracked, yaml.safe_dump(tree, sort_keys=False))


def output_of(tracked: Path) -> dict[str, object]:
    """Read the one output of a ``.dvc`` file.

    Raises:
        DataError: It has another number of outputs.
    """
    outs = sections.read_yaml(tracked).get("outs")
    if not isinstance(outs, list) or len(outs) != 1 or not isinstance(outs[0], dict):
        raise DataError(f"cannot use {tracked}: expected one output")
    return outs[0]


def run_dvc(workspace: Path, *arguments: str) -> str:
    """Run dvc to its end and return what it wrote.

    Raises:
        FedsiloError: It failed.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)  # noqa: S603  # argv, no shell
    if done.returncode:
        reason = " ".join(done.stderr.split()) or "no reason given"
        raise FedsiloError(f"dvc {arguments[0]} failed with exit code {done.returncode}: {reason}")
    return done.stdout


def parse(line: str) -> StageRecord | None:
    """Read what a line of ``dvc repro`` says about a stage, if it does.

    Example:
        >>> parse("Stage 'prepare' didn't change, skipping")
        StageRecord(stage='prepare', outcome='skipped')
    """
    for outcome, pattern in OUTCOMES.items():
        if match := pattern.match(line.rstrip()):
            return StageRecord(stage=match["stage"], outcome=outcome)
    return None


@contextlib.contextmanager
def held_lock(workspace: Path) -> Iterator[None]:
    """Hold the workspace's lock; refuse if another run holds it for longer than ``PATIENCE`` says, at once without that variable.

    Raises:
        FedsiloError: Another run holds it.
        OutputError: It cannot be written.
    """
    lock = FileLock(workspace / LOCK_NAME)
    try:
        lock.acquire(timeout=float(os.environ.get(PATIENCE, "0")), poll_interval=0.5)
    except Timeout as error:
        raise FedsiloError(f"another run holds {workspace / LOCK_NAME}; wait for it or end it") from error
    except OSError as error:
        raise OutputError(f"cannot write {workspace / LOCK_NAME}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _write(line: str) -> None:
    """Pass a line on to standard output."""
    sys.stdout.write(line)
    sys.stdout.flush()
