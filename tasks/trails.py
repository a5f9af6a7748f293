"""The federation's trail while a phase runs: opened and verified at its start, written by its tasks, anchored at its end."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect.runtime import flow_run

from fedsilo import files
from fedsilo.audit import canonical, checkpoints, forms, trail, verifier
from fedsilo.audit import founding as foundings
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.documents import Seen
from fedsilo.audit.events import Artifact, Decision, Draft, Environment, Event, PrefectRun, Subject, Why
from fedsilo.audit.founding import Founding
from fedsilo.audit.register import FEDERATION_LOG, SERVER, Register
from fedsilo.audit.trail import Trail
from fedsilo.errors import AuditRefusedError, DataError, FedsiloError, OutputError
from fedsilo.params import Params
from tasks import keyring, versions
from tasks.paths import OUTER_RUN, AuditPaths, RunPaths

COMMAND = "command"
"""Request behind an event that no flow run wrote."""

MAX_TEXT = 1000
"""Characters of an event's text."""

PARAMS = "params/"
"""Before the name of a section of the params."""

_open: dict[AuditPaths, "Scribe"] = {}


@dataclass(frozen=True)
class Scribe:
    """Who writes into an open trail, and what all lines of a phase have in common."""

    paths: AuditPaths
    opened: Trail
    made_with: Environment

    @property
    def register(self) -> Register:
        """Keys of the federation."""
        return self.opened.state.register

    @property
    def founding(self) -> Founding:
        """How the federation began."""
        return self.opened.setting.founding

    @property
    def newest(self) -> Checkpoint | None:
        """The checkpoint of most lines."""
        return checkpoints.newest(checkpoints.find(self.paths.checkpoints_dir(FEDERATION_LOG)))

    def append(
        self,
        kind: str,
        text: str,
        *,
        actor: str = SERVER,
        site: str | None = None,
        round_index: int | None = None,
        subject: Subject | None = None,
        inputs: Iterable[Artifact] = (),
        outputs: Iterable[Artifact] = (),
        decision: Decision | None = None,
        attached: Mapping[str, object] | None = None,
    ) -> Event:
        """Write an event, signed with its actor's key.

        Raises:
            AuditRefusedError: It would be refused, or a line before it is; nothing was written.
            DataError: The actor's key is not here.
            OutputError: The disk failed or the clock stands too far behind; nothing was written.
        """
        run_id = flow_run.id
        draft = Draft(
            kind=kind,
            why=Why(os.environ.get(OUTER_RUN) or run_id or COMMAND, _printable(text)),
            site=site,
            round_index=round_index,
            subject=subject,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            env=self.made_with,
            prefect=PrefectRun(run_id) if run_id else None,
            decision=decision,
            attached=attached,
        )
        return self.opened.append(draft, keyring.signer(self.paths, actor))

    def accepted(self, name: str) -> str | None:
        """Give the hash with which a dataset of this name was accepted last; None if it never was."""
        for line in reversed(trail.read(self.opened.path).splitlines()):
            if b'"event":"data.accept"' in line:
                (event,) = verifier.read_events(line)
                if event.subject is not None and event.subject.name == name:
                    return event.subject.after
        return None

    def events(self, *kinds: str) -> list[Event]:
        """List the events of some kinds, in order."""
        wanted = tuple(f'"event":"{kind}"'.encode() for kind in kinds)
        lines = [line for line in trail.read(self.opened.path).splitlines() if any(mark in line for mark in wanted)]
        return [event for event in verifier.read_events(b"\n".join(lines)) if event.kind in kinds]

    def output(self, event: Event) -> Path:
        """Find the one file that an event names as its output, which must be as it says.

        Raises:
            DataError: It names none or several; or the file is missing, or another.
        """
        if len(event.outputs) != 1:
            raise DataError(f"line {event.seq + 1} of the log names {len(event.outputs)} files, expected one")
        (named,) = event.outputs
        path = self.paths.workspace / named.name
        found = files.sha256_file(path) if path.is_file() else "missing"
        if found != named.sha256:
            raise DataError(f"{path} is {found}, line {event.seq + 1} of the log says {named.sha256}")
        return path

    def witness(self, site: str) -> Seen:
        """Let a site compare the log with what it saw last, and remember what it sees now.

        Raises:
            AuditRefusedError: The log does not begin with what the site saw.
            DataError: What it saw cannot be read.
        """
        path = self.paths.witness(site)
        if path.is_file():
            record = files.read_json(path)
            if found := canonical.flaw(record) or forms.flaw(Seen, record):
                raise DataError(f"cannot use {path}: {found}")
            before = forms.build(Seen, record)
            if before.size > self.opened.state.size or self.opened.root(before.size) != before.root:
                reason = f"site {site} saw {before.size} lines with the root {before.root}, and they are others now"
                raise AuditRefusedError("checkpoint-root", self.opened.setting.log, before.size, reason)
        seen = self.opened.seen
        files.write_json(path, forms.plain(seen))
        return seen

    def checkpoint(self) -> Checkpoint:
        """State the log's size and root."""
        return self.opened.checkpoint(keyring.signer(self.paths, SERVER))


@contextlib.contextmanager
def held(run: RunPaths, sites: Iterable[str]) -> Iterator[Scribe]:
    """Open the trail of a run's federation for its tasks; a checkpoint is made at the end, also if a phase stops with a reason.

    Args:
        run: Whose federation.
        sites: Who signs beside the server; a federation with demo keys makes theirs.

    Raises:
        AuditRefusedError: The log is refused.
        DataError: A key or the founding cannot be used.
        OutputError: A file cannot be written.
    """
    paths, names = run.audit, sorted(set(sites))
    founding = keyring.founding(paths, names)
    setting = verifier.setting_of(founding, FEDERATION_LOG)
    server = keyring.signer(paths, SERVER)
    opened = trail.open_trail(paths.log(FEDERATION_LOG), setting, paths.checkpoints_dir(FEDERATION_LOG), opener=server)
    keyring.admit_sites(paths, opened, names)
    scribe = _open[paths] = Scribe(paths, opened, versions.environment(run.lock_file))
    try:
        yield scribe
    except (AuditRefusedError, OutputError):
        raise
    except FedsiloError:
        scribe.checkpoint()
        raise
    else:
        scribe.checkpoint()
    finally:
        del _open[paths]


def _printable(text: str) -> str:
    """Bring a reason, which may quote others, into the form of an event's text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:MAX_TEXT]


def scribe(paths: AuditPaths) -> Scribe:
    """Give the open trail of a federation.

    Raises:
        RuntimeError: It is not open.
    """
    if paths not in _open:
        raise RuntimeError(f"the trail of {paths.federation} is not open")
    return _open[paths]


def artifact(path: Path, name: str | None = None) -> Artifact:
    """Name a file by its hash."""
    return Artifact(name or path.name, files.sha256_file(path))


def folder(path: Path, name: str) -> Artifact:
    """Name a folder by one hash: over a line a file, sorted, with its SHA-256 and its path in the folder."""
    inside = {file.relative_to(path).as_posix(): files.sha256_file(file) for file in path.rglob("*") if file.is_file()}
    lines = "".join(f"{sha256}  {inner}\n" for inner, sha256 in sorted(inside.items()))
    return Artifact(name, hashlib.sha256(lines.encode()).hexdigest())


def params_section(params: Params, name: str) -> list[Artifact]:
    """Name a section of the params by the hash of its JSON; which methods are scored is left out, as no method depends on it.

    Each method that learns is named by a hash of its own.
    """
    section = params.model_dump(mode="json")[name]
    section.pop("methods", None)
    parts = {name: section, **{f"{name}.{method}": part for method, part in section.pop("adaptations", {}).items()}}
    texts = {part: json.dumps(content, sort_keys=True) for part, content in parts.items()}
    return [Artifact(f"{PARAMS}{part}", hashlib.sha256(text.encode()).hexdigest()) for part, text in texts.items()]


def hashed(path: Path) -> str:
    """Hash a file as subjects name it."""
    return f"sha256:{files.sha256_file(path)}"


def summary(workspace: Path, federation: str) -> str:
    """Verify a federation's trail from its first line and say so in a line.

    Raises:
        AuditRefusedError: It is refused.
        DataError: It cannot be checked.
    """
    paths = AuditPaths(workspace, federation)
    if not paths.founding.is_file():
        return "Audit trail: none yet, as no phase ran here\n"
    setting = verifier.setting_of(foundings.read(paths.founding), FEDERATION_LOG)
    log = paths.log(FEDERATION_LOG)
    content, known = trail.read_anchored(log, paths.checkpoints_dir(FEDERATION_LOG))
    verdict = verifier.verify(content, setting, known)
    return f"Audit trail: {log}, {verdict.size} lines verified, {verdict.anchored} under a checkpoint\n"
