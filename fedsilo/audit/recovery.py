"""A line that was cut off while it was written: moved aside, never repaired, and told of in the log.

The tail is stored beside the log under a name with its hash, then cut off the log, then an event names that hash. A kill between
any two of these leaves what the next call needs to go on.
"""

import fcntl
import hashlib
import os
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, checkpoints, forms, trail, verifier
from fedsilo.audit.events import Draft, Event, Subject, Why
from fedsilo.audit.keys import Signer
from fedsilo.audit.state import Setting
from fedsilo.audit.trail import Clock, utc_now
from fedsilo.errors import DataError, OutputError

HOLE = b"\0"


def recover(path: Path, setting: Setting, checkpoints_dir: Path, signer: Signer, *, clock: Clock = utc_now) -> list[Event]:
    """Move a torn tail aside, and append ``log.recover`` for every tail beside the log that no event names.

    Args:
        path: The log.
        setting: What it is checked against.
        checkpoints_dir: Folder of its checkpoints.
        signer: Key of a server, or of the site whose log it is.
        clock: Reads the time.

    Returns:
        The new events; none if nothing was torn.

    Raises:
        AuditRefusedError: The lines before the tail are refused, or a checkpoint speaks of more; nothing was changed.
        DataError: A tail beside the log was changed.
        OutputError: The disk failed.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(f"cannot open {path}: {error.strerror or error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        content = path.read_bytes()
        whole, tail = _parts(content)
        known = checkpoints.find(checkpoints_dir)
        if tail and (whole or known):
            verifier.verify(whole, setting, known)
        if tail:
            files.write_bytes(path.with_name(f"{path.name}.torn-{hashlib.sha256(tail).hexdigest()}"), tail)
            os.ftruncate(handle, len(whole))
            os.fsync(handle)
    finally:
        os.close(handle)
    asides = _asides(path)
    if not asides:
        return []
    opened = trail.open_trail(path, setting, checkpoints_dir, opener=signer, clock=clock)
    told = {
        event.subject.name for event in verifier.read_events(trail.read(path)) if event.kind == "log.recover" and event.subject
    }
    return [opened.append(_draft(aside, tail), signer) for aside, tail in asides.items() if aside.name not in told]


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Part the whole lines of a log from its torn tail.

    A file system that lost power can keep the length of a line and its end but not what stood between: the last line is torn,
    too, if it has a byte that no line can have.
    """
    end = content.rfind(b"\n") + 1
    if end == len(content) and HOLE in content[(start := content.rfind(b"\n", 0, -1) + 1) :]:
        end = start
    return content[:end], content[end:]


def _asides(path: Path) -> dict[Path, bytes]:
    """Find the tails that were moved aside from a log.

    Raises:
        DataError: One is not what was moved aside.
    """
    found = {}
    for aside in sorted(path.parent.iterdir()):
        name = aside.name.removeprefix(f"{path.name}.torn-")
        if name == aside.name or not forms.HEX_TEXT.fullmatch(name):
            continue
        try:
            found[aside] = aside.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {aside}: {error.strerror or error}") from None
        if hashlib.sha256(found[aside]).hexdigest() != name:
            raise DataError(f"{aside} is not what was moved aside; its name is the hash of that")
    return found


def _draft(aside: Path, tail: bytes) -> Draft:
    subject = Subject("tail", aside.name, before=canonical.digest(tail))
    return Draft("log.recover", Why("recover", f"{len(tail)} bytes of a line that was cut off are moved aside"), subject=subject)
