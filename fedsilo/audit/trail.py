"""A log that is open for more: events are appended one by one, checked as a stranger would, and synced to the disk.

One line a write, under an exclusive `flock` of the file, so any number of processes may append; on a local disk only, since
locks over a network are not to be relied on. What others wrote in between is read and checked before anything is added.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, checkpoints, forms, merkle, verifier
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.documents import Seen
from fedsilo.audit.events import VERSION, Draft, Event, Subject, Why
from fedsilo.audit.keys import EVENT_DOMAIN, Signer
from fedsilo.audit.line_checks import CLOCK_TOLERANCE, TIME_FORMAT, after
from fedsilo.audit.register import may_sign
from fedsilo.audit.state import Setting, State
from fedsilo.audit.verifier import Replay, Verdict
from fedsilo.errors import AuditRefusedError, DataError, OutputError

Clock = Callable[[], datetime]

UNSIGNED = "A" * 86 + "=="
CHUNK_BYTES = 1 << 20


def utc_now() -> datetime:
    """Read the system's clock."""
    return datetime.now(tz=UTC)


class Trail:
    """A log that was verified when it was opened and whose every new line is.

    Threads and processes may share the file; a thread may share the object too.
    """

    def __init__(self, path: Path, setting: Setting, checkpoints_dir: Path, *, clock: Clock = utc_now) -> None:
        """Name the files; :func:`open_trail` reads and checks them."""
        self.path, self.setting, self.checkpoints_dir = path, setting, checkpoints_dir
        self._clock = clock
        self._replay = Replay(setting)
        self._end, self._last = 0, b""

    @property
    def state(self) -> State:
        """What is known after the lines that this object has read."""
        return self._replay.state

    @property
    def seen(self) -> Seen:
        """Size and root of the lines that this object has read."""
        size = self.state.size
        return Seen(size, self.root(size))

    def root(self, size: int) -> str:
        """Give the root of the first lines."""
        return f"sha256:{self._replay.tree.root(size).hex()}"

    def refresh(self) -> Verdict:
        """Read and check what was appended since, and all checkpoints that are there.

        Raises:
            AuditRefusedError: A line or checkpoint is refused, or lines that were there are gone.
            OutputError: The file cannot be read.
        """
        known = checkpoints.find(self.checkpoints_dir)
        with self._held() as handle:
            self._catch_up(handle)
            return self._replay.conclude(known)

    def append(self, draft: Draft, signer: Signer, *, end_log: bool = False) -> Event:
        """Write an event: who, when and where are added, it is signed, checked as any line is, and synced.

        Args:
            draft: What happened.
            signer: Key of who says so; its role is the first that may sign this kind.
            end_log: Consent to a revocation of a key that signed more than is left standing: the log is refused for ever then.

        Returns:
            The event as it stands in the log.

        Raises:
            AuditRefusedError: The event would be refused, or a line before it is; nothing was written.
            DataError: A value has no canonical form.
            OutputError: The clock stands too far behind, or the disk failed; nothing was written.
        """
        with self._held() as handle:
            self._catch_up(handle)
            event = self._complete(draft, signer)
            line = canonical.dumps(forms.plain(event))
            state = self._replay.try_line(line)
            if event.kind == "key.revoke" and not end_log and (found := verifier.revoked_keys(state, self.setting, ())):
                raise AuditRefusedError("key-validity", self.setting.log, *found)
            self._write(handle, line + b"\n")
            self._take(line, state)
        return event

    def check(self, draft: Draft, signer: Signer) -> Event:
        """Check an event as :meth:`append` would now, and write nothing.

        Raises:
            AuditRefusedError: The event would be refused, or a line before it is.
            DataError: A value has no canonical form.
            OutputError: The clock stands too far behind, or the file cannot be read.
        """
        with self._held() as handle:
            self._catch_up(handle)
            event = self._complete(draft, signer)
            self._replay.try_line(canonical.dumps(forms.plain(event)))
        return event

    def checkpoint(self, signer: Signer) -> Checkpoint:
        """Verify the whole log with the checkpoints that are there, then state its size and root and store that.

        Where this object took no line on trust, its lines are in the file as they were checked: then hashes are compared and no
        signature is checked again. Else the whole log is verified from its first line, and this object goes on from there.
        A checkpoint of the same size that is there is given back.

        Raises:
            AuditRefusedError: The log, an earlier checkpoint or the new one is refused, or lines that were there are gone.
            OutputError: It cannot be stored.
        """
        if self.setting.trusted_size:
            self._verify_anew()
        known = checkpoints.find(self.checkpoints_dir)
        with self._held() as handle:
            self._catch_up(handle)
            self._compare(handle)
            return self._state(known, signer)

    def _verify_anew(self) -> None:
        """Verify every line that this object has read, signatures too, and take none on trust from now on."""
        self.refresh()
        setting = replace(self.setting, trusted_size=0)
        content = read(self.path)
        whole = verifier.replay(content, setting)
        last = content[content.rfind(b"\n", 0, -1) + 1 :]
        with self._held():
            self.setting, self._replay = setting, whole
            self._end, self._last = len(content), last

    def _state(self, known: Sequence[Checkpoint], signer: Signer) -> Checkpoint:
        """State and store size and root of the lines that were read, which hold with the checkpoints known."""
        whole = self._replay
        whole.conclude(known)
        newest = checkpoints.newest(known)
        if newest is not None and newest.size == whole.state.size:
            return newest
        ts = max(self._clock().strftime(TIME_FORMAT), whole.state.ts)
        made = checkpoints.sign(self.setting.log, whole.state.size, whole.tree.root(), ts=ts, signer=signer)
        whole.conclude((*known, made))
        checkpoints.write(made, self.checkpoints_dir)
        return made

    @contextmanager
    def _held(self) -> Iterator[int]:
        """Open the file and hold its lock; each call has a lock of its own, so threads wait for each other too."""
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise OutputError(f"cannot open {self.path}: {error.strerror or error}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)

    def _catch_up(self, handle: int) -> None:
        """Check that the last line that we know is where it was, and take the lines behind it."""
        size, start = os.fstat(handle).st_size, self._end - len(self._last)
        content = _read_at(handle, start, size)
        if not content.startswith(self._last):
            code = "truncated" if len(content) < len(self._last) else "chain"
            raise AuditRefusedError(code, self.setting.log, self.state.size, "a line that was there is gone or changed")
        new = content[len(self._last) :]
        if new and not new.endswith(b"\n"):
            number = self.state.size + new.count(b"\n") + 1
            raise AuditRefusedError("torn-tail", self.setting.log, number, "the last line has no end; `recover` moves it aside")
        for line in new.split(b"\n")[:-1]:
            self._take(line, self._replay.try_line(line))

    def _compare(self, handle: int) -> None:
        """Hash the file's lines again: they must be those that were checked when they were read."""
        tree, number, rest = self._replay.tree, 0, b""
        for start in range(0, self._end, CHUNK_BYTES):
            *lines, rest = (rest + _read_at(handle, start, min(start + CHUNK_BYTES, self._end))).split(b"\n")
            for line in lines:
                if number == len(tree) or merkle.leaf(line) != tree.entry(number):
                    raise AuditRefusedError("chain", self.setting.log, number + 1, "the line was changed since it was checked")
                number += 1
        if rest or number < len(tree):
            raise AuditRefusedError("chain", self.setting.log, number + 1, "the line was changed since it was checked")

    def _take(self, line: bytes, state: State) -> None:
        """Remember a line that is in the file."""
        self._replay.take(line, state)
        self._last, self._end = line + b"\n", self._end + len(line) + 1

    def _complete(self, draft: Draft, signer: Signer) -> Event:
        """Add to a draft who, when and where, and sign it."""
        record = self.state.register.get(signer.key)
        if record is None:
            raise AuditRefusedError("unknown-key", self.setting.log, self.state.size + 1, f"{signer.key} is not in the register")
        entry = record.entry
        allowed = [role for role in entry.roles if may_sign(entry, role, draft.kind, self.setting.log)]
        ts, held = self._time()
        unsigned = Event(
            **{field.name: getattr(draft, field.name) for field in fields(Draft)},
            v=VERSION,
            seq=self.state.size,
            ts=ts,
            clock_held=held,
            log=self.setting.log,
            actor=entry.actor,
            actor_name=entry.actor_name,
            role=allowed[0] if allowed else entry.roles[0],
            key=signer.key,
            prev=self.state.prev,
            sig=UNSIGNED,
        )
        return replace(unsigned, sig=signer.sign(EVENT_DOMAIN, forms.plain(unsigned)))

    def _time(self) -> tuple[str, bool]:
        """Give the time of the next line, and whether the clock was held."""
        now, last = self._clock().strftime(TIME_FORMAT), self.state.ts
        if now > last:
            return now, False
        behind = datetime.fromisoformat(last) - datetime.fromisoformat(now)
        if behind > CLOCK_TOLERANCE:
            raise OutputError(f"the clock says {now}, the last line of {self.setting.log} is of {last}: set the clock")
        return after(last), True

    def _write(self, handle: int, content: bytes) -> None:
        """Append bytes and sync them, or leave the file as it was."""
        try:
            written = os.write(handle, content)
            if written < len(content):
                raise OSError(f"{written} of {len(content)} bytes were written")
            os.fsync(handle)
        except OSError as error:
            with suppress(OSError):  # what cannot be taken back is a torn tail, which nobody appends to
                os.ftruncate(handle, self._end)
                os.fsync(handle)
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from None


def open_trail(
    path: Path, setting: Setting, checkpoints_dir: Path, *, opener: Signer | None = None, clock: Clock = utc_now
) -> Trail:
    """Open a log, verify it with the checkpoints that are there, and begin it if there is none.

    Lines under the newest checkpoint are checked in all but their signatures, which were checked when it was made.

    Args:
        path: The log.
        setting: What it is checked against (:func:`fedsilo.audit.verifier.setting_of`).
        checkpoints_dir: Folder of its checkpoints.
        opener: Key of a server, or of the site whose log it is, that begins a log; None: there must be one.
        clock: Reads the time.

    Raises:
        AuditRefusedError: A line or a checkpoint is refused; a log that is gone though a checkpoint speaks of it is truncated.
        DataError: The log has no line, and there is no ``opener``.
        OutputError: The file cannot be read or written.
    """
    newest = checkpoints.newest(checkpoints.find(checkpoints_dir))
    if newest is not None and not os.path.lexists(path):
        verifier.verify(b"", setting, (newest,))
    if opener is not None and newest is None:
        _touch(path)
    trail = Trail(path, replace(setting, trusted_size=newest.size if newest else 0), checkpoints_dir, clock=clock)
    trail.refresh()
    if trail.state.size == 0 and opener is None:
        raise DataError(f"{setting.log} has no line yet")
    if trail.state.size == 0 and opener is not None:
        subject = Subject("founding", setting.founding.federation, after=setting.founding.digest)
        try:
            trail.append(Draft("log.open", Why("founding", "the log begins"), subject=subject), opener)
        except AuditRefusedError:
            if trail.refresh().size == 0:  # else another process was faster
                raise
    return trail


def read(path: Path) -> bytes:
    """Read all bytes of a log while nobody writes.

    Raises:
        OutputError: The file is missing or cannot be read.
    """
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            return handle.read()
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from None


def read_anchored(path: Path, checkpoints_dir: Path) -> tuple[bytes, tuple[Checkpoint, ...]]:
    """Read a log and the checkpoints of it: these first, so that none speaks of a line that came while we read.

    Raises:
        AuditRefusedError: A checkpoint is not as it should be.
        DataError: A checkpoint cannot be read.
        OutputError: The log is missing or cannot be read.
    """
    known = checkpoints.find(checkpoints_dir)
    return read(path), known


def _touch(path: Path) -> None:
    """Make an empty file where there is none, and sync its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        files.sync_folder(path.parent)
        files.sync_folder(path.parent.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def _read_at(handle: int, start: int, end: int) -> bytes:
    """Read the bytes of an open file from ``start`` to ``end``, or to where it ends; one call gives 2 GiB at most."""
    parts = []
    while start < end and (part := os.pread(handle, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)
